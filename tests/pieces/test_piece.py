"""Pieces of work: split, refused, and what their places share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from gatemask.config import load_experiment
from gatemask.errors import GatemaskError
from gatemask.kaggle.train import place as on_kaggle
from gatemask.kaggle.train.place import Kaggle
from gatemask.parallel import cores
from gatemask.pieces import devices
from gatemask.pieces.devices import devices_for
from gatemask.pieces.local import Local
from gatemask.pieces.on_ray import RayCluster
from gatemask.pieces.piece import Outcome, Piece, call, split_evenly, values
from gatemask.project import Project
from gatemask.results.kaggle_training import CampaignReport
from tests.conftest import ROOT
from tests.data.test_manifest import competition
from tests.fold_results import fold_result

WORK = Piece("shards 0 to 3", "pieces.piece:split_evenly", {"items": [1, 2, 3], "count": 2})


def test_a_piece_calls_its_function_by_name() -> None:
    assert call(WORK) == [[1, 2], [3]]


@pytest.mark.parametrize("items", [0, 1, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_runs_are_even_and_complete(items: int, count: int) -> None:
    runs = split_evenly(range(items), count)
    assert [item for run in runs for item in run] == list(range(items))
    sizes = [len(run) for run in runs]
    assert len(sizes) == min(items, count)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_failures_are_reported_together() -> None:
    assert values({"a": Outcome(1)}, "Run it again.") == {"a": 1}
    with pytest.raises(GatemaskError, match=r"(?s)2 of 3 pieces of work failed.*a: disk full.*b: died.*Run it again"):
        values({"a": Outcome(error="disk full"), "b": Outcome(error="died"), "c": Outcome(3)}, "Run it again.")


def test_processes_fit_cores_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(devices, "available_memory", lambda: 5e9)
    assert len(devices_for(Piece("a", "b:c", {}, memory=10**9))) == 5
    assert len(devices_for(Piece("a", "b:c", {}, cores=4, memory=1))) == 2
    assert len(devices_for(Piece("a", "b:c", {}, memory=10**11))) == 1, "one piece runs in any case"
    for number in range(3):
        (tmp_path / f"nvidia{number}").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [each.name for each in devices_for(Piece("a", "b:c", {}, accelerator="auto"))] == ["gpu 0", "gpu 1", "gpu 2"]
    assert {each.kind for each in devices_for(Piece("a", "b:c", {}, accelerator="cpu"))} == {"cpu"}


def test_kaggle_refuses_what_is_not_a_training(tmp_path: Path) -> None:
    place = Kaggle(Project(tmp_path, "tiles"), competition())
    for refused in (lambda: place.run([WORK]), lambda: place.slots(WORK)):
        with pytest.raises(GatemaskError, match=r"(?s)Kaggle runs trainings only.*shards 0 to 3.*--on local"):
            refused()


def test_trainings_on_kaggle_are_a_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = load_experiment(ROOT / "experiments/phantom/gate_r18.yaml")
    done = fold_result(experiment=exp.name, fold=1)
    pushed: list[object] = []

    def campaign(*arguments: object) -> CampaignReport:
        pushed.append(arguments[3])
        given_up = {f"{exp.name}/0": "Loss became NaN."}
        return CampaignReport(current=False, experiments={}, sessions=1, hours=1.0, given_up=given_up)

    monkeypatch.setattr(on_kaggle, "run_campaign", campaign)
    results = {0: None, 1: done}
    monkeypatch.setattr(
        on_kaggle.TrainingInputs, "stage", lambda self, fold: SimpleNamespace(current=lambda: results[fold])
    )
    settings = exp.model_dump(mode="json", exclude={"quick", "search"}, exclude_none=True)
    work = [
        Piece(f"fold {fold}", "training.train_piece:train_piece", {"experiment": settings, "fold": fold}, training=True)
        for fold in (0, 1)
    ]
    outcomes = Kaggle(Project(tmp_path, "tiles"), competition()).run(work)
    assert pushed == [{exp.name: [0, 1]}]
    assert outcomes == {"fold 0": Outcome(error="Loss became NaN."), "fold 1": Outcome({"result": done.as_dict()})}


def test_ray_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(GatemaskError, match=r"address of the Ray cluster is not known|Ray is not installed"):
        RayCluster(tmp_path).run([WORK])


@pytest.mark.integration
def test_processes_run_pieces_side_by_side(tmp_path: Path) -> None:
    """One returns, one fails, one is a fault: each costs only itself."""
    work = [
        WORK,
        Piece("bad", "files:read_json", {"path": str(tmp_path / "none.json")}),
        Piece("fault", "files:nothing", {}, log=str(tmp_path / "fault.log")),
    ]
    seen: list[str] = []
    outcomes = Local(devices_for(WORK)[:2]).run(work, lambda piece, outcome: seen.append(piece.name))
    assert outcomes[WORK.name] == Outcome([[1, 2], [3]])
    assert "none.json" in (outcomes["bad"].error or "") or "str" in (outcomes["bad"].error or "")
    assert "AttributeError" in (outcomes["fault"].error or "")
    assert "Traceback" in (tmp_path / "fault.log").read_text()
    assert sorted(seen) == sorted(outcomes)
    assert Local().slots(WORK) <= cores()
