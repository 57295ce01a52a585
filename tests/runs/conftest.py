"""A project with finished, unfinished, idle and orphaned experiments, without training a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import load_competition, load_ensemble
from gatemask.data.truth import Annotation, write_masks
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.runs import ExperimentRun, RunList
from gatemask.runs.listing import list_runs
from tests.tuning.predictions import SIZE, write_predictions

IMAGES, FOLDS = 60, 3


@pytest.fixture(scope="session")
def made_runs(make_root: Callable[[str], Path]) -> Path:
    """Three complete mask networks, one with two folds, one with a single fold; `unet_gone` has no YAML."""
    project = Project(make_root("runs"), "phantom")
    rng = np.random.default_rng(0)
    ids = [f"i{n:02d}" for n in range(IMAGES)]
    rows = [f"{i},{n // 2 % FOLDS},patient{n // 2},0" for n, i in enumerate(ids)]
    project.folds.write_text("\n".join(["image_id,fold,group,stratum", *rows]) + "\n")
    masks = {}
    for image_id in ids[::3]:
        mask = np.zeros(SIZE, np.uint8)
        cv2.circle(mask, tuple(int(v) for v in rng.integers(50, 200, 2)), int(rng.integers(12, 40)), 1, -1)
        masks[image_id] = [Annotation("lesion", rle.encode(mask))]
    write_masks(project.data / "masks.csv", masks)
    for name, noise, seed in (
        ("unet_b0", 0.25, 1),
        ("unetpp_b0", 0.8, 2),
        ("unet_gone", 0.5, 3),
        ("unet_two", 0.3, 4),
        ("unet_one", 0.3, 5),
    ):
        write_predictions(project, name, noise, seed=seed, side=32)
    (project.experiments / "unet_gone.yaml").unlink()
    shutil.rmtree(project.fold("unet_two", 2))
    for fold in (1, 2):
        shutil.rmtree(project.fold("unet_one", fold))
    (project.experiments / "unet_idle.yaml").write_text("extends: unet_b0.yaml\nepochs: 12\n")
    return project.root


@pytest.fixture
def project(made_runs: Path, tmp_path: Path) -> Project:
    shutil.copytree(made_runs, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, "phantom")


def listed(project: Project, *overrides: str, gains: bool = False) -> RunList:
    """Return the experiments of a project; few resamples keep it fast."""
    comp = load_competition(project.experiments)
    ensemble = load_ensemble(project.experiments, overrides=["tune.bootstrap=200", *overrides])
    return list_runs(project, comp, ensemble, gains=gains)


def rows_of(runs: RunList) -> dict[str, ExperimentRun]:
    return {run.name: run for run in runs.experiments}
