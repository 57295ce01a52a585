"""`gatemask metric`: try a competition's metric on drawn masks, or write a template for a metric of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from gatemask.config import Competition
from gatemask.console import table
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.masks.mask_metrics import Scorer, Worth, scorer
from gatemask.masks.objects import label_objects
from gatemask.stage import CommandResult

SIDE = 128
TEMPLATE = '''"""The competition's metric: set `metric: metric:score` in competition.yaml.

Try it with: gatemask metric {name}
"""

from __future__ import annotations

import numpy as np


def score(truth: np.ndarray, predicted: np.ndarray, tolerance: float = 0.0) -> float | tuple[float, float]:
    """Return the score of one image and class.

    Args:
        truth: bool (height, width). With `objects:` in competition.yaml instead int32 (height, width): 0 outside,
            otherwise the number of the object.
        predicted: The prediction in the same form.
        tolerance: An option, set by `metric_options: {{tolerance: 2}}`. Options are numbers or lists of numbers.

    Returns:
        The score, higher is better; scores are averaged over images, then over classes. Or a pair (worth, weight): the
        score of a class is then the sum of worths over the sum of weights.
    """
    if not truth.any() and not predicted.any():
        return 1.0
    union = np.count_nonzero((truth > 0) | (predicted > 0))
    shared = np.count_nonzero((truth > 0) & (predicted > 0))
    return shared / union
'''


class MetricTrial(CommandResult):
    """Result of `gatemask metric`.

    Args:
        metric: Its name.
        scores: Score of each kind of prediction; see `PREDICTIONS`.
        milliseconds: Time per image of 128 px and class.
        notes: What is worth a look, one sentence each.
    """

    metric: str
    scores: dict[str, float]
    milliseconds: float
    notes: list[str] = Field(default_factory=list)


def _draw_truth() -> list[np.ndarray]:
    """Return masks of a few discs, some of which touch, and an empty one."""
    rng, masks = np.random.default_rng(0), [np.zeros((SIDE, SIDE), bool)]
    for _ in range(3):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for x, y, radius in rng.integers((20, 20, 6), (SIDE - 20, SIDE - 20, 16), (4, 3)).tolist():
            cv2.circle(mask, (x, y), radius, 1, -1)
        masks.append(mask.astype(bool))
    return masks


PREDICTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the truth itself": lambda truth: truth.copy(),
    "shifted by 1 px": lambda truth: np.roll(truth, 1, axis=1),
    "shifted by 4 px": lambda truth: np.roll(truth, 4, axis=1),
    "half of the truth": lambda truth: truth & (np.arange(SIDE) < SIDE // 2),
    "nothing": np.zeros_like,
    "everything": np.ones_like,
}


def try_metric(comp: Competition, folder: Path) -> MetricTrial:
    """Score drawn predictions by a competition's metric.

    Args:
        comp: Competition.
        folder: Folder of competition.yaml.

    Raises:
        GatemaskError: The metric cannot be loaded, fails, changes its arguments, gives other results on the second
            call, or does not prefer the truth.
    """
    score_of, truths = scorer(comp, folder), _draw_truth()
    started = time.perf_counter()
    scores = {name: _score(comp.metric, score_of, truths, predict) for name, predict in PREDICTIONS.items()}
    seconds = time.perf_counter() - started
    if scores != {name: _score(comp.metric, score_of, truths, predict) for name, predict in PREDICTIONS.items()}:
        raise _fault(comp.metric, "gives another score when it is called again", "a function of its arguments alone")
    best = max(scores, key=scores.__getitem__)
    if scores[best] > scores["the truth itself"] + 1e-9:
        received = f"'{best}' scores {scores[best]:.4f}, the truth itself {scores['the truth itself']:.4f}"
        raise _fault(comp.metric, "does not prefer the truth", "a score that is higher the better", received)
    notes = []
    if scores["the truth itself"] != 1:
        notes.append(f"The truth itself scores {scores['the truth itself']:.4f}, not 1.")
    if len(set(scores.values())) == 1:
        notes.append("All predictions score the same: nothing can be tuned by this metric.")
    milliseconds = 1000 * seconds / (len(PREDICTIONS) * len(truths))
    return MetricTrial(metric=comp.metric, scores=scores, milliseconds=round(milliseconds, 3), notes=notes)


def _score(name: str, score_of: Scorer, truths: list[np.ndarray], predict: Callable[[np.ndarray], np.ndarray]) -> float:
    worths = []
    for mask in truths:
        pair = [_as_input(mask, score_of), _as_input(predict(mask), score_of)]
        before = [array.copy() for array in pair]
        worths.append(score_of.metric(*pair))
        if not all(np.array_equal(array, copy) for array, copy in zip(pair, before, strict=True)):
            raise _fault(name, "changes its arguments", "a function that leaves truth and prediction as they are")
    sums = Worth(sum(part.worth for part in worths), sum(part.weight for part in worths))
    return 1.0 if sums.weight == 0 else sums.worth / sums.weight


def _as_input(mask: np.ndarray, score_of: Scorer) -> np.ndarray:
    return label_objects(mask, mask.astype(np.uint8)) if score_of.objects else mask


def _fault(metric: str, what: str, expected: str, received: str | None = None) -> GatemaskError:
    return GatemaskError(
        f"The metric {metric} {what}.", where="metric in competition.yaml", received=received, expected=expected
    )


def write_template(folder: Path) -> Path:
    """Write metric.py beside a competition.yaml, and return its path.

    Args:
        folder: Folder of competition.yaml.

    Raises:
        GatemaskError: There is such a file already.
    """
    path = folder / "metric.py"
    if path.exists():
        raise GatemaskError("There is a metric already.", where=path, do="Edit it, or move it away first.")
    return write_text(path, TEMPLATE.format(name=folder.name))


def print_trial(result: MetricTrial) -> None:
    """Print the scores as a table."""
    table(f"{result.metric}", ["prediction", "score"], [[name, score] for name, score in result.scores.items()])
