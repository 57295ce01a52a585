"""Finished folds of the phantoms, made from their true masks: nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gatemask.config import Experiment, load_competition
from gatemask.data.split import read_folds, read_manifest
from gatemask.data.truth import Masks
from gatemask.files import sha256, write_yaml
from gatemask.masks.frame import comp_frame
from gatemask.oof import store
from gatemask.oof.tables import best_single_threshold, count_maps
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.stage import write_stamp
from gatemask.tracking import run_folder
from gatemask.tracking.artifacts import records_fingerprint
from tests.fold_results import fold_result

EPOCHS = 3


def rows(task: str) -> list[dict[str, float]]:
    """Return rows of metrics.jsonl."""
    name = "auc" if task == "gate" else "dice"
    measured = {"seconds": 3.25, "images_per_s": 84.5, "input_wait": 0.0125, "compile_seconds": 1.5, "memory_mb": 812.5}
    return [{"epoch": e, "loss": 1 / (e + 1), name: e / (e + 1), "threshold": 0.4, **measured} for e in range(EPOCHS)]


def experiment(task: str, **tracking: Any) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18"}
    fields = {"name": f"{task}_net", "task": task, "model": model, "input": {"size": 64}, "loss": {"bce": 1}}
    return Experiment.model_validate({**fields, "epochs": EPOCHS, "tracking": tracking})


def finish_fold(project: Project, task: str, **tracking: Any) -> Path:
    """Write fold 0 of an experiment as a training leaves it, and return its folder.

    Args:
        project: Project with the phantoms' data.
        task: "gate" or "mask".
        tracking: Settings of `tracking:`.
    """
    exp = experiment(task, **tracking)
    folder = project.fold(exp.name, 0)
    (folder / "wandb").mkdir(parents=True)
    write_yaml(folder / "config.yaml", exp.model_dump(mode="json", exclude={"quick"}, exclude_none=True))
    run_folder.write_metrics(folder / "metrics.jsonl", rows(task))
    (folder / "best.weights.h5").write_bytes(b"weights of " + exp.name.encode())
    fields = _predict_gate(project, folder) if task == "gate" else _predict_masks(project, folder)
    write_result(project, fold_result(experiment=exp.name, task=task, monitor=exp.monitor, epochs=EPOCHS, **fields))
    return folder


def write_result(project: Project, result: FoldResult) -> None:
    """Write result.json."""
    folder = project.fold(result.experiment, result.fold)
    outputs = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    made_from = {
        "settings": "s",
        "fold": result.fold,
        "folds": sha256(project.folds),
        "records": records_fingerprint(project.records(64)),
    }
    stamped = {"made_from": made_from, "outputs": outputs, "seconds": 1.0, **result.stamped()}
    write_stamp(folder / "result.json", stamped)


def validation(project: Project) -> list[str]:
    frame = read_folds(project)
    return [str(image_id) for image_id in frame["image_id"][frame["fold"] == 0]]


def _predict_gate(project: Project, folder: Path) -> dict[str, Any]:
    ids = validation(project)
    manifest = read_manifest(project, "train").set_index("image_id")["label"]
    noise = np.random.default_rng(0).normal(0, 0.25, len(ids))
    store.write_gates(folder / "oof.csv", ids, np.clip([0.2 + 0.6 * manifest[i] for i in ids] + noise, 0, 1))
    return {"auc": 0.9}


def _predict_masks(project: Project, folder: Path) -> dict[str, Any]:
    """Predict the truth, shifted more from image to image; every third image gets a false spot."""
    comp = load_competition(project.experiments, quick=project.quick)
    truth, ids, maps = Masks.of(project, comp), validation(project), []
    for number, image_id in enumerate(ids):
        small = cv2.resize(truth[image_id].astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
        shifted = np.roll(small, number // 3, axis=0)
        if number % 3 == 0:
            shifted[4:8, 4:8] = 1.0
        maps.append((shifted * 255).astype(np.uint8)[:, :, None])
    store.write_maps(folder / "oof.h5", ids, [np.stack(maps)], (64, 64, 1))
    reader = store.MapReader([folder / "oof.h5"])
    tables = count_maps(dict.fromkeys(ids, 0), [reader], truth, "tables", frame=comp_frame(comp), classes=1)
    reader.close()
    tables.save(folder / "tables.npz")
    threshold, score = best_single_threshold(tables)
    return {"dice": score, "dice_full": score, "threshold": threshold}
