"""The decision rule: from a gate probability and a probability map to a mask.

An image is empty if its gate probability is below `gate`, or if fewer than `min_area` pixels of its map reach `upper`.
Otherwise its mask is every pixel that reaches `lower`, without connected components smaller than `min_component` and,
with `hysteresis`, without components in which no pixel reaches `upper`. Areas are counted at the competition's own
size: maps are averaged, resized, and only then thresholded, in tuning as in inference.

With `quantile`, the gate is a share of images instead of a probability: of all images that are decided together, such
as a test set, those pass whose gate probability is among the highest 1 - `gate`.

Every class has a rule of its own. `decide` is the way from a map to masks, in tuning as in inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from gatemask.errors import GatemaskError
from gatemask.masks.frame import resize_map
from gatemask.masks.objects import label_objects

LEVELS = 256
HALF = np.float32(0.501)  # the slack keeps a half a half despite float32 weights such as a tenth
FEW = 64  # up to this many components, searching each one's box is faster than one pass over all pixels


@dataclass(frozen=True)
class Rule:
    """Thresholds found by tuning.

    Args:
        gate: Lowest gate probability of an image with a mask, 0 to 1; with `quantile`, its lowest quantile.
        upper: Probability that at least `min_area` pixels must reach, 0 to 1.
        lower: Probability from which a pixel belongs to the mask, at most `upper`.
        min_area: Minimum area, in pixels at the competition's size.
        min_component: Size of the smallest connected component (8 neighbors) to keep, in pixels; 0 keeps all.
        hysteresis: Whether to keep only components with a pixel that reaches `upper`.
        split: Probability from which a pixel is part of a seed, where touching objects are split by a watershed; 0
            leaves them united. Only for competitions that score or list objects.
        quantile: Whether `gate` is compared with the image's quantile, from `gate_scores`. Default: False.

    Raises:
        GatemaskError: A value is out of range.

    >>> Rule(gate=0.5, upper=0.7, lower=0.4, min_area=100).by_component
    False
    """

    gate: float
    upper: float
    lower: float
    min_area: int
    min_component: int = 0
    hysteresis: bool = False
    split: float = 0.0
    quantile: bool = False

    @property
    def by_component(self) -> bool:
        """Whether the rule needs connected components, not only pixel counts."""
        return self.min_component > 0 or self.hysteresis

    def __post_init__(self) -> None:
        for name in ("gate", "upper", "lower", "split"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise GatemaskError(f"'{name}' of the rule is outside [0, 1].", received=value, expected="0 to 1")
        if self.lower > self.upper:
            raise GatemaskError("'lower' of the rule is above 'upper'.", received=f"{self.lower} > {self.upper}")
        for name in ("min_area", "min_component"):
            pixels = getattr(self, name)
            if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
                raise GatemaskError(
                    f"'{name}' must be a non-negative integer.", received=pixels, expected="pixels, such as 100"
                )
        for name in ("hysteresis", "quantile"):
            if not isinstance(getattr(self, name), bool):
                raise GatemaskError(f"'{name}' must be true or false.", received=getattr(self, name))


def without_components(rule: Rule) -> Rule:
    """Return the rule without what concerns components or objects: it decides by pixels alone.

    >>> without_components(Rule(0.5, 0.7, 0.4, 100, min_component=9, split=0.8)) == Rule(0.5, 0.7, 0.4, 100)
    True
    """
    return replace(rule, min_component=0, hysteresis=False, split=0.0)


def per_class(rules: Rule | Sequence[Rule], classes: int) -> Sequence[Rule]:
    """Return one rule per class; a single rule holds for all classes.

    >>> len(per_class(Rule(0.5, 0.7, 0.4, 100), 3))
    3
    """
    if isinstance(rules, Rule):
        return [rules] * classes
    if len(rules) != classes:
        raise ValueError(f"{len(rules)} rules for {classes} classes")
    return rules


def gate_scores(rules: Rule | Sequence[Rule], gates: np.ndarray, ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return what rules compare with their gate: probabilities, or quantiles among these images.

    Args:
        rules: One rule per class, or one for all.
        gates: Gate probabilities of all images that are decided together, float (n, classes).
        ids: Their ids, text (n,), each once; they decide between equal probabilities.

    Returns:
        float (n, classes), 0 to 1.

    >>> rule = Rule(gate=0.5, upper=0.5, lower=0.5, min_area=1, quantile=True)
    >>> gate_scores(rule, np.array([[0.1], [0.3], [0.3], [0.2]]), ["a", "b", "c", "d"])[:, 0].tolist()
    [0.125, 0.875, 0.625, 0.375]
    """
    by_class = per_class(rules, gates.shape[1])
    columns = [
        gate_quantiles(gates[:, index], ids) if rule.quantile else gates[:, index]
        for index, rule in enumerate(by_class)
    ]
    return np.stack(columns, axis=1)


