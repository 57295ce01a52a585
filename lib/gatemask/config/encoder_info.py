"""What is known of an encoder before it is built."""

from __future__ import annotations

from typing import Literal, NamedTuple

Normalization = Literal["torch", "tf", "tf128", "raw", "caffe"]
EncoderPackage = Literal["segmentation-models", "keras"]
ALL_STRIDES = (2, 4, 8, 16, 32)


class PublishedWeights(NamedTuple):
    """A weights file without the classifier.

    Args:
        file: File name.
        base: URL of the folder.
        hash: MD5 or SHA-256, by its length. None where the package gives none.
    """

    file: str
    base: str
    hash: str | None

    @property
    def url(self) -> str:
        return self.base + self.file


class Family(NamedTuple):
    """What encoders of one paper have in common.

    Args:
        title: Name in the paper.
        paper: First author and year of the paper.
        package: Python package that builds them.
        normalization: Values of the image that published weights expect: see `gatemask.builders.models.Normalize`.
        strides: Strides of the features: image side / side of the features. Default: 2, 4, 8, 16 and 32. Where 2 is
            missing, decoders that need it get a stem of their own.
        smallest: Smallest side of an image, in pixels. Default: 32.
    """

    title: str
    paper: str
    package: EncoderPackage
    normalization: Normalization
    strides: tuple[int, ...] = ALL_STRIDES
    smallest: int = 32

    def size_fault(self, height: int, width: int) -> str | None:
        """Return why the encoder cannot take images of a size, in pixels, or None if it can."""
        if min(height, width) < self.smallest:
            return f"takes images of {self.smallest} pixels a side or more, not {height} x {width}"
        return None


class EncoderInfo(NamedTuple):
    """An encoder without its top, with three input channels.

    Args:
        family: Family of the encoder.
        parameters: Number of parameters; it differs between all encoders and so identifies a weights file.
        weights: Published weights, by the name that a YAML gives them.
    """

    family: Family
    parameters: int
    weights: dict[str, PublishedWeights]
