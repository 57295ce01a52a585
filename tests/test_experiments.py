"""Each shipped experiment trains for a step. Those of the phantoms run in tests/test_loop.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import load_competition, load_ensemble, load_experiment
from gatemask.project import Project, experiment_files
from tests.conftest import ROOT, Loop, gatemask, write_siim, write_tiles

pytestmark = pytest.mark.trains

FILES = experiment_files(ROOT)


@pytest.fixture(scope="module")
def tiles_loop(make_root: Callable[[str], Path]) -> Loop:
    """The nuclei competition on synthetic tiles: PNG masks, three channels, a hold-out as test set."""
    root = make_root("nuclei")
    raw = write_tiles(root / "tiles")
    done = gatemask("loop", "nuclei", "--quick", "--data", raw, "--json", root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return Loop(root, "nuclei-quick", json.loads(done.stdout), {})


@pytest.fixture(scope="module")
def siim(make_root: Callable[[str], Path]) -> Project:
    """Phantoms in the layout of SIIM-ACR, prepared for training at quick size."""
    root = make_root("siim")
    raw = write_siim(root / "siim")
    for command in (["data", "prepare", "siim-acr", "--data", raw], ["folds", "make", "siim-acr"]):
        done = gatemask(*command, "--quick", root=root)
        assert done.returncode == 0, done.stderr[-3000:]
    assert gatemask("records", "make", "siim-acr", "--quick", root=root).returncode == 0
    return Project(root, "siim-acr", quick=True)


@pytest.mark.parametrize("path", FILES)
def test_experiment_opens_with_its_command_and_has_a_quick_mode(path: str) -> None:
    first = (ROOT / path).read_text().splitlines()[0]
    assert first.startswith(f"# make train EXP={path}")
    full, quick = (load_experiment(ROOT / path, quick=quick) for quick in (False, True))
    assert quick.epochs <= 2 < full.epochs
    assert quick.input.size <= 32


@pytest.mark.parametrize("path", FILES)
def test_experiment_trains(path: str, request: pytest.FixtureRequest) -> None:
    comp, name = Path(path).parent.name, Path(path).stem
    if comp == "siim-acr":
        result = train_quickly(request.getfixturevalue("siim"), path)
    else:
        loop = request.getfixturevalue({"phantom": "phantom_loop", "nuclei": "tiles_loop"}[comp])
        result = json.loads((loop.runs / name / "fold0/result.json").read_text())
    assert result["epochs"] >= 1
    assert 0 <= result["score"] <= 1


@pytest.mark.parametrize("folder", sorted((ROOT / "experiments").iterdir()))
def test_competition_is_complete(folder: Path) -> None:
    assert load_competition(folder).name == folder.name
    assert load_competition(folder, quick=True).folds.k <= 3
    ensemble = load_ensemble(folder)
    for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]:
        assert load_experiment(folder / f"{name}.yaml").name == name


def train_quickly(project: Project, path: str) -> dict[str, Any]:
    """Train fold 0 of a quick experiment in this process, where TensorFlow is already loaded."""
    from gatemask.training.train import train

    comp = load_competition(project.experiments, quick=True)
    exp = load_experiment(project.root / path, quick=True, overrides=["tracking.wandb=disabled"])
    return train(project, comp, exp, [0]).folds[0].as_dict()


def test_holdout_is_the_test_set_and_never_trained_on(tiles_loop: Loop) -> None:
    import pandas as pd

    folds = pd.read_csv(tiles_loop.root / "folds/nuclei-quick.csv")
    held = set(folds["image_id"][folds["fold"] == -1])
    submission = pd.read_csv(tiles_loop.result["submission"])
    assert set(submission["ImageId"]) == held
    assert held
    for fold in (0, 1):
        out_of_fold = pd.read_csv(tiles_loop.runs / f"gate_b0/fold{fold}/oof.csv")
        assert not held & set(out_of_fold["image_id"])
    assert 0 <= tiles_loop.result["submission_score"] <= 1


def test_raw_folder_is_remembered(tiles_loop: Loop) -> None:
    done = gatemask("data", "prepare", "nuclei", "--quick", "--json", root=tiles_loop.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["current"] is True
