"""Commands that list experiments, compare them, and keep tags and notes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gatemask.commands.apps import app
from gatemask.commands.options import (
    Comp,
    Json,
    Quick,
    Set,
    finite,
    load_competition_inputs,
    load_ensemble_inputs,
    print_result,
)
from gatemask.errors import GatemaskError, nearest
from gatemask.faults import print_out

if TYPE_CHECKING:
    from gatemask.project import Project
    from gatemask.runs.listing import Listing


class _ListByDefault(TyperGroup):
    """A group in which `gatemask runs COMP` means `gatemask runs list COMP`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(
    cls=_ListByDefault,
    help="Experiments at a glance: `gatemask runs COMP` lists all of a competition.",
    no_args_is_help=True,
)
app.add_typer(runs_app, name="runs")

Run = Annotated[str, typer.Argument(metavar="COMP/EXP", help="Experiment: COMP/NAME, or its YAML.")]
Filter = Annotated[
    str | None, typer.Option("--where", metavar="CONDITION", help="Such as 'epochs>10 and model.encoder~b4'.")
]


@runs_app.command("list")
def list_command(
    comp: Comp,
    where: Filter = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="KEY", help="Column; best first by default. --sort=-KEY turns it around."),
    ] = None,
    gain: Annotated[
        bool,
        typer.Option("--gain", help="Compute what each experiment adds to the ensemble: one pass over the maps each."),
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write all columns; - is stdout.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the folds that are in training, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", help="With --watch: seconds between looks.", min=0.05, callback=finite)
    ] = 2.0,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """List the experiments of a competition: folds, score, better than the best or not, hours, changes."""
    import gc

    if watch:
        from gatemask.runs.watch import watch_runs

        _refuse_beside_watch({"--where": where, "--sort": sort, "--gain": gain, "--csv": csv, "--json": json_})
        watch_runs(load_competition_inputs(comp, quick, set_)[0], interval)
        return
    gc.disable()  # thousands of facts live until the command ends: looking for garbage among them takes a tenth of it
    from gatemask.files import write_text
    from gatemask.runs import printing
    from gatemask.runs.choosing import choose, sort_rows

    listing = _open(comp, quick, set_)
    runs = listing.run_list(gain)
    rows = sort_rows(choose(runs.experiments, where, listing.found), sort)
    runs = runs.model_copy(update={"experiments": tuple(rows)})
    if csv is not None:
        text = printing.as_csv(rows)
        if str(csv) == "-":
            print_out(text, end="")
            return
        print_out(f"written: {write_text(csv, text)}")
        return
    print_result(runs, json_, show=printing.print_runs)


def _refuse_beside_watch(options: dict[str, object]) -> None:
    if given := [name for name, value in options.items() if value]:
        raise GatemaskError(
            "--watch shows all folds that are in training.",
            received=f"--watch with {', '.join(given)}",
            expected="no other option than --interval, --set and --quick",
            do="Leave out one of them.",
        )


@runs_app.command("show")
def show_command(run: Run, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Show all about one experiment, fold by fold."""
    from gatemask.runs import printing
    from gatemask.runs.details import show_run

    comp, name = _split(run)
    print_result(show_run(_open(comp, quick, set_), name), json_, show=printing.print_details)


@runs_app.command("diff")
def diff_command(
    first: Run,
    second: Annotated[str, typer.Argument(metavar="[COMP/]EXP", help="The other experiment.")],
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Compare two experiments: settings, score with its interval, curves."""
    from gatemask.runs import printing
    from gatemask.runs.details import compare_runs

    comp, name = _split(first)
    other_comp, other = _split(second) if "/" in second else (comp, second)
    if other_comp != comp:
        raise GatemaskError(
            "Experiments of two competitions have nothing in common.", received=f"{comp} and {other_comp}"
        )
    print_result(compare_runs(_open(comp, quick, set_), name, other), json_, show=printing.print_difference)


@runs_app.command("best")
def best_command(comp: Comp, where: Filter = None, set_: Set = None, quick: Quick = False) -> None:
    """Print the name of the best experiment: a mask network, unless --where leaves gates only."""
    from gatemask.runs.choosing import choose
    from gatemask.runs.details import best_name

    listing = _open(comp, quick, set_)
    print_out(best_name(choose(listing.run_list().experiments, where, listing.found)))


@runs_app.command("tag")
def tag_command(
    run: Run,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags: words.")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tags.")] = False,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Add tags to an experiment, or remove them."""
    from gatemask.runs import printing
    from gatemask.runs.notes import change_tags

    project, name = _require(run, quick)
    print_result(change_tags(project, name, tags, remove), json_, show=printing.print_note)


@runs_app.command("note")
def note_command(
    run: Run,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Note; an empty text removes it.")],
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Write a note on an experiment."""
    from gatemask.runs import printing
    from gatemask.runs.notes import change_note

    project, name = _require(run, quick)
    print_result(change_note(project, name, text), json_, show=printing.print_note)


def _open(comp: str, quick: bool, overrides: list[str] | None) -> Listing:
    from gatemask.project import open_project
    from gatemask.runs.listing import Listing

    if (open_project(comp, quick=quick).experiments / "ensemble.yaml").exists():
        return Listing(*load_ensemble_inputs(comp, quick, overrides))
    project, config = load_competition_inputs(comp, quick, overrides)
    return Listing(project, config, None)


def _require(run: str, quick: bool) -> tuple[Project, str]:
    """Return the project of an experiment that has a YAML or a run."""
    from gatemask.project import open_project
    from gatemask.runs.scan import find_names

    comp, name = _split(run)
    project = open_project(comp, quick=quick)
    names = find_names(project)
    if name not in names:
        close = nearest(name, names)
        raise GatemaskError(
            f"Unknown experiment '{name}'.",
            where=project.experiments,
            received=run,
            do=f"Did you mean '{close}'?" if close else f"gatemask runs {comp} lists all experiments.",
        )
    return project, name


def _split(run: str) -> tuple[str, str]:
    """Return competition and name of an experiment, whose YAML may no longer exist."""
    path = Path(run)
    if len(path.parts) < 2:
        raise GatemaskError("An experiment is named with its competition.", received=run, expected="COMP/EXP")
    return path.parts[-2], path.name.removesuffix(".yaml")
