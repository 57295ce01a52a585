"""Keys of an experiment YAML, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from gatemask.config.base import (
    LARGEST,
    Count,
    Natural,
    NotNegative,
    Pair,
    Positive,
    Seed,
    Share,
    Sides,
    Size,
    Strict,
    both_sides,
)
from gatemask.config.encoders import ENCODERS
from gatemask.config.names import (
    CROSS_ENTROPIES,
    GATE_LOSSES,
    LOSS_OPTIONS,
    OPTIONS_OF_NAMES,
    Architecture,
    Encoder,
    LossName,
    OptimizerName,
    ScheduleName,
)
from gatemask.config.search import Search
from gatemask.config.sources import source_name_fault
from gatemask.project import experiment_name_fault


class Model(Strict):
    name: Architecture
    encoder: Encoder
    weights: str = Field(
        "none",
        description="initial weights: 'none', 'imagenet', 'noisy-student' or an .h5 file for the encoder; 'run:NAME' "
        "continues from the same fold of another experiment, at this experiment's size",
    )
    block: Literal["transpose", "upsampling"] = "upsampling"
    filters: Annotated[list[Count], Field(min_length=3, max_length=5)] | None = Field(
        None,
        description="filters of the decoder blocks, deepest first: 5, or 4 with an output_stride of 2, or 3 with one "
        "of 4; default: the architecture's own",
    )
    width: Count | None = Field(
        None, description="upernet, segformer and deeplabv3plus: filters of the decoder; default: 256"
    )
    attention: Literal["scse"] | None = Field(
        None,
        description="unet and unetpp: 'scse' weights the channels and pixels of each decoder block (Roy 2018); "
        "default: no attention",
    )
    output_stride: Literal[2, 4] | None = Field(
        None,
        description="unet, unetpp, fpn and linknet: pixels of the input per pixel of the logits, which are then "
        "enlarged bilinearly; default: 1. The other mask networks always have 4",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="rate of dropout before the last layer; default: 0.2 for a gate, none for masks"
    )
    batchnorm_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.99
    deep_supervision: bool = Field(
        False,
        description="mask networks: also train an output of each level of the decoder; each has half the weight of "
        "the finer one before it, and only the finest predicts. unetpp: each node of the top row is an output, all "
        "weigh the same, and their mean predicts",
    )
    gate_head: bool = Field(False, description="mask networks: train a second output as a gate")
    per_class: bool = Field(False, description="gate: one probability per class instead of one for all")

    @model_validator(mode="after")
    def _options_fit_architecture(self) -> Model:
        for option, names in OPTIONS_OF_NAMES["model"].items():
            if getattr(self, option) != type(self).model_fields[option].default and self.name not in names:
                raise ValueError(f"model.{option} belongs to {_listed(names)}, not to '{self.name}'")
        if self.filters and len(self.filters) != self.enlargements:
            raise ValueError(
                f"model.filters must have {self.enlargements} entries, one per block, not {len(self.filters)}"
                + (f": model.output_stride is {self.output_stride}" if self.output_stride else "")
            )
        if self.filters and self.output_stride and self.name == "linknet":
            raise ValueError(
                "model.filters of a linknet are those of its encoder, all but the last block's, which "
                f"model.output_stride {self.output_stride} leaves out: remove model.filters"
            )
        published = ENCODERS[self.encoder].weights
        if self.weights in ("imagenet", "noisy-student") and self.weights not in published:
            raise ValueError(
                f"no '{self.weights}' weights are published for '{self.encoder}'; published: "
                f"{', '.join(published) or 'none under a name'}"
            )
        if (other := encoder_in_name(self.weights)) not in (None, self.encoder):
            raise ValueError(
                f"model.weights names a file for another encoder: {self.weights} is for {other}, "
                f"the model has {self.encoder}"
            )
        return self

    @property
    def enlargements(self) -> int:
        """How often a decoder doubles the size of the encoder's deepest features."""
        return {None: 5, 2: 4, 4: 3}[self.output_stride]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run. Options that were added later are left out where not set."""
        settings: dict[str, JsonValue] = self.model_dump(mode="json")
        return {
            key: value
            for key, value in settings.items()
            if key not in _LATER_MODEL_OPTIONS or (value is not None and value is not False)
        }


_LATER_MODEL_OPTIONS = ("per_class", "width", "attention", "output_stride")  # fingerprints of runs lack them


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def encoder_in_name(weights: str) -> str | None:
    """Return the encoder in the name of a weights file, or None.

    >>> encoder_in_name("efficientnet-b3_noisy-student_notop.h5")
    'efficientnetb3'
    """
    if not weights.endswith(".h5"):
        return None
    word = Path(weights).name.lower().replace("-", "").replace("_", "")
    # Some names contain another (seresnet50 contains resnet50): the longest is meant.
    return max((name for name in ENCODERS if name.replace("_", "") in word), key=len, default=None)


class Input(Strict):
    size: Size | Sides = Field(description="pixels: a side, or height and width")
    records: Size | Sides | None = Field(
        None, description="size of the records to read; default: that of the competition"
    )
    crop: Size | Sides | None = Field(
        None, description="masks: train on random crops of so many pixels; default: on the whole input"
    )
    crop_positives: Share | None = Field(
        None, description="share of the crops of images with a mask that show part of it for certain; default: 0.5"
    )
    predict: Literal["full", "tiles"] | None = Field(
        None,
        description="with 'crop': predict the whole input at once, or overlapping tiles of the size of a crop, whose "
        "maps are blended; default: full",
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole input, in pixels: what is validated and predicted."""
        return both_sides(self.size)

    @property
    def training_shape(self) -> tuple[int, int]:
        """Height and width of what is trained on, in pixels: a crop, or the whole input."""
        return both_sides(self.crop or self.size)

    @property
    def tile(self) -> int | None:
        """Side of the tiles that are predicted, in pixels; None where the whole input is."""
        return self.training_shape[0] if self.predict == "tiles" else None

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run; those of crops were added later and are left out where not set."""
        unset = {name for name in ("crop", "crop_positives", "predict") if getattr(self, name) is None}
        settings: dict[str, JsonValue] = self.model_dump(mode="json", exclude=unset)
        return settings

    @model_validator(mode="after")
    def _crop_fits(self) -> Input:
        if self.crop is None:
            if given := [name for name in ("crop_positives", "predict") if getattr(self, name) is not None]:
                raise ValueError(f"input.{given[0]} requires input.crop")
            return self
        (height, width), (crop_height, crop_width) = self.shape, self.training_shape
        if crop_height > height or crop_width > width or self.shape == self.training_shape:
            raise ValueError(
                f"input.crop must be smaller than input.size, {height} x {width}, not {crop_height} x {crop_width}"
            )
        if self.tile is not None and crop_height != crop_width:
            raise ValueError(f"'predict: tiles' requires a square input.crop, not {crop_height} x {crop_width}")
        return self


class Sampling(Strict):
    """Images in an epoch. A number is constant; a pair changes linearly from the first epoch to the last."""

    positives: Share | Annotated[tuple[Share, Share], Pair] | None = Field(None, description="share of positive images")
    drop_negatives: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epoch: Count | None = Field(None, description="images per epoch; default: as many as the shares allow")


class ExtraImages(Strict):
    """A source of extra training images. A bare name draws its images as often as those of the competition."""

    source: str = Field(description="name of a YAML in experiments/COMP/sources/, or of what `gatemask pseudo` made")
    weight: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0,
        description="how often each of its images is drawn, relative to an image of the competition: 0.5 draws half of "
        "them in each epoch, the others in the next",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if fault := source_name_fault(name):
            raise ValueError(fault)
        return name


class Data(Strict):
    """Images to train on besides those of the competition."""

    extra: list[ExtraImages] = Field(
        [], description="sources: trained on in every fold, never validated on, without copies of validation images"
    )

    @field_validator("extra")
    @classmethod
    def _each_once(cls, extra: list[ExtraImages]) -> list[ExtraImages]:
        names = [part.source for part in extra]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"data.extra names '{repeated[0]}' twice: set its weight instead")
        return extra


Bounds = Annotated[tuple[Positive, Positive], Pair]


def _require_ascending(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{name} must be a range from smaller to larger, not {list(pair)}")


class Affine(Strict):
    p: Share = 1.0
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="maximum in degrees, either direction")
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    zoom: Bounds = (1.0, 1.0)
    shift: Share = Field(0.0, description="maximum as a share of the side, either direction")

    @model_validator(mode="after")
    def _zoom_ascends(self) -> Affine:
        _require_ascending("zoom", self.zoom)
        return self


class ZoomToMask(Strict):
    """Zoom in with the mask, or part of it, in view. Empty images are zoomed at a random place."""

    p: Share = 0.3
    zoom: Bounds = (1.1, 1.5)

    @model_validator(mode="after")
    def _zoom_ascends(self) -> ZoomToMask:
        _require_ascending("zoom", self.zoom)
        return self


class Distortion(Strict):
    """`elastic` moves the nodes of a grid at random and interpolates smoothly; `grid` moves entire lines."""

    p: Share = 0.3
    cells: Annotated[int, Field(ge=2, le=32)] = Field(5, description="grid cells along a side")
    amount: Share = Field(0.03, description="maximum displacement of a node, as a share of the side")


class Blur(Strict):
    p: Share = 0.2
    sigma: Bounds = Field((0.5, 1.5), description="standard deviation of the Gaussian, in input pixels")

    @model_validator(mode="after")
    def _sigma_ascends(self) -> Blur:
        _require_ascending("sigma", self.sigma)
        return self


class Clahe(Strict):
    """Equalize contrast within cells (Zuiderveld 1994): the luminance of three channels, else each channel."""

    p: Share = 0.2
    clip: Bounds = Field((1.0, 4.0), description="clip limit, a multiple of the mean bin of a cell's histogram")
    cells: Annotated[int, Field(ge=1, le=32)] = Field(8, description="cells along a side")

    @model_validator(mode="after")
    def _clip_ascends(self) -> Clahe:
        _require_ascending("clip", self.clip)
        return self


class Noise(Strict):
    """Gaussian noise, independent for each pixel and channel."""

    p: Share = 0.2
    sigma: Bounds = Field((2.0, 10.0), description="standard deviation, in gray levels of 255")

    @model_validator(mode="after")
    def _sigma_ascends(self) -> Noise:
        _require_ascending("sigma", self.sigma)
        return self


Quality = Annotated[int, Field(ge=1, le=100)]


class Jpeg(Strict):
    """Artifacts of JPEG: three channels are compressed as a color image, others each by itself."""

    p: Share = 0.2
    quality: Annotated[tuple[Quality, Quality], Pair] = Field((50, 95), description="from 1 to 100")

    @model_validator(mode="after")
    def _quality_ascends(self) -> Jpeg:
        _require_ascending("quality", self.quality)
        return self


class Dropout(Strict):
    """Gray squares that hide parts of the image, but not of its mask."""

    p: Share = 1.0
    holes: Count = 8
    size: Share = Field(0.05, description="side of a hole, as a share of the shorter image side")


class Mix(Strict):
    p: Share = 0.5
    alpha: Positive = Field(0.4, description="parameter of the Beta distribution from which shares are drawn")


class CopyPaste(Strict):
    """Paste what the mask of another image shows, with its mask."""

    p: Share = 0.5
    hflip: Share = Field(0.0, description="probability that it is pasted mirrored left to right")
    vflip: Share = Field(0.0, description="probability that it is pasted mirrored top to bottom")
    feather: NotNegative = Field(
        0.0, description="standard deviation of the Gaussian that blends its edges in the image, in pixels; 0 = sharp"
    )


class Augment(Strict):
    """A step of `augment:`. A bare name such as `hflip` means the step with its defaults."""

    hflip: Share | None = Field(None, description="probability")
    vflip: Share | None = Field(None, description="probability")
    turn: Share | None = Field(None, description="probability of a turn by 90, 180 or 270 degrees")
    affine: Affine | None = None
    zoom_to_mask: ZoomToMask | None = None
    elastic: Distortion | None = None
    grid: Distortion | None = None
    brightness_contrast: Share | None = Field(None, description="maximum change of each, either direction")
    gamma: Bounds | None = None
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = Field(
        None, description="maximum rotation of colors about their gray, as a share of the circle"
    )
    saturation: Bounds | None = Field(None, description="factor of the difference between colors and their gray")
    clahe: Clahe | None = None
    blur: Blur | None = None
    noise: Noise | None = None
    jpeg: Jpeg | None = None
    coarse_dropout: Dropout | None = None
    mixup: Mix | None = Field(None, description="blend two images, with their masks and labels (Zhang 2017)")
    cutmix: Mix | None = Field(None, description="paste a window of another image, with its mask (Yun 2019)")
    copy_paste: CopyPaste | None = Field(
        None, description="paste what the mask of another image shows, with its mask (Ghiasi 2021)"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        defaults: dict[str, JsonValue] = {
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
                f"each step of 'augment' must have exactly one key, not {len(given)}: {', '.join(given) or '-'}"
            )
        for name in ("gamma", "saturation"):
            if pair := getattr(self, name):
                _require_ascending(name, pair)
        return self

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run; steps that were added later are left out where not set."""
        unset = {name for name in _LATER_STEPS if getattr(self, name) is None}
        settings: dict[str, JsonValue] = self.model_dump(mode="json", exclude=unset)
        return settings


