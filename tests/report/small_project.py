"""A small competition with runs that no network trained: maps are the truth with noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gatemask.config import Competition, Ensemble
from gatemask.data.folds import make_folds
from gatemask.data.manifest import prepare
from gatemask.data.split import read_folds
from gatemask.data.truth import Masks
from gatemask.files import sha256
from gatemask.masks.frame import comp_frame
from gatemask.oof.store import MapReader, write_gates, write_maps
from gatemask.oof.tables import count_maps
from gatemask.project import Project
from gatemask.report.inputs import Inputs
from gatemask.results.training import FoldResult
from gatemask.stage import Stage
from gatemask.tracking.run_folder import write_config, write_metrics
from tests.conftest import write_tiles
from tests.data.test_manifest import competition
from tests.fold_results import fold_result, mask_settings

MASK, GATE = "unet", "gate"
PARTS = {"gate": {"experiments": [GATE]}, "mask": {"experiments": [MASK]}}
ENSEMBLE = Ensemble.model_validate({**PARTS, "as_trained": True})  # no YAML describes how these folds were made


def small_project(root: Path, **changes: Any) -> Inputs:
    """Write 18 images with masks, their manifest, three folds and two experiments that are not trained."""
    comp = competition(title="Small & <tiny>", **changes)
    write_tiles(root / "raw", 18)
    project = Project(root, comp.name)
    project.experiments.mkdir(parents=True)
    settings = comp.model_dump(mode="json", exclude_unset=True)
    (project.experiments / "competition.yaml").write_text(yaml.safe_dump(settings))
    (project.experiments / "ensemble.yaml").write_text(yaml.safe_dump(ENSEMBLE.model_dump(mode="json")))
    for name in (MASK, GATE):
        (project.experiments / f"{name}.yaml").write_text(yaml.safe_dump(_settings(name, epochs=3)))
    prepare(project, comp)
    make_folds(project, comp)
    return Inputs(project, comp, ENSEMBLE)


def again(inputs: Inputs) -> Inputs:
    """Return the same competition as a new command would read it."""
    return Inputs(inputs.project, inputs.comp, inputs.ensemble)


def epochs(inputs: Inputs, fold: int, count: int, name: str = MASK, **more: float) -> Path:
    """Write what a training leaves after some epochs, and return the folder of the run."""
    folder = inputs.project.fold(name, fold)
    score = "dice" if name == MASK else "auc"
    rows = [
        {"epoch": epoch, "loss": 1 / (epoch + 1), "val_loss": 0.9, score: 0.4 + 0.1 * epoch, "seconds": 2.0, **more}
        for epoch in range(count)
    ]
    write_config(folder, _settings(name, epochs=3))
    write_metrics(folder / "metrics.jsonl", rows)
    return folder


def finish(inputs: Inputs, fold: int, name: str = MASK) -> Path:
    """Write a finished fold with out-of-fold predictions, and return its folder."""
    project, comp = inputs.project, inputs.comp
    folder = epochs(inputs, fold, 3, name, images_per_s=50.0)
    frame = read_folds(project)
    ids = sorted(frame["image_id"][frame["fold"] == fold])
    if name == MASK:
        files = _write_maps(project, comp, folder, ids, fold)
        task = {"task": "mask", "monitor": "dice", "score": 0.6, "dice": 0.6}
    else:
        files = [write_gates(folder / "oof.csv", ids, np.linspace(0, 1, len(ids)))]
        task = {"task": "gate", "monitor": "auc", "score": 0.7, "auc": 0.7}
    result = fold_result(experiment=name, fold=fold, epochs=3, best_epoch=2, best_epochs=[2], **task)
    Stage("train", folder / "result.json", {"folds": sha256(project.folds)}, FoldResult).run(lambda: (result, files))
    return folder


def _write_maps(project: Project, comp: Competition, folder: Path, ids: list[str], fold: int) -> list[Path]:
    rng, truth = np.random.default_rng(fold), Masks.of(project, comp)
    maps = []
    for number, image_id in enumerate(ids):
        mask = truth[image_id]
        seen = np.zeros_like(mask) if number == 0 else np.roll(mask, 3 * number, axis=0)  # missed, then displaced
        if not mask.any():
            seen[20:40, 20:40] = True  # a false alarm
        maps.append(np.clip(rng.normal(40 + 160 * seen, 15), 0, 255).astype(np.uint8))
    path = write_maps(folder / "oof.h5", ids, [image_map[None] for image_map in maps], maps[0].shape)
    reader = MapReader([path])
    frame = None if comp.tiles else comp_frame(comp)
    tables = count_maps(dict.fromkeys(ids, fold), [reader], truth, "tables", frame=frame, classes=len(comp.classes))
    reader.close()
    return [path, tables.save(folder / "tables.npz")]


def _settings(name: str, **changes: Any) -> dict[str, Any]:
    if name == MASK:
        return mask_settings(name=name, **changes)
    return mask_settings(**{"name": name, "task": "gate", "model": {"name": "gate", "encoder": "resnet18"}, **changes})
