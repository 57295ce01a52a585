"""The keys of competition.yaml, of an experiment and of ensemble.yaml, with their defaults.

Names of builders are spelt out here, so that a misspelt one is refused before anything heavy is imported; a
test holds these lists against the builders themselves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=32, multiple_of=32, description="pixels; encoders halve five times")]

Encoder = Literal[
    "efficientnetb0",
    "efficientnetb1",
    "efficientnetb2",
    "efficientnetb3",
    "efficientnetb4",
    "efficientnetb5",
    "efficientnetb6",
    "efficientnetb7",
]
Architecture = Literal["efficientnet", "unet", "unetpp"]
LossName = Literal["bce", "dice", "focal"]
OptimizerName = Literal["adam", "adamw", "nadam", "sgd"]
ScheduleName = Literal["constant", "cosine", "warmup_hold_decay"]
MetricName = Literal["mean_dice"]


class Strict(BaseModel):
    """A section: unknown keys are refused, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- competition.yaml ------------------------------------------------------------------------------------


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
    id: str = "ImageId"
    mask: str = "EncodedPixels"
    rle: Rle = Rle()
    sample: str | None = Field(None, description="the sample submission below the raw folder")


class Kaggle(Strict):
    owner: str | None = None
    competition: str | None = None


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
    classes: list[str] = Field(["lesion"], min_length=1, max_length=1)
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


# --- an experiment ---------------------------------------------------------------------------------------


class Model(Strict):
    name: Architecture
    encoder: Encoder
    weights: str = Field("none", description="'none', or a weights file for the encoder")
    block: Literal["transpose", "upsampling"] = "upsampling"
    filters: list[Count] = Field([256, 128, 64, 32, 16], min_length=5, max_length=5)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    batchnorm_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.99


class Input(Strict):
    size: Size


class Sampling(Strict):
    """Who is seen in an epoch. One number holds; a pair slides from the first epoch to the last."""

    positives: Share | tuple[Share, Share] | None = Field(None, description="share of positive images")
    drop_negatives: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epoch: Count | None = Field(None, description="images an epoch; default: what the shares allow")


class Affine(Strict):
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="degrees, either way")
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    shift: Share = Field(0.0, description="share of the side, either way")

    @model_validator(mode="after")
    def _zoom_grows(self) -> Affine:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom goes from the smaller to the larger, not {list(self.zoom)}")
        return self


class Augment(Strict):
    """One step of `augment:`; a bare name such as `hflip` stands for the step with its defaults."""

    hflip: Share | None = Field(None, description="probability")
    affine: Affine | None = None
    brightness_contrast: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        defaults = {"hflip": 0.5, "affine": {"rotate": 7, "zoom": [0.9, 1.1]}, "brightness_contrast": 0.2}
        return {value: defaults.get(value)} if isinstance(value, str) else value


class Optimizer(Strict):
    name: OptimizerName = "adam"
    clipnorm: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Schedule(Strict):
    """Learning rate by epoch: start -> peak over `warmup`, `hold`, then `decay` each epoch, never below floor."""

    name: ScheduleName = "constant"
    peak: Positive = 1e-3
    start: Positive | None = None
    floor: Annotated[float, Field(ge=0)] = 1e-6
    warmup: Annotated[int, Field(ge=0)] = 0
    hold: Annotated[int, Field(ge=0)] = 0
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8


class Batch(Strict):
    per_device: Count = 16


class Runtime(Strict):
    backend: Literal["auto", "tensorflow", "jax"] = "auto"


class Tracking(Strict):
    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str | None = None


class Experiment(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    task: Literal["gate", "mask"]
    model: Model
    input: Input
    sampling: Sampling = Sampling()
    augment: list[Augment] = []
    loss: dict[LossName, Positive] = Field(min_length=1)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    epochs: Count
    batch: Batch = Batch()
    monitor: Literal["auc", "dice", "dice_positives"]
    tta: list[Literal["hflip"]] = []
    seed: Seed = 0
    runtime: Runtime = Runtime()
    tracking: Tracking = Tracking()
    quick: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _monitor_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and "monitor" not in value:
            return {**value, "monitor": "auc" if value.get("task") == "gate" else "dice"}
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> Experiment:
        gate = self.task == "gate"
        if gate != (self.model.name == "efficientnet"):
            raise ValueError(f"a {self.task} experiment cannot have the model '{self.model.name}'")
        if gate and "dice" in self.loss:
            raise ValueError("'dice' is a loss for masks; a gate takes bce or focal")
        if gate != (self.monitor == "auc"):
            raise ValueError(f"a {self.task} experiment cannot monitor '{self.monitor}'")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome of a run: everything but where it is tracked and how it is shrunk."""
        return self.model_dump(mode="json", exclude={"quick", "tracking"})


# --- ensemble.yaml ---------------------------------------------------------------------------------------


class Members(Strict):
    experiments: list[str] = Field(min_length=1)
    folds: Literal["all"] | Count = Field("all", description="all folds of each experiment, or its best n")


class Tune(Strict):
    trials: Count = 300
    seed: Seed = 0


class Ensemble(Strict):
    gate: Members
    mask: Members
    tune: Tune = Tune()
    quick: dict[str, Any] = {}