_LATER_STEPS = ("clahe", "noise", "jpeg", "copy_paste")  # fingerprints of older runs do not hold them


class LossPart(Strict):
    """A loss with its options. A bare number is its weight."""

    weight: Positive = 1.0
    gamma: NotNegative | None = Field(None, description="focal: 2 by default; focal_tversky: 4/3 by default")
    alpha: Positive | None = Field(None, description="tversky: weight of a false positive, 0.3 by default")
    beta: Positive | None = Field(None, description="tversky: weight of a false negative, 0.7 by default")
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="topk: share of the pixels, those with the largest errors; 0.1 by default"
    )
    iterations: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="cldice: pixels that are peeled off to find a skeleton; half the largest width, 10 by default"
    )

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run. Options that were added later are left out where not set."""
        settings: dict[str, JsonValue] = self.model_dump(mode="json")
        return {key: value for key, value in settings.items() if value is not None or key in _FIRST_LOSS_OPTIONS}


_FIRST_LOSS_OPTIONS = ("gamma", "alpha", "beta")  # fingerprints of runs hold them, set or not


class Optimizer(Strict):
    name: OptimizerName = "adam"
    clipnorm: Positive | None = Field(None, description="limit on each variable's gradient norm")
    global_clipnorm: Positive | None = Field(None, description="limit on the norm of all gradients together")
    clipvalue: Positive | None = None
    weight_decay: NotNegative | None = None
    weight_decay_on: Literal["all", "kernels"] = Field(
        "all", description="'kernels' spares biases and the variables of normalization layers"
    )
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="factor of the learning rate and weight decay from each stage of the encoder to the next shallower "
        "one; the decoder has the full rate, the deepest stage this share of it; default: one rate for all",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="sgd and rmsprop")
    nesterov: bool | None = Field(None, description="sgd")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="momentum of an exponential moving average of the weights; the average is validated and kept"
    )
    accumulate: Annotated[int, Field(ge=2, le=LARGEST)] | None = Field(None, description="number of batches per update")

    @model_validator(mode="after")
    def _options_fit(self) -> Optimizer:
        if self.momentum is not None and self.name not in ("sgd", "rmsprop"):
            raise ValueError(f"optimizer.momentum belongs to sgd and rmsprop, not to '{self.name}'")
        if self.nesterov is not None and self.name != "sgd":
            raise ValueError(f"optimizer.nesterov belongs to sgd, not to '{self.name}'")
        if self.ema is not None and self.name == "schedulefreeadamw":
            raise ValueError("optimizer.ema cannot be combined with schedulefreeadamw, which averages weights itself")
        clips = [name for name in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise ValueError(f"only one of {' and '.join(clips)} may be set")
        return self

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run. Keys that were added later are left out where not set."""
        later = {"weight_decay_on": "all", "layer_decay": None}
        settings: dict[str, JsonValue] = self.model_dump(mode="json")
        return {key: value for key, value in settings.items() if key not in later or value != later[key]}


