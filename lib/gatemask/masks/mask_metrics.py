"""Competition metrics that look at whole masks or objects, and metrics of the user's own.

Like a counted metric (`metrics.py`), each returns a pair (worth, weight) for one image and class, so a score is the sum
of worths over the sum of weights, averaged over classes: cross-fitting and bootstrapping treat all metrics alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gatemask.config import COUNTED_METRICS, METRIC_TITLES, OBJECT_METRICS, Competition
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import METRICS, dice_of_masks

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class Worth(NamedTuple):
    """Contribution of one image and class to a score.

    Args:
        worth: Added to the numerator.
        weight: Added to the denominator.
    """

    worth: float
    weight: float = 1.0


# From truth and prediction: bool (height, width), or int32 with the number of each object for metrics of objects.
MaskMetric = Callable[[np.ndarray, np.ndarray], Worth]


def object_precision(truth: np.ndarray, predicted: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> Worth:
    """Return the mean over IoU thresholds of TP / (TP + FP + FN).

    A predicted object is true if its IoU with an object of the truth exceeds the threshold. Images without any object
    on both sides score 1.

    Args:
        truth: int32 (height, width), objects numbered from 1.
        predicted: int32 (height, width), objects numbered from 1.
        thresholds: IoU thresholds. Default: 0.5, 0.55, ... 0.95.

    >>> label = np.array([[1, 1, 0, 2]], np.int32)
    >>> object_precision(label, np.array([[1, 1, 0, 0]], np.int32))
    Worth(worth=0.5, weight=1.0)
    """
    iou = object_ious(truth, predicted)
    objects = sum(iou.shape)
    if not objects:
        return Worth(1.0)
    scores = []
    for threshold in thresholds:
        hits = _matches(iou, threshold)
        scores.append(hits / (objects - hits))
    return Worth(float(np.mean(scores)))


def panoptic_quality(truth: np.ndarray, predicted: np.ndarray) -> Worth:
    """Return the sum of the IoU of matched objects over TP + FP / 2 + FN / 2 (Kirillov 2019), over all images together.

    Objects match if their IoU exceeds one half.

    >>> label = np.array([[1, 1, 0, 2]], np.int32)
    >>> panoptic_quality(label, np.array([[1, 1, 0, 0]], np.int32))
    Worth(worth=1.0, weight=1.5)
    """
    iou = object_ious(truth, predicted)
    matched = iou[iou > 0.5]
    return Worth(float(matched.sum()), sum(iou.shape) / 2)


def object_ious(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the IoU of each object of the truth with each predicted one, float (truth objects, predicted objects).

    >>> object_ious(np.array([[1, 1, 0]], np.int32), np.array([[0, 1, 1]], np.int32)).round(2).tolist()
    [[0.33]]
    """
    rows, columns = int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    pairs = truth.ravel().astype(np.int64) * columns + predicted.ravel()
    shared = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    iou: np.ndarray = shared[1:, 1:] / np.maximum(union[1:, 1:], 1)
    present = shared[1:].sum(axis=1) > 0, shared[:, 1:].sum(axis=0) > 0
    return iou[np.ix_(*present)]


def _matches(iou: np.ndarray, threshold: float) -> int:
    """Return the number of matches; above one half an object matches at most one other, so none must be chosen."""
    if threshold >= 0.5:
        return int((iou > threshold).sum())
    from scipy.optimize import linear_sum_assignment

    above = iou > threshold
    return int(above[linear_sum_assignment(-(above + iou / 2))].sum())


def surface_dice(truth: np.ndarray, predicted: np.ndarray, tolerance: float = 0.0, spacing: float = 1.0) -> Worth:
    """Return the share of both outlines that lies within a tolerance of the other (Nikolov 2018).

    Args:
        truth: bool (height, width).
        predicted: bool (height, width).
        tolerance: Distance in units of `spacing`. Default: 0.
        spacing: Side of a pixel. Default: 1.

    >>> square = np.pad(np.ones((4, 4), bool), 2)
    >>> surface_dice(square, np.roll(square, 1, axis=0), tolerance=1).worth
    1.0
    """
    if not truth.any() or not predicted.any():
        return Worth(float(truth.any() == predicted.any()))
    import surface_distance

    distances = surface_distance.compute_surface_distances(truth, predicted, spacing_mm=(spacing, spacing))
    return Worth(float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)))


def dice_hausdorff(truth: np.ndarray, predicted: np.ndarray, dice: float = 0.4) -> Worth:
    """Return 0.4 Dice + 0.6 (1 - Hausdorff distance / diagonal of the image).

    An image that is empty on both sides has weight 0; on one side it scores 0.

    Args:
        truth: bool (height, width).
        predicted: bool (height, width).
        dice: Weight of the Dice. Default: 0.4.

    >>> square = np.pad(np.ones((4, 4), bool), 2)
    >>> dice_hausdorff(square, square)
    Worth(worth=1.0, weight=1.0)
    """
    if not truth.any() or not predicted.any():
        return Worth(0.0, float(truth.any() or predicted.any()))
    from skimage.metrics import hausdorff_distance

    diagonal = float(np.hypot(*truth.shape))
    near = 1 - float(hausdorff_distance(truth, predicted)) / diagonal  # type: ignore[no-untyped-call]
    return Worth(dice * dice_of_masks(truth, predicted) + (1 - dice) * near)


