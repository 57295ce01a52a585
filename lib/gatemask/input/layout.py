"""What the records of a competition hold: channels of images, planes of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatemask.config import Competition
from gatemask.masks.frame import HALF


@dataclass(frozen=True)
class Layout:
    """Channels of images and planes of masks: those of the classes, then borders, then ignored pixels.

    Args:
        channels: Number of image channels. Default: 1.
        classes: Number of classes. Default: 1.
        border: Whether masks have a plane of the borders between touching objects. Default: False.
        ignored: Whether masks have a last plane of pixels that are neither trained on nor scored. Default: False.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
        soft: Whether masks hold shares: batches then hold levels of 255 in all planes, instead of 0 and 1. Default:
            False.
    """

    channels: int = 1
    classes: int = 1
    border: bool = False
    ignored: bool = False
    exclusive: bool = False
    soft: bool = False

    @classmethod
    def of(cls, comp: Competition) -> Layout:
        """Return the layout of a competition's records."""
        return cls(
            channels=comp.image.channels,
            classes=len(comp.classes),
            border=comp.outputs > len(comp.classes),
            ignored=comp.has_ignored,
            exclusive=comp.exclusive,
            soft=comp.has_soft,
        )

    @property
    def outputs(self) -> int:
        """Number of maps of a mask network: one per class, and one of borders."""
        return self.classes + self.border

    @property
    def planes(self) -> int:
        """Number of planes of a mask."""
        return self.outputs + self.ignored

    @property
    def full(self) -> int:
        """Level of a pixel in a batch that is mask for certain."""
        return 255 if self.soft else 1

    @property
    def half(self) -> int:
        """Lowest level of a pixel in a batch that counts as mask where masks are 0 or 1."""
        return HALF if self.soft else 1

    def present(self, label: int) -> np.ndarray:
        """Return which classes the label of a record contains, float32 (classes,), 0 or 1.

        >>> Layout(classes=3).present(0b101).tolist()
        [1.0, 0.0, 1.0]
        """
        return np.array([label >> index & 1 for index in range(self.classes)], np.float32)


ONE_CLASS = Layout()
