"""Names of builders and metrics that a YAML may use: the only list of each.

The schema validates against these lists, so that a misspelled name is rejected before anything heavy is imported.
Builders and metrics look up the function or class of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from gatemask.config.encoders import ENCODERS

# In tables and figures each metric is shown under its title.
METRIC_TITLES = {
    "mean_dice": "Dice",
    "dice_positives": "Dice of positives",
    "global_dice": "global Dice",
    "mean_iou": "IoU",
    "mean_precision": "mean precision over IoU",
    "pixel_f05": "pixel F0.5",
    "pixel_f2": "pixel F2",
    "object_precision": "mean precision of objects over IoU",
    "panoptic_quality": "panoptic quality",
    "surface_dice": "surface Dice",
    "dice_hausdorff": "Dice and Hausdorff distance",
}


def metric_title(metric: str) -> str:
    """Return the title of a metric in tables and figures; that of the user's own is its function's name.

    >>> metric_title("mean_dice"), metric_title("mine:score")
    ('Dice', 'score')
    """
    return METRIC_TITLES.get(metric) or metric.rsplit(":", 1)[-1]


# Computed from pixel counts, so threshold tables cover them; the others look at whole masks.
COUNTED_METRICS = ("mean_dice", "dice_positives", "global_dice", "mean_iou", "mean_precision", "pixel_f05", "pixel_f2")
OBJECT_METRICS = ("object_precision", "panoptic_quality")

Architecture = Literal["gate", "unet", "unetpp", "fpn", "linknet", "upernet", "segformer", "deeplabv3plus"]
MASK_NETWORKS = tuple(name for name in get_args(Architecture) if name != "gate")
DEFAULT_FILTERS = (256, 128, 64, 32, 16)  # of U-Net and U-Net++, deepest first
DEFAULT_WIDTH = 256
LossName = Literal["bce", "focal", "topk", "dice", "dice_batch", "tversky", "focal_tversky", "lovasz", "cldice"]
# Sums over pixels; topk ranks pixels, and the others compare shapes, so gates can use none of those.
CROSS_ENTROPIES: tuple[LossName, ...] = ("bce", "focal", "topk")
GATE_LOSSES: tuple[LossName, ...] = ("bce", "focal")
LOSS_OPTIONS: dict[LossName, tuple[str, ...]] = {
    "focal": ("gamma",),
    "topk": ("share",),
    "tversky": ("alpha", "beta"),
    "focal_tversky": ("alpha", "beta", "gamma"),
    "cldice": ("iterations",),
}
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
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "schedulefreeadamw",
    "sgd",
]
ScheduleName = Literal["constant", "cosine", "plateau", "warmup_hold_decay"]
# Options of a section that only some of its names have; all others belong to every name.
OPTIONS_OF_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {
        "block": ("unet", "unetpp", "linknet"),
        "filters": ("unet", "unetpp", "linknet"),
        "width": ("upernet", "segformer", "deeplabv3plus"),
        "attention": ("unet", "unetpp"),
        "output_stride": ("unet", "unetpp", "fpn", "linknet"),
        "deep_supervision": MASK_NETWORKS,
        "gate_head": MASK_NETWORKS,
        "per_class": ("gate",),
    },
    "optimizer": {"momentum": ("sgd", "rmsprop"), "nesterov": ("sgd",)},
    "schedule": {
        "per": ("constant", "cosine", "warmup_hold_decay"),
        "decay": ("warmup_hold_decay",),
        "cycle": ("cosine",),
        "grow": ("cosine",),
        "restart": ("cosine",),
        "patience": ("plateau",),
        "factor": ("plateau",),
        "min_delta": ("plateau",),
    },
}

if TYPE_CHECKING:  # type checkers cannot read a Literal from a table
    Encoder = str
else:
    Encoder = Literal[tuple(ENCODERS)]