MASK_METRICS: dict[str, Callable[..., Worth]] = {
    name: globals()[name] for name in METRIC_TITLES if name not in COUNTED_METRICS
}


class Scorer(NamedTuple):
    """A competition's metric for one image and class.

    Args:
        metric: Function of truth and prediction.
        objects: Whether it takes numbered objects, int32 (height, width), instead of masks, bool (height, width).
    """

    metric: MaskMetric
    objects: bool


def scorer(comp: Competition, folder: Path | None = None) -> Scorer:
    """Return a competition's metric as a function of masks; any metric has this form.

    Args:
        comp: Competition, for `metric` and `metric_options`.
        folder: Folder of competition.yaml, where a metric of the user's own may be. Default: only the Python path.

    Raises:
        GatemaskError: The metric cannot be loaded, or does not take the options.
    """
    name, options = comp.metric, comp.metric_options
    if name in METRICS:
        return Scorer(partial(_counted, name), objects=False)
    if name in MASK_METRICS:
        return Scorer(_with_options(name, MASK_METRICS[name], options), name in OBJECT_METRICS)
    function = load_own_metric(name, folder)
    return Scorer(_with_options(name, partial(_checked, name, function), options), comp.objects is not None)


def _counted(name: str, truth: np.ndarray, predicted: np.ndarray) -> Worth:
    counts = [(truth & predicted).sum(), predicted.sum(), truth.sum()]
    worth, weight = METRICS[name](*(np.array([[float(count)]]) for count in counts))
    return Worth(float(worth[0, 0]), float(weight[0, 0]))


def _with_options(name: str, function: Callable[..., Worth], options: dict[str, float | list[float]]) -> MaskMetric:
    target = function.args[1] if isinstance(function, partial) else function
    try:
        _, _, *others = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # no signature, or fewer arguments
        raise GatemaskError(
            f"The metric {name} must be a function of truth and prediction.",
            where="metric in competition.yaml",
            do="Run gatemask metric COMP --template for an example.",
        ) from None
    accepted = [parameter.name for parameter in others if parameter.kind is not parameter.VAR_KEYWORD]
    takes_any = len(accepted) < len(others)
    if unknown := [option for option in options if option not in accepted and not takes_any]:
        raise GatemaskError(
            f"The metric {name} has no option '{unknown[0]}'.",
            where="metric_options in competition.yaml",
            expected=", ".join(accepted) or "no option",
        )
    return partial(function, **options)


def load_own_metric(name: str, folder: Path | None = None) -> Callable[..., object]:
    """Return the function that 'module:function' names.

    Args:
        name: Module and function.
        folder: Folder of competition.yaml: a file there comes before the Python path. Default: only the Python path.

    Raises:
        GatemaskError: There is no such module or function, or the module cannot be imported.
    """
    module_name, function_name = name.split(":")
    where = "metric in competition.yaml"
    file = None if folder is None else folder / f"{module_name}.py"
    try:
        module = _import_file(file) if file is not None and file.is_file() else importlib.import_module(module_name)
        function = getattr(module, function_name, None)
    except Exception as error:  # whatever the user's module raises
        raise GatemaskError(
            f"The module {module_name} of the metric cannot be imported.",
            where=where,
            received=f"{type(error).__name__}: {error}",
            do=f"Write {module_name}.py beside competition.yaml, or correct metric.",
        ) from None
    if not callable(function):
        raise GatemaskError(f"{module_name} has no function {function_name}.", where=where, received=name)
    loaded: Callable[..., object] = function
    return loaded


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name that no other module has: competitions may all have a metric.py."""
    spec = importlib.util.spec_from_file_location(f"metric of {path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checked(
    name: str, function: Callable[..., object], truth: np.ndarray, predicted: np.ndarray, **options: object
) -> Worth:
    """Call the user's own metric; it may return a score, or a pair of worth and weight."""
    try:
        value = function(truth, predicted, **options)
        worth, weight = value if isinstance(value, tuple) else (value, 1.0)
        result = Worth(float(worth), float(weight))
    except Exception as error:
        raise GatemaskError(
            f"The metric {name} failed.",
            where="metric in competition.yaml",
            received=f"{type(error).__name__}: {error}",
        ) from None
    if not np.isfinite(result).all() or result.weight < 0:
        raise GatemaskError(
            f"The metric {name} returned no usable number.",
            where="metric in competition.yaml",
            received=value,
            expected="a finite score, or a pair (worth, weight) with a weight of 0 or more",
        )
    return result
