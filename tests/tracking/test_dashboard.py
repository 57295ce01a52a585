"""The definition of a dashboard as JSON, and what a push leaves on the server."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from gatemask.config import Dashboard, Panel, load_competition, load_dashboard
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.tracking import dashboard
from tests.conftest import ROOT, gatemask
from tests.tracking.wandb_server import KEY, Server

pytest.importorskip("wandb_workspaces")


def built(definition: Dashboard) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return workspace and report as JSON."""
    workspace = dashboard.build_workspace(definition, "p", "Title")._to_model()
    report = dashboard.build_report(definition, "p", "Title")._to_model()
    return tuple(json.loads(model.model_dump_json(by_alias=True, exclude_none=True)) for model in (workspace, report))


def sections(workspace: dict[str, Any]) -> list[dict[str, Any]]:
    return list(workspace["spec"]["section"]["panelBankConfig"]["sections"])


def one_panel(**panel: Any) -> dict[str, Any]:
    """Return the JSON of a panel in a workspace."""
    definition = Dashboard.model_validate({"sections": [{"name": "s", "panels": [panel]}]})
    return dict(sections(built(definition)[0])[0]["panels"][0])


def test_each_kind_of_panel() -> None:
    line = one_panel(line=["loss", "val_loss"], title="Loss", log=True)
    assert line["viewType"] == "Run History Line Plot"
    config = line["config"]
    assert (config["metrics"], config["xAxis"], config["yLogScale"]) == (["loss", "val_loss"], "epoch", True)
    assert (config["chartTitle"], config["groupBy"]) == ("Loss", "group")
    assert "groupBy" not in one_panel(line=["loss"], group=False)["config"]
    bar = one_panel(bar=["best"])
    assert (bar["viewType"], bar["config"]["metrics"]) == ("Bar Chart", ["best"])
    scalar = one_panel(scalar="cross_fitted")
    assert (scalar["viewType"], scalar["config"]["metrics"]) == ("Scalar Chart", ["cross_fitted"])
    media = one_panel(media=["overlays"], columns=6)
    assert (media["viewType"], media["config"]["mediaKeys"]) == ("Media Browser", ["overlays"])
    assert media["config"]["columnCount"] == 6
    assert '"per_image"' in json.dumps(one_panel(table="per_image"))
    assert one_panel(runs=True)["viewType"] == "Run Comparer"


def test_the_default_shows_overlays_figures_and_results() -> None:
    workspace, report = built(Dashboard())
    names = [section["name"] for section in sections(workspace)]
    assert names == ["Results", "Experiments", "Validation images", "Rule", "Speed", "Settings"]
    assert [section["isOpen"] for section in sections(workspace)] == [True] * 4 + [False] * 2
    text = json.dumps(workspace)
    assert all(key in text for key in ('"overlays"', '"figures/surface"', '"per_image"', '"tables/members"'))
    kinds = [block["type"] for block in report["spec"]["blocks"]]
    assert kinds.count("panel-grid") == len(names)
    assert "summary:best" in json.dumps(workspace["spec"]["section"]["runSets"])


def test_panels_of_a_report_do_not_overlap() -> None:
    _, report = built(Dashboard())
    for block in report["spec"]["blocks"]:
        if block["type"] != "panel-grid":
            continue
        places = [panel["layout"] for panel in block["metadata"]["panelBankSectionConfig"]["panels"]]
        cells = [(x, p["y"]) for p in places for x in range(p["x"], p["x"] + p["w"])]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < dashboard.WIDTH


def test_the_shipped_definition() -> None:
    definition = load_dashboard(ROOT / "experiments" / "phantom")
    workspace, _ = built(definition)
    assert [section["name"] for section in sections(workspace)] == ["Results", "Masks", "Gate", "Rule", "Runs"]
    assert load_dashboard(ROOT / "experiments" / "nuclei") == Dashboard()


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"title": "x"}, "needs one of line, bar, .* none of them"),
        ({"line": ["a"], "bar": ["b"]}, "line and bar"),
        ({"bar": ["a"], "log": True}, "'log' belongs to panels of line, not of bar"),
        ({"media": []}, "at least 1 item"),
    ],
)
def test_invalid_panels(panel: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Panel.model_validate(panel)


def test_a_misspelled_key_is_named_with_its_line(project: Project) -> None:
    path = project.experiments / "dashboard.yaml"
    path.write_text("sections:\n  - name: A\n    panels:\n      - {lines: [loss]}\n")
    with pytest.raises(GatemaskError, match=r"Unknown key 'sections\.0\.panels\.0\.lines'") as caught:
        load_dashboard(project.experiments)
    assert "dashboard.yaml, line 4" in str(caught.value)
    assert "Write 'line' instead." in str(caught.value)


def push(project: Project) -> Any:
    comp = load_competition(project.experiments)
    return dashboard.push_dashboard(project, comp, load_dashboard(project.experiments))


def test_a_second_push_changes_the_same_views(project: Project, server: Server) -> None:
    first = push(project)
    assert sorted(first.created) == ["report", "workspace"]
    path = project.experiments / "dashboard.yaml"
    path.write_text(path.read_text().replace("name: Masks", "name: Mask networks"))
    second = push(project)
    assert second.created == []
    assert (second.workspace, second.report) == (first.workspace, first.report)
    assert len(server.views.stored) == 2
    for view in server.views.stored.values():
        assert view["displayName"] == "Phantom chest X-rays"
        assert "Mask networks" in view["spec"] and '"overlays"' in view["spec"]
    assert re.fullmatch(r"http://.*/me/gatemask-phantom\?nw=\w{11}", second.workspace)


def test_views_of_other_competitions_are_left_alone(project: Project, server: Server) -> None:
    push(project)
    push(Project(project.root, "phantom", quick=True))
    assert len(server.views.stored) == 4
    assert {view["project"] for view in server.views.stored.values()} == {"gatemask-phantom", "gatemask-phantom-quick"}


def test_without_runs_on_w_and_b(project: Project, server: Server) -> None:
    server.views.projects = set()
    with pytest.raises(GatemaskError, match="does not have this project yet"):
        push(project)
    assert server.views.stored == {}


@pytest.mark.integration
def test_commands(project: Project, server: Server) -> None:
    done = gatemask("dashboard", "push", "phantom", "--json", root=project.root)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert sorted(json.loads(done.stdout)["created"]) == ["report", "workspace"]
    asked = len(server.requests)
    dry = gatemask("dashboard", "push", "phantom", "--dry-run", root=project.root)
    printed = json.loads(dry.stdout)
    assert {name: view["title"] for name, view in printed.items()} == {
        "workspace": "Phantom chest X-rays",
        "report": "Phantom chest X-rays",
    }
    assert len(server.requests) == asked


def test_without_the_package(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(GatemaskError, match=r"pip install wandb-workspaces==") as caught:
        push(project)
    assert dashboard.PACKAGE in (ROOT / "requirements.txt").read_text().splitlines()
    assert "wandb-workspaces" in str(caught.value)
