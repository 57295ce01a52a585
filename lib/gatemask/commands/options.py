"""Options, inputs and output that commands share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatemask.errors import GatemaskError, nearest
from gatemask.faults import print_out

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gatemask.config import Competition, Ensemble, Experiment
    from gatemask.new.decisions import Question
    from gatemask.project import Project
    from gatemask.stage import CommandResult

Comp = Annotated[str, typer.Argument(metavar="COMP", help="Competition: a folder below experiments/.")]
Exp = Annotated[str, typer.Argument(metavar="EXP", help="Experiment: a YAML, or COMP/NAME.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a YAML key. Repeatable.")]
Quick = Annotated[bool, typer.Option("--quick", help="Shrink everything to the sizes in the YAML's 'quick' section.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Fold = Annotated[str, typer.Option(help="Fold number, several separated by commas, or 'all'.")]
Target = Annotated[str, typer.Argument(metavar="COMP", help="Competition, or COMP/NAME for one experiment.")]


def finite(value: float | None) -> float | None:
    """Reject infinity and NaN, which pass every minimum, as the value of an option."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


Hours = Annotated[
    float | None, typer.Option(help="Session limit. Default: the limit of the machine.", min=0.25, callback=finite)
]
Poll = Annotated[float, typer.Option(help="Seconds between status requests to Kaggle.", min=0.05, callback=finite)]
Dirty = Annotated[bool, typer.Option("--allow-dirty", help="Allow uncommitted changes.")]
AsTrained = Annotated[
    bool, typer.Option("--as-trained", help="Use runs that differ from the YAMLs and data as they are now; say so.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the raw files.")]


def load_competition_inputs(comp: str, quick: bool, overrides: list[str] | None) -> tuple[Project, Competition]:
    """Return the project and competition.yaml."""
    from gatemask.config import load_competition
    from gatemask.project import open_project

    overrides = split_overrides(overrides)["competition"]
    project = open_project(comp, quick=quick)
    return project, load_competition(project.experiments, quick=quick, overrides=overrides)


def load_experiment_inputs(
    exp: str, quick: bool, overrides: list[str] | None
) -> tuple[Project, Competition, Experiment]:
    """Return project, competition and experiment, for an experiment given by path or name."""
    from gatemask.config import load_competition, load_experiment
    from gatemask.project import open_experiment

    project, path = open_experiment(exp, quick=quick)
    split = split_overrides(overrides)
    experiment = load_experiment(path, quick=quick, overrides=split["experiment"])
    return project, load_competition(project.experiments, quick=quick, overrides=split["competition"]), experiment


def competition_of_file(file: Path) -> tuple[str, bool]:
    """Return the competition of a file below runs/, and whether it belongs to a quick run."""
    from gatemask.project import find_root

    try:
        label = file.resolve().relative_to(find_root() / "runs").parts[0]
    except (ValueError, IndexError):
        raise GatemaskError(
            "Could not determine the competition of this file.",
            where=file,
            expected="a file below runs/, or --comp COMP",
        ) from None
    return label.removesuffix("-quick"), label.endswith("-quick")


def open_target(target: str, quick: bool) -> tuple[Project, str | None]:
    """Return the project of a target, and the experiment's name if the target is one."""
    from gatemask.project import Project, find_root, open_experiment, open_project

    path = Path(target)
    if path.suffix == ".yaml" or (
        len(path.parts) == 2 and Project(find_root(), path.parts[0]).experiment_file(path.parts[1]).exists()
    ):
        project, file = open_experiment(target, quick=quick)
        return project, file.stem
    return open_project(target, quick=quick), None


def load_ensemble_inputs(
    comp: str, quick: bool, overrides: list[str] | None, as_trained: bool = False
) -> tuple[Project, Competition, Ensemble]:
    """Return project, competition.yaml and ensemble.yaml. Runs are compared with the `--set` of experiments, too."""
    from gatemask.config import load_ensemble

    project, config = load_competition_inputs(comp, quick, overrides)
    split = split_overrides([*(overrides or []), *(["as_trained=true"] if as_trained else [])])
    ensemble = load_ensemble(project.experiments, quick=quick, overrides=split["ensemble"])
    return replace(project, overrides=tuple(split["experiment"])), config, ensemble


def split_overrides(overrides: list[str] | None) -> dict[str, list[str]]:
    """Assign each `--set` to the YAML that has its key; no key belongs to two of them."""
    if not overrides:
        return {"competition": [], "ensemble": [], "experiment": []}
    from gatemask.config import Competition, Ensemble, Experiment

    schemas: dict[str, type[BaseModel]] = {"competition": Competition, "ensemble": Ensemble, "experiment": Experiment}
    assigned: dict[str, list[str]] = {document: [] for document in schemas}
    documents = {
        key: document for document, schema in schemas.items() for key in schema.model_fields if key not in _FIXED
    }
    for override in overrides:
        key = override.split("=")[0].split(".")[0].strip()
        if key not in documents:
            close = nearest(key, documents)
            raise GatemaskError(
                f"Unknown key '{key}'.",
                where=f"--set {override}",
                expected=", ".join(sorted(documents)),
                do=f"Write '{close}' instead." if close else None,
            )
        assigned[documents[key]].append(override)
    return assigned


_FIXED = {"name", "quick"}  # names decide file paths; to rename an experiment, copy its YAML


def parse_folds(text: str) -> list[int] | None:
    """Return fold numbers without repetitions; None for all."""
    if text == "all":
        return None
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise GatemaskError("--fold requires numbers.", received=text, expected="0, or 0,2, or all") from None


def parse_counts(text: str) -> list[int]:
    """Return positive numbers that are separated by commas, ascending and without repetitions."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise GatemaskError(
            "--images requires positive numbers.", received=text, expected="such as 12000,1000000,100000000"
        )
    return counts


def ask_on_terminal(question: Question) -> str:
    """Return the user's answer to a question of `gatemask new`; Enter takes the guess."""
    for name, meaning in question.options.items():
        typer.echo(f"  {name}: {meaning}", err=True)

    def known(answer: str) -> str:
        if answer not in question.options:
            raise typer.BadParameter(f"'{answer}' is not one of {', '.join(question.options)}.")
        return answer

    text = f"{question.text} ({question.why})"
    return str(typer.prompt(text, default=question.guess, value_proc=known, err=True))


def print_result(result: CommandResult, as_json: bool, show: Callable[[Any], object] | None = None) -> None:
    """Print a result.

    Args:
        result: Result of a command.
        as_json: Whether to print JSON on stdout instead of text on stderr.
        show: Prints the text. Default: one line per field.
    """
    if show and not as_json:
        show(result)
        return
    fields = result.as_dict()
    if as_json:
        print_json(fields)
        return
    from gatemask.console import print_fields

    print_fields(fields)


def print_json(value: object) -> None:
    """Print a value as JSON on stdout; characters that stdout cannot show are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print_out(text)
