"""The command `gatemask`. Each function parses, calls one stage, and prints; heavy imports wait until then."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatemask.errors import GatemaskError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gatemask.config import Competition, Ensemble, Experiment
    from gatemask.project import Project

app = typer.Typer(
    help="Segmentation competitions: from raw files to a rehearsed Kaggle submission.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Raw files: fetch them, understand their labels, make the manifest.", no_args_is_help=True)
folds_app = typer.Typer(help="Splits without leaks: make, import, audit.", no_args_is_help=True)
augment_app = typer.Typer(help="What augmentation does to the images.", no_args_is_help=True)
records_app = typer.Typer(help="TFRecords of all training images, the same for every split.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(folds_app, name="folds")
app.add_typer(records_app, name="records")
app.add_typer(augment_app, name="augment")
submission_app = typer.Typer(help="Files that are to be submitted.", no_args_is_help=True)
app.add_typer(submission_app, name="submission")

Comp = Annotated[str, typer.Argument(metavar="COMP", help="a folder below experiments/")]
Exp = Annotated[str, typer.Argument(metavar="EXP", help="an experiment's YAML, or COMP/NAME")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a YAML; repeatable")]
Quick = Annotated[bool, typer.Option("--quick", help="shrink everything, as the YAML's quick: says")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]
Fold = Annotated[str, typer.Option(help="a fold's number, several with commas, or 'all'")]
Target = Annotated[str, typer.Argument(metavar="COMP", help="a competition, or COMP/NAME for one experiment of it")]
Hours = Annotated[float | None, typer.Option(help="a session's limit; default: the machine's", min=0.25)]
Poll = Annotated[float, typer.Option(help="seconds between two questions to Kaggle", min=0.05)]
Dirty = Annotated[bool, typer.Option("--allow-dirty", help="though files were changed since the last commit")]
Data = Annotated[Path | None, typer.Option("--data", help="folder of the raw files")]


@data_app.command("phantom")
def data_phantom(comp: Comp = "phantom", set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Draw a competition's phantom images: DICOM, labels, sample submission."""
    project, config = _open(comp, quick, set_)
    if config.phantom is None:
        raise GatemaskError(
            "This competition has no phantoms.",
            where=project.experiments / "competition.yaml",
            expected="a section 'phantom:'",
        )
    from gatemask.data import phantom
    from gatemask.data.manifest import default_raw

    _print(phantom.make_phantoms(default_raw(project, config), config.phantom), json_)


@data_app.command("download")
def data_download(
    comp: Comp,
    data: Data = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    force: Annotated[bool, typer.Option("--force", help="unpack into a folder that holds other files")] = False,
) -> None:
    """Fetch a competition's files with the kaggle command; checked, and unpacked safely."""
    project, config = _open(comp, quick, set_)
    from gatemask.kaggle.download.competition import download

    _print(download(project, config, data, force), json_)


@data_app.command("labels")
def data_labels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a table of run-length encodings")],
    images: Annotated[str | None, typer.Option(help="glob of images below the table's folder; settles order")] = None,
    size: Annotated[str | None, typer.Option(help="height x width, such as 1024x1024, where they are known")] = None,
    write: Annotated[str | None, typer.Option(metavar="COMP", help="write the guess to its competition.yaml")] = None,
    json_: Json = False,
) -> None:
    """Look through a label table; guess how its masks are encoded."""
    from gatemask.data import label_report

    found = label_report.inspect_labels(file, label_report.parse_size(size) if size else None, images)
    if write:
        from gatemask.project import open_project

        found["written"] = str(label_report.write_labels_section(open_project(write), found))
    _print(found, json_, show=label_report.print_label_report)


@data_app.command("prepare")
def data_prepare(
    comp: Comp,
    data: Data = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="refuse where any file must be left out")] = False,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="without the images: enough for folds")] = False,
) -> None:
    """Look at every raw file once: manifest.csv and masks.csv."""
    project, config = _open(comp, quick, set_)
    from gatemask.data.manifest import prepare

    _print(prepare(project, config, data, strict, labels_only), json_)


