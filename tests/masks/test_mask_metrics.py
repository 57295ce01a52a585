"""Metrics of masks and objects equal plain definitions, written anew here."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import COUNTED_METRICS
from gatemask.errors import GatemaskError
from gatemask.masks.mask_metrics import (
    dice_hausdorff,
    object_ious,
    object_precision,
    panoptic_quality,
    scorer,
    surface_dice,
)
from gatemask.masks.metrics import METRICS, total
from tests.data.test_manifest import competition


def blobs(rng: np.random.Generator, size: int = 24, most: int = 5) -> np.ndarray:
    """Random rectangles, numbered with gaps; int32 (size, size)."""
    label = np.zeros((size, size), np.int32)
    for number in rng.permutation(9)[: rng.integers(0, most + 1)]:
        y, x, h, w = *rng.integers(0, size - 4, 2), *rng.integers(2, 9, 2)
        label[y : y + h, x : x + w] = number + 1
    return label


def shaken(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same objects, moved a little, some lost, one added; int32."""
    out = np.zeros_like(label)
    for number in np.unique(label[label > 0]):
        if rng.random() < 0.8:
            out[np.roll(label == number, tuple(rng.integers(-1, 2, 2)), (0, 1))] = number
    if rng.random() < 0.4:
        out[:3, :4] = 20
    return out


def sets(label: np.ndarray) -> list[set[tuple[int, int]]]:
    pixels = [set(map(tuple, np.argwhere(label == number))) for number in np.unique(label) if number]
    return [one for one in pixels if one]


@pytest.mark.parametrize("seed", range(30))
def test_object_metrics_equal_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blobs(rng)
    predicted = shaken(truth, rng)
    t, p = sets(truth), sets(predicted)
    ious = np.array([[len(a & b) / len(a | b) for b in p] for a in t]).reshape(len(t), len(p))
    assert object_ious(truth, predicted) == pytest.approx(ious)
    scores = []
    for step in range(10):
        hits = sum(any(len(a & b) > (0.5 + 0.05 * step) * len(a | b) + 1e-9 for b in p) for a in t)
        false_alarms, missed = len(p) - hits, len(t) - hits
        scores.append(hits / (hits + false_alarms + missed) if t or p else 1.0)
    assert object_precision(truth, predicted) == pytest.approx((np.mean(scores), 1))
    pairs = [(a, b) for a, b in product(t, p) if len(a & b) / len(a | b) > 0.5]
    quality = sum(len(a & b) / len(a | b) for a, b in pairs)
    weight = len(pairs) + (len(t) - len(pairs)) / 2 + (len(p) - len(pairs)) / 2
    assert panoptic_quality(truth, predicted) == pytest.approx((quality, weight))


