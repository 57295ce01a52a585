"""Keys of `labels` in competition.yaml: how the truth is stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gatemask.config.base import ClassName, Natural, NotBool, Strict
from gatemask.config.path_patterns import part_names


class Rle(Strict):
    """Dialect of a run-length encoding. Most Kaggle competitions use absolute offsets, base 1, column-major order."""

    offsets: Literal["absolute", "relative"] = "absolute"
    base: Annotated[Literal[0, 1], NotBool] = 1
    order: Literal["column", "row"] = "column"
    empty: str = Field("", description="text of an empty mask: '', '-1', '1 0', ...")


Column = str | Annotated[Natural, Field(description="column number from 0, for a table without a header")]
Missing = Literal["problem", "empty"]
SOFT_EXCLUDES = ("values", "numbered", "threshold", "invert")
JOINED = r"^[^{}]*(\{id\}[^{}]+\{class\}|\{class\}[^{}]+\{id\})[^{}]*$"


class RleLabels(Strict):
    """A table of run-length encodings. All rows of an image and class are united; each is one object.

    With several classes, the class of a row is in a column of its own (`class_column`), in the id (`joined`), or each
    class has a column of masks (`columns`).
    """

    format: Literal["rle"]
    file: str
    id: Column = "ImageId"
    mask: Column = "EncodedPixels"
    class_column: str | None = Field(None, description="several classes: the column that names the class")
    joined: str | None = Field(
        None, description="several classes, in the id column: such as '{id}_{class}'", pattern=JOINED
    )
    columns: dict[ClassName, str] = Field({}, description="several classes: the column of each class's masks")
    rle: Rle = Rle()
    where: dict[str, str | int | list[str | int]] = Field(
        {}, description="values by column: only rows with these values are read, such as {ClassId: 3}"
    )
    missing: Missing = Field("problem", description="how to treat an image without a row: leave it out, or as empty")

    @model_validator(mode="after")
    def _one_kind_of_column(self) -> RleLabels:
        if isinstance(self.id, int) != isinstance(self.mask, int):
            raise ValueError("'id' and 'mask' must be both names, or both numbers (for a table without a header)")
        if isinstance(self.id, int) and (self.where or self.class_column or self.columns):
            named = "where" if self.where else "class_column" if self.class_column else "columns"
            raise ValueError(f"'{named}' names columns, but 'id' is a number, for a table without a header")
        ways = [name for name in ("class_column", "joined", "columns") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"labels has both '{ways[0]}' and '{ways[1]}': one of them names the classes")
        return self

    @property
    def names_classes(self) -> bool:
        """Whether the table names the class of each mask."""
        return bool(self.class_column or self.joined or self.columns)


class PngLabels(Strict):
    """Masks as image files: one per image or, with a * in the pattern, one per object or annotator.

    Masks of an image are united, or averaged with `combine: mean`.

    With several classes, a folder or part of the name holds the class ({class} in `masks`), or the pixels' values do
    (`values`).
    """

    format: Literal["png"]
    masks: str = Field(
        description="glob of an image's masks, containing {id} or named parts of the images' pattern, and {class} "
        "where each class has files of its own"
    )
    values: dict[ClassName, Annotated[int, Field(ge=0, le=65535)]] = Field(
        {}, description="several classes in one file: the value of each class's pixels"
    )
    ignore: list[Annotated[int, Field(ge=0, le=65535)]] = Field(
        [], description="values of pixels that are neither trained on nor scored"
    )
    numbered: bool = Field(False, description="whether each value above 0 is one object of the only class")
    soft: Annotated[int, NotBool, Field(ge=1, le=65535)] | None = Field(
        None,
        description="soft masks: the value of a pixel that is certainly mask, such as 255, or 3 for the votes of three "
        "annotators; lower values are shares of it. Networks learn shares; scores count a pixel from half on. "
        "Default: masks are 0 or 1",
    )
    combine: Literal["union", "mean"] = Field(
        "union",
        description="how the mask files of an image and class become one: as their union or, of several annotators, "
        "as their mean, which is soft",
    )
    threshold: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="pixels above this value are mask; default: those of the only value above 0, or else above half "
        "of the file's range",
    )
    invert: bool = Field(False, description="whether the files show the background instead of the mask")
    missing: Missing = Field(
        "problem", description="how to treat an image without a mask file: leave it out, or as empty"
    )

    @field_validator("ignore", mode="before")
    @classmethod
    def _one_value(cls, value: object) -> object:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_way(self) -> PngLabels:
        if self.values and self.class_in_name:
            raise ValueError("'values' are for files that hold all classes, but 'masks' names {class}")
        if (self.values or self.numbered or self.ignore) and (self.threshold is not None or self.invert):
            raise ValueError("'threshold' and 'invert' are for masks of two values, not for values that have a meaning")
        if self.values and self.numbered:
            raise ValueError("'values' name classes, but 'numbered' says that values number objects")
        if repeated := [value for value in self.values.values() if list(self.values.values()).count(value) > 1]:
            raise ValueError(f"two classes of labels.values have the value {repeated[0]}")
        given = [name for name in SOFT_EXCLUDES if getattr(self, name) not in (None, {}, False)]
        if self.soft is not None and given:
            raise ValueError(f"'soft' says that values are shares of a mask, so '{given[0]}' must be left out")
        if self.combine == "mean" and self.numbered:
            raise ValueError("'combine: mean' averages masks, but 'numbered' says that values number objects")
        if self.combine == "mean" and not set(self.masks) & set("*?["):
            raise ValueError(
                "'combine: mean' averages several files of an image, but 'masks' names one: use a * for the annotator, "
                "e.g. 'masks/*/{id}.png'"
            )
        if self.soft is not None and self.soft in self.ignore:
            raise ValueError(f"{self.soft} is the value of certain pixels in 'soft' and of ignored ones in 'ignore'")
        if both := set(self.values.values()) & set(self.ignore):
            raise ValueError(f"{min(both)} is the value of a class and of ignored pixels")
        return self

    @property
    def gives_shares(self) -> bool:
        """Whether masks hold shares instead of 0 and 1."""
        return self.soft is not None or self.combine == "mean"

    @property
    def class_in_name(self) -> bool:
        """Whether the path of a file names its class."""
        return "class" in part_names(self.masks)

    @property
    def names_classes(self) -> bool:
        """Whether the files name the class of each mask."""
        return bool(self.values) or self.class_in_name


Labels = Annotated[RleLabels | PngLabels, Field(discriminator="format")]
