"""Compare what records hold with the manifest and the masks, for `gatemask records check`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from gatemask.config import Competition
from gatemask.data.encode import class_bits, origins_of
from gatemask.data.example import EncodedExample
from gatemask.data.split import read_manifest
from gatemask.data.truth import Masks
from gatemask.masks.frame import HALF
from gatemask.masks.tiling import Origin
from gatemask.project import Project


class RecordSurvey:
    """What all records together hold, compared with the manifest and the masks.

    Args:
        project: Project folders.
        comp: competition.yaml.

    Attributes:
        checked: Image and origin of each record.
        positives: Number of records with a mask.
        problems: What is wrong, one text each.
    """

    def __init__(self, project: Project, comp: Competition) -> None:
        self._comp = comp
        masks = Masks.of(project, comp)
        ids = read_manifest(project, "train")["image_id"]
        self._encoded = {image_id: masks.encoded(image_id) for image_id in ids}
        tiles = comp.tiles
        self._origins = {image_id: set(origins_of(masks.size, tiles)) for image_id, masks in self._encoded.items()}
        self._seen: dict[str, int] = dict.fromkeys(ids, 0)  # class bits whose pixels records show
        self.checked: set[tuple[str, Origin | None]] = set()
        self.positives = 0
        self.problems: list[str] = []

    @property
    def images(self) -> set[str]:
        """Ids of the images that have records."""
        return {image_id for image_id, _ in self.checked}

    @property
    def vanished(self) -> int:
        """Number of masks, of one class of an image each, without a pixel in any record."""
        return sum((class_bits(self._encoded[name]) & ~seen).bit_count() for name, seen in self._seen.items())

    def add(self, example: EncodedExample, shard: str) -> None:
        """Check a record."""
        key = (example.image_id, example.origin)
        if complaint := self._complaint(example):
            self.problems.append(f"{shard}, image {example.image_id}: {complaint}")
        elif key in self.checked:
            self.problems.append(f"{shard}, image {example.image_id}: repeated")
        else:
            self.positives += example.label > 0
            self._seen[example.image_id] |= self._shown_classes(example)
        self.checked.add(key)

    def finish(self) -> None:
        """Check that nothing is missing."""
        if self.problems:
            return
        if missing := len(self._encoded.keys() - self.images):
            self.problems.append(f"{missing} images of the manifest have no record")
        elif missing := sum(map(len, self._origins.values())) - len(self.checked):
            self.problems.append(f"{missing} tiles have no record")

    def _shown_classes(self, example: EncodedExample) -> int:
        """Return the class bits of an example's mask as it is stored."""
        if not example.label:
            return 0
        planes = _decode(example.mask).reshape(self._comp.planes, *self._comp.records.shape)
        return sum(1 << number for number in range(len(self._comp.classes)) if (planes[number] >= HALF).any())

    def _complaint(self, example: EncodedExample) -> str | None:
        comp, (height, width) = self._comp, self._comp.records.shape
        masks = self._encoded.get(example.image_id)
        if masks is None:
            return "not in the manifest"
        bits = class_bits(masks)
        if comp.tiles is None and example.label != bits:
            return f"label {example.label}, but the manifest has {bits}"
        if example.label & ~bits:
            return f"label {example.label} of a tile, but the image has {bits}"
        if example.origin not in self._origins[example.image_id]:
            return f"a tile at {example.origin and tuple(example.origin)}, where there is none"
        channels = comp.image.channels
        image, mask = _decode(example.image), _decode(example.mask)
        shape = (height, width, 3) if channels == 3 else (channels * height, width)
        if image is None or image.shape != shape:
            return f"an image of shape {getattr(image, 'shape', None)}, not {shape}"
        if mask is None or mask.shape != (comp.planes * height, width):
            return f"a mask of shape {getattr(mask, 'shape', None)}, not {(comp.planes * height, width)}"
        return None


def _decode(data: bytes) -> Any:  # None for what OpenCV cannot read
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
