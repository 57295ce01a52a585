"""The size of the mask that a competition expects for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gatemask.config import Picture
from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MaskSizes:
    """Height and width of the masks in a submission, by image id.

    Args:
        common: Height and width of all masks; None where they differ.
        by_image: Height and width by image id, for images of mixed sizes. Default: none.
        unknown: Height and width of all others, whose masks are empty. Default: they are an error.
    """

    common: tuple[int, int] | None
    by_image: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: tuple[int, int] | None = None

    @classmethod
    def of(cls, picture: Picture, by_image: Mapping[str, tuple[int, int]] | None = None) -> MaskSizes:
        """Return the sizes of a competition's masks: its scoring size, or else the size of each image.

        Args:
            picture: Section `image` of competition.yaml.
            by_image: Height and width by image id, where sizes are mixed. Default: none is known.
        """
        return cls(common_size(picture), {} if by_image is None else by_image)

    def __getitem__(self, image_id: str) -> tuple[int, int]:
        """Return height and width, in pixels.

        Raises:
            GatemaskError: The size of the image is unknown.
        """
        if self.common is not None:
            return self.common
        if image_id not in self.by_image:
            if self.unknown is not None:
                return self.unknown
            raise GatemaskError(
                "The size of an image is unknown, so its mask cannot be read.",
                where=f"image {image_id}",
                received=f"{len(self.by_image)} images of known size",
                expected="a row of the image in the manifest, since image.size is mixed",
                do="Run gatemask data prepare where the images are available; problems.csv lists images left out.",
            )
        return self.by_image[image_id]

    def known(self, image_id: str) -> bool:
        """Whether the size of an image's mask is known."""
        return self.common is not None or image_id in self.by_image


def common_size(picture: Picture) -> tuple[int, int] | None:
    """Return the height and width that all masks have; None where each has its image's own size."""
    if picture.scoring_size is not None:
        return picture.scoring_size
    return None if picture.size == "mixed" else picture.size


def sizes_in(manifest: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return the height and width of each image that a manifest lists."""
    columns = (manifest[name] for name in ("image_id", "height", "width"))
    return {str(image_id): (int(height), int(width)) for image_id, height, width in zip(*columns, strict=True)}
