"""The keys of competition.yaml, of an experiment and of ensemble.yaml, with their defaults.

Names of builders are spelt out here, so that a misspelt one is refused before anything heavy is imported; a
test holds these lists against the builders themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=32, multiple_of=32, description="pixels; encoders halve five times")]

# What segmentation-models offers; the EfficientNets are the house's own choice.
Encoder = Literal[
    "efficientnetb0",
    "efficientnetb1",
    "efficientnetb2",
    "efficientnetb3",
    "efficientnetb4",
    "efficientnetb5",
    "efficientnetb6",
    "efficientnetb7",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50",
    "resnext101",
    "seresnet18",
    "seresnet34",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "seresnext50",
    "seresnext101",
    "senet154",
    "densenet121",
    "densenet169",
    "densenet201",
    "inceptionv3",
    "inceptionresnetv2",
    "mobilenet",
    "mobilenetv2",
    "vgg16",
    "vgg19",
]
Architecture = Literal["gate", "unet", "unetpp", "fpn", "linknet"]
LossName = Literal["bce", "focal", "dice", "dice_batch", "tversky", "lovasz"]
GATE_LOSSES = ("bce", "focal")  # the others compare shapes
OptimizerName = Literal[
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lamb",
    "lion",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
]
ScheduleName = Literal["constant", "cosine", "plateau", "warmup_hold_decay"]
MetricName = Literal["mean_dice", "dice_positives", "global_dice", "mean_iou", "mean_precision"]


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


# --- an experiment ---------------------------------------------------------------------------------------


class Model(Strict):
    name: Architecture
    encoder: Encoder
    weights: str = Field(
        "none",
        description="of the encoder: 'none', 'imagenet', 'noisy-student', or an .h5 file; 'run:NAME' goes on from the "
        "same fold of another experiment, at this one's size",
    )
    block: Literal["transpose", "upsampling"] = "upsampling"
    filters: Annotated[list[Count], Field(min_length=5, max_length=5)] | None = Field(
        None, description="of the decoder, deepest first; default: the architecture's own"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="before the last layer; default: 0.2 for a gate, none for masks"
    )
    batchnorm_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.99
    deep_supervision: bool = Field(False, description="U-Net++: every node of the top row is trained as an output")
    gate_head: bool = Field(False, description="mask networks: a second output, trained to say whether there is a mask")

    @model_validator(mode="after")
    def _parts_exist(self) -> Model:
        if self.deep_supervision and self.name != "unetpp":
            raise ValueError(f"model.deep_supervision belongs to 'unetpp', not to '{self.name}'")
        if self.gate_head and self.name == "gate":
            raise ValueError("model.gate_head belongs to mask networks: a gate is one already")
        if self.filters and self.name in ("gate", "fpn"):
            raise ValueError(f"model.filters belongs to the decoders of unet, unetpp and linknet, not to '{self.name}'")
        if self.block == "transpose" and self.name in ("gate", "fpn"):
            raise ValueError(f"model.block belongs to unet, unetpp and linknet: '{self.name}' has no such blocks")
        if self.weights == "noisy-student" and not self.encoder.startswith("efficientnet"):
            raise ValueError(f"there are noisy-student weights for EfficientNets only, not for '{self.encoder}'")
        if (other := encoder_in_name(self.weights)) not in (None, self.encoder):
            raise ValueError(
                f"model.weights names a file of another encoder: {self.weights} is of {other}, "
                f"the model's is {self.encoder}"
            )
        return self


def encoder_in_name(weights: str) -> str | None:
    """The encoder that a weights file's name speaks of, such as efficientnet-b3_weights_..._notop.h5; None if none."""
    if not weights.endswith(".h5"):
        return None
    word = Path(weights).name.lower().replace("-", "").replace("_", "")
    # Of names that contain each other (resnet50 in seresnet50) the longest is meant.
    found = [name for name in get_args(Encoder) if name in word]
    return max(found, key=len) if found else None


class Input(Strict):
    size: Size
    records: Size | None = Field(None, description="size of the records to read; default: the competition's")


class Sampling(Strict):
    """Who is seen in an epoch. One number holds; a pair slides from the first epoch to the last."""

    positives: Share | tuple[Share, Share] | None = Field(None, description="share of positive images")
    drop_negatives: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epoch: Count | None = Field(None, description="images an epoch; default: what the shares allow")


Range = tuple[Positive, Positive]


def _grows(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{name} goes from the smaller to the larger, not {list(pair)}")


class Affine(Strict):
    p: Share = 1.0
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="degrees, either way")
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    zoom: Range = (1.0, 1.0)
    shift: Share = Field(0.0, description="share of the side, either way")

    @model_validator(mode="after")
    def _zoom_grows(self) -> Affine:
        _grows("zoom", self.zoom)
        return self


