"""Benchmark of `gatemask runs` on 1,000 experiments of 5 folds: the whole process, with everything known already.

The floor is a look at the time and size of each file. Every call needs it, because any file may have changed since.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from timing import Row, limit, row

from gatemask.config import load_experiment
from gatemask.data.truth import Annotation, write_masks
from gatemask.files import fingerprint, sha256, write_text
from gatemask.masks import rle
from gatemask.oof import store
from gatemask.project import Project
from gatemask.runs.scan import WATCHED
from gatemask.stage import HASH
from gatemask.training.fold_inputs import fingerprints, written_settings
from gatemask.yaml12 import dump_yaml

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS, FOLDS, EPOCHS = 1000, 5, 10
IMAGES, SIDE = 60, 32
VARIANTS = 12  # different predictions; experiments of the same ones share a score
ROUNDS = 5
LIMIT_S = 1.0
COMP = "many"
GATE = "gate"


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        project = make(Path(name) / "project", EXPERIMENTS)
        seconds_of(project, "--help")  # compiles
        cold = seconds_of(project)
        warm = min(seconds_of(project) for _ in range(ROUNDS))
        floor = min(stat_all(project) for _ in range(ROUNDS))
        empty = min(seconds_of(project, "--help") for _ in range(ROUNDS))
    what = f"gatemask runs, {EXPERIMENTS} experiments x {FOLDS} folds"
    yield limit(f"{what}, all known, whole process", warm, LIMIT_S, "s")
    yield row(f"{what}, all known, vs --help and a look at each file", warm, empty + floor, None, unit="s")
    yield row(f"{what}, all known, vs nothing known", warm, cold, None, unit="s")


def seconds_of(project: Project, *arguments: str) -> float:
    """Return the duration of `gatemask runs` as a process."""
    command = [sys.executable, "-m", "gatemask", "runs", *(arguments or (COMP,))]
    environment = {**os.environ, "GATEMASK_ROOT": str(project.root), "COLUMNS": "100"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users have compiled modules
    environment["PYTHONPYCACHEPREFIX"] = str(project.root.parent / "compiled")
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def stat_all(project: Project) -> float:
    """Return the seconds for a look at each YAML, each folder and each file of a run."""
    started = time.perf_counter()
    for entry in os.scandir(project.experiments):
        entry.stat()
    for experiment in os.scandir(project.runs):
        if experiment.name.startswith("net"):
            for fold in os.scandir(experiment.path):
                for file in os.scandir(fold.path):
                    if file.name in WATCHED:
                        file.stat()
    return time.perf_counter() - started


# --- the competition ---------------------------------------------------------------------------------------


def make(root: Path, experiments: int) -> Project:
    """Write YAMLs and finished runs: one gate behind which mask networks are scored. Nothing is trained."""
    project = Project(root, COMP)
    project.experiments.mkdir(parents=True)
    text = (ROOT / "experiments/phantom/competition.yaml").read_text(encoding="utf-8")
    text = text.replace("name: phantom", f"name: {COMP}").replace("size: [256, 256]", f"size: [{SIDE}, {SIDE}]")
    write_text(project.experiments / "competition.yaml", text)
    write_text(project.experiments / "base.yaml", "input: {size: 32}\naugment: [hflip]\nloss: {bce: 1, dice: 1}\n")
    members = f"gate: {{experiments: [{GATE}]}}\nmask: {{experiments: [{name_of(0)}]}}\ntune: {{bootstrap: 200}}\n"
    write_text(project.experiments / "ensemble.yaml", members)
    write_text(project.experiments / f"{GATE}.yaml", GATE_YAML)
    for number in range(experiments):
        (project.experiments / f"{name_of(number)}.yaml").write_text(yaml_of(number))
    ids = [f"image{number:03d}" for number in range(IMAGES)]
    lines = [f"{image_id},{n % FOLDS},{image_id},0" for n, image_id in enumerate(ids)]
    write_text(project.folds, "\n".join(["image_id,fold,group,stratum", *lines]) + "\n")
    masks = truth(ids)
    write_masks(project.data / "masks.csv", {i: [Annotation("mask", rle.encode(mask))] for i, mask in masks.items()})
    predictions = write_predictions(root / "predictions", ids, masks)
    split = sha256(project.folds)
    write_runs(project, GATE, [predictions / f"gate-{fold}.csv" for fold in range(FOLDS)], split)
    for number in range(experiments):
        files = [predictions / f"{number % VARIANTS}-{fold}.h5" for fold in range(FOLDS)]
        write_runs(project, name_of(number), files, split)
    return project


GATE_YAML = """extends: base.yaml
task: gate
model: {name: gate, encoder: resnet18}
loss: {bce: 1}
epochs: 10
"""


def name_of(number: int) -> str:
    return f"net{number:04d}"


def yaml_of(number: int) -> str:
    encoder = ("resnet18", "efficientnetb0", "efficientnetb4")[number % 3]
    return (
        f"extends: base.yaml\ntask: mask\nmodel: {{name: unet, encoder: {encoder}}}\n"
        f"epochs: {EPOCHS}\nseed: {number}\nschedule: {{name: cosine, peak: {1e-4 * (1 + number % 7):g}}}\n"
    )


def truth(ids: list[str]) -> dict[str, np.ndarray]:
    """Return the masks of every third image, uint8 (SIDE, SIDE)."""
    rng, masks = np.random.default_rng(0), {}
    for image_id in ids[::3]:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        center = tuple(int(v) for v in rng.integers(8, SIDE - 8, 2))
        cv2.circle(mask, center, int(rng.integers(3, 7)), 1, -1)
        masks[image_id] = mask
    return masks


def write_predictions(folder: Path, ids: list[str], masks: dict[str, np.ndarray]) -> Path:
    """Write maps of VARIANTS networks, each noisier than the one before, and the probabilities of a gate."""
    rng, empty = np.random.default_rng(1), np.zeros((SIDE, SIDE), np.uint8)
    folder.mkdir()
    for fold in range(FOLDS):
        part = ids[fold::FOLDS]
        for variant in range(VARIANTS):
            noise = rng.normal(0, 0.15 + 0.05 * variant, (len(part), SIDE, SIDE))
            clear = np.stack([masks.get(image_id, empty) for image_id in part])
            maps = (255 * np.clip(0.2 + 0.6 * clear + noise, 0, 1)).astype(np.uint8)[:, :, :, None]
            store.write_maps(folder / f"{variant}-{fold}.h5", part, iter([maps]), (SIDE, SIDE, 1))
        gates = np.clip([0.3 + 0.4 * (i in masks) + rng.normal(0, 0.2) for i in part], 0, 1)
        store.write_gates(folder / f"gate-{fold}.csv", part, gates)
    return folder


def write_runs(project: Project, name: str, predictions: list[Path], split: str) -> None:
    """Write finished folds of an experiment, with the files of a training but without waiting for the disk."""
    exp = load_experiment(project.experiments / f"{name}.yaml", alone=True)
    made_from, config = fingerprints(exp), dump_yaml(written_settings(exp))
    rng = np.random.default_rng(int(fingerprint(name), 16) % 2**32)
    for fold, source in enumerate(predictions):
        folder, data = project.fold(name, fold), source.read_bytes()
        folder.mkdir(parents=True)
        (folder / f"oof{source.suffix}").write_bytes(data)
        (folder / "config.yaml").write_text(config)
        (folder / "environment.json").write_text('{"commit": "0123456789abcdef"}')
        scores = np.sort(rng.uniform(0.3, 0.9, EPOCHS)).round(4).tolist()
        log = [
            {"epoch": n, "loss": 1 - score, exp.monitor: score, "seconds": 36.0, "images_per_s": 100.0 + fold}
            for n, score in enumerate(scores)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        stamp = {
            "made_from": {**made_from, "fold": fold, "folds": split},
            "outputs": {f"oof{source.suffix}": digest(data), "config.yaml": digest(config.encode())},
            **{"experiment": name, "fold": fold, "task": exp.task, "monitor": exp.monitor, "score": scores[-1]},
            **{"epochs": EPOCHS, "seconds": 36.0 * EPOCHS, "seconds_training": 36.0 * EPOCHS},
        }
        (folder / "result.json").write_text(json.dumps({**stamp, HASH: fingerprint(stamp)}, indent=2))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    for line in rows():
        print(json.dumps(line))
