"""Compare half precision with float32 on out-of-fold images: does the submission stay what was tuned?

Each member predicts images of its own validation fold, or tiles of them, once in either precision. What counts is the
outcome: the masks under the shipped rules, and their Dice, averaged over classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition
from gatemask.config.machines import machine
from gatemask.console import say
from gatemask.data.split import pick_half_positive, read_folds, read_manifest
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.inference import networks
from gatemask.inference.images import DecodedImage, InputSize, stack_images
from gatemask.masks import rule as rules
from gatemask.masks.frame import HALF, comp_frame, resize_map, restore_map
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule_files import of_values
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble, ShippedMember
from gatemask.results.submission import PrecisionComparison

IMAGES = 16  # per fold, half of them with a mask
TOLERATED = 0.002  # Dice that half precision may cost
FLOAT32 = "float32"


@dataclass(frozen=True)
class _Decision:
    """The enlarged map, (height, width, outputs), and the masks, (height, width, classes), in one precision."""

    map: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class _Comparison:
    """One image in both precisions."""

    dice_float32: float
    dice: float
    pixels_changed: float
    map_difference: int


def check_precision(
    project: Project, comp: Competition, shipped: ShippedEnsemble, weights: Path, wanted: str
) -> PrecisionComparison | None:
    """Compare the precision of the kernel with float32.

    Args:
        project: Project with records, folds and truth.
        comp: Image size, channels, and the kernel's device.
        shipped: Members and rule.
        weights: Folder of the members' weights.
        wanted: Setting `inference.precision`.

    Returns:
        The comparison; None where the kernel runs in float32 anyway.

    Raises:
        GatemaskError: Half precision costs more Dice than is tolerated.
    """
    precision = networks.precision_for(wanted, machine(comp.kaggle.inference).kind)
    if precision == FLOAT32:
        return None
    say(f"{precision} against float32, on out-of-fold images")
    folds = sorted({member.fold for member in shipped.mask})
    images = [image for fold in folds for image in _compare_fold(project, comp, shipped, weights, fold, precision)]
    exact = float(np.mean([image.dice_float32 for image in images]))
    half = float(np.mean([image.dice for image in images]))
    if half < exact - TOLERATED:
        raise GatemaskError(
            f"Masks in {precision} are worse than those that were tuned.",
            where="ensemble.yaml, inference.precision",
            received=f"Dice {half:.4f} on {len(images)} out-of-fold images",
            expected=f"at least {exact - TOLERATED:.4f}, {TOLERATED} below float32",
            do="Set inference.precision: float32.",
        )
    return PrecisionComparison(
        precision=precision,
        images=len(images),
        dice=half,
        dice_float32=exact,
        map_difference=max(image.map_difference for image in images),
        pixels_changed=float(np.mean([image.pixels_changed for image in images])),
    )


def _compare_fold(
    project: Project, comp: Competition, shipped: ShippedEnsemble, weights: Path, fold: int, precision: str
) -> list[_Comparison]:
    pieces = _pieces(project, comp, _validation_images(project, fold))
    before = _decide(project, comp, shipped, weights, fold, pieces, FLOAT32)
    after = _decide(project, comp, shipped, weights, fold, pieces, precision)
    return [
        _Comparison(
            dice_float32=_mean_dice(piece.truth, exact.masks),
            dice=_mean_dice(piece.truth, half.masks),
            pixels_changed=float((exact.masks != half.masks).mean()),
            map_difference=int(np.abs(exact.map.astype(np.int16) - half.map).max()),
        )
        for piece, exact, half in zip(pieces, before, after, strict=True)
    ]


def _mean_dice(truth: np.ndarray, masks: np.ndarray) -> float:
    return float(np.mean([dice_of_masks(truth[:, :, index], masks[:, :, index]) for index in range(truth.shape[2])]))


class _Piece(NamedTuple):
    """A validation image, or a tile of one.

    Args:
        image_id: Id of the image.
        place: Number of the tile among the records of the image; 0 of an image that is not cut.
        size: Height and width of the image, in pixels.
        truth: bool (height, width, classes), at the scoring size; of a tile, at the size of its record.
    """

    image_id: str
    place: int
    size: tuple[int, int]
    truth: np.ndarray


def _pieces(project: Project, comp: Competition, ids: Sequence[str]) -> list[_Piece]:
    """Return what is compared: the images, or of large ones as many tiles, half of them with a mask."""
    if comp.tiles is None:
        truth = Masks.of(project, comp)
        return [_Piece(name, 0, truth.image_size(name), truth[name]) for name in ids]
    from gatemask.data import records
    from gatemask.input.decoding import decode_example
    from gatemask.input.layout import Layout

    layout, classes = Layout.of(comp), len(comp.classes)
    examples = records.read_records(project.records(comp.records.size), list(ids))
    seen: Counter[str] = Counter()
    places = []
    for example in examples:
        places.append(seen[example.image_id])
        seen[example.image_id] += 1
    chosen = pick_half_positive([int(example.label != 0) for example in examples], IMAGES).tolist()
    pieces = []
    for index in chosen:
        planes = decode_example(examples[index], layout).mask
        assert planes is not None
        mask = np.moveaxis(planes[:classes] >= HALF, 0, 2)
        pieces.append(_Piece(examples[index].image_id, places[index], mask.shape[:2], mask))
    return pieces


def _decide(
    project: Project,
    comp: Competition,
    shipped: ShippedEnsemble,
    weights: Path,
    fold: int,
    pieces: Sequence[_Piece],
    precision: str,
) -> list[_Decision]:
    """Decide the masks of some images, or tiles, with the members of one fold."""
    rules_of_classes = of_values(shipped.class_rules)
    gates, masks = ([member for member in kind if member.fold == fold] for kind in (shipped.gate, shipped.mask))
    shape = len(pieces), len(comp.classes)
    probabilities = _predict(project, comp, gates, weights, pieces, precision) if gates else [np.ones(shape)]
    gate_shares = [member.weight for member in gates] or [1.0]
    average = np.average([np.broadcast_to(values, shape) for values in probabilities], axis=0, weights=gate_shares)
    gate = rules.gate_scores(rules_of_classes, average, [f"{piece.image_id}/{piece.place}" for piece in pieces])
    maps = [rules.as_uint8(predicted) for predicted in _predict(project, comp, masks, weights, pieces, precision)]
    decisions = []
    for index, piece in enumerate(pieces):
        averaged = rules.average_maps([of_member[index] for of_member in maps], [member.weight for member in masks])
        size = piece.truth.shape[0], piece.truth.shape[1]
        whole = comp.tiles is None
        full = restore_map(averaged, comp_frame(comp), piece.size, size) if whole else resize_map(averaged, size)
        if comp.objects is None:
            decided = rules.decide(rules_of_classes, gate[index], full, comp.exclusive)
        else:
            decided = rules.decide_objects(rules_of_classes, gate[index], full, comp.exclusive) > 0
        decisions.append(_Decision(full, decided))
    return decisions


def _validation_images(project: Project, fold: int) -> list[str]:
    """Return ids of validation images of a fold, half of them with a mask where there are enough."""
    frame, labels = read_folds(project), read_manifest(project, "train").set_index("image_id")["label"]
    ids = frame["image_id"][frame["fold"] == fold].to_numpy()
    return [str(image_id) for image_id in ids[pick_half_positive(labels[ids], IMAGES)]]


def _predict(
    project: Project,
    comp: Competition,
    members: Sequence[ShippedMember],
    weights: Path,
    pieces: Sequence[_Piece],
    precision: str,
) -> list[np.ndarray]:
    """Return each member's predictions of the images, or tiles, as its own records hold them."""
    from gatemask.builders.prediction import build_views, predict_averaged
    from gatemask.data import records
    from gatemask.input.decoding import decode_example
    from gatemask.input.layout import Layout

    classes, layout = len(comp.classes), Layout.of(comp)
    outputs = classes if members[0].task == "gate" else comp.outputs
    border = comp.outputs > classes
    loaded = networks.load_members(
        members, weights, outputs, comp.image.channels, precision, exclusive=comp.exclusive, border=border
    )
    ids = list(dict.fromkeys(piece.image_id for piece in pieces))
    predictions = []
    for member in members:
        by_id: dict[str, list[np.ndarray]] = {}
        for example in records.read_records(project.records(member.records), ids):
            pixels = decode_example(example, layout, with_mask=False).image
            by_id.setdefault(example.image_id, []).append(pixels)
        inputs = [
            DecodedImage(piece.image_id, {member.records_shape: by_id[piece.image_id][piece.place]}) for piece in pieces
        ]
        batch = stack_images(inputs, InputSize.of(member))
        views = build_views(member.tta, member.augment, member.size, member.view_weights)
        predictions.append(predict_averaged(loaded[member.name], batch, views))
    return predictions
