"""Plan experiments for the data and the machine: sizes, tiles, batches, epochs.

The idea is nnU-Net's (Isensee et al. 2021, "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation"): what the data demand is measured, what the memory allows is computed, and the rest is fixed. Objects
should be some pixels wide in the network's input; the input should fit into the memory with a batch that is not too
small; and training lasts a given number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, sqrt

from gatemask.new.images import ImageFacts, Size
from gatemask.new.masks import LabelFacts

STEP = 32  # encoders halve five times
# Side of a small object in the input, in pixels, from which a network can draw its outline.
DRAWN = {"quick": 8, "good": 12, "strong": 20}
LEAST = {"quick": 64, "good": 384, "strong": 512}
MOST = {"quick": 128, "good": 768, "strong": 1024}
TILE, OVERLAP = 512, 64
SCALES = (0.25, 0.5)
TILED_OBJECT = 12  # pixels of a small object in a tile, at least
WIDE = 1.25  # from this aspect ratio on, inputs are oblong; from this spread of ratios on, images are padded


@dataclass(frozen=True)
class Machine:
    """A machine for training.

    Args:
        name: Name for people.
        gigabytes: Memory of one device, in GB.
        value: Bytes of a value in memory.
    """

    name: str
    gigabytes: float
    value: int


T4 = Machine("a T4", 15, 4)
TPU = Machine("a TPU v5e-8", 16, 2)


@dataclass(frozen=True)
class Network:
    """A mask network and the gate beside it.

    Args:
        encoder: Encoder of the mask network.
        gate: Encoder of the gate.
        parameters: Number of parameters, in millions.
        outputs: Values that the layers output for each pixel of the input.
    """

    encoder: str
    gate: str
    parameters: float
    outputs: float


# Counted by `gatemask plan`.
NETWORKS = {
    "quick": Network("efficientnetb0", "resnet18", 10.1, 796),
    "good": Network("efficientnetb3", "efficientnetb2", 17.9, 1250),
    "strong": Network("efficientnetb5", "efficientnetb4", 37.5, 1994),
}
# The quick networks on two cores: seconds for each pixel of an image, trained and predicted.
TRAIN_S, PREDICT_S = 7.4e-6, 1.5e-6
EPOCHS, ENOUGH_EPOCHS = (40, 30, 24, 20, 16, 14, 12, 8, 6, 5, 4), 8
SEEN = 5  # pixels of a small object in the input of a quick experiment, at least
BUDGET_S = {"mask": 760, "gate": 254}  # all folds of a quick experiment
SAMPLES = {"good": 60_000, "strong": 120_000}  # images that a training sees


@dataclass(frozen=True)
class Experiment:
    """Settings of one experiment.

    Args:
        encoder: Name of the encoder.
        input: Side of the input, or height and width, in pixels.
        batch: Images per device.
        epochs: Number of epochs.
        epoch: Images of an epoch; None for all.
        why: Reason for size and batch.
    """

    encoder: str
    input: int | Size
    batch: int
    epochs: int
    epoch: int | None
    why: str


@dataclass(frozen=True)
class Frames:
    """How images become the input of networks.

    Args:
        records: Side of the records, or height and width; None where tiles set it.
        tiles: Section `tiles`; None for whole images.
        fit: Value of image.fit.
        why: Reason for tiles or for their absence.
        why_fit: Reason for the fit.
        per_image: Records of a typical image.
    """

    records: int | Size | None
    tiles: dict[str, float | int] | None
    fit: str
    why: str
    why_fit: str
    per_image: int = 1


def plan_frames(images: ImageFacts, labels: LabelFacts) -> Frames:
    """Return how images become the input of networks."""
    side = _side(images.typical)
    object_side, share = labels.stats.side, labels.stats.share
    fit, why_fit = _fit(images)
    wanted = TILED_OBJECT / share if share else 0.0
    measured = f"a small object has {object_side:.0f} px, {share:.1%} of the image's side"
    if max(images.largest) > MOST["strong"] and wanted > MOST["strong"]:
        scale = next((one for one in SCALES if object_side * one >= TILED_OBJECT), 1.0)
        if side * scale > 1.5 * TILE:
            tiles: dict[str, float | int] = {"size": TILE, "overlap": OVERLAP}
            if scale < 1:
                tiles["scale"] = scale
            step = TILE - OVERLAP
            count = ceil(max(1, (images.typical[0] * scale - OVERLAP) / step)) * ceil(
                max(1, (images.typical[1] * scale - OVERLAP) / step)
            )
            why = f"{measured}: reduced to {MOST['strong']} px it would be too small to draw"
            return Frames(None, tiles, "stretch", why, why_fit, count)
    strong = input_side("strong", images, labels)
    largest = min(strong, _up(side)) if side > STEP else strong
    return Frames(_shaped(largest, images, fit), None, fit, measured, why_fit)


def input_side(plan: str, images: ImageFacts, labels: LabelFacts) -> int:
    """Return the side of an input of the shape of a square, in pixels.

    Args:
        plan: "quick", "good" or "strong".
        images: Facts about the images.
        labels: Facts about the labels.
    """
    side, share = _side(images.typical), labels.stats.share
    wanted = DRAWN[plan] / share if share else 0.0
    wanted = min(max(wanted, LEAST[plan]), MOST[plan])
    # More pixels than the image has help little; of small images, networks see more if they are enlarged.
    own = _up(side) * (2 if plan == "strong" and side <= LEAST["quick"] * 2 else 1)
    return max(2 * STEP, min(_up(wanted), own))


def plan_experiment(
    plan: str, task: str, images: ImageFacts, labels: LabelFacts, frames: Frames, folds: int
) -> Experiment:
    """Return the settings of an experiment.

    Args:
        plan: "quick", "good" or "strong".
        task: "mask" or "gate".
        images: Facts about the images.
        labels: Facts about the labels.
        frames: How images become inputs.
        folds: Number of folds.
    """
    network = NETWORKS[plan]
    encoder = network.encoder if task == "mask" else network.gate
    samples = max(1, images.count * frames.per_image * (folds - 1) // folds)
    size = _input(plan, images, labels, frames)
    if plan == "quick":
        return _quick(task, encoder, _quick_sizes(size, images, labels, frames), samples, folds)
    pixels = _pixels(size)
    machine = T4 if plan == "good" else TPU
    outputs = network.outputs if task == "mask" else 0.6 * network.outputs  # a gate has no decoder
    weights = network.parameters * 1e6 * 4 * 4  # weights, gradients, two moments of the optimizer
    free = 0.8 * machine.gigabytes * 1e9 - weights
    fits = int(free / (outputs * machine.value * pixels))
    batch = max(1, min(16, samples // 16, 2 ** max(0, fits.bit_length() - 1)))
    epochs = min(max(round(SAMPLES[plan] / samples), 15), 80)
    epoch = None if samples * epochs <= 4 * SAMPLES[plan] else 4 * SAMPLES[plan] // epochs
    filled = (batch * outputs * machine.value * pixels + weights) / (machine.gigabytes * 1e9)
    why = f"{_text(size)} px; {batch} images fill the memory of {machine.name} to {filled:.0%}"
    return Experiment(encoder, size, batch, epochs, epoch, why)


def _quick(task: str, encoder: str, sizes: list[int | Size], samples: int, folds: int) -> Experiment:
    """Return an experiment that two cores finish in minutes: of the sizes, the first that leaves enough epochs."""
    validated = samples / max(1, folds - 1)
    a_fold = BUDGET_S[task] / folds * (2 if task == "gate" else 1)  # a gate has no decoder
    size, epochs = sizes[-1], EPOCHS[-1]
    for size in sizes:
        a_pass = _pixels(size) * (samples * TRAIN_S + validated * PREDICT_S)
        epochs = next((count for count in EPOCHS if count * a_pass <= a_fold), EPOCHS[-1])
        if epochs >= ENOUGH_EPOCHS:
            break
    left = a_fold / epochs / _pixels(size) - validated * PREDICT_S
    epoch = None if samples * TRAIN_S <= left else max(64, int(left / TRAIN_S) // 16 * 16)
    epoch = epoch if epoch is None or epoch < samples else None
    batch = 16 if samples >= 200 else 8 if samples >= 60 else 4
    return Experiment(encoder, size, batch, epochs, epoch, f"{_text(size)} px, for two cores within minutes")


def _quick_sizes(largest: int | Size, images: ImageFacts, labels: LabelFacts, frames: Frames) -> list[int | Size]:
    """Return sizes to try, in which a small object has some pixels at least."""
    if frames.tiles is not None:
        return [largest]
    share = labels.stats.share
    sides = range(input_side("quick", images, labels), LEAST["quick"] - 1, -STEP)
    kept = [side for side in sides if side * share >= SEEN] or [max(sides, default=LEAST["quick"])]
    return [_shaped(side, images, frames.fit) for side in kept]


def _pixels(size: int | Size) -> int:
    return size * size if isinstance(size, int) else size[0] * size[1]


def _input(plan: str, images: ImageFacts, labels: LabelFacts, frames: Frames) -> int | Size:
    if frames.tiles is not None:
        if plan != "quick":
            return TILE
        side = labels.stats.side * float(frames.tiles.get("scale", 1.0))
        return TILE // 4 if side / 4 >= DRAWN["quick"] else TILE // 2
    return _shaped(input_side(plan, images, labels), images, frames.fit)


def _fit(images: ImageFacts) -> tuple[str, str]:
    low, high = images.aspects
    if high / low > WIDE:
        return "pad", f"width is {low:.2f} to {high:.2f} of height: stretching would distort images differently"
    return "stretch", "all images have (nearly) the same shape"


def _shaped(side: int, images: ImageFacts, fit: str) -> int | Size:
    """Return a size of about the area of a square, in the shape of the images; both sides are multiples of STEP."""
    height, width = images.typical
    aspect = width / height
    if fit == "pad" or 1 / WIDE < aspect < WIDE:
        return side
    sides = [STEP * number for number in range(1, 2 + int(side * max(sqrt(aspect), 1 / sqrt(aspect)) * 1.5) // STEP)]

    def misfit(size: Size) -> float:
        return abs(log(size[1] / size[0] / aspect)) + abs(log(size[0] * size[1] / side**2)) / 2

    rows, columns = min(((height, width) for height in sides for width in sides), key=misfit)
    return side if rows == columns else (rows, columns)


def _side(size: Size) -> float:
    return sqrt(size[0] * size[1])


def _up(side: float) -> int:
    return ceil(side / STEP) * STEP


def _text(size: int | Size) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"


def plan_folds(images: int, groups: int | None) -> int:
    """Return the number of folds: more of them train on more images, but take longer.

    Args:
        images: Number of images.
        groups: Number of groups; None if unknown.
    """
    wanted = 4 if images < 300 else 3
    return max(2, min(wanted, (groups or 2 * wanted) // 2, images // 4))
