"""`gatemask augment show`: a contact sheet of what training will see, runs/<comp>/<experiment>/augment.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.data import records
from gatemask.data.encode import Example
from gatemask.data.split import pick_half_positive, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.input import pipeline
from gatemask.input.mix import ImageBatch, mix_batch
from gatemask.plots import style
from gatemask.project import Project
from gatemask.training.fold_inputs import with_record_size

VERSIONS = 5


def show(project: Project, comp: Competition, exp: Experiment, images: int = 6) -> dict[str, Any]:
    """Draw so many images, with and without masks: a row each, plain first, then as five epochs would show it.

    Returns:
        picture, images, positives.

    Raises:
        GatemaskError: there are no current records, or no images in them.
    """
    comp = with_record_size(comp, exp)
    records.require_records(project, comp)
    chosen = _choose(project, exp, images)
    examples = records.read_records(project.records(comp.records.size), chosen)
    columns = versions(examples, exp, comp.image.channels)
    picture = write_with(project.runs / exp.name / "augment.png", lambda tmp: _draw(tmp, examples, exp, columns))
    return {"picture": str(picture), "images": len(examples), "positives": sum(one.label for one in examples)}


def _choose(project: Project, exp: Experiment, count: int) -> list[str]:
    """Ids of images, half of them positive where there are enough; the experiment's seed decides."""
    manifest = read_manifest(project, "train")
    if not len(manifest):
        raise GatemaskError("There are no training images.", where=project.data / "manifest.csv")
    shuffled = manifest.iloc[np.random.default_rng(exp.seed).permutation(len(manifest))]
    return shuffled["image_id"].iloc[pick_half_positive(shuffled["label"], count)].tolist()


def versions(examples: list[Example], exp: Experiment, channels: int) -> list[ImageBatch]:
    """The images as one batch, plain, and as each of the first epochs would make it: masks always included."""
    return [
        _batch(pipeline.record_source(examples, exp, channels, steps, with_masks=True), exp.seed, epoch)
        for epoch, steps in enumerate([[], *[exp.augment] * VERSIONS])
    ]


def _batch(source: pipeline.RecordSource, seed: int, epoch: int) -> ImageBatch:
    count = len(source.examples)
    room = source.allocate(count)
    for slot in range(count):
        source.fill_slot(room, slot, slot, np.random.default_rng([seed, epoch, slot]))
    return mix_batch(room, source.steps, np.random.default_rng([seed, epoch, 0, 1]))


def _draw(path: Path, examples: list[Example], exp: Experiment, columns: list[ImageBatch]) -> None:
    drawn, axes = style.figure(1.7 * len(columns), 1.85 * len(examples), len(examples), len(columns), squeeze=False)
    for column, batch in enumerate(columns):
        for row, example in enumerate(examples):
            assert batch.masks is not None
            _picture(axes[row, column], batch.images[row], batch.masks[row, :, :, 0])
            label = f"label {batch.labels[row, 0]:.2f}" if exp.task == "gate" else f"mask {batch.masks[row].sum()} px"
            title = f"{example.image_id[-22:]}\n{label}" if column == 0 else label
            axes[row, column].set_xlabel(title, fontsize=6.5, parse_math=False)
    drawn.savefig(path, format="png", dpi=110, facecolor="white")


def _picture(ax: Any, image: np.ndarray, mask: np.ndarray) -> None:
    ax.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
    if 0 < mask.mean() < 1:
        ax.contour(mask, [0.5], colors=[style.GREEN], linewidths=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