class ZoomToMask(Strict):
    """Zoom in so that the mask, or some part of it, stays in sight; empty images are zoomed at a random place."""

    p: Share = 0.3
    zoom: Range = (1.1, 1.5)

    @model_validator(mode="after")
    def _zoom_grows(self) -> ZoomToMask:
        _grows("zoom", self.zoom)
        return self


class Distortion(Strict):
    """`elastic` moves the nodes of a grid at random and bends smoothly in between; `grid` moves whole lines."""

    p: Share = 0.3
    cells: Annotated[int, Field(ge=2, le=32)] = Field(5, description="of the grid, along a side")
    amount: Share = Field(0.03, description="how far a node moves at most, as a share of the side")


class Blur(Strict):
    p: Share = 0.2
    sigma: Range = Field((0.5, 1.5), description="of the Gaussian, in pixels of the input")

    @model_validator(mode="after")
    def _sigma_grows(self) -> Blur:
        _grows("sigma", self.sigma)
        return self


class Dropout(Strict):
    """Grey squares that hide the image, not its mask."""

    p: Share = 1.0
    holes: Count = 8
    size: Share = Field(0.05, description="a hole's side, as a share of the image's")


class Mix(Strict):
    p: Share = 0.5
    alpha: Positive = Field(0.4, description="of the Beta distribution that shares are drawn from")


class Augment(Strict):
    """One step of `augment:`; a bare name such as `hflip` stands for the step with its defaults."""

    hflip: Share | None = Field(None, description="probability")
    vflip: Share | None = Field(None, description="probability")
    turn: Share | None = Field(None, description="probability of a turn by 90, 180 or 270 degrees")
    affine: Affine | None = None
    zoom_to_mask: ZoomToMask | None = None
    elastic: Distortion | None = None
    grid: Distortion | None = None
    brightness_contrast: Share | None = Field(None, description="both, either way")
    gamma: Range | None = None
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = Field(None, description="share of the circle, either way")
    saturation: Range | None = None
    blur: Blur | None = None
    coarse_dropout: Dropout | None = None
    mixup: Mix | None = Field(None, description="gates: two images and their labels, blended (Zhang 2017)")
    cutmix: Mix | None = Field(None, description="gates: a window of another image (Yun 2019); labels follow the masks")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        defaults: dict[str, Any] = {
            "hflip": 0.5,
            "vflip": 0.5,
            "turn": 0.75,
            "affine": {"rotate": 7, "zoom": [0.9, 1.1]},
            "brightness_contrast": 0.2,
            "gamma": [0.8, 1.25],
            "hue": 0.05,
            "saturation": [0.7, 1.4],
        }
        return {value: defaults.get(value, {})} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_step(self) -> Augment:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"each step of 'augment' is one line with one key, not {len(given)}: {', '.join(given) or '-'}"
            )
        for name in ("gamma", "saturation"):
            if pair := getattr(self, name):
                _grows(name, pair)
        return self


class LossPart(Strict):
    """A loss with its options; a bare number is its weight."""

    weight: Positive = 1.0
    gamma: Annotated[float, Field(ge=0)] | None = Field(None, description="focal: 2 by default")
    alpha: Positive | None = Field(None, description="tversky: price of a false positive, 0.3 by default")
    beta: Positive | None = Field(None, description="tversky: price of a false negative, 0.7 by default")


LOSS_OPTIONS: dict[str, tuple[str, ...]] = {"focal": ("gamma",), "tversky": ("alpha", "beta")}


class Optimizer(Strict):
    name: OptimizerName = "adam"
    clipnorm: Positive | None = Field(None, description="limit of each variable's gradient norm")
    global_clipnorm: Positive | None = Field(None, description="limit of the norm of all gradients together")
    clipvalue: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="sgd and rmsprop")
    nesterov: bool | None = Field(None, description="sgd")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="momentum of an exponential moving average of the weights, which is what is validated and kept",
    )
    accumulate: Annotated[int, Field(ge=2)] | None = Field(None, description="batches whose gradients make one update")

    @model_validator(mode="after")
    def _options_fit(self) -> Optimizer:
        if self.momentum is not None and self.name not in ("sgd", "rmsprop"):
            raise ValueError(f"optimizer.momentum belongs to sgd and rmsprop, not to '{self.name}'")
        if self.nesterov is not None and self.name != "sgd":
            raise ValueError(f"optimizer.nesterov belongs to sgd, not to '{self.name}'")
        clips = [name for name in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise ValueError(f"of {' and '.join(clips)}, one is enough")
        return self


class Schedule(Strict):
    """Learning rate by epoch: start -> peak over `warmup`, `hold`, then down as `name` says, never below floor."""

    name: ScheduleName = "constant"
    peak: Positive = 1e-3
    start: Positive | None = Field(None, description="of the warm-up; default: peak / (warmup + 1)")
    floor: Annotated[float, Field(ge=0)] = 1e-6
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="epochs")
    hold: Annotated[int, Field(ge=0)] = Field(0, description="epochs")
    decay: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="warmup_hold_decay: factor an epoch")
    cycle: Count | None = Field(None, description="cosine: epochs until it starts again; default: never")
    grow: Annotated[float, Field(ge=1)] = Field(1.0, description="cosine: each cycle is so many times longer")
    restart: Share = Field(1.0, description="cosine: each cycle starts at this share of the peak before")
    patience: Count = Field(3, description="plateau: epochs without a better score")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="plateau: then times this")
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="plateau: what counts as better")

    @model_validator(mode="after")
    def _floor_is_below(self) -> Schedule:
        if self.floor > self.peak:
            raise ValueError(f"schedule.floor, {self.floor}, is above schedule.peak, {self.peak}")
        return self


