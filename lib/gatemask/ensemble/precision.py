"""Compare half precision with float32 on out-of-fold images: does the submission stay what was tuned?

Each member predicts images of its own validation fold, once in either precision. What counts is the outcome: the masks
under the shipped rule, and their Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatemask.config import Competition
from gatemask.console import say
from gatemask.data.split import pick_half_positive, read_folds, read_manifest
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.inference import networks
from gatemask.inference.images import DecodedImage, InputSize, stack_images
from gatemask.masks import rule as rules
from gatemask.masks.frame import resize_map
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import Rule
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble, ShippedMember
from gatemask.results.submission import PrecisionComparison

IMAGES = 16  # per fold, half of them with a mask
TOLERATED = 0.002  # Dice that half precision may cost
FLOAT32 = "float32"

DEVICES = {"NvidiaTeslaT4": "gpu", "none": "cpu"}


@dataclass(frozen=True)
class _Decision:
    """The enlarged map and the final mask of one image in one precision."""

    map: np.ndarray
    mask: np.ndarray


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
    precision = networks.precision_for(wanted, DEVICES[comp.kaggle.inference])
    if precision == FLOAT32 or len(comp.classes) > 1:  # several classes have no records
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
    ids = _validation_images(project, fold)
    truth = Masks.of(project, comp)
    before = _decide(project, comp, shipped, weights, fold, ids, FLOAT32)
    after = _decide(project, comp, shipped, weights, fold, ids, precision)
    return [
        _Comparison(
            dice_float32=dice_of_masks(truth[name][:, :, 0], exact.mask),
            dice=dice_of_masks(truth[name][:, :, 0], half.mask),
            pixels_changed=float((exact.mask != half.mask).mean()),
            map_difference=int(np.abs(exact.map.astype(np.int16) - half.map).max()),
        )
        for name, exact, half in zip(ids, before, after, strict=True)
    ]


def _decide(
    project: Project,
    comp: Competition,
    shipped: ShippedEnsemble,
    weights: Path,
    fold: int,
    ids: Sequence[str],
    precision: str,
) -> list[_Decision]:
    """Decide the masks of some images with the members of one fold."""
    rule = Rule(**shipped.class_rules[0].model_dump())
    gates, masks = ([member for member in kind if member.fold == fold] for kind in (shipped.gate, shipped.mask))
    probabilities = _predict(project, comp, gates, weights, ids, precision) if gates else [np.ones((len(ids), 1))]
    gate_shares = [member.weight for member in gates] or [1.0]
    gate = np.average([predicted[:, 0] for predicted in probabilities], axis=0, weights=gate_shares)
    maps = [rules.as_uint8(predicted) for predicted in _predict(project, comp, masks, weights, ids, precision)]
    decisions = []
    for index in range(len(ids)):
        averaged = rules.average_maps([of_member[index] for of_member in maps], [member.weight for member in masks])
        full = np.ascontiguousarray(resize_map(averaged, comp.image.size)[:, :, 0])
        decisions.append(_Decision(full, rules.apply_rule(rule, float(gate[index]), full)))
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
    ids: Sequence[str],
    precision: str,
) -> list[np.ndarray]:
    """Return each member's predictions of the images as its own records hold them."""
    from gatemask.builders.prediction import build_views, predict_averaged
    from gatemask.data import records
    from gatemask.input.decoding import decode_example
    from gatemask.input.layout import Layout

    loaded = networks.load_members(members, weights, 1, comp.image.channels, precision)
    predictions = []
    for member in members:
        encoded = records.read_records(project.records(member.records), list(ids))
        pixels = [decode_example(example, Layout.of(comp), with_mask=False).image for example in encoded]
        images = [DecodedImage(name, {member.records_shape: image}) for name, image in zip(ids, pixels, strict=True)]
        batch = stack_images(images, InputSize.of(member))
        views = build_views(member.tta, member.augment, member.size, member.view_weights)
        predictions.append(predict_averaged(loaded[member.name], batch, views))
    return predictions
