"""Keys of `submission` in competition.yaml: the file that is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gatemask.config.base import ClassName, Strict
from gatemask.config.labels import JOINED, Rle


class Archive(Strict):
    """A zip archive with one mask file per image, or per image and class."""

    files: str = Field("{id}.png", description="names of the files, with {id} and, for a file per class, {class}")
    format: Literal["png", "tiff"] = "png"
    values: dict[ClassName, Annotated[int, Field(ge=0, le=65535)]] = Field(
        {}, description="value of each class's pixels; default: 255 for a file of one class, else 1, 2, ... in order"
    )

    @model_validator(mode="after")
    def _named_by_id(self) -> Archive:
        if self.files.count("{id}") != 1 or self.files.count("{class}") > 1:
            raise ValueError(f"archive.files must name {{id}} once, such as '{{id}}.png', not '{self.files}'")
        if self.files.startswith("/") or ".." in self.files.split("/") or "\\" in self.files:
            raise ValueError(f"archive.files must be a path inside the archive, not '{self.files}'")
        return self

    @model_validator(mode="after")
    def _values_differ(self) -> Archive:
        if 0 in self.values.values():
            raise ValueError("archive.values has the value 0, which is the background's")
        if not self.per_class and len(set(self.values.values())) < len(self.values):
            raise ValueError("two classes of archive.values have one value")
        return self

    @property
    def per_class(self) -> bool:
        """Whether each class has a file of its own."""
        return "{class}" in self.files

    def value(self, classes: Sequence[str], index: int) -> int:
        """Return the value of the pixels of a class.

        Args:
            classes: Names of all classes, in order.
            index: Position of the class.
        """
        if self.values:
            return self.values[classes[index]]
        return 255 if self.per_class or len(classes) == 1 else index + 1


class SubmissionSettings(Strict):
    """Format of a submission.

    One row per image, per image and class (`class_column` or `joined`), or per object (`rows: object`); one column per
    class (`columns`); or an archive of mask files (`archive`).
    """

    id: str = "ImageId"
    mask: str = "EncodedPixels"
    rle: Rle = Field(Rle(), description="dialect of the masks; keys that are not named follow labels.rle")
    sample: str | None = Field(None, description="the sample submission below the raw folder")
    class_column: str | None = Field(None, description="several classes: the column that names the class")
    joined: str | None = Field(
        None, description="several classes, in the id column: such as '{id}_{class}'", pattern=JOINED
    )
    columns: dict[ClassName, str] = Field({}, description="several classes: the column of each class's masks")
    rows: Literal["image", "object"] = Field(
        "image", description="whether a row holds the mask of an image (and class), or one object of it"
    )
    archive: Archive | None = Field(None, description="an archive of mask files instead of a table")

    @model_validator(mode="after")
    def _objects_have_rows(self) -> SubmissionSettings:
        if self.rows == "object" and (self.columns or self.archive is not None):
            other = "columns" if self.columns else "archive"
            raise ValueError(f"submission.rows: object lists each object in a row of its own, which '{other}' excludes")
        return self

    @property
    def by_object(self) -> bool:
        """Whether each object has a row of its own."""
        return self.rows == "object"

    @property
    def file_name(self) -> str:
        """Name of the file that the kernel writes."""
        return "submission.csv" if self.archive is None else "submission.zip"