def outline(mask: np.ndarray) -> np.ndarray:
    """Corners between pixels where the mask changes, each with the length of the outline there; (n, 3)."""
    padded = np.pad(mask, 1).astype(int)
    lengths = {0: 0.0, 1: np.sqrt(0.5), 2: 1.0, 3: np.sqrt(0.5), 4: 0.0}  # one corner, half, or three quarters inside
    points = []
    for y, x in product(range(padded.shape[0] - 1), range(padded.shape[1] - 1)):
        four = padded[y : y + 2, x : x + 2]
        length = 2 * np.sqrt(0.5) if four.sum() == 2 and four[0, 0] == four[1, 1] else lengths[int(four.sum())]
        if length:
            points.append((y, x, length))
    return np.array(points)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_surface_dice_equals_a_search_over_all_pairs(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    truth = blobs(rng) > 0
    predicted = shaken(truth.astype(np.int32), rng) > 0
    worth, weight = surface_dice(truth, predicted, tolerance)
    assert weight == 1
    if not truth.any() or not predicted.any():
        assert worth == (truth.any() == predicted.any())
        return
    ours, theirs = outline(truth), outline(predicted)
    apart = np.hypot(ours[:, None, 0] - theirs[None, :, 0], ours[:, None, 1] - theirs[None, :, 1])
    near = ours[apart.min(1) <= tolerance, 2].sum() + theirs[apart.min(0) <= tolerance, 2].sum()
    assert worth == pytest.approx(near / (ours[:, 2].sum() + theirs[:, 2].sum()), abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_hausdorff_equals_a_search_over_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blobs(rng) > 0
    predicted = shaken(truth.astype(np.int32), rng) > 0
    worth, weight = dice_hausdorff(truth, predicted)
    if not truth.any() or not predicted.any():
        assert (worth, weight) == (0, truth.any() or predicted.any())
        return
    a, b = np.argwhere(truth), np.argwhere(predicted)
    apart = np.hypot(*(a[:, None, axis] - b[None, :, axis] for axis in range(2)))
    farthest = max(apart.min(1).max(), apart.min(0).max())
    dice = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
    assert worth == pytest.approx(0.4 * dice + 0.6 * (1 - farthest / np.hypot(*truth.shape)))


@pytest.mark.parametrize("name", COUNTED_METRICS)
def test_counted_metrics_are_the_same_as_functions_of_masks(name: str) -> None:
    rng = np.random.default_rng(3)
    pairs = [(blobs(rng) > 0, blobs(rng) > 0) for _ in range(6)]
    metric = scorer(competition(metric=name)).metric
    worths = np.array([metric(truth, mask) for truth, mask in pairs])
    counts = [np.array([[f(t, m)] for t, m in pairs], float) for f in COUNTS]
    assert total(worths[:, :1], worths[:, 1:]) == pytest.approx(total(*METRICS[name](*counts)))


COUNTS = (lambda t, m: (t & m).sum(), lambda _, m: m.sum(), lambda t, _: t.sum())

OWN = """
import numpy as np

def area_error(truth, predicted, scale=1.0):
    return 1 - scale * abs(int(truth.sum()) - int(predicted.sum())) / truth.size

def pair(truth, predicted):
    return (2.0, 4.0)

def broken(truth, predicted):
    raise KeyError("pixel")

def endless(truth, predicted):
    return float("nan")
"""


def test_an_own_metric_is_loaded_from_beside_the_competition(tmp_path: Path) -> None:
    (tmp_path / "own_metric_here.py").write_text(OWN)
    truth, mask = np.ones((4, 4), bool), np.zeros((4, 4), bool)

    def own(name: str, **options: object) -> tuple[float, float]:
        comp = competition(metric=f"own_metric_here:{name}", metric_options=options)
        return tuple(scorer(comp, tmp_path).metric(truth, mask))  # type: ignore[return-value]

    assert own("area_error") == (0, 1)
    assert own("area_error", scale=0.5) == (0.5, 1)
    assert own("pair") == (2, 4)
    for name, words in (("broken", "KeyError: 'pixel'"), ("endless", "nan"), ("absent", "no function absent")):
        with pytest.raises(GatemaskError, match=r"metric|function") as caught:
            own(name)
        assert words in str(caught.value)
    with pytest.raises(GatemaskError, match=r"has no option 'size'.*") as caught:
        own("area_error", size=1.0)
    assert "scale" in str(caught.value)
    with pytest.raises(GatemaskError, match=r"cannot be imported") as caught:
        scorer(competition(metric="no_module_of_this_name:f"), tmp_path)
    assert "no_module_of_this_name.py" in str(caught.value)


def test_objects_that_touch_only_at_a_low_threshold_match_once() -> None:
    truth, predicted = np.zeros((4, 8), np.int32), np.zeros((4, 8), np.int32)
    truth[:, :4], truth[:, 4:] = 1, 2
    predicted[:, 1:7] = 1
    assert object_precision(truth, predicted, thresholds=[0.3]).worth == pytest.approx(1 / 2)
    assert cv2.countNonZero(truth.astype(np.uint8)) == 32


def test_any_callable_of_two_arguments_is_a_metric(tmp_path: Path) -> None:
    (tmp_path / "odd_metric.py").write_text(
        "import functools\n\n\nclass Scored:\n    def __call__(self, truth, predicted, **options):\n"
        "        return options.get('value', 0.25)\n\n\nobject_of_a_class = Scored()\n"
        "part = functools.partial(Scored(), value=0.75)\n\n\ndef one(truth):\n    return 1.0\n"
    )
    mask = np.ones((4, 4), bool)

    def score(name: str, **options: float) -> float:
        return scorer(competition(metric=f"odd_metric:{name}", metric_options=options), tmp_path).metric(mask, mask)[0]

    assert score("object_of_a_class") == 0.25
    assert score("object_of_a_class", value=0.5) == 0.5
    assert score("part") == 0.75
    with pytest.raises(GatemaskError, match="must be a function of truth and prediction"):
        score("one")


@pytest.mark.parametrize("name", ["a:b:c", "a.b", "1a:f", "a:", ":f", "a/b:f"])
def test_names_of_no_module_and_function_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="metric must be 'module:function'"):
        competition(metric=name)