def gate_quantiles(gates: np.ndarray, ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return the share of images below each image, half of the image itself included, float (n,).

    Ties are broken by id: the first one ranks highest. If all probabilities are equal, every image has the quantile 1.

    Args:
        gates: Gate probabilities, float (n,).
        ids: Ids of the images, text (n,).
    """
    n = len(gates)
    if n == 0 or (gates == gates[0]).all():
        return np.ones(n)
    order = np.lexsort((np.asarray(ids), -gates))
    quantiles = np.empty(n)
    quantiles[order] = (n - np.arange(n) - 0.5) / n
    return quantiles


def level(probability: float) -> int:
    """Return the smallest uint8 value that reaches a probability; maps store 255 for 1.

    The slack lets a threshold written with four digits mean the level it came from.

    >>> level(0.5), level(0.0), level(probability(77))
    (128, 1, 77)
    """
    return min(LEVELS, max(1, math.ceil(probability * 255 - 0.02)))


def probability(level: int) -> float:
    """Return the probability of a uint8 level, as the rule's YAML spells it: the inverse of `level`.

    >>> probability(128)
    0.502
    """
    return round(level / 255, 4)


def as_uint8(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities as maps store them: 0 to 255 for 0 to 1, rounded half up.

    >>> as_uint8(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    levels: np.ndarray = np.floor(probabilities * 255.0 + 0.5)
    return levels.astype(np.uint8)


def average_maps(maps: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Return the weighted mean of the members' maps, rounded half up.

    Maps of different sizes are first resized to the highest and widest. A member of weight 0 is ignored, its size
    included.

    Args:
        maps: uint8 (h, w, classes), one per member, all of the same frame.
        weights: One per member, at least one above 0. Default: equal weights.

    Returns:
        uint8 (h, w, classes).

    >>> average_maps([np.full((1, 1, 1), 10, np.uint8), np.full((1, 1, 1), 15, np.uint8)]).item()
    13
    """
    shares = [1.0] * len(maps) if weights is None else weights
    members = [(member, share) for member, share in zip(maps, shares, strict=True) if share > 0]
    if len(members) == 1:
        return members[0][0]
    size = max(member.shape[0] for member, _ in members), max(member.shape[1] for member, _ in members)
    total = np.zeros((*size, maps[0].shape[2]), np.float32)
    for member, share in members:
        total += np.float32(share) * resize_map(member, size)
    mean: np.ndarray = np.floor(total / np.float32(sum(shares)) + HALF)
    return mean.astype(np.uint8)


def apply_rule(rule: Rule, gate: float, full_map: np.ndarray) -> np.ndarray:
    """Return the mask of one image and class.

    Args:
        rule: Thresholds.
        gate: Gate probability of the image, or its quantile, as `gate_scores` returns it.
        full_map: uint8 (height, width), at the competition's size.

    Returns:
        bool (height, width).

    >>> rule = Rule(gate=0.5, upper=0.8, lower=0.4, min_area=1)
    >>> apply_rule(rule, 0.9, np.array([[0, 120, 250]], np.uint8)).tolist()
    [[False, True, True]]
    >>> apply_rule(rule, 0.1, np.array([[0, 120, 250]], np.uint8)).any().item()
    False
    """
    if gate < rule.gate or int((full_map >= level(rule.upper)).sum()) < rule.min_area:
        return np.zeros(full_map.shape, bool)
    mask: np.ndarray = full_map >= level(rule.lower)
    return keep_components(mask, full_map, rule) if rule.by_component else mask


def decide(
    rules: Sequence[Rule], gates: float | Sequence[float] | np.ndarray, full_map: np.ndarray, exclusive: bool = False
) -> np.ndarray:
    """Return the masks of one image, one per class: the only way from a map to masks.

    First each class claims its pixels: those of its map from `lower` on, if the image passes the gate and has enough
    pixels. Of a pixel that several exclusive classes claim, the likeliest keeps it; on a tie, the first. Then the
    components of what a class has left are kept or dropped.

    Args:
        rules: One rule per class.
        gates: Gate probability of the image, or its quantile, one per class or one for all; see `gate_scores`.
        full_map: uint8 (height, width, outputs), at the competition's size: the classes, and possibly borders between
            objects, which are not used here.
        exclusive: Whether a pixel belongs to at most one class. Default: False.

    Returns:
        bool (height, width, classes).

    >>> rules = [Rule(0.5, 0.4, 0.4, 1)] * 2
    >>> decide(rules, 1.0, np.array([[[130, 200]]], np.uint8), exclusive=True).tolist()
    [[[False, True]]]
    >>> decide(rules, [1.0, 0.2], np.array([[[130, 200]]], np.uint8), exclusive=True).tolist()
    [[[True, False]]]
    """
    masks = claim_pixels(rules, gates, full_map, exclusive)
    for index, rule in enumerate(rules):
        if rule.by_component:
            class_map = np.ascontiguousarray(full_map[:, :, index])
            masks[:, :, index] = keep_components(np.ascontiguousarray(masks[:, :, index]), class_map, rule)
    return masks


def decide_objects(
    rules: Sequence[Rule], gates: float | Sequence[float] | np.ndarray, full_map: np.ndarray, exclusive: bool = False
) -> np.ndarray:
    """Return the objects of one image, numbered within each class, where the competition scores or lists objects.

    Pixels are claimed as in `decide`. Then objects are split at `split`, and those below `min_component` are dropped;
    a last plane of the map beyond the classes holds the borders between objects. The masks are the objects' union.

    Args:
        rules: One rule per class.
        gates: Gate probability of the image, or its quantile, one per class or one for all; see `gate_scores`.
        full_map: uint8 (height, width, outputs), at the competition's size: the classes, and possibly borders.
        exclusive: Whether a pixel belongs to at most one class. Default: False.

    Returns:
        int32 (height, width, classes): 0 outside, otherwise the number of the object, from 1 without gaps.

    >>> full_map = np.array([[[250], [130], [250], [0], [130]]], np.uint8)
    >>> decide_objects([Rule(0.5, 0.4, 0.4, 1, min_component=1, split=0.9)], 1.0, full_map)[:, :, 0].tolist()
    [[1, 3, 3, 0, 2]]
    """
    masks = claim_pixels(rules, gates, full_map, exclusive)
    borders = np.ascontiguousarray(full_map[:, :, -1]) if full_map.shape[2] > len(rules) else None
    by_class = []
    for index, rule in enumerate(rules):
        mask, class_map = (np.ascontiguousarray(planes[:, :, index]) for planes in (masks, full_map))
        if rule.hysteresis:
            mask = keep_components(mask, class_map, replace(rule, min_component=0))
        seeds = level(rule.split) if rule.split else 0
        by_class.append(label_objects(mask, class_map, seeds, rule.min_component, borders))
    return np.stack(by_class, axis=2)


def claim_pixels(
    rules: Sequence[Rule], gates: float | Sequence[float] | np.ndarray, full_map: np.ndarray, exclusive: bool = False
) -> np.ndarray:
    """Return the masks of one image before components are considered; arguments and result as in `decide`.

    >>> claim_pixels([Rule(0.5, 0.4, 0.4, 1, min_component=9)], 1.0, np.array([[[130]]], np.uint8)).item()
    True
    """
    by_class = [
        apply_rule(without_components(rule), float(gate), part)
        for rule, gate, part in zip(
            rules,
            np.broadcast_to(gates, len(rules)),
            (np.ascontiguousarray(full_map[:, :, index]) for index in range(len(rules))),
            strict=True,
        )
    ]
    masks = np.stack(by_class, axis=2)
    if not exclusive or len(rules) == 1:
        return masks
    # Class by class, since the maps of a large image take most of the memory.
    strongest, owner = (np.zeros(masks.shape[:2], kind) for kind in (np.uint8, np.uint16))
    for index in range(len(rules)):
        wins = masks[:, :, index] & (full_map[:, :, index] > strongest)  # what is claimed is above 0
        np.copyto(strongest, full_map[:, :, index], where=wins)
        owner[wins] = index
    for index in range(len(rules)):
        masks[:, :, index] &= owner == index
    return masks


def keep_components(mask: np.ndarray, full_map: np.ndarray, rule: Rule) -> np.ndarray:
    """Remove components that are too small or, with hysteresis, nowhere reach `upper`.

    Args:
        mask: bool (height, width).
        full_map: uint8 (height, width).
        rule: Thresholds.

    Returns:
        bool (height, width).

    >>> strengths = np.array([[200, 200, 0, 200]], np.uint8)
    >>> keep_components(strengths > 0, strengths, Rule(0, 0.5, 0.5, 0, min_component=2)).tolist()
    [[True, True, False, False]]
    """
    label, sizes, peaks = connected_components(mask, full_map)
    kept = sizes >= rule.min_component
    if rule.hysteresis:
        kept &= peaks >= level(rule.upper)
    remaining: np.ndarray = np.append(False, kept)[label]
    return remaining


def connected_components(mask: np.ndarray, full_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the connected components of a mask (8 neighbors).

    Args:
        mask: bool (height, width).
        full_map: uint8 (height, width).

    Returns:
        label: int32 (height, width), 0 outside the mask, otherwise 1 + index of the component.
        sizes: int (components,), in pixels.
        peaks: uint8 (components,), the highest value of the map in each component.

    >>> strengths = np.array([[200, 210, 0, 90]], np.uint8)
    >>> label, sizes, peaks = connected_components(strengths > 0, strengths)
    >>> label.tolist(), sizes.tolist(), peaks.tolist()
    ([[1, 1, 0, 2]], [2, 1], [210, 90])
    """
    count, label, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    peaks = np.zeros(count, np.uint8)
    if count <= FEW:
        for index, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
            box = np.s_[y : y + height, x : x + width]
            peaks[index] = cv2.minMaxLoc(full_map[box], (label[box] == index).view(np.uint8))[1]
    else:
        np.maximum.at(peaks, label[mask], full_map[mask])
    return label, stats[1:, cv2.CC_STAT_AREA], peaks[1:]
