"""Each shipped experiment builds, and one with each network, loss and optimizer trains.

Those of the phantoms run in tests/test_loop.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    assert quick.epochs <= min(2, full.epochs)
    assert quick.input.size <= 32 <= full.input.size / 2
    assert quick.sampling.epoch is not None
    assert quick.sampling.epoch <= 8
    assert full.sampling.epoch is None or full.sampling.epoch >= 10 * quick.sampling.epoch  # None: all images


@pytest.mark.usefixtures("tiny_encoders")
@pytest.mark.parametrize("path", FILES)
def test_experiment_builds(path: str) -> None:
    """The full settings build a network, a loss, an optimizer, an augmentation and a rate for each epoch."""
    import keras

    from gatemask.builders import models, optimizers, schedules, step
    from gatemask.input import augment
    from gatemask.input.layout import Layout

    comp = load_competition((ROOT / path).parent)
    exp = load_experiment(ROOT / path)
    layout = Layout.of(comp)
    small = exp.model_copy(update={"input": exp.input.model_copy(update={"size": 64})})
    network = models.network_for(small, comp, seed=None)
    model = step.training_model(network, exp, layout)
    truth = (2, network.model.output_shape[-1]) if exp.task == "gate" else (2, 64, 64, layout.planes)
    heads = {name: keras.ops.full((2, *head.shape[1:]), 0.5) for name, head in network.heads.items()}
    assert math.isfinite(float(model.compute_loss(y=np.zeros(truth, np.uint8), y_pred=heads)))
    rates = [schedules.learning_rate(exp.schedule, epoch, exp.epochs, [0.5] * epoch) for epoch in range(exp.epochs)]
    assert min(rates) > 0
    optimizers.build_optimizer(exp.optimizer, rates[0], exp.runtime.precision).build(model.trainable_variables)
    image, mask = np.zeros((64, 64, layout.channels), np.uint8), np.zeros((layout.planes, 64, 64), np.uint8)
    augment.augment_image(image, mask, (64, 64), exp.augment, np.random.default_rng(0))


def trained_experiments() -> set[str]:
    """Return the SIIM-ACR experiments with a network, loss or optimizer that no experiment before them has.

    Those of the other competitions come first: their loops train them all.
    """
    known: set[object] = set()
    trained: set[str] = set()
    for path in sorted(FILES, key=lambda path: "siim-acr" in path):
        exp = load_experiment(ROOT / path, quick=True)
        parts = {(exp.model.name, exp.model.block), ("loss", *exp.loss), ("optimizer", exp.optimizer.name)}
        if "siim-acr" in path and parts - known:
            trained.add(path)
        known |= parts
    return trained


TRAINED = trained_experiments()


def test_the_trained_experiments_have_all_networks_losses_and_optimizers() -> None:
    parts: dict[bool, set[object]] = {True: set(), False: set()}
    for path in FILES:
        exp = load_experiment(ROOT / path, quick=True)
        trained = path in TRAINED or "siim-acr" not in path
        parts[trained] |= {exp.model.name, ("block", exp.model.block), *exp.loss, exp.optimizer.name}
    assert parts[False] <= parts[True]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path in TRAINED else pytest.mark.slow) for path in FILES if "siim-acr" in path],
)
def test_experiment_trains(path: str, siim: Project, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("slow"):
        request.getfixturevalue("tiny_encoders")
    result = train_quickly(siim, path)
    assert result["epochs"] >= 1
    assert 0 <= result["score"] <= 1


@pytest.mark.parametrize("path", [path for path in FILES if "nuclei" in path])
def test_experiment_of_the_nuclei_trains(path: str, tiles_loop: Loop) -> None:
    result = json.loads((tiles_loop.runs / Path(path).stem / "fold0/result.json").read_text())
    assert result["epochs"] >= 1
    assert 0 <= result["score"] <= 1


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "experiments").glob("*/competition.yaml")))
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
