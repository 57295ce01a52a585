"""Commands on trained experiments."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask.commands.apps import app
from gatemask.commands.options import (
    AsTrained,
    Comp,
    Json,
    Quick,
    Set,
    load_competition_inputs,
    load_ensemble_inputs,
    print_result,
)
from gatemask.faults import print_out


@app.command("metric")
def metric_command(
    comp: Comp,
    template: Annotated[bool, typer.Option("--template", help="Write metric.py, to be edited, and stop.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Try the competition's metric on drawn masks, or write a template for one of your own."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.masks import metric_trial

    if template:
        print_out(f"written: {metric_trial.write_template(project.experiments)}")
        return
    result = metric_trial.try_metric(config, project.experiments)
    print_result(result, json_, show=metric_trial.print_trial)


@app.command("compare")
def compare_command(
    comp: Comp,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Name of an experiment, or several joined by +.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The candidate, in the same form.")],
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Compare two experiments on the same out-of-fold images: better, worse, or cannot tell."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
    from gatemask.tuning import compare

    print_result(compare.compare(project, config, ensemble, first, second), json_, show=compare.print_comparison)


@app.command("sync")
def sync_command(
    comp: Comp,
    quick: Quick = False,
    json_: Json = False,
    gaps: Annotated[bool, typer.Option("--gaps", help="Include runs whose first epochs are lost.")] = False,
) -> None:
    """Upload offline runs to W&B, each row once. Exits with 1 if any run failed."""
    from gatemask.project import open_project
    from gatemask.tracking.sync import sync

    result = sync(open_project(comp, quick=quick), gaps)
    print_result(result, json_)
    if result.failed:
        raise typer.Exit(1)
