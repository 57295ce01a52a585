"""Networks that learn the mean of three noisy annotators find the clean truth better than those that learn from one.

They learn with cross-entropy, whose optimum is the share. Together with Dice, the mean was not better on these images.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Competition, Experiment
from gatemask.data.manifest import prepare
from gatemask.data.phantom import draw_phantom
from gatemask.data.records import make_records
from gatemask.files import write_text
from gatemask.oof.store import MapReader
from gatemask.project import Project
from gatemask.training.train import train
from gatemask.tuning.compare import compare_paired
from gatemask.tuning.own_predictions import TunedMaps, tune_maps

pytest.importorskip("tensorflow")

IMAGES, SIDE, ANNOTATORS, FOLDS = 128, 64, 3, 2
NAMES = [f"p{number:03d}" for number in range(IMAGES)]
EXPERIMENT = {
    "name": "unet",
    "task": "mask",
    "model": {"name": "unet", "encoder": "resnet18", "batchnorm_momentum": 0.9, "filters": [16, 16, 8, 8, 8]},
    "input": {"size": SIDE},
    "loss": {"bce": 1},
    "augment": ["hflip"],
    "optimizer": {"name": "adam"},
    "schedule": {"name": "cosine", "peak": 4.0e-3, "start": 1.0e-3, "warmup": 1, "floor": 1.0e-4},
    "batch": {"per_device": 8},
    "epochs": 12,
}


def annotate(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what an annotator would draw, uint8 0 or 255: shifted, too large or small, missed, or something else."""
    if rng.random() < 0.25:
        return np.zeros(clean.shape, np.uint8)
    shift = np.array([[1, 0, rng.normal(0, 3)], [0, 1, rng.normal(0, 3)]])
    drawn = cv2.warpAffine(clean.astype(np.uint8), shift, (SIDE, SIDE))
    size = int(rng.integers(-1, 4))
    kernel = np.ones((2 * abs(size) + 1,) * 2, np.uint8)
    drawn = cv2.dilate(drawn, kernel) if size > 0 else cv2.erode(drawn, kernel) if size else drawn
    if rng.random() < 0.4:
        place, axes = rng.integers(8, SIDE - 8, 2).tolist(), rng.integers(3, 8, 2).tolist()
        cv2.ellipse(drawn, place, axes, 0, 0, 360, 1, -1)
    return drawn * np.uint8(255)


def write_phantoms(raw: Path) -> list[np.ndarray]:
    """Write images, the masks of all annotators, and one of them at random; return the clean masks."""
    rng, clean = np.random.default_rng(7), []
    for folder in ("images", "one", *(f"all/{annotator}" for annotator in range(ANNOTATORS))):
        (raw / folder).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        image, lesion = draw_phantom(number, True, SIDE, 7, rng)
        clean.append(lesion)
        cv2.imwrite(str(raw / f"images/{name}.png"), image)
        drawn = [annotate(lesion, rng) for _ in range(ANNOTATORS)]
        for annotator, mask in enumerate(drawn):
            cv2.imwrite(str(raw / f"all/{annotator}/{name}.png"), mask)
        cv2.imwrite(str(raw / f"one/{name}.png"), drawn[int(rng.integers(ANNOTATORS))])
    return clean


def trained(root: Path, raw: Path, labels: dict[str, str], clean: list[np.ndarray]) -> TunedMaps:
    """Train all folds on some labels, and score the out-of-fold maps on the clean masks."""
    comp = Competition.model_validate(
        {
            "name": "c",
            "title": "t",
            "raw": str(raw),
            "image": {"size": [SIDE, SIDE], "channels": 1},
            "train": {"images": "images/*.png"},
            "labels": {"format": "png", **labels},
            "groups": {"duplicates": "ignore"},
            "folds": {"k": FOLDS, "holdout": True, "stratify": [], "area_bins": 1},
            "records": {"size": SIDE, "format": "png"},
        }
    )
    project = Project(root, "c")
    prepare(project, comp, raw)
    rows = [f"{name},{number % FOLDS},{name},x" for number, name in enumerate(NAMES)]  # the same for all labels
    write_text(project.folds, "\n".join(["image_id,fold,group,stratum", *rows, ""]))
    make_records(project, comp)
    train(project, comp, Experiment.model_validate(EXPERIMENT))
    reader = MapReader([project.fold("unet", fold) / "oof.h5" for fold in range(FOLDS)])
    try:
        maps = [reader[name][:, :, 0] for name in NAMES]
    finally:
        reader.close()
    return tune_maps(maps, clean, np.arange(IMAGES) % FOLDS)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.usefixtures("tiny_encoders")
def test_the_mean_of_three_annotators_beats_one_of_them(tmp_path: Path) -> None:
    clean = write_phantoms(tmp_path / "raw")
    one = trained(tmp_path / "one", tmp_path / "raw", {"masks": "one/{id}.png"}, clean)
    mean = trained(tmp_path / "mean", tmp_path / "raw", {"masks": "all/*/{id}.png", "combine": "mean"}, clean)
    first, second = (tuned.candidates[tuned.shipped].fit for tuned in (one, mean))
    scored = [(fit.worth, fit.weight) for fit in (first, second)]
    result = compare_paired(*scored, np.array(NAMES), times=2000, seed=0)
    low, high = result.ci95
    print(f"one {result.first_score:.4f}, mean of three {result.second_score:.4f}")
    print(f"difference {result.difference:+.4f}, 95 % from {low:+.4f} to {high:+.4f}")
    assert result.verdict == "better", result