class Schedule(Strict):
    """Learning rate: `start` to `peak` over `warmup`, then `hold`, then down as `name` says to `floor`."""

    name: ScheduleName = "constant"
    per: Literal["epoch", "step"] = Field(
        "epoch", description="'step': the rate changes with each batch. Lengths count epochs in either case"
    )
    peak: Positive = 1e-3
    start: Positive | None = Field(
        None,
        description="first learning rate of the warm-up; default: peak / (warmup + 1), or the floor with per: step",
    )
    floor: NotNegative = 1e-6
    warmup: Natural = Field(0, description="epochs")
    hold: Natural = Field(0, description="epochs")
    decay: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="warmup_hold_decay: factor per epoch")
    cycle: Count | None = Field(None, description="cosine: epochs until the first restart; default: never")
    grow: Annotated[float, Field(ge=1)] = Field(1.0, description="cosine: factor from each cycle's length to the next")
    restart: Share = Field(1.0, description="cosine: peak of each cycle, as a share of the peak before")
    patience: Count = Field(3, description="plateau: epochs without a better score")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="plateau: factor applied after that")
    min_delta: NotNegative = Field(0.0, description="plateau: minimum improvement")

    @model_validator(mode="after")
    def _floor_is_below(self) -> Schedule:
        if self.floor > self.peak:
            raise ValueError(f"schedule.floor, {self.floor}, is above schedule.peak, {self.peak}")
        if self.per == "step" and self.name == "plateau":
            raise ValueError("schedule.per cannot be 'step' for plateau, which follows the score of each epoch")
        return self


