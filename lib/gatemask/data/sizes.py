"""Report how images differ in size, and what it takes to make them records of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatemask.config import Competition
from gatemask.console import say
from gatemask.data.encode import origins_of
from gatemask.data.scan import ScannedImage
from gatemask.masks.frame import comp_frame

Sizes = list[tuple[int, int]]
NAMES = {"train": "training", "test": "test"}


def report_sizes(images: Sequence[ScannedImage], comp: Competition) -> list[str]:
    """Print and return the spread of sizes and what `image.fit`, or `tiles`, does to them; nothing for one size.

    Args:
        images: Images of both splits, as far as they could be read.
        comp: competition.yaml.
    """
    if comp.image.size != "mixed":
        return []
    sizes = {
        split: [image.size for image in images if image.split == split and image.size is not None] for split in NAMES
    }
    lines = []
    for split, found in sizes.items():
        if found:
            lines += [_spread(found, NAMES[split]), _tiling(found, comp) if comp.tiles else _fitting(found, comp)]
    lines += _beyond(sizes["train"], sizes["test"])
    for line in lines:
        say(line)
    return lines


def _spread(sizes: Sizes, name: str) -> str:
    heights, widths = np.array(sizes).T
    return (
        f"{len(sizes)} {name} images have {len(set(sizes))} sizes: heights {_range(heights)} px, widths "
        f"{_range(widths)} px, width / height {_range(widths / heights)}."
    )


def _fitting(sizes: Sizes, comp: Competition) -> str:
    frame = comp_frame(comp)
    boxes = np.array([frame.box(size) for size in sizes])[:, 2:]
    shrinking = _range(np.sqrt((boxes / frame.size).prod(axis=1)))
    scaled = f"Their sides are {shrinking} times those of the records, {frame.size[0]} x {frame.size[1]} px"
    own = np.array(sizes)
    if frame.fit == "stretch":
        aspect = (own[:, 1] / own[:, 0]) / (frame.size[1] / frame.size[0])
        change = np.maximum(aspect, 1 / aspect)
        advice = " image.fit: pad or crop keeps it." if change.max() > 1.05 else ""
        return f"{scaled}; fit: stretch changes width / height by a factor of {_range(change)}.{advice}"
    if frame.fit == "pad":
        borders = 1 - own.prod(axis=1) / boxes.prod(axis=1)
        return f"{scaled}; with fit: pad, black borders are {_range(100 * borders)} % of a record."
    beyond = 1 - boxes.prod(axis=1) / own.prod(axis=1)
    return f"{scaled}; with fit: crop, {_range(100 * beyond)} % of an image lie beyond its record, without a mask."


def _tiling(sizes: Sizes, comp: Competition) -> str:
    counts = np.array([len(origins_of(size, comp.tiles)) for size in sizes])
    assert comp.tiles is not None
    return f"They become {counts.sum()} tiles of {comp.tiles.size} px, {_range(counts)} per image."


def _beyond(train: Sizes, test: Sizes) -> list[str]:
    """Warn of test images that are larger or smaller than any training image."""
    if not train or not test:
        return []
    areas, others = (np.array(sizes).prod(axis=1) for sizes in (train, test))
    outside = int(((others < areas.min()) | (others > areas.max())).sum())
    return [f"{outside} test images are larger or smaller than every training image."] if outside else []


def _range(values: np.ndarray) -> str:
    """Return the range of values with their median."""
    low, middle, high = (
        f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in np.quantile(values, [0, 0.5, 1])
    )
    return low if low == high else f"{low} to {high} (median {middle})"
