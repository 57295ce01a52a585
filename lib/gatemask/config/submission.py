"""Keys of `submission` in competition.yaml: the file that is submitted."""

from __future__ import annotations

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
        if "{id}" not in self.files:
            raise ValueError(f"archive.files must name {{id}}, such as '{{id}}.png', not '{self.files}'")
        return self


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
