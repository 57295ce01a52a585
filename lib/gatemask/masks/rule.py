"""The decision rule: from a gate's probability and a map of probabilities to a mask.

An image is empty if its gate probability is below `gate`, or if fewer than `min_area` pixels of its map reach
`upper`; else its mask is every pixel that reaches `lower`. Of that mask, connected components smaller than
`min_component` are dropped, and with `hysteresis` those too that hold no pixel that reaches `upper`. Areas are counted
at the competition's own size: maps are averaged, enlarged, and only then thresholded, in tuning as in inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, write_yaml

LEVELS = 256
HALF = np.float32(0.501)  # the slack keeps a half a half, whatever float32 makes of weights such as a tenth
FEW = 64  # components up to which looking into each one's box is faster than one pass over all pixels


@dataclass(frozen=True)
class Rule:
    """What tuning finds.

    Args:
        gate: lowest gate probability of an image with a mask, 0 to 1.
        upper: the probability that at least `min_area` pixels must reach.
        lower: the probability from which a pixel is mask, at most `upper`.
        min_area: pixels at the competition's size.
        min_component: pixels of the smallest connected component (of 8 neighbours) that is kept; 0 keeps all.
        hysteresis: keep only components that somewhere reach `upper`.
    """

    gate: float
    upper: float
    lower: float
    min_area: int
    min_component: int = 0
    hysteresis: bool = False

    @property
    def by_component(self) -> bool:
        """Whether the rule looks at connected components, which pixel counts alone cannot tell."""
        return self.min_component > 0 or self.hysteresis

    def __post_init__(self) -> None:
        shares = {"gate": self.gate, "upper": self.upper, "lower": self.lower}
        for name, value in shares.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise GatemaskError(f"The rule's '{name}' is out of range.", received=value, expected="0 to 1")
        if self.lower > self.upper:
            raise GatemaskError("The rule's 'lower' is above its 'upper'.", received=f"{self.lower} > {self.upper}")
        for name, pixels in {"min_area": self.min_area, "min_component": self.min_component}.items():
            if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
                raise GatemaskError(
                    f"The rule's '{name}' is no number of pixels.", received=pixels, expected="a whole number from 0"
                )
        if not isinstance(self.hysteresis, bool):
            raise GatemaskError("The rule's 'hysteresis' is neither.", received=self.hysteresis, expected="true, false")


def level(probability: float) -> int:
    """The smallest uint8 value that counts as reaching `probability` (maps store 255 for 1).

    The slack lets a threshold that was written with four digits mean the level that it came from.
    """
    return min(LEVELS, max(1, math.ceil(probability * 255 - 0.02)))


def probability(of_level: int) -> float:
    """The inverse of `level`, as the rule's YAML spells it."""
    return round(of_level / 255, 4)


def average_maps(maps: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """The weighted mean of the members' square maps, uint8 (side, side, classes), rounded half up.

    Members of different input sizes are first brought to the largest of them. A member of weight 0 is as if it were
    not there, its size included: inference does not know of it.

    Args:
        maps: one a member.
        weights: one a member, at least one above 0; equal where there are none.
    """
    shares = [1.0] * len(maps) if weights is None else weights
    counted = [(one, share) for one, share in zip(maps, shares, strict=True) if share > 0]
    if len(counted) == 1:
        return counted[0][0]
    side = max(one.shape[0] for one, _ in counted)
    total = np.zeros((side, side, maps[0].shape[2]), np.float32)
    for one, share in counted:
        total += np.float32(share) * enlarge(one, (side, side))
    return np.floor(total / np.float32(sum(shares)) + HALF).astype(np.uint8)


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
    mask = full_map >= level(rule.lower)
    return keep_components(mask, full_map, rule) if rule.by_component else mask


def apply_classes(of: Sequence[Rule], gate: float, full_map: np.ndarray, overlap: bool = True) -> np.ndarray:
    """The masks of one image, a rule a class.

    Args:
        of: the rule of each class.
        gate: the gate's probability.
        full_map: uint8 (height, width, classes), at the competition's size.
        overlap: whether a pixel may belong to several classes; else it goes to the likeliest of those that claim it,
            and of equally likely ones to the first.

    Returns:
        bool, (height, width, classes).
    """
    found = [apply(rule, gate, np.ascontiguousarray(full_map[:, :, at])) for at, rule in enumerate(of)]
    masks = np.stack(found, axis=2)
    if overlap or len(of) == 1:
        return masks
    claimed = np.where(masks, full_map.astype(np.int16), -1)
    return masks & (np.argmax(claimed, axis=2)[:, :, None] == np.arange(len(of)))


def keep_components(mask: np.ndarray, full_map: np.ndarray, rule: Rule) -> np.ndarray:
    """The mask without the components that are too small or, with hysteresis, nowhere reach `upper`."""
    label, sizes, peaks = components(mask, full_map)
    kept = sizes >= rule.min_component
    if rule.hysteresis:
        kept &= peaks >= level(rule.upper)
    return np.append(False, kept)[label]


def components(mask: np.ndarray, full_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The connected components of a mask, of 8 neighbours.

    Returns:
        label: int32 (height, width), 0 outside of the mask, else 1 + the component's index.
        sizes: (components,) int, pixels.
        peaks: (components,) uint8, the highest value of the map in each.
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


def save(rule: Rule, path: Path) -> Path:
    return write_yaml(path, asdict(rule))


def load(path: Path) -> Rule:
    """The rule in a file.

    Raises:
        GatemaskError: it holds none, or one that is impossible.
    """
    try:
        return Rule(**read_yaml(path))
    except GatemaskError as error:
        error.details["where"] = path
        raise
    except (OSError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GatemaskError(
            "This is not a rule.",
            where=path,
            received=" ".join(str(error).split()),
            expected="gate, upper, lower, min_area, and perhaps min_component, hysteresis",
            do="Run gatemask oof-tune again, or correct the file.",
        ) from None
