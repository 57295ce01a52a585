"""Keys of an experiment YAML, with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gatemask.config.base import Count, Positive, Seed, Share, Size, Strict
from gatemask.config.encoders import ENCODERS
from gatemask.config.names import (
    CROSS_ENTROPIES,
    LOSS_OPTIONS,
    Architecture,
    Encoder,
    LossName,
    OptimizerName,
    ScheduleName,
)


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
        if self.weights == "noisy-student" and self.weights not in ENCODERS[self.encoder].weights:
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
    found = [name for name in ENCODERS if name in word]
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
        if gate and (shapes := [name for name in self.loss if name not in CROSS_ENTROPIES]):
            raise ValueError(f"'{shapes[0]}' is a loss for masks; a gate takes {' or '.join(CROSS_ENTROPIES)}")
        if gate != (self.monitor == "auc"):
            raise ValueError(f"a {self.task} experiment cannot monitor '{self.monitor}'")
        if not gate and (
            mixed := [name for step in self.augment for name in ("mixup", "cutmix") if getattr(step, name)]
        ):
            raise ValueError(f"'{mixed[0]}' mixes labels and belongs to gates")
        if self.label_smoothing and not set(self.loss) & set(CROSS_ENTROPIES):
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
