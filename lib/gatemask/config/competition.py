"""Keys of competition.yaml, with their defaults."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from gatemask.config.base import (
    LARGEST,
    ClassName,
    Count,
    NotNegative,
    Positive,
    Seed,
    Share,
    Sides,
    Size,
    Strict,
    both_sides,
)
from gatemask.config.images import Images, Picture, TestImages, Tiles
from gatemask.config.labels import Labels, PngLabels, Rle, RleLabels
from gatemask.config.machines import MachineName, SubmissionMachineName
from gatemask.config.names import COUNTED_METRICS, METRIC_TITLES, OBJECT_METRICS
from gatemask.config.notify_urls import notify_url_fault, secret_in_url
from gatemask.config.path_patterns import part_names
from gatemask.config.submission import SubmissionSettings
from gatemask.project import competition_name_fault


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


OWN_METRIC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:function
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
        if taken := set(self.names) & {*MANIFEST_COLUMNS, "classes"}:
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


class Records(Strict):
    size: Size | Sides = Field(512, description="pixels: a side, or height and width; with 'tiles', those of a tile")
    format: Literal["jpeg", "png"] = "jpeg"
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    per_shard: Count = 256

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return both_sides(self.size)


class Objects(Strict):
    """Objects of a class within one image: by default, its connected components (8 neighbors)."""

    touching: Literal["components", "watershed"] = Field(
        "components", description="whether touching objects stay one, or are split by a watershed of the map"
    )
    border: bool = Field(
        False, description="train an additional output on the borders between touching objects, for the watershed"
    )


class Kaggle(Strict):
    owner: str | None = Field(None, description="owner of kernels and datasets; default: the account in use")
    competition: str | None = Field(
        None, description="its name there, the last part of the address; without it, nothing can be submitted"
    )
    accelerator: MachineName = Field(
        "TpuV5E8",
        description="machine for training kernels, unless an experiment's runtime.accelerator names another kind",
    )
    inference: SubmissionMachineName = Field("NvidiaTeslaT4", description="machine for the submission kernel")
    test_images: Count | None = Field(
        None, description="number of images in the hidden test set; default: as many as in the visible one"
    )


class Notify(Strict):
    """Where messages are posted when a campaign ends, a kernel dies or a loss becomes NaN."""

    url: str | None = Field(None, description="without a secret in it; GATEMASK_NOTIFY_URL takes precedence")

    @field_validator("url")
    @classmethod
    def _public_address(cls, url: str | None) -> str | None:
        if url is not None and (fault := notify_url_fault(url) or secret_in_url(url)):
            raise ValueError(fault)
        return url


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
    classes: list[ClassName] = Field(["lesion"], min_length=1, max_length=63)
    exclusive: bool = Field(
        False,
        description="whether a pixel belongs to at most one class: networks end in a softmax with background, and "
        "masks never overlap",
    )
    objects: Objects | None = Field(None, description="for competitions that score or list single objects")
    tiles: Tiles | None = Field(None, description="for images too large to be seen as a whole")
    metric: str = Field("mean_dice", description="a metric by name, or your own as 'module:function'")
    metric_options: dict[str, NotNegative | list[Positive]] = Field(
        {}, description="options of the metric, such as {tolerance: 2}"
    )
    groups: Groups = Groups()
    extra: Extra = Extra()
    folds: Folds = Folds()
    records: Records = Records()
    submission: SubmissionSettings = SubmissionSettings()
    kaggle: Kaggle = Kaggle()
    notify: Notify = Notify()
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
            known = ["id", "stem", "class", *part_names(images.pattern)]
            names = [name for name in part_names(labels.masks) if name != "class"]
            if not names:
                raise ValueError(f"labels.masks must name the image, e.g. 'masks/{{id}}.png', not '{labels.masks}'")
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"labels.masks names {{{unknown[0]}}}, which is not a part of '{images.pattern}'")
        return self

    @model_validator(mode="after")
    def _test_ids_like_training_ids(self) -> Competition:
        test = self.test
        if test and self.train.id is not None and test.id is None and "id" not in part_names(test.pattern):
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

    @field_validator("metric")
    @classmethod
    def _a_metric(cls, name: str) -> str:
        if name not in METRIC_TITLES and not OWN_METRIC.fullmatch(name):
            raise ValueError(f"metric must be 'module:function', or one of {', '.join(METRIC_TITLES)}, not '{name}'")
        return name

    @model_validator(mode="after")
    def _class_rows(self) -> Competition:
        if repeated := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"'{repeated[0]}' appears twice in 'classes'")
        submission = self.submission
        ways = [name for name in ("class_column", "joined", "columns") if getattr(submission, name)]
        if submission.archive is not None:
            ways.append("archive")
        if len(ways) > 1:
            raise ValueError(f"submission has both '{ways[0]}' and '{ways[1]}': one of them names the classes")
        if len(self.classes) > 1 and not ways:
            raise ValueError("several classes need submission.class_column, joined, columns or archive")
        if len(self.classes) == 1 and ways and ways != ["archive"]:
            raise ValueError(f"submission.{ways[0]} requires several classes; there is only one")
        archive = submission.archive
        if archive is not None and len(self.classes) > 1 and not archive.per_class and not self.exclusive:
            raise ValueError(
                "submission.archive has one file for all classes, where a pixel has one class: set exclusive: true, or "
                "name {class} in archive.files"
            )
        for name, keys in (
            ("columns", submission.columns),
            ("archive.values", getattr(submission.archive, "values", {})),
        ):
            if keys and set(keys) != set(self.classes):
                raise ValueError(f"submission.{name} must name each of 'classes': {', '.join(self.classes)}")
        return self

    @model_validator(mode="after")
    def _class_labels(self) -> Competition:
        """Labels may name classes that are not used, but not lack one; `values` of a single class select it."""
        for labels in (self.labels, self.test.labels if self.test else None):
            if labels is None:
                continue
            named = labels.columns if isinstance(labels, RleLabels) else labels.values
            if named and (missing := [name for name in self.classes if name not in named]):
                raise ValueError(f"labels name {', '.join(named)}, but not the class '{missing[0]}'")
            if isinstance(labels, PngLabels) and labels.numbered and len(self.classes) > 1:
                raise ValueError("labels.numbered is for the objects of one class")
        return self

    @model_validator(mode="after")
    def _channels(self) -> Competition:
        for images in (self.train, self.test):
            if images is None:
                continue
            count = len(images.sources) if images.stack is None else 2 * images.stack.around + 1
            given = sum(part.channels for part in images.sources) if images.stack is None else count
            if count > 1 and given != self.image.channels:
                raise ValueError(
                    f"the files of an image have {given} channels, but image.channels is {self.image.channels}"
                )
            if count == 1 and self.image.channels not in (1, 3):
                raise ValueError(f"image.channels is {self.image.channels}: name the files of all channels in 'images'")
        several = len(self.train.sources) > 1 or self.train.stack is not None
        if several and self.records.format != "png":
            if "format" in self.records.model_fields_set:
                raise ValueError(
                    "records.format must be png for several files or slices: JPEG would blend the channels"
                )
            object.__setattr__(self, "records", self.records.model_copy(update={"format": "png"}))
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Competition:
        if self.tiles is not None and self.records.size != self.tiles.size:
            if "size" in self.records.model_fields_set:
                raise ValueError(
                    f"records.size is {self.records.size}, but tiles.size is {self.tiles.size}: leave one out"
                )
            records = self.records.model_copy(update={"size": self.tiles.size})
            object.__setattr__(self, "records", records)
        if self.objects is None and (self.submission.rows == "object" or self.metric in OBJECT_METRICS):
            object.__setattr__(self, "objects", Objects())
        if self.metric_options and self.metric in COUNTED_METRICS:
            raise ValueError(f"the metric {self.metric} has no options")
        return self

    @property
    def has_ignored(self) -> bool:
        """Whether masks have a last plane of pixels that are neither trained on nor scored."""
        return isinstance(self.labels, PngLabels) and bool(self.labels.ignore)

    @property
    def has_soft(self) -> bool:
        """Whether masks hold shares instead of 0 and 1."""
        return isinstance(self.labels, PngLabels) and self.labels.gives_shares

    @property
    def planes(self) -> int:
        """Number of planes of a stored mask: one per class, one for borders, one for ignored pixels."""
        return self.outputs + self.has_ignored

    @property
    def outputs(self) -> int:
        """Number of maps of a mask network: one per class, and one for borders between objects."""
        return len(self.classes) + (self.objects is not None and self.objects.border)
