"""`gatemask augment show`: a contact sheet of augmented images, runs/<comp>/<experiment>/augment.png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.data import records
from gatemask.data.example import EncodedExample
from gatemask.data.split import pick_half_positive, read_manifest
from gatemask.errors import GatemaskError
from gatemask.input import pipeline
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch
from gatemask.input.source import RecordSource
from gatemask.plots import style
from gatemask.plots.augmentation import Tile, draw_contact_sheet
from gatemask.project import Project
from gatemask.results.report import ContactSheet
from gatemask.training.fold_inputs import with_record_size

VERSIONS = 5


def show_augmentation(project: Project, comp: Competition, exp: Experiment, images: int = 6) -> ContactSheet:
    """Draw some images, with and without masks: one row each, plain first, then as five epochs would show it.

    Args:
        project: Project whose records are read.
        comp: Competition of the experiment.
        exp: Experiment whose augmentation is shown.
        images: Number of images. Default: 6.

    Raises:
        GatemaskError: The records are missing or outdated, or there are no training images.
    """
    comp = with_record_size(comp, exp)
    records.require_records(project, comp)
    read = records.read_records(project.records(comp.records.size), _choose(project, exp, images))
    examples = _one_each(read)
    layout = Layout.of(comp)
    figure = draw_contact_sheet(_tiles(examples, exp, augmented_versions(examples, exp, layout), layout))
    picture = style.save(figure, project.runs / exp.name / "augment.png")
    positives = sum(example.label > 0 for example in examples)
    return ContactSheet(picture=str(picture), images=len(examples), positives=positives)


def augmented_versions(examples: Sequence[EncodedExample], exp: Experiment, layout: Layout) -> list[ImageBatch]:
    """Return the images as one plain batch, then as the first epochs augment it, always with masks."""
    return [
        _batch(pipeline.record_source(examples, exp, layout, steps, with_masks=True, crops=epoch > 0), exp.seed, epoch)
        for epoch, steps in enumerate([[], *[exp.augment] * VERSIONS])
    ]


def _choose(project: Project, exp: Experiment, count: int) -> list[str]:
    """Choose images by the experiment's seed, half of them positive where there are enough."""
    manifest = read_manifest(project, "train")
    if not len(manifest):
        raise GatemaskError("There are no training images.", where=project.data / "manifest.csv")
    shuffled = manifest.iloc[np.random.default_rng(exp.seed).permutation(len(manifest))]
    return shuffled["image_id"].iloc[pick_half_positive(shuffled["label"], count)].tolist()


def _one_each(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Return one example per image: of its tiles the first positive one, or else the first."""
    chosen: dict[str, EncodedExample] = {}
    for example in examples:
        if example.image_id not in chosen or (example.label and not chosen[example.image_id].label):
            chosen[example.image_id] = example
    return list(chosen.values())


def _tiles(
    examples: Sequence[EncodedExample], exp: Experiment, versions: list[ImageBatch], layout: Layout
) -> list[list[Tile]]:
    rows = []
    for row, example in enumerate(examples):
        tiles = []
        for column, batch in enumerate(versions):
            assert batch.masks is not None
            # MixUp of masks makes levels of 255, of which the outline is drawn at one half.
            mixed = column > 0 and exp.has_soft_masks
            mask = batch.masks[row] >= replace(layout, soft=layout.soft or mixed).half
            labels, areas = batch.labels[row], mask.sum(axis=(0, 1))
            caption = f"label {' '.join(f'{label:.2f}' for label in labels)}"
            if exp.task == "mask":
                caption = f"mask {' '.join(map(str, areas))} px"
            caption = f"{example.image_id[-22:]}\n{caption}" if column == 0 else caption
            tiles.append(Tile(batch.images[row], mask, caption))
        rows.append(tiles)
    return rows


def _batch(source: RecordSource, seed: int, epoch: int) -> ImageBatch:
    count = len(source.examples)
    batch, batch_seed = source.allocate(count), (seed, epoch, 0)
    source.fill(batch, range(count), range(count), batch_seed)
    return source.mix(batch, batch_seed)
