"""What is read from labels, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from gatemask.config import Competition
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.truth import Annotation

Size = tuple[int, int]


class Wanted(NamedTuple):
    """What to read from labels.

    Args:
        classes: Names of the classes. Default: one without a name.
        objects: Whether single objects are kept apart. Default: False, masks of a class are united.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
        rule: How ids are made. Default: from the name of the file.
        upright: Whether to rotate mask files as their orientation says. Default: False.
        complete: Whether every class needs a mask, as in training. Default: False.
    """

    classes: Sequence[str] = ("",)
    objects: bool = False
    exclusive: bool = False
    rule: IdRule = DEFAULT
    upright: bool = False
    complete: bool = False

    @classmethod
    def of(cls, comp: Competition, rule: IdRule, complete: bool) -> Wanted:
        """Return what a competition needs.

        Args:
            comp: competition.yaml.
            rule: How ids of the split are made.
            complete: Whether every class needs a mask.
        """
        return cls(comp.classes, comp.objects is not None, comp.exclusive, rule, comp.image.upright, complete)


class ParsedLabels(NamedTuple):
    """Labels of all images.

    Args:
        masks: Masks of each labeled image, none for an empty one; at most one per class, unless objects are wanted.
        problems: Image id, place and complaint of each unusable label; its image is not in `masks`.
        alone: Mask files that belong to no image, below the raw folder. Default: none.
        soft: Shares of the classes of each image, as masks.csv stores them; only for labels that give shares, of images
            with a pixel above 0. Default: none.
        found: Ids of images that have a label, usable or not; the others are in `masks` only if `missing` is empty.
    """

    masks: dict[str, list[Annotation]]
    problems: list[tuple[str, str, str]]
    alone: Sequence[str] = ()
    soft: Mapping[str, str] = MappingProxyType({})
    found: frozenset[str] = frozenset()


class ImageSizes:
    """Height and width of each image.

    Args:
        sizes: One size of all images, or the size by image id, in pixels.
    """

    def __init__(self, sizes: Size | Mapping[str, Size]) -> None:
        self._sizes = sizes

    @property
    def common(self) -> Size | None:
        """The size of all images; None where they differ."""
        return self._sizes if isinstance(self._sizes, tuple) else None

    def get(self, image_id: str) -> Size | None:
        """Return the size of an image; None for one that could not be read."""
        return self._sizes if isinstance(self._sizes, tuple) else self._sizes.get(image_id)

    def of(self, image_id: str) -> Size:
        """Return the size of an image that has been read."""
        return self._sizes if isinstance(self._sizes, tuple) else self._sizes[image_id]
