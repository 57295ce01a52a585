"""Keys of competition.yaml, with their defaults."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from gatemask.config.base import LARGEST, Count, Natural, NotBool, Pair, Positive, Seed, Share, Size, Strict
from gatemask.config.names import MetricName
from gatemask.config.path_patterns import part_names
from gatemask.project import competition_name_fault


class Rle(Strict):
    """Dialect of a run-length encoding. Most Kaggle competitions use absolute offsets, base 1, column-major order."""

    offsets: Literal["absolute", "relative"] = "absolute"
    base: Annotated[Literal[0, 1], NotBool] = 1
    order: Literal["column", "row"] = "column"
    empty: str = Field("", description="text of an empty mask: '', '-1', '1 0', ...")


Column = str | Annotated[Natural, Field(description="column number from 0, for a table without a header")]
Missing = Literal["problem", "empty"]


class RleLabels(Strict):
    """A table of run-length encodings. All rows of an image are united."""

    format: Literal["rle"]
    file: str
    id: Column = "ImageId"
    mask: Column = "EncodedPixels"
    rle: Rle = Rle()
    where: dict[str, str | int | list[str | int]] = Field(
        {}, description="values by column: only rows with these values are read, such as {ClassId: 3}"
    )
    missing: Missing = Field("problem", description="how to treat an image without a row: leave it out, or as empty")

    @model_validator(mode="after")
    def _one_kind_of_column(self) -> RleLabels:
        if isinstance(self.id, int) != isinstance(self.mask, int):
            raise ValueError("'id' and 'mask' must be both names, or both numbers (for a table without a header)")
        if self.where and isinstance(self.id, int):
            raise ValueError("'where' names columns, but 'id' is a number, for a table without a header")
        return self


class PngLabels(Strict):
    """Masks as image files: one per image or, with a * in the pattern, one per object. Masks of an image are united."""

    format: Literal["png"]
    masks: str = Field(description="glob of an image's masks, containing {id} or named parts of the images' pattern")
    threshold: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="pixels above this value are mask; default: those of the only value above 0, or else above half "
        "of the file's range",
    )
    invert: bool = Field(False, description="whether the files show the background instead of the mask")
    missing: Missing = Field(
        "problem", description="how to treat an image without a mask file: leave it out, or as empty"
    )


Labels = Annotated[RleLabels | PngLabels, Field(discriminator="format")]


class Images(Strict):
    images: str = Field(
        description="glob below the raw folder; {name} matches like *, and names a part of the path for 'id'"
    )
    id: str | None = Field(
        None,
        description="how a path becomes an id: a template such as '{case}_{slice}' of named parts and {stem}, or a "
        "regular expression for the path, whose parentheses are joined by _; default: {id} if 'images' names it, "
        "otherwise the file's name without its extension",
    )

    @model_validator(mode="after")
    def _id_of_known_parts(self) -> Images:
        names = part_names(self.images)
        if self.id is None:
            if names and "id" not in names:
                raise ValueError(
                    f"'images' names {{{names[0]}}}, so 'id' must be set, e.g. id: '{{{'}_{'.join(names)}}}'"
                )
        elif "(" in self.id:
            try:
                compiled = re.compile(self.id)
            except re.error as error:
                raise ValueError(f"id is not a regular expression: {error}") from None
            if not compiled.groups:
                raise ValueError("id has no parenthesis that captures: write e.g. '(case[0-9]+)/(slice_[0-9]+)'")
        else:
            parts = part_names(self.id)
            if unknown := [name for name in parts if name not in (*names, "stem")]:
                known = ", ".join(f"{{{name}}}" for name in (*names, "stem"))
                raise ValueError(f"id names {{{unknown[0]}}}, but 'images' has only {known}")
            if not parts:
                raise ValueError("id needs named parts such as {case}, or a regular expression with a parenthesis")
            if "/" in self.id:
                raise ValueError(f"an id has no slash: write '{self.id.replace('/', '_')}'; cells with folders fit too")
        return self


class TestImages(Images):
    labels: Labels | None = Field(
        None, description="test labels where they are available: for phantoms, or after the deadline"
    )


class Groups(Strict):
    """Images that must never be split between training and validation.

    Several sources may be combined: images joined by any of them share a group (union-find). The first source that
    names an image, in the order file, dicom, regex, names its group.
    """

    file: str | None = Field(None, description="a CSV below the raw folder")
    id: str = "image_id"
    column: str = "group"
    optional: bool = Field(False, description="continue with a warning if the file is absent")
    dicom: str | None = Field(None, description="a DICOM tag, such as PatientID")
    regex: str | None = Field(None, description="pattern for the image id; its first parenthesis names the group")
    prefix: Count | None = Field(None, description="number of leading characters of a name that identify the group")
    duplicates: Literal["near", "exact", "ignore"] = Field("near", description="copies that share a group")


MANIFEST_COLUMNS = ["image_id", "path", "split", "group", "label", "mask_area", "height", "width", "sha256", "phash"]


class Extra(Strict):
    """Additional manifest columns, for stratifying folds."""

    dicom: list[str] = Field([], description="DICOM tags, such as ViewPosition")
    file: str | None = Field(None, description="a CSV below the raw folder")
    id: str = "image_id"
    columns: list[str] = Field([], description="columns of that file")

    @model_validator(mode="after")
    def _file_and_columns(self) -> Extra:
        if (self.file is None) != (not self.columns):
            raise ValueError("'file' and 'columns' go together")
        if len(set(self.names)) < len(self.names):
            raise ValueError("a column is named twice")
        if taken := set(self.names) & set(MANIFEST_COLUMNS):
            raise ValueError(f"'{min(taken)}' is a column of every manifest: rename it in the file")
        return self

    @property
    def names(self) -> list[str]:
        """Names of the additional columns in the manifest."""
        return [*self.dicom, *self.columns]


class Folds(Strict):
    k: Annotated[int, Field(ge=2, le=20)] = 5
    seed: Seed = 0
    tries: Count = Field(20, description="number of seeds to try; the most even split is kept")
    area_bins: Count = Field(4, description="positive images are stratified by the rank of their mask area")
    stratify: list[str] = Field([], description="columns of 'extra' to balance as well; numbers by quartile")
    holdout: bool = Field(False, description="keep an additional fold as test set: never used in training or tuning")


class Picture(Strict):
    size: Annotated[tuple[Count, Count], Pair] = Field(description="height and width at which the competition scores")
    channels: Annotated[Literal[1, 3], NotBool] = 1
    window: Literal["full", "file"] | Annotated[tuple[float, Positive], Pair] = Field(
        "full",
        description="gray levels mapped to 0 to 1: the full range of the file's bits; the DICOM's own VOI LUT or "
        "window; or [center, width] in rescaled units",
    )
    orientation: Literal["stored", "upright"] = Field(
        "stored",
        description="whether pixels are used as stored, or rotated as EXIF or TIFF tags say; images and masks alike",
    )

    @property
    def upright(self) -> bool:
        """Whether images and masks are rotated as their files say."""
        return self.orientation == "upright"

    @field_validator("window", mode="before")
    @classmethod
    def _a_window(cls, value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 2:
            center, width = value
            numbers = [n for n in (center, width) if isinstance(n, int | float) and not isinstance(n, bool)]
            if len(numbers) == 2 and math.isfinite(sum(numbers)) and numbers[1] > 0:
                return value
        elif value in ("full", "file"):
            return value
        raise ValueError(f"image.window must be 'full', 'file' or [center, width] with a width above 0, not {value}")


class Records(Strict):
    size: Size = 512
    format: Literal["jpeg", "png"] = "jpeg"
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    per_shard: Count = 256


class SubmissionSettings(Strict):
    """Format of a submission: one row per image; with several classes, one row per image and class."""

    id: str = "ImageId"
    mask: str = "EncodedPixels"
    rle: Rle = Field(Rle(), description="dialect of the masks; keys that are not named follow labels.rle")
    sample: str | None = Field(None, description="the sample submission below the raw folder")
    class_column: str | None = Field(None, description="several classes: the column that names the class")
    joined: str | None = Field(
        None, description="several classes, in the id column: '{id}_{class}'", pattern=r"^[^{}]*\{id\}.+\{class\}$"
    )
    overlap: bool = Field(True, description="whether a pixel may belong to several classes")


class Kaggle(Strict):
    owner: str | None = Field(None, description="owner of kernels and datasets; default: the account in use")
    competition: str | None = None
    accelerator: Literal["TpuV5E8", "NvidiaTeslaT4", "none"] = Field(
        "TpuV5E8",
        description="machine for training kernels, unless an experiment's runtime.accelerator names another kind",
    )
    inference: Literal["NvidiaTeslaT4", "none"] = Field(
        "NvidiaTeslaT4", description="machine for the submission kernel"
    )
    test_images: Count | None = Field(
        None, description="number of images in the hidden test set; default: as many as in the visible one"
    )


class Phantom(Strict):
    images: Count = 540
    test_images: Count = 180
    size: Annotated[int, Field(ge=64, le=LARGEST)] = 256
    positives: Share = 0.22
    skin_folds: Share = Field(0.0, description="share of negatives with a skin fold, which resembles a lesion")
    seed: Seed = 0


class Competition(Strict):
    name: str = Field(description="lowercase letters, digits and hyphens; default: the folder's name")
    title: str
    raw: str = Field(description="folder of the raw files, unless --data names another")
    image: Picture
    train: Images
    test: TestImages | None = None
    labels: Labels
    classes: list[str] = Field(["lesion"], min_length=1)
    metric: MetricName = "mean_dice"
    groups: Groups = Groups()
    extra: Extra = Extra()
    folds: Folds = Folds()
    records: Records = Records()
    submission: SubmissionSettings = SubmissionSettings()
    kaggle: Kaggle = Kaggle()
    phantom: Phantom | None = None
    quick: dict[str, JsonValue] = {}

    @field_validator("name")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if fault := competition_name_fault(name):
            raise ValueError(fault)
        return name

    @model_validator(mode="after")
    def _test_or_holdout(self) -> Competition:
        if (self.test is None) == (not self.folds.holdout):
            raise ValueError("either 'test' names the test images, or 'folds.holdout: true' sets some aside")
        if unknown := [name for name in self.folds.stratify if name not in self.extra.names]:
            raise ValueError(f"folds.stratify names '{unknown[0]}', which is not a column of 'extra'")
        return self

    @model_validator(mode="after")
    def _known_parts_of_masks(self) -> Competition:
        for images, labels in ((self.train, self.labels), (self.test, self.test and self.test.labels)):
            if images is None or not isinstance(labels, PngLabels):
                continue
            known = ["id", "stem", *part_names(images.images)]
            names = part_names(labels.masks)
            if not names:
                raise ValueError(f"labels.masks must name the image, e.g. 'masks/{{id}}.png', not '{labels.masks}'")
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"labels.masks names {{{unknown[0]}}}, which is not a part of '{images.images}'")
        return self

    @model_validator(mode="after")
    def _test_ids_like_training_ids(self) -> Competition:
        test = self.test
        if test and self.train.id is not None and test.id is None and "id" not in part_names(test.images):
            raise ValueError("train has an 'id', so test needs one too, e.g. id: '{stem}' for the file's name")
        return self

    @model_validator(mode="after")
    def _dialect_of_the_labels(self) -> Competition:
        """Fill in the keys that submission.rle does not name: competitions read masks as they publish them."""
        named = self.submission.rle.model_fields_set
        if isinstance(self.labels, RleLabels) and len(named) < len(Rle.model_fields):
            values = {**self.labels.rle.model_dump(), **self.submission.rle.model_dump(include=named)}
            dialect = Rle.model_construct(_fields_set=set(named), **values)
            object.__setattr__(self, "submission", self.submission.model_copy(update={"rle": dialect}))
        return self

    @model_validator(mode="after")
    def _class_rows(self) -> Competition:
        if repeated := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"'{repeated[0]}' appears twice in 'classes'")
        ways = [self.submission.class_column, self.submission.joined]
        if len(self.classes) > 1 and sum(way is not None for way in ways) != 1:
            raise ValueError("several classes need either submission.class_column or submission.joined")
        if len(self.classes) == 1 and any(way is not None for way in ways):
            raise ValueError("submission.class_column and submission.joined require several classes; there is only one")
        return self