class Freeze(Strict):
    """Layers that are left as they are in the first epochs."""

    epochs: Count
    layers: Literal["encoder"] | list[str] = Field("encoder", description="or beginnings of the layers' names")


class Checkpoints(Strict):
    keep: Count = Field(1, description="best epochs by `monitor` whose weights are kept")
    average: bool = Field(True, description="ship the average of those; else the best alone")
    steps: Count = Field(500, description="an epoch of more steps saves its state every so many")


class Batch(Strict):
    per_device: Count = 16
    scale_learning_rate: bool = Field(False, description="times the number of devices")


class Runtime(Strict):
    """Where it runs. `runtime: auto` finds out; `runtime: tpu` insists."""

    backend: Literal["auto", "tensorflow", "jax"] = "auto"
    accelerator: Literal["auto", "tpu", "gpu", "cpu"] = Field("auto", description="anything else is refused")
    devices: Literal["all"] | Count = Field("all", description="how many of those that are there")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the layers; sums stay float32"
    )
    deterministic: bool = Field(False, description="the same bits each time, at some cost in speed")
    workers: Annotated[int, Field(ge=0)] = Field(0, description="threads that decode and augment; 0: one a core")

    @model_validator(mode="before")
    @classmethod
    def _bare_word(cls, value: Any) -> Any:
        return {"accelerator": value} if isinstance(value, str) else value


class Tracking(Strict):
    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str | None = None


class View(Strict):
    """One line of `tta:`; the image as it is always counts too."""

    hflip: bool = False
    vflip: bool = False
    scale: Annotated[float, Field(ge=0.5, le=2)] | None = Field(None, description="zoomed about the centre")
    random: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="so many drawn from `augment:`, the same for every image"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {value: True} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something(self) -> View:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if not given or (self.random and len(given) > 1):
            raise ValueError("a line of 'tta' is hflip, vflip, {scale: 1.1}, a combination of these, or {random: 5}")
        return self


