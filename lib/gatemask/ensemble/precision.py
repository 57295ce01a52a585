"""Half precision against float32, on out-of-fold images: does the submission stay what was tuned?

Each member sees images of the fold that it never trained on, once in either precision. What counts is what comes out in
the end: the masks under the shipped rule, and their Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition
from gatemask.console import say
from gatemask.data.labels import Masks
from gatemask.data.split import pick_half_positive, read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.inference import networks
from gatemask.inference.images import DecodedImage, InputSize, stack_images
from gatemask.masks import rule as rules
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import Rule
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble, ShippedMember

IMAGES = 16  # of each fold, half of them with a mask
TOLERATED = 0.002  # of Dice, that half precision may cost

DEVICES = {"NvidiaTeslaT4": "gpu", "none": "cpu"}


def check(
    project: Project, comp: Competition, chosen: ShippedEnsemble, weights: Path, wanted: str
) -> dict[str, Any] | None:
    """Compare the precision that the kernel will run in with float32.

    Args:
        project, comp: records, folds and truth.
        chosen: ensemble.yaml.
        weights: folder of the members' weights.
        wanted: `inference.precision`.

    Returns:
        precision, images, dice, dice_float32, map_difference (the largest, of 255), pixels_changed (share); None where
        the kernel will run in float32 anyway.

    Raises:
        GatemaskError: it costs more Dice than is tolerated.
    """
    precision = networks.precision_for(wanted, DEVICES[comp.kaggle.inference])
    if precision == "float32" or len(comp.classes) > 1:  # of several classes there are no records
        return None
    say(f"{precision} against float32, on out-of-fold images")
    rule, truth = Rule(**chosen.class_rules[0].model_dump()), Masks(project.data / "masks.csv", comp.image.size)
    folds = sorted({member.fold for member in chosen.mask})
    parts = [_of_fold(project, comp, chosen, weights, fold, precision, rule, truth) for fold in folds]
    scores, changed, far = (np.concatenate([part[n] for part in parts]) for n in range(3))
    exact, half = (float(mean) for mean in scores.mean(axis=0))
    if half < exact - TOLERATED:
        raise GatemaskError(
            f"Under {precision} the masks are not what was tuned.",
            where="ensemble.yaml, inference.precision",
            received=f"Dice {half:.4f} on {len(scores)} out-of-fold images",
            expected=f"at least {exact - TOLERATED:.4f}, {TOLERATED} below float32",
            do="Set inference.precision: float32.",
        )
    return {
        "precision": precision,
        "images": len(scores),
        "dice": half,
        "dice_float32": exact,
        "map_difference": int(far.max()),
        "pixels_changed": float(changed.mean()),
    }


def _of_fold(
    project: Project,
    comp: Competition,
    chosen: ShippedEnsemble,
    weights: Path,
    fold: int,
    precision: str,
    rule: Rule,
    truth: Masks,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dice in float32 and in `precision` (n, 2), the share of pixels that change (n,), the maps' difference (n,)."""
    ids = _ids(project, fold)
    gates, masks = ([member for member in members if member.fold == fold] for members in (chosen.gate, chosen.mask))
    both = []
    for one in ("float32", precision):
        probabilities = _said(project, comp, gates, weights, ids, one) if gates else [np.ones((len(ids), 1))]
        shares = [member.weight for member in gates] or [1.0]
        gate = np.average([said[:, 0] for said in probabilities], axis=0, weights=shares)
        maps = [rules.as_uint8(said) for said in _said(project, comp, masks, weights, ids, one)]
        averaged = [
            rules.average_maps([of[n] for of in maps], [member.weight for member in masks]) for n in range(len(ids))
        ]
        full = [np.ascontiguousarray(rules.resize_map(small, comp.image.size)[:, :, 0]) for small in averaged]
        both.append((full, [rules.apply_rule(rule, float(g), f) for g, f in zip(gate, full, strict=True)]))
    (before, exact), (after, half) = both
    scores = [
        [dice_of_masks(truth[i], e), dice_of_masks(truth[i], h)] for i, e, h in zip(ids, exact, half, strict=True)
    ]
    changed = [float((e != h).mean()) for e, h in zip(exact, half, strict=True)]
    far = [int(np.abs(b.astype(np.int16) - a).max()) for b, a in zip(before, after, strict=True)]
    return np.array(scores), np.array(changed), np.array(far)


def _ids(project: Project, fold: int) -> list[str]:
    """Validation images of a fold: half of them with a mask, where there are as many."""
    frame, labels = read_folds(project), read_manifest(project, "train").set_index("image_id")["label"]
    ids = frame["image_id"][frame["fold"] == fold].to_numpy()
    return [str(image_id) for image_id in ids[pick_half_positive(labels[ids], IMAGES)]]


def _said(
    project: Project, comp: Competition, members: Sequence[ShippedMember], weights: Path, ids: list[str], precision: str
) -> list[np.ndarray]:
    """What each member says of the images, as its own records hold them."""
    from gatemask.builders.prediction import build_views, predict_averaged
    from gatemask.data import records
    from gatemask.input.decoding import decode_example

    loaded = networks.load_members(members, weights, 1, comp.image.channels, precision)
    found = []
    for member in members:
        encoded = records.read_records(project.records(member.records), ids)
        shown = [decode_example(one, comp.image.channels, with_mask=False).image for one in encoded]
        images = [DecodedImage(i, {member.records: pixels}) for i, pixels in zip(ids, shown, strict=True)]
        batch = stack_images(images, InputSize(member.records, member.size))
        seen = build_views(member.tta, member.augment, member.size, member.view_weights)
        found.append(predict_averaged(loaded[member.name], batch, seen))
    return found
