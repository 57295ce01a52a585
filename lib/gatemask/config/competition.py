"""Keys of competition.yaml, with their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gatemask.config.base import Count, Positive, Seed, Share, Size, Strict
from gatemask.config.names import MetricName


class Rle(Strict):
    """The flavour of a run-length encoding. Most Kaggle competitions: absolute, base 1, column-major."""

    offsets: Literal["absolute", "relative"] = "absolute"
    base: Literal[0, 1] = 1
    order: Literal["column", "row"] = "column"
    empty: str = Field("", description="what stands for an empty mask: '', '-1', '1 0', ...")


Column = str | Annotated[int, Field(ge=0, description="its number, from 0, where the table has no header")]
Missing = Literal["problem", "empty"]


class RleLabels(Strict):
    """A table of run-length encodings; rows of one image are united wherever they stand."""

    format: Literal["rle"]
    file: str
    id: Column = "ImageId"
    mask: Column = "EncodedPixels"
    rle: Rle = Rle()
    missing: Missing = Field("problem", description="what an image without a row is: left out, or empty")

    @model_validator(mode="after")
    def _one_kind_of_column(self) -> RleLabels:
        if isinstance(self.id, int) != isinstance(self.mask, int):
            raise ValueError("'id' and 'mask' are both names, or both numbers (of a table without a header)")
        return self


class PngLabels(Strict):
    """Masks as pictures, one an image or, with a * in the pattern, one an object; those of one image are united."""

    format: Literal["png"]
    masks: str = Field(description="glob of an image's masks, with {id} in it", pattern=r"^[^{}]*\{id\}[^{}]*$")
    threshold: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="pixels above it are mask")
    missing: Missing = Field("problem", description="what an image without a mask file is: left out, or empty")


Labels = Annotated[RleLabels | PngLabels, Field(discriminator="format")]


class Images(Strict):
    images: str = Field(description="glob below the raw folder; the id is the file's stem")


class TestImages(Images):
    labels: Labels | None = Field(None, description="the truth, where it is known: phantoms, or after the end")


class Groups(Strict):
    """Images that must never be split between training and validation.

    Sources may be combined: images that any of them puts together stay together (union-find). The first one that
    names an image, in the order file, dicom, regex, names its group.
    """

    file: str | None = Field(None, description="a CSV below the raw folder")
    id: str = "image_id"
    column: str = "group"
    optional: bool = Field(False, description="go on, with a warning, where the file is absent")
    dicom: str | None = Field(None, description="a DICOM tag, such as PatientID")
    regex: str | None = Field(None, description="its first parenthesis, matched on the id, names the group")
    prefix: Count | None = Field(None, description="only the first characters of a name count")
    duplicates: Literal["near", "exact", "ignore"] = Field("near", description="copies that share a group")


MANIFEST_COLUMNS = ["image_id", "path", "split", "group", "label", "mask_area", "height", "width", "sha256", "phash"]


class Extra(Strict):
    """More columns for the manifest, to stratify folds by."""

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
        """The columns in the manifest."""
        return [*self.dicom, *self.columns]


class Folds(Strict):
    k: Annotated[int, Field(ge=2, le=20)] = 5
    seed: Seed = 0
    tries: Count = Field(20, description="seeds tried; the most even split is kept")
    area_bins: Count = Field(4, description="positive images are stratified by the rank of their mask's area")
    stratify: list[str] = Field([], description="columns of 'extra' to spread evenly too; numbers by quartile")
    holdout: bool = Field(False, description="one fold more, never trained nor tuned on: it stands as the test")


class Picture(Strict):
    size: tuple[Count, Count] = Field(description="height and width at which the competition scores")
    channels: Literal[1, 3] = 1
    window: Literal["full", "file"] | tuple[float, Positive] = Field(
        "full",
        description="grey levels that become 0 to 255: all that the file's bits can hold; the DICOM's own VOI LUT or "
        "window; or [centre, width] in rescaled units",
    )

    @field_validator("window", mode="before")
    @classmethod
    def _a_window(cls, value: Any) -> Any:
        pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        if value not in ("full", "file") and not (pair and value[1] > 0):
            raise ValueError(f"image.window is 'full', 'file' or [centre, width] with a width above 0, not {value}")
        return value


class Records(Strict):
    size: Size = 512
    format: Literal["jpeg", "png"] = "jpeg"
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    per_shard: Count = 256


class Submission(Strict):
    """One row an image; with several classes one row an image and class."""

    id: str = "ImageId"
    mask: str = "EncodedPixels"
    rle: Rle = Rle()
    sample: str | None = Field(None, description="the sample submission below the raw folder")
    class_column: str | None = Field(None, description="several classes: the column that names the class")
    joined: str | None = Field(
        None,
        description="several classes, in the id's own column: '{id}_{class}'",
        pattern=r"^[^{}]*\{id\}.+\{class\}$",
    )
    overlap: bool = Field(True, description="whether a pixel may belong to several classes")


class Kaggle(Strict):
    owner: str | None = Field(None, description="whose kernels and datasets they are; default: the account's own name")
    competition: str | None = None
    accelerator: Literal["TpuV5E8", "NvidiaTeslaT4", "none"] = Field(
        "TpuV5E8", description="of training kernels, unless an experiment's runtime.accelerator names another kind"
    )
    inference: Literal["NvidiaTeslaT4", "none"] = Field("NvidiaTeslaT4", description="of the submission's kernel")
    test_images: Count | None = Field(None, description="of the hidden test; default: as many as the visible one has")


class Phantom(Strict):
    images: Count = 540
    test_images: Count = 180
    size: Annotated[int, Field(ge=64)] = 256
    positives: Share = 0.22
    seed: Seed = 0


class Competition(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    raw: str = Field(description="folder of the raw files; --data names another")
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
    submission: Submission = Submission()
    kaggle: Kaggle = Kaggle()
    phantom: Phantom | None = None
    quick: dict[str, Any] = {}

    @model_validator(mode="after")
    def _some_test(self) -> Competition:
        if (self.test is None) == (not self.folds.holdout):
            raise ValueError("either 'test' names the test images, or 'folds.holdout: true' keeps some apart")
        if unknown := [name for name in self.folds.stratify if name not in self.extra.names]:
            raise ValueError(f"folds.stratify names '{unknown[0]}', which is no column of 'extra'")
        return self

    @model_validator(mode="after")
    def _rows_of_classes(self) -> Competition:
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is twice in 'classes'")
        ways = [self.submission.class_column, self.submission.joined]
        if len(self.classes) > 1 and sum(way is not None for way in ways) != 1:
            raise ValueError("of several classes, either submission.class_column or submission.joined names each row's")
        if len(self.classes) == 1 and any(way is not None for way in ways):
            raise ValueError("submission.class_column and submission.joined are for several classes, and there is one")
        return self
