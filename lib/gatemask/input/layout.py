"""What the records of a competition hold: channels of images, planes of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatemask.config import Competition


@dataclass(frozen=True)
class Layout:
    """Channels of images and planes of masks: those of the classes, then borders, then ignored pixels.

    Args:
        channels: Number of image channels. Default: 1.
        classes: Number of classes. Default: 1.
        border: Whether masks have a plane of the borders between touching objects. Default: False.
        ignored: Whether masks have a last plane of pixels that are neither trained on nor scored. Default: False.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
    """

    channels: int = 1
    classes: int = 1
    border: bool = False
    ignored: bool = False
    exclusive: bool = False

    @classmethod
    def of(cls, comp: Competition) -> Layout:
        """Return the layout of a competition's records."""
        return cls(
            channels=comp.image.channels,
            classes=len(comp.classes),
            border=comp.outputs > len(comp.classes),
            ignored=comp.has_ignored,
            exclusive=comp.exclusive,
        )

    @property
    def outputs(self) -> int:
        """Number of maps of a mask network: one per class, and one of borders."""
        return self.classes + self.border

    @property
    def planes(self) -> int:
        """Number of planes of a mask."""
        return self.outputs + self.ignored

    def present(self, label: int) -> np.ndarray:
        """Return which classes the label of a record contains, float32 (classes,), 0 or 1.

        >>> Layout(classes=3).present(0b101).tolist()
        [1.0, 0.0, 1.0]
        """
        return np.array([label >> index & 1 for index in range(self.classes)], np.float32)


ONE_CLASS = Layout()
