"""Build the workspace and the report that dashboard.yaml describes, and put them on W&B (`gatemask dashboard push`).

Both have names that follow from the competition, and the server is asked for them: a second push, from whatever
machine, changes them instead of adding others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from gatemask.config import Competition, Dashboard, Panel, Section, load_ensemble, load_experiment
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.dashboard import PushedDashboard
from gatemask.secrets.guard import refuse_secrets
from gatemask.tracking import wandb_server
from gatemask.tracking.wandb_views import find_view, upsert_view

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

PACKAGE = "wandb-workspaces==0.4.13"
WORDS = {"project-view": "workspace", "runs": "report"}  # types of views on the server
WIDTH, HEIGHT = 24, 8  # of a report, and of each panel, in units of its grid
AS_JSON: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True}


@dataclass(frozen=True)
class View:
    """A workspace or a report, as the server stores it.

    Args:
        kind: Its type on the server.
        name: Name by which the server finds it.
        title: Title.
        text: Description.
        spec: Contents.
    """

    kind: str
    name: str
    title: str
    text: str
    spec: dict[str, JsonValue]


def push_dashboard(project: Project, comp: Competition, dashboard: Dashboard) -> PushedDashboard:
    """Create the workspace and the report on W&B, or bring them up to date.

    Raises:
        GatemaskError: wandb-workspaces is not installed, the API key is missing, W&B has no such project, or does not
            answer.
    """
    views = build_views(project, comp, dashboard)
    contents = {view.name: json.dumps([view.title, view.text, view.spec]).encode() for view in views}
    refuse_secrets(contents, project.root)
    account = wandb_server.sign_in()
    entity, name = wandb_server.entity_of(account), wandb_project(project)
    ids = {view.name: find_view(account, entity, name, view.kind, view.name) for view in views}
    addresses = {}
    for view in views:
        found = upsert_view(account, entity, name, _variables(view, ids[view.name]))
        addresses[view.kind] = _address(account.server, entity, name, view, found)
    return PushedDashboard(
        project=f"{entity}/{name}",
        workspace=addresses["project-view"],
        report=addresses["runs"],
        created=[WORDS[view.kind] for view in views if ids[view.name] is None],
    )


def build_views(project: Project, comp: Competition, dashboard: Dashboard) -> list[View]:
    """Return the workspace and the report of a competition. Needs no network.

    Raises:
        GatemaskError: wandb-workspaces is not installed.
    """
    name = wandb_project(project)
    title = dashboard.title or comp.title
    workspace = build_workspace(dashboard, name, title)
    report = build_report(dashboard, name, dashboard.report.title or title)
    key = fingerprint([project.label, "dashboard"])
    return [
        View("project-view", f"nw-{key[:11]}-v", title, "", workspace._to_model().spec.model_dump(**AS_JSON)),
        View("runs", key, report.title, report.description, report._to_model().spec.model_dump(**AS_JSON)),
    ]


def wandb_project(project: Project) -> str:
    """Return the W&B project of the ensemble's first mask experiment, or of the competition."""
    try:
        first = load_ensemble(project.experiments, quick=project.quick).mask.experiments[0]
        named = load_experiment(project.experiments / f"{first}.yaml", quick=project.quick).tracking.project
    except GatemaskError:
        named = None
    return named or f"gatemask-{project.label}"


def build_workspace(dashboard: Dashboard, project: str, title: str) -> Workspace:
    """Return the workspace that a dashboard describes."""
    ws, _ = _package()
    return ws.Workspace(
        entity="",
        project=project,
        name=title,
        sections=[
            ws.Section(name=section.name, panels=_panels(section), is_open=section.open)
            for section in dashboard.sections
        ],
        runset_settings=ws.RunsetSettings(pinned_columns=[f"summary:{name}" for name in dashboard.pinned]),
    )


def build_report(dashboard: Dashboard, project: str, title: str) -> Report:
    """Return the report that a dashboard describes: a heading, a text and a grid of panels per section."""
    _, wr = _package()
    blocks: list[Any] = [wr.MarkdownBlock(text=dashboard.report.text)] if dashboard.report.text else []
    for section in dashboard.sections:
        blocks.append(wr.H2(text=section.name))
        if section.text:
            blocks.append(wr.MarkdownBlock(text=section.text))
        blocks.append(wr.PanelGrid(runsets=[wr.Runset(name="All runs")], panels=_panels(section, placed=True)))
    return wr.Report(entity="", project=project, title=title, blocks=blocks, width="fluid")


def _panels(section: Section, placed: bool = False) -> list[Any]:
    """Return the panels of a section; in a report, two in a row, media and tables over its whole width."""
    _, wr = _package()
    panels, x, y = [], 0, 0
    for panel in section.panels:
        made = _panel(panel)
        if placed:
            width = WIDTH if panel.kind in ("media", "table", "runs") else WIDTH // 2
            x, y = (x, y) if x + width <= WIDTH else (0, y + HEIGHT)
            made.layout = wr.Layout(x=x, y=y, w=width, h=HEIGHT)
            x += width
        panels.append(made)
    return panels


def _panel(panel: Panel) -> Any:
    _, wr = _package()
    by_experiment = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    grouped = by_experiment if panel.group else {}
    if panel.line:
        smoothing = {"smoothing_type": "exponential", "smoothing_factor": panel.smoothing} if panel.smoothing else {}
        return wr.LinePlot(title=panel.title, x=panel.x, y=panel.line, log_y=panel.log or None, **smoothing, **grouped)
    if panel.bar:
        return wr.BarPlot(title=panel.title, metrics=panel.bar, **grouped)
    if panel.scalar:
        return wr.ScalarChart(title=panel.title, metric=panel.scalar, groupby_aggfunc="max")
    if panel.media:
        return wr.MediaBrowser(title=panel.title, media_keys=panel.media, num_columns=panel.columns)
    if panel.table:
        return wr.WeavePanelSummaryTable(table_name=panel.table)
    return wr.RunComparer(diff_only="split")


def _package() -> tuple[Any, Any]:
    """Return the modules of wandb-workspaces.

    Raises:
        GatemaskError: It is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise GatemaskError(
            "Dashboards need the package wandb-workspaces.", received=error, do=f"Install it: pip install {PACKAGE}"
        ) from None
    return ws, wr


def _variables(view: View, view_id: str | None) -> dict[str, str]:
    fields = {"type": view.kind, "name": view.name, "displayName": view.title, "description": view.text}
    return {**fields, "spec": json.dumps(view.spec), **({"id": view_id} if view_id else {})}


def _address(server: str, entity: str, project: str, view: View, view_id: str) -> str:
    from wandb.util import app_url

    place = f"{app_url(server)}/{entity}/{project}"
    if view.kind == "project-view":
        return f"{place}?nw={view.name.removeprefix('nw-').removesuffix('-v')}"
    return f"{place}/reports/{view.title.replace(' ', '-')}--{view_id.rstrip('=')}"