class Experiment(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    task: Literal["gate", "mask"]
    model: Model
    input: Input
    sampling: Sampling = Sampling()
    augment: list[Augment] = []
    loss: dict[LossName, Positive | LossPart] = Field(min_length=1)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gate_loss: Positive = Field(0.2, description="weight of the cross-entropy of model.gate_head")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    freeze: Freeze | None = None
    epochs: Count
    hours: Positive | None = Field(None, description="stop in good order before this; the next call goes on")
    batch: Batch = Batch()
    monitor: Literal["auc", "dice", "dice_positives"]
    checkpoints: Checkpoints = Checkpoints()
    tta: list[View] = []
    tta_apart: bool = Field(
        False, description="keep each view's out-of-fold maps too: 'mask.weights: tuned' then weighs views apart"
    )
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
        if gate != (self.model.name == "gate"):
            raise ValueError(f"a {self.task} experiment cannot have the model '{self.model.name}'")
        if gate and (shapes := [name for name in self.loss if name not in GATE_LOSSES]):
            raise ValueError(f"'{shapes[0]}' is a loss for masks; a gate takes {' or '.join(GATE_LOSSES)}")
        if gate != (self.monitor == "auc"):
            raise ValueError(f"a {self.task} experiment cannot monitor '{self.monitor}'")
        if not gate and (
            mixed := [name for step in self.augment for name in ("mixup", "cutmix") if getattr(step, name)]
        ):
            raise ValueError(f"'{mixed[0]}' mixes labels and belongs to gates")
        if self.label_smoothing and not set(self.loss) & {"bce", "focal"}:
            raise ValueError("label_smoothing is for bce and focal, and the loss has neither")
        if any(view.random for view in self.tta) and not self.augment:
            raise ValueError("random views in 'tta' are drawn from 'augment', which is empty")
        if self.tta_apart and (gate or not self.tta or any(view.random or (view.scale or 1) > 1 for view in self.tta)):
            raise ValueError("'tta_apart' is for masks, and for views that show the whole image: no zoom, no random")
        for name, part in self.loss.items():
            given = part.model_dump(exclude={"weight"}, exclude_none=True) if isinstance(part, LossPart) else {}
            if wrong := sorted(set(given) - set(LOSS_OPTIONS.get(name, ()))):
                raise ValueError(f"the loss '{name}' has no option '{wrong[0]}'")
        if self.freeze and self.freeze.epochs >= self.epochs:
            raise ValueError(f"freeze.epochs is {self.freeze.epochs} of {self.epochs}: nothing would ever be thawed")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome of a run: everything but how long, where and how it is tracked."""
        settings = self.model_dump(
            mode="json", exclude={"quick": True, "tracking": True, "hours": True, "checkpoints": {"steps"}}
        )
        settings["runtime"] = {"precision": self.runtime.precision}
        if not self.tta_apart:  # younger than many a run, which it left as they were
            del settings["tta_apart"]
        return settings


# --- ensemble.yaml ---------------------------------------------------------------------------------------


class Members(Strict):
    experiments: list[str] = Field(min_length=1)
    folds: Literal["all"] | Count = Field("all", description="all folds of each experiment, or its best n")
    weights: list[Weight] | Literal["equal", "greedy", "tuned"] = Field(
        "equal",
        description="one number an experiment; 'greedy': those that help are taken, one after another, and again; "
        "'tuned': of masks, found by Optuna's sampler, views too if apart",
    )
    members: Count | None = Field(None, description="most networks (experiments x folds) that may be shipped")

    @model_validator(mode="after")
    def _weights_fit(self) -> Members:
        if twice := [name for name in self.experiments if self.experiments.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named twice in 'experiments'; give it a weight instead")
        if isinstance(self.weights, str):
            return self
        if len(self.weights) != len(self.experiments):
            raise ValueError(f"there are {len(self.weights)} 'weights' for {len(self.experiments)} experiments")
        if not any(self.weights):
            raise ValueError("all 'weights' are 0: nothing would be left to average")
        return self


class Variant(Strict):
    """Which parts of the rule are searched."""

    gate: bool = Field(True, description="false: every image passes the gate")
    thresholds: Literal[1, 2] = Field(2, description="1: the same level decides whether there is a mask, and where")
    components: bool = Field(False, description="search the smallest connected component that is kept")
    hysteresis: bool = Field(False, description="try keeping only components that somewhere reach the upper threshold")

    @property
    def by_component(self) -> bool:
        return self.components or self.hysteresis


class Tune(Strict):
    rule: Variant = Variant()
    sampler: Literal["tpe", "cmaes"] = "tpe"
    trials: Count = Field(300, description="of Optuna; the exact search needs none")
    seed: Seed = 0
    enqueue_exact: bool = Field(False, description="let Optuna start from the exact optimum")
    ship: Literal["best", "exact", "median", "optuna"] = Field(
        "best", description="the candidate that is shipped; 'best': that of the highest cross-fitted score"
    )
    bootstrap: Count = Field(2000, description="resamples of groups for the interval")
    optima: Count = Field(20, description="bootstrap optima of which the median rule is the median")
    weightings: Count = Field(24, description="tried where mask.weights is 'tuned'; each takes a pass over the maps")
    rounds: Count = Field(12, description="of greedy selection; each takes one more experiment, or one once more")
    beside: list[str] = Field([], description="rules to score beside the tuned one: known names, or rule.yaml files")


class Inference(Strict):
    """How the submission's kernel runs."""

    precision: Literal["float32", "float16", "bfloat16", "auto"] = Field(
        "float32", description="of the layers, where the machine has it; 'auto': float16 on a GPU, bfloat16 on a TPU"
    )
    batch: Literal["auto"] | Count = Field("auto", description="images a step; 'auto': by the device's memory")
    time_budget: Positive | None = Field(
        None, description="hours; what would take longer drops the members taken last, from then on"
    )
    hours: Positive = Field(9.0, description="that Kaggle lets a submission run; no larger ensemble is chosen")


class Ensemble(Strict):
    gate: Members
    mask: Members
    tune: Tune = Tune()
    inference: Inference = Inference()
    quick: dict[str, Any] = {}

    @model_validator(mode="after")
    def _gates_are_given(self) -> Ensemble:
        if self.gate.weights == "tuned":
            raise ValueError("gate.weights are 'equal' or a list: only those of masks can be tuned")
        return self
