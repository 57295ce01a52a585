"""The decision rule: from a gate's probability and a map of probabilities to a mask.

An image is empty if its gate probability is below `gate`, or if fewer than `min_area` pixels of its map reach
`upper`; else its mask is every pixel that reaches `lower`. Areas are counted at the competition's own size:
maps are averaged, enlarged, and only then thresholded, in tuning as in inference.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, write_yaml

LEVELS = 256


@dataclass(frozen=True)
class Rule:
    """The four numbers that tuning finds.

    Args:
        gate: lowest gate probability of an image with a mask, 0 to 1.
        upper: the probability that at least `min_area` pixels must reach.
        lower: the probability from which a pixel is mask, at most `upper`.
        min_area: pixels at the competition's size.
    """

    gate: float
    upper: float
    lower: float
    min_area: int

    def __post_init__(self) -> None:
        shares = {"gate": self.gate, "upper": self.upper, "lower": self.lower}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise GatemaskError(f"The rule's '{name}' is out of range.", received=value, expected="0 to 1")
        if self.lower > self.upper:
            raise GatemaskError("The rule's 'lower' is above its 'upper'.", received=f"{self.lower} > {self.upper}")
        if self.min_area < 0:
            raise GatemaskError("The rule's 'min_area' is negative.", received=self.min_area)


def level(probability: float) -> int:
    """The smallest uint8 value that counts as reaching `probability` (maps store 255 for 1).

    The slack lets a threshold that was written with four digits mean the level that it came from.
    """
    return min(LEVELS, max(1, math.ceil(probability * 255 - 0.02)))


def probability(of_level: int) -> float:
    """The inverse of `level`, as the rule's YAML spells it."""
    return round(of_level / 255, 4)


def average_maps(maps: list[np.ndarray]) -> np.ndarray:
    """The mean of the members' square maps, uint8 (side, side, classes), rounded half up.

    Members of different input sizes are first brought to the largest of them.
    """
    side = max(one.shape[0] for one in maps)
    total = np.zeros((side, side, maps[0].shape[2]), np.uint32)
    for one in maps:
        total += enlarge(one, (side, side))
    return ((2 * total + len(maps)) // (2 * len(maps))).astype(np.uint8)


def enlarge(one: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w, classes), uint8, brought to height and width `size` by bilinear interpolation."""
    if one.shape[:2] == tuple(size):
        return one
    resized = cv2.resize(one, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, one.shape[2])


def apply(rule: Rule, gate: float, full_map: np.ndarray) -> np.ndarray:
    """The mask of one image.

    Args:
        rule: the thresholds.
        gate: the gate's probability.
        full_map: uint8 (height, width), at the competition's size.

    Returns:
        bool, (height, width).
    """
    if gate < rule.gate or int((full_map >= level(rule.upper)).sum()) < rule.min_area:
        return np.zeros(full_map.shape, bool)
    return full_map >= level(rule.lower)


def save(rule: Rule, path: Path) -> Path:
    return write_yaml(path, asdict(rule))


def load(path: Path) -> Rule:
    try:
        return Rule(**read_yaml(path))
    except TypeError:
        raise GatemaskError(
            "This is not a rule.",
            where=path,
            received=path.read_text().strip(),
            expected="gate, upper, lower, min_area",
            do="Run gatemask oof-tune again.",
        ) from None
