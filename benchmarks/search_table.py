"""Measure the table that benchmarks/search.py replays: networks of many settings on all folds of the phantoms.

    .venv/bin/python benchmarks/search_table.py FOLDER

FOLDER is a project folder for the phantoms and runs; it may be continued. The networks are small: 32 px, the small
encoder of the tests, a few epochs. The scores are the Dice of each positive image of the validation fold at the fold's
best threshold, so their mean is what `gatemask search` compares.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]
CONFIGURATIONS, FOLDS = 20, 5
PHANTOMS = ["phantom.images=480", "phantom.positives=0.5", f"folds.k={FOLDS}", "records.size=32"]


def settings(number: int) -> list[str]:
    """Return the settings of a configuration: a learning rate, a loss, augmentation, regularization and a schedule."""
    rng = np.random.default_rng(number)
    loss = {"bce": 1, "dice": float(f"{rng.uniform(0, 2):.3f}")} if rng.random() < 0.7 else {"focal": 1}
    return [
        f"schedule.peak={10 ** rng.uniform(-3.7, -1.3):.3g}",
        f"schedule.warmup={int(rng.integers(0, 3))}",
        f"loss={json.dumps(loss)}",
        f"augment.affine.rotate={rng.uniform(0, 30):.3g}",
        f"optimizer.name={rng.choice(['adam', 'nadam', 'adamw'])}",
        f"label_smoothing={0 if 'focal' in loss else round(float(rng.uniform(0, 0.2)), 3)}",
    ]


def measure(folder: Path) -> None:
    """Train what is missing, and write the table."""
    from gatemask import quiet
    from gatemask.config import load_competition, load_experiment
    from gatemask.data.folds import make_folds
    from gatemask.data.manifest import prepare
    from gatemask.data.phantom import make_phantoms
    from gatemask.data.raw_folder import default_raw
    from gatemask.data.records import make_records
    from gatemask.oof.tables import Tables
    from gatemask.project import Project
    from gatemask.training.train import train
    from tests.tiny import install

    quiet.tensorflow()
    install()
    if not (folder / "experiments").exists():
        shutil.copytree(ROOT / "experiments", folder / "experiments")
    project = Project(folder, "phantom")
    comp = load_competition(project.experiments, overrides=PHANTOMS)
    assert comp.phantom is not None
    raw = default_raw(project, comp)
    make_phantoms(raw, comp.phantom)
    prepare(project, comp)
    make_folds(project, comp)
    make_records(project, comp)
    tables = []
    for number in range(CONFIGURATIONS):
        path = project.experiments / f"config{number:02d}.yaml"
        path.write_text("extends: unet_b0.yaml\n")
        small = ["input.size=32", "epochs=5", "sampling={positives: 1.0, epoch: 160}", "batch.per_device=8"]
        exp = load_experiment(path, overrides=[*settings(number), *small, "tracking.wandb=disabled"])
        results = train(project, comp, exp).folds
        for fold, result in results.items():
            table = Tables.load(project.fold(exp.name, fold) / "tables.npz")
            tables.append((number, fold, *best_dice(table)))
            print(number, fold, result.score, tables[-1][2], flush=True)
    write_table(tables)


def best_dice(table: object) -> tuple[float, np.ndarray]:
    """Return the best mean Dice over thresholds of the positive images, and the Dice of each at that threshold."""
    from gatemask.oof.tables import Tables

    assert isinstance(table, Tables)
    positive = table.truth[:, 0] > 0
    area, hits, truth = table.area[positive, 0], table.intersection[positive, 0], table.truth[positive, :1]
    dice = 2 * hits / np.maximum(area + truth, 1)
    level = int(dice.mean(axis=0).argmax())
    return float(dice[:, level].mean()), dice[:, level]


def write_table(tables: list[tuple[int, int, float, np.ndarray]]) -> None:
    least = min(len(dice) for *_, dice in tables)  # folds differ by an image
    images = np.zeros((CONFIGURATIONS, FOLDS, least), np.float16)
    for number, fold, _, dice in tables:
        images[number, fold] = dice[:least]
    np.savez_compressed(Path(__file__).with_name("search_scores.npz"), images=images)


if __name__ == "__main__":
    measure(Path(sys.argv[1]).resolve())
