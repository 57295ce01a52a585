"""Out-of-fold predictions drawn from the truth, in the files of a training, without training a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gatemask.config import load_competition, load_experiment
from gatemask.data.split import read_folds
from gatemask.data.truth import Masks
from gatemask.files import sha256, write_json
from gatemask.oof import store
from gatemask.project import Project
from gatemask.tracking import run_folder
from gatemask.training.fold_inputs import TrainingInputs, written_settings

SIZE = (256, 256)  # of the phantoms


def write_predictions(
    project: Project, name: str, noise: float = 0.25, seed: int = 0, side: int = 64, size: tuple[int, int] = SIZE
) -> None:
    """Write the folds of an experiment: a gate if its name begins with "gate", else masks.

    Args:
        noise: Amount of noise; 0 gives predictions that are nearly right.
        seed: Seed of the noise.
        side: Side of the maps, in pixels.
        size: Height and width of the competition's masks.
    """
    frame = read_folds(project)
    truth, rng = Masks(project.data / "masks.csv", size), np.random.default_rng(seed)
    for fold in sorted(set(frame["fold"]) - {-1}):
        ids = frame.loc[frame["fold"] == fold, "image_id"].astype(str).tolist()
        folder = project.fold(name, fold)
        folder.mkdir(parents=True, exist_ok=True)
        if name.startswith("gate"):
            positive = np.array([truth[i].any() for i in ids])
            gates = np.clip(0.3 + 0.4 * positive + rng.normal(0, noise, len(ids)), 0, 1)
            file = store.write_gates(folder / "oof.csv", ids, gates)
        else:
            maps = np.stack([_map(truth[i][:, :, 0], noise, side, rng) for i in ids])
            file = store.write_maps(folder / "oof.h5", ids, iter([maps]), (side, side, 1))
        stamp(project, file)


def stamp(project: Project, *files: Path) -> None:
    """Write config.yaml and the stamp of a finished fold, as made from the present YAML and data.

    An experiment without a YAML gets one.
    """
    folder = files[0].parent
    name, fold = folder.parent.name, int(folder.name.removeprefix("fold"))
    path = project.experiments / f"{name}.yaml"
    if not path.exists():
        other = min(project.experiments.glob("gate_*.yaml" if name.startswith("gate") else "unet_*.yaml"))
        path.write_text(f"extends: {other.name}\n")
    exp = load_experiment(path, quick=project.quick, overrides=project.overrides)
    inputs = TrainingInputs(project, load_competition(project.experiments, quick=project.quick), exp)
    written = [*files, run_folder.write_config(folder, written_settings(exp))]
    outputs = {file.name: sha256(file) for file in written}
    write_json(folder / "result.json", {"made_from": inputs.comparable(fold), "outputs": outputs})


def _map(mask: np.ndarray, noise: float, side: int, rng: np.random.Generator) -> np.ndarray:
    small = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    clouds = cv2.resize(rng.normal(0, 1, (8, 8)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(small, (0, 0), 1.5) * rng.uniform(0.6, 1)
    return (255 * np.clip(soft + noise * clouds * 0.6, 0, 1))[:, :, None].astype(np.uint8)
