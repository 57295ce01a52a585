"""Commands of dashboards."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask.commands.apps import dashboard_app
from gatemask.commands.options import Comp, Json, Quick, load_competition_inputs, print_json, print_result


@dashboard_app.command("show")
def dashboard_show(
    comp: Comp,
    study: Annotated[
        str | None, typer.Option(metavar="EXP", help="Show the search of an experiment. Default: the thresholds.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Local port; 0 picks a free one.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    quick: Quick = False,
) -> None:
    """Show a study of Optuna in a browser."""
    from gatemask.project import open_project
    from gatemask.tuning.dashboard import serve_dashboard

    serve_dashboard(open_project(comp, quick=quick), port, browser, study)


@dashboard_app.command("push")
def dashboard_push(
    comp: Comp,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print workspace and report as JSON, and stop.")] = False,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Create workspace and report on W&B from dashboard.yaml, or bring them up to date."""
    project, config = load_competition_inputs(comp, quick, None)
    from gatemask.config import load_dashboard
    from gatemask.tracking import dashboard

    definition = load_dashboard(project.experiments)
    if dry_run:
        views = dashboard.build_views(project, config, definition)
        print_json({dashboard.WORDS[view.kind]: {"title": view.title, "spec": view.spec} for view in views})
        return
    print_result(dashboard.push_dashboard(project, config, definition), json_)