@folds_app.command("make")
def folds_make(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Stratified, grouped folds: folds/<comp>.csv."""
    project, config = _open(comp, quick, set_)
    from gatemask.data import folds

    _print(folds.make_folds(project, config), json_)


@folds_app.command("import")
def folds_import(
    comp: Comp,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a CSV: an id first, and a column 'fold'")],
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    force: Annotated[bool, typer.Option("--force", help="replace folds that are there")] = False,
) -> None:
    """Take someone else's folds, if they do not leak."""
    project, config = _open(comp, quick, set_)
    from gatemask.data import folds

    _print(folds.import_folds(project, config, file, force), json_)


@folds_app.command("audit")
def folds_audit(
    file: Annotated[Path, typer.Argument(metavar="FOLDS", help="a CSV: an id first, and a column 'fold'")],
    groups: Annotated[Path | None, typer.Option(help="a CSV: image id, group; default: the file's own groups")] = None,
    prefix: Annotated[int | None, typer.Option(min=1, help="only so many first characters name a group")] = None,
    labels: Annotated[Path | None, typer.Option(help="a manifest.csv or label table, for positives and areas")] = None,
    picture: Annotated[Path | None, typer.Option(help="where to draw; default: runs/audit/<name>.png")] = None,
    json_: Json = False,
) -> None:
    """Measure how much a fold file leaks, and how even it is; exit code 1 where it leaks."""
    from gatemask.report import audit

    found = audit.run(file, groups, prefix, labels, picture)
    _print(found, json_, show=audit.show)
    if found["leak"] or found["duplicates"]:
        raise typer.Exit(1)


@records_app.command("make")
def records_make(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Images and masks at training size; goes on where it was stopped."""
    project, config = _open(comp, quick, set_)
    from gatemask.data import records

    _print(records.make_records(project, config), json_)


@records_app.command("check")
def records_check(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Read every record again: hashes, ids, labels, sizes."""
    project, config = _open(comp, quick, set_)
    from gatemask.data import records

    _print(records.check_records(project, config), json_)


@app.command()
def train(exp: Exp, fold: Fold = "all", set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Train an experiment, fold by fold; goes on where it was stopped."""
    project, config, experiment = _open_experiment(exp, quick, set_)
    from gatemask.training.train import train

    _print(train(project, config, experiment, _folds(fold)), json_)


@app.command()
def plan(exp: Exp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Parameters, memory, steps and hours of an experiment, before it runs."""
    project, config, experiment = _open_experiment(exp, quick, set_)
    from gatemask.cost import plan

    _print(plan.plan(project, config, experiment), json_, show=plan.show)


@augment_app.command("show")
def augment_show(
    exp: Exp,
    images: Annotated[int, typer.Option(min=1, max=64, help="rows of the sheet")] = 6,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """A contact sheet: images as they are, and as training will see them."""
    project, config, experiment = _open_experiment(exp, quick, set_)
    from gatemask.report import augment

    _print(augment.show(project, config, experiment, images), json_)


@app.command("oof-tune")
def oof_tune(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Tune gate and mask thresholds on out-of-fold predictions."""
    project, config, ensemble = _open_whole(comp, quick, set_)
    from gatemask.tuning import tune

    _print(tune.tune(project, config, ensemble), json_, show=tune.show)


@app.command()
def compare(
    comp: Comp,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="an experiment's name, or several joined by +")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="the one that might be better")],
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Compare two experiments on the same out-of-fold images: better, worse, or cannot tell."""
    project, config, ensemble = _open_whole(comp, quick, set_)
    from gatemask.tuning import compare

    _print(compare.compare(project, config, ensemble, first, second), json_, show=compare.show)


@app.command()
def dashboard(
    comp: Comp,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of this machine; 0 takes any that is free")] = 8080,
    browser: Annotated[bool, typer.Option(help="open one")] = True,
    quick: Quick = False,
) -> None:
    """Look at Optuna's study of the thresholds in a browser."""
    from gatemask.project import open_project
    from gatemask.tuning.dashboard import serve

    serve(open_project(comp, quick=quick), port, browser)


@app.command()
def ensemble(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Choose the folds that are shipped."""
    project, config, chosen = _open_whole(comp, quick, set_)
    from gatemask.ensemble import select

    _print(select.select(project, config, chosen), json_, show=select.show)


@app.command()
def package(
    comp: Comp,
    time_budget: Annotated[
        float | None, typer.Option(min=0.01, help="hours; what takes longer drops the members that were taken last")
    ] = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Weights, wheels and kernel, ready for Kaggle."""
    budget = [] if time_budget is None else [f"inference.time_budget={time_budget}"]
    project, config, chosen = _open_whole(comp, quick, [*(set_ or []), *budget])
    from gatemask.kaggle.submit.package import package

    _print(package(project, config, chosen), json_)


@app.command()
def rehearse(
    target: Annotated[str, typer.Argument(metavar="COMP", help="a competition; with --train an experiment")],
    train: Annotated[bool, typer.Option("--train", help="an experiment's training kernel, a few steps")] = False,
    fold: Annotated[int, typer.Option(min=0, help="with --train: the fold to train")] = 0,
    images: Annotated[int, typer.Option(min=1, help="most test images that are taken")] = 300,
    image: Annotated[bool, typer.Option("--image", help="with the package versions of Kaggle's image")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Run a kernel as Kaggle will: no network, only Kaggle's packages."""
    if train:
        project, config, experiment = _open_experiment(target, quick, set_)
        from gatemask.kaggle.train import rehearse as rehearse_train

        _print(rehearse_train.rehearse(project, config, experiment, fold), json_)
        return
    project, config = _open(target, quick, set_)
    from gatemask.kaggle.submit import rehearse

    _print(rehearse.rehearse(project, config, images, image), json_, show=rehearse.show)


@submission_app.command("check")
def submission_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="submission.csv")],
    comp: Annotated[str | None, typer.Option(metavar="COMP", help="default: as the file's path says")] = None,
    against: Annotated[Path | None, typer.Option(help="an earlier submission, to compare with")] = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Check a submission as strictly as Kaggle will: ids, order, header, masks, classes, shares, size."""
    name, of_quick = (comp, quick) if comp else _competition_of(file)
    project, config = _open(name, quick or of_quick, set_)
    from gatemask.submission.check import inspect_submission, print_check

    _print(inspect_submission(project, config, file, against), json_, show=print_check)


@app.command()
def push(
    exp: Exp,
    fold: Fold = "all",
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    afresh: Annotated[bool, typer.Option("--afresh", help="begin anew: attach no earlier output")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Train folds on Kaggle: upload what they need, start the kernel."""
    project, config, experiment = _open_experiment(exp, quick, set_)
    from gatemask.kaggle.train import commands
    from gatemask.kaggle.train.dispatch import Options

    opts = Options(allow_dirty, afresh, hours, poll, tuple(set_ or ()))
    _print(commands.push(project, config, experiment, _folds(fold), opts), json_, show=commands.show)


@app.command()
def status(target: Target, quick: Quick = False, json_: Json = False) -> None:
    """What was pushed, and how it is doing."""
    from gatemask.kaggle.train import commands

    _print(commands.status(*_open_target(target, quick)), json_, show=commands.show)


@app.command()
def wait(target: Target, poll: Poll = 30.0, quick: Quick = False, json_: Json = False) -> None:
    """Wait until no kernel runs any more; fetch each as it ends."""
    from gatemask.kaggle.train import commands

    _print(commands.wait(*_open_target(target, quick), poll), json_, show=commands.show)


@app.command()
def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the kernel ends")] = False,
    quick: Quick = False,
) -> None:
    """What the newest kernel printed."""
    from gatemask.kaggle.train import commands

    for line in commands.logs(*_open_target(target, quick), follow):
        print(line, flush=True)


@app.command()
def fetch(target: Target, quick: Quick = False, json_: Json = False) -> None:
    """Bring home the runs of kernels that have ended, verified."""
    from gatemask.kaggle.train import commands

    _print(commands.fetch(*_open_target(target, quick)), json_, show=commands.show)


@app.command()
def resume(
    target: Target,
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Push again what was stopped, failed or got lost; it goes on from its own last output."""
    project, chosen = _open_target(target, quick)
    from gatemask.kaggle.train import commands, kernel_records
    from gatemask.kaggle.train.dispatch import Options

    pushed, refused = [], []
    for name, before in kernel_records.overrides(project, chosen).items():
        overrides = tuple(set_ or before)
        try:
            _, config, experiment = _open_experiment(f"{project.comp}/{name}", quick, list(overrides))
            opts = Options(allow_dirty, False, hours, poll, overrides)
            pushed += commands.resume(project, config, experiment, opts)["pushed"]
        except GatemaskError as error:  # of this experiment: the others may do
            refused.append((name, error))
    _print({"current": not pushed, "pushed": pushed}, json_, show=commands.show)
    for name, why in refused:
        print(f"error: {name}: {why}", file=sys.stderr)
    if refused:
        raise typer.Exit(1)


@app.command()
def campaign(
    comp: Comp,
    experiments: Annotated[str, typer.Option(help="names with commas; default: those of ensemble.yaml")] = "",
    fold: Fold = "all",
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Experiments x folds on Kaggle, from push to fetch, until every fold has its result here."""
    project, config, ensemble = _open_whole(comp, quick, set_)
    names = experiments.split(",") if experiments else [*ensemble.gate.experiments, *ensemble.mask.experiments]
    loaded = [_open_experiment(f"{project.comp}/{name.strip()}", quick, set_)[2] for name in names]
    from gatemask.kaggle.train import campaign
    from gatemask.kaggle.train.dispatch import Options

    opts = Options(allow_dirty, False, hours, poll, tuple(set_ or ()))
    result = campaign.campaign(project, config, loaded, _folds(fold), opts)
    _print(result, json_, show=campaign.show)
    campaign.require_all(result)


@app.command()
def submit(
    comp: Comp,
    force: Annotated[
        bool, typer.Option("--force", help="unrehearsed, or though the kernel was not at its best")
    ] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="told to Kaggle besides the score")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="not for the score: the next call looks for it")] = False,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Push the rehearsed package, submit what it makes, wait for the score; goes on where it was stopped."""
    project, config = _open(comp, quick, set_)
    from gatemask.kaggle.submit import submit

    opts = submit.Options(force, poll, message, not no_wait, allow_dirty)
    _print(submit.submit(project, config, opts), json_, show=submit.show)


@app.command()
def leaderboard(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Local scores against the leaderboard's: can the local one be trusted?"""
    project, config = _open(comp, quick, set_)
    from gatemask.kaggle.submit import leaderboard

    _print(leaderboard.leaderboard(project, config), json_, show=leaderboard.show)


@app.command()
def report(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """One HTML page: curves, thresholds, masks."""
    project, config, ensemble = _open_whole(comp, quick, set_)
    from gatemask.report.page import report

    _print(report(project, config, ensemble), json_)


@app.command()
def sync(
    comp: Comp,
    quick: Quick = False,
    json_: Json = False,
    gaps: Annotated[bool, typer.Option("--gaps", help="also runs whose first session is lost")] = False,
) -> None:
    """Upload offline runs to W&B, each row once; exit code 1 where some could not be."""
    from gatemask.project import open_project
    from gatemask.tracking.sync import sync

    found = sync(open_project(comp, quick=quick), gaps)
    _print(found, json_)
    if found["failed"]:
        raise typer.Exit(1)


@app.command()
def loop(comp: Comp, data: Data = None, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """All stages in order; each does only what is not done yet."""
    project, config, ensemble = _open_whole(comp, quick, set_)
    from gatemask import loop

    result = loop.run_loop(project, config, ensemble, _split(set_)["experiment"], data)
    if json_:
        _print(result, json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """What this machine and this Kaggle account lack; exit code 1 where something is wrong."""
    from gatemask import doctor
    from gatemask.project import find_root

    found = doctor.run(find_root())
    _print(found, json_, show=doctor.show)
    if found["wrong"]:
        raise typer.Exit(1)


@app.command()
def builders(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="write the page into a file")] = None,
    json_: Json = False,
) -> None:
    """Every model, encoder, loss, optimizer, schedule and augmentation that a YAML may name."""
    from gatemask.report import builders as page

    if write is not None:
        _print(page.write(write), json_)
    elif json_:
        _print(page.builders(), json_)
    else:
        print(page.markdown())


@app.command(hidden=True)
def files(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="write the page to a file")] = None,
) -> None:
    """Print the page about the files that stages write (docs/files.md)."""
    from gatemask.files import write_text
    from gatemask.stages import files_page

    if write is None:
        print(files_page(), end="")
    else:
        write_text(write, files_page())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what the user can put right is said without a traceback, with exit code 1."""
    try:
        app(args=arguments)
    except GatemaskError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _open(comp: str, quick: bool, overrides: list[str] | None) -> tuple[Project, Competition]:
    """The project and competition.yaml: all that the stages before training need."""
    from gatemask.config import load_competition
    from gatemask.project import open_project

    overrides = _split(overrides)["competition"]
    project = open_project(comp, quick=quick)
    return project, load_competition(project.experiments, quick=quick, overrides=overrides)


def _open_experiment(exp: str, quick: bool, overrides: list[str] | None) -> tuple[Project, Competition, Experiment]:
    """An experiment by path or name, with the project and the competition that it belongs to."""
    from gatemask.config import load_competition, load_experiment
    from gatemask.project import open_experiment

    project, path = open_experiment(exp, quick=quick)
    split = _split(overrides)
    experiment = load_experiment(path, quick=quick, overrides=split["experiment"])
    return project, load_competition(project.experiments, quick=quick, overrides=split["competition"]), experiment


def _competition_of(file: Path) -> tuple[str, bool]:
    """The competition below whose folder in runs/ a file lies, and whether it is its quick one."""
    from gatemask.project import find_root

    try:
        label = file.resolve().relative_to(find_root() / "runs").parts[0]
    except (ValueError, IndexError):
        raise GatemaskError(
            "It cannot be told of which competition this is.", where=file, expected="a file below runs/, or --comp COMP"
        ) from None
    return label.removesuffix("-quick"), label.endswith("-quick")


def _open_target(target: str, quick: bool) -> tuple[Project, str | None]:
    """A competition's project; and an experiment's name where the target is one."""
    from gatemask.project import find_root, open_experiment, open_project

    path = Path(target)
    if path.suffix == ".yaml" or (len(path.parts) == 2 and (find_root() / "experiments" / f"{target}.yaml").exists()):
        project, file = open_experiment(target, quick=quick)
        return project, file.stem
    return open_project(target, quick=quick), None


def _open_whole(comp: str, quick: bool, overrides: list[str] | None) -> tuple[Project, Competition, Ensemble]:
    """The project and the two YAMLs that belong to the competition as a whole."""
    from gatemask.config import load_ensemble

    project, config = _open(comp, quick, overrides)
    overrides = _split(overrides)["ensemble"]
    return project, config, load_ensemble(project.experiments, quick=quick, overrides=overrides)


def _split(overrides: list[str] | None) -> dict[str, list[str]]:
    """Give each `--set` to the YAML whose key it is: no key has two homes."""
    from gatemask.config import Competition, Ensemble, Experiment

    homes: dict[str, type[BaseModel]] = {"competition": Competition, "ensemble": Ensemble, "experiment": Experiment}
    found: dict[str, list[str]] = {home: [] for home in homes}
    for override in overrides or []:
        key = override.split("=")[0].split(".")[0].strip()
        home = next((h for h, schema in homes.items() if key in schema.model_fields and key not in _FIXED), None)
        if home is None:
            known = sorted({k for schema in homes.values() for k in schema.model_fields} - _FIXED)
            close = nearest(key, known)
            raise GatemaskError(
                f"Unknown key '{key}'.",
                where=f"--set {override}",
                expected=", ".join(known),
                do=f"Write '{close}' instead." if close else None,
            )
        found[home].append(override)
    return found


# They name files and folders; to rename, copy the YAML.
_FIXED = {"name", "quick"}


def _folds(text: str) -> list[int] | None:
    """Numbers of folds, each once; None for all."""
    if text == "all":
        return None
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise GatemaskError("--fold needs numbers.", received=text, expected="0, or 0,2, or all") from None


def _print(result: Any, as_json: bool, show: Callable[[Any], object] | None = None) -> None:
    """Print a result: as JSON on stdout, or for people on stderr, with the command's own `show` if it has one."""
    from gatemask.stage import CommandResult

    if show and not as_json:
        show(result)
        return
    if isinstance(result, CommandResult):
        result = result.as_dict()
    if as_json:
        from gatemask.files import plain

        print(json.dumps(result, indent=2, ensure_ascii=False, default=plain))
        return
    from gatemask.console import say

    if result.get("current"):
        say("Current: nothing to do.")
    for key, value in result.items():
        if key != "current":
            say(f"{key + ':':<22}{_short(value)}")


def _short(value: Any, depth: int = 1) -> Any:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        lines = (f"{'  ' * depth + k + ':':<22}{_short(v, depth + 1)}" for k, v in value.items())
        return "\n" + "\n".join(lines) if value else "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