class Freeze(Strict):
    """Layers that are not trained in the first epochs."""

    epochs: Count
    layers: Literal["encoder"] | list[str] = Field("encoder", description="the encoder, or prefixes of layer names")


class Checkpoints(Strict):
    keep: Count = Field(1, description="number of best epochs by `monitor` whose weights are kept")
    average: bool = Field(True, description="ship the average of those weights instead of the best alone")
    steps: Count = Field(500, description="longer epochs also save their state every so many steps")


class Batch(Strict):
    per_device: Literal["auto"] | Count = Field(
        16, description="images per step and device; 'auto': the largest power of two that fits, found by trial"
    )
    scale_learning_rate: bool = Field(False, description="multiply the learning rate by the number of devices")


class Runtime(Strict):
    """Where training runs. `runtime: auto` detects the machine; `runtime: tpu` requires a TPU."""

    backend: Literal["auto", "tensorflow", "jax"] = "auto"
    accelerator: Literal["auto", "tpu", "gpu", "cpu"] = Field("auto", description="required kind of machine")
    devices: Literal["all"] | Count = Field("all", description="number of devices to use")
    folds: Literal["sequence", "parallel"] = Field(
        "sequence",
        description="one fold after the other, each on all devices, or side by side, each on a device of its own",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the layers; sums stay float32"
    )
    deterministic: bool = Field(False, description="bitwise reproducible, at some cost in speed")
    workers: Literal["auto"] | Natural = Field(
        "auto",
        description="processes that decode and augment; 0: threads of the training itself; auto: one process per core, "
        "or threads on up to two cores and for fewer than 1,000 images",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_word(cls, value: object) -> object:
        return {"accelerator": value} if isinstance(value, str) else value


class Tracking(Strict):
    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str | None = Field(None, description="project on W&B; default: gatemask-COMP")
    images: Annotated[int, Field(ge=0, le=60)] = Field(
        6, description="validation images to show at the end of a fold: best, typical, worst; 0 = none"
    )
    artifacts: bool = Field(True, description="upload weights, and the records' and folds' tables, as W&B artifacts")
    tensorboard: bool = Field(False, description="also write TensorBoard event files to the fold's folder")


class View(Strict):
    """A view of `tta:`. The unchanged image is always included as well."""

    hflip: bool = False
    vflip: bool = False
    rotate: Literal[90, 180, 270] | None = Field(
        None, description="turn in degrees, counterclockwise, before it is mirrored; 90 and 270 require a square input"
    )
    scale: Annotated[float, Field(ge=0.5, le=2)] | None = Field(None, description="zoom about the center")
    random: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="number of views to draw from `augment:`, the same for every image"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        return {value: True} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _valid_combination(self) -> View:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if not given or (self.random and len(given) > 1):
            raise ValueError(
                "a view in 'tta' must combine hflip, vflip, {rotate: 90} and {scale: 1.1}, or be {random: 5}"
            )
        return self

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run; `rotate` was added later and is left out where not set."""
        settings: dict[str, JsonValue] = self.model_dump(mode="json", exclude=set() if self.rotate else {"rotate"})
        return settings


class Experiment(Strict):
    name: str = Field(description="letters, digits, '_', '.' and '-'; default: the file's name without .yaml")
    task: Literal["gate", "mask"]
    model: Model
    input: Input
    data: Data = Data()
    sampling: Sampling = Sampling()
    augment: list[Augment] = []
    loss: dict[LossName, Positive | LossPart] = Field(min_length=1)
    class_weights: dict[str, Positive] = Field(
        {}, description="weight of each class in the loss; default: 1 for each class that is not named"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gate_loss: Positive = Field(0.2, description="weight of the cross-entropy on model.gate_head")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    freeze: Freeze | None = None
    epochs: Count
    hours: Positive | None = Field(None, description="stop in time to save the state; the next call resumes")
    batch: Batch = Batch()
    monitor: Literal["auc", "dice", "dice_positives"] = Field(
        description="score that chooses epochs; default: auc for gates, dice for masks"
    )
    checkpoints: Checkpoints = Checkpoints()
    tta: list[View] = []
    tta_apart: bool = Field(
        False, description="also keep the out-of-fold maps of each view, for 'mask.weights: tuned' to weight separately"
    )
    seed: Seed = 0
    runtime: Runtime = Runtime()
    tracking: Tracking = Tracking()
    search: Search | None = Field(None, description="what `gatemask search` varies; default: nothing")
    quick: dict[str, JsonValue] = {}

    @field_validator("name")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if fault := experiment_name_fault(name):
            raise ValueError(fault)
        return name

    @model_validator(mode="before")
    @classmethod
    def _monitor_default(cls, value: object) -> object:
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
        if gate and self.class_weights and not self.model.per_class:
            raise ValueError("'class_weights' of a gate require model.per_class: true")
        if gate != (self.monitor == "auc"):
            raise ValueError(f"a {self.task} experiment cannot monitor '{self.monitor}'")
        if self.label_smoothing and not set(self.loss) & set(CROSS_ENTROPIES):
            raise ValueError(f"label_smoothing applies to {', '.join(CROSS_ENTROPIES)}; the loss has none of them")
        if any(view.random for view in self.tta) and not self.augment:
            raise ValueError("random views in 'tta' are drawn from 'augment', which is empty")
        if self.tta_apart and (gate or not self.tta or any(view.random or (view.scale or 1) > 1 for view in self.tta)):
            raise ValueError("'tta_apart' requires masks, and views of the entire image: no zoom, no random views")
        for name, part in self.loss.items():
            given = part.model_dump(exclude={"weight"}, exclude_none=True) if isinstance(part, LossPart) else {}
            if wrong := sorted(set(given) - set(LOSS_OPTIONS.get(name, ()))):
                raise ValueError(f"the loss '{name}' has no option '{wrong[0]}'")
        if gate and self.input.crop:
            raise ValueError("input.crop belongs to mask networks: a crop of a positive image may show no mask")
        height, width = self.input.shape
        if fault := ENCODERS[self.model.encoder].family.size_fault(height, width):
            raise ValueError(f"the encoder '{self.model.encoder}' {fault}")
        if height != width and any(step.turn for step in self.augment):
            raise ValueError(f"'turn' requires a square input, not {height} x {width}: use hflip and vflip")
        if height != width and any(view.rotate in (90, 270) for view in self.tta):
            raise ValueError(f"views with 'rotate: 90' require a square input, not {height} x {width}: use rotate: 180")
        if self.optimizer.name == "schedulefreeadamw" and self.schedule.name != "constant":
            raise ValueError(
                f"schedulefreeadamw requires schedule.name: constant, warm-up or not; not '{self.schedule.name}'"
            )
        if self.freeze and self.freeze.epochs >= self.epochs:
            raise ValueError(f"freeze.epochs is {self.freeze.epochs} of {self.epochs}: nothing would be unfrozen")
        return self

    @property
    def has_soft_masks(self) -> bool:
        """Whether a mask network trains on shares: masks of its training batches then reach from 0 to 255."""
        return self.task == "mask" and any(step.mixup for step in self.augment)

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that decide the outcome of a run: all but time limits, machine and tracking."""
        settings: dict[str, JsonValue] = self.model_dump(
            mode="json",
            exclude={"quick": True, "search": True, "tracking": True, "hours": True, "checkpoints": {"steps"}},
        )
        settings["runtime"] = {"precision": self.runtime.precision}
        # Added later: fingerprints of older runs must stay valid.
        settings["loss"] = {
            str(name): part.settings if isinstance(part, LossPart) else part for name, part in self.loss.items()
        }
        settings["optimizer"] = self.optimizer.settings
        if self.schedule.per == "epoch":
            settings["schedule"] = self.schedule.model_dump(mode="json", exclude={"per"})
        if not self.data.extra:
            del settings["data"]
        settings["input"] = self.input.settings
        settings["augment"] = [step.settings for step in self.augment]
        settings["tta"] = [view.settings for view in self.tta]
        if not self.class_weights:
            del settings["class_weights"]
        if not self.tta_apart:
            del settings["tta_apart"]
        settings["model"] = self.model.settings
        return settings
