"""Tune a rule on predictions that were made elsewhere and are held in arrays, without YAMLs, folders or stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from pydantic import ValidationError

from gatemask.config import Tune
from gatemask.console import say
from gatemask.errors import GatemaskError, nearest
from gatemask.masks.metrics import METRICS
from gatemask.masks.rule import Rule, as_uint8, decide, gate_scores
from gatemask.oof.tables import Tables, all_empty_score, count_image
from gatemask.tuning.candidates import Candidate, TuningImages, choose_candidate, find_candidates
from gatemask.tuning.crossfit import bootstrap_interval


@dataclass(frozen=True)
class TunedMaps:
    """A rule that was tuned on maps, and its scores.

    Args:
        rules: Rule of each class, tuned on all images.
        cross_fitted: Score of all images, each by rules that were tuned on the other folds: the honest one.
        interval: 95 % interval of `cross_fitted`, by a bootstrap over groups.
        in_sample: Score of `rules` on the images they were tuned on, which flatters them.
        all_empty: Score of predicting nothing at all.
        shipped: Name of the candidate that `rules` are.
        candidates: All candidates by name, as in `gatemask oof-tune`.
        tables: Threshold tables of the images.
    """

    rules: Sequence[Rule]
    cross_fitted: float
    interval: tuple[float, float]
    in_sample: float
    all_empty: float
    shipped: str
    candidates: Mapping[str, Candidate] = field(repr=False)
    tables: Tables = field(repr=False)

    def masks(self, probabilities: np.ndarray, gate: float | Sequence[float] = 1.0) -> np.ndarray:
        """Apply the rules to the map of one image.

        Args:
            probabilities: Map as for `tune_maps`, (height, width) or (height, width, classes).
            gate: Probability that the image has a mask, one for all classes or one per class; of rules with a quantile,
                a row of `gate_scores`. Default: 1.

        Returns:
            bool, of the map's shape.
        """
        masks = decide(self.rules, gate, _as_map(probabilities, "the map"))
        return masks.reshape(probabilities.shape)

    def gate_scores(self, gates: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return what `masks` takes as `gate`: probabilities, or quantiles where a share of the images passes.

        Args:
            gates: Probabilities of all images that are predicted together, float (n,) or (n, classes); of equal ones,
                the earlier image comes first.

        Returns:
            float (n, classes).
        """
        values = np.asarray(gates, float)
        shape = len(values), len(self.rules)
        columns = np.broadcast_to(values.reshape(len(values), -1), shape)
        return gate_scores(self.rules, columns, [f"{row:08}" for row in range(shape[0])])


def tune_maps(
    maps: Iterable[np.ndarray],
    truths: Iterable[np.ndarray],
    folds: Sequence[int] | np.ndarray,
    gates: Sequence[float] | np.ndarray | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    metric: str = "mean_dice",
    settings: Tune | Mapping[str, object] | None = None,
) -> TunedMaps:
    """Tune a rule on out-of-fold maps, as `gatemask oof-tune` does.

    Maps and truths may be generators: one image at a time is in memory.

    Args:
        maps: Out-of-fold map of each image at the competition's size, (height, width) or (height, width, classes):
            float from 0 to 1, or uint8 with 255 for 1.
        truths: True masks of the same images and shapes, bool, or 0 and 1.
        folds: Fold in which each image was validated, int (n,); at least two different ones.
        gates: Out-of-fold probability that an image has a mask, float (n,) or (n, classes). Default: no gate.
        groups: Group of each image, such as its patient, text (n,), for the interval. Default: every image its own.
        metric: Metric that pixel counts decide. Default: "mean_dice".
        settings: Settings of the search, as `tune:` of ensemble.yaml has them, such as {"ship": "exact"}. Default:
            those of an empty section.

    Raises:
        GatemaskError: The arrays do not fit together, values are out of range, or the metric or a setting is unknown.

    >>> truths = np.zeros((40, 8, 8), bool)
    >>> truths[::2, 2:6, 2:6] = True
    >>> noise = np.random.default_rng(0).random(truths.shape)
    >>> tuned = tune_maps(0.5 * noise + 0.4 * truths, truths, folds=np.arange(40) % 4)
    >>> print(f"{tuned.cross_fitted:.3f}, all empty {tuned.all_empty:.3f}")
    0.937, all empty 0.500
    >>> tuned.masks(0.5 * noise[0] + 0.4 * truths[0]).sum()
    np.int64(14)
    """
    _require_metric(metric)
    settings = _settings(settings)
    tables = _tables(maps, truths, folds, gates)
    own = tables.ids if groups is None else _groups(groups, tables.folds)
    group_of = dict(zip(tables.ids.tolist(), own.tolist(), strict=True))
    candidates = find_candidates(TuningImages(tables), metric, settings, group_of)
    shipped = choose_candidate(candidates, settings.ship)
    best = candidates[shipped]
    return TunedMaps(
        rules=best.rules,
        cross_fitted=best.fit.score,
        interval=bootstrap_interval(best.fit.worth, best.fit.weight, own, settings.bootstrap, settings.seed),
        in_sample=best.in_sample,
        all_empty=all_empty_score(tables, metric),
        shipped=shipped,
        candidates=candidates,
        tables=tables,
    )


def _require_metric(metric: str) -> None:
    if metric not in METRICS:
        close = nearest(metric, METRICS)
        raise GatemaskError(
            "This metric cannot be tuned on maps alone.",
            received=metric,
            expected=", ".join(METRICS),
            do=f"Did you mean '{close}'?" if close else None,
        )


def _settings(given: Tune | Mapping[str, object] | None) -> Tune:
    if isinstance(given, Tune):
        return given
    try:
        return Tune.model_validate(given or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise GatemaskError(
            "A setting of the search is invalid.",
            where=f"settings, {'.'.join(map(str, first['loc']))}",
            received=first["input"],
            expected=first["msg"],
            do="docs/reference/keys.md lists the keys of `tune`.",
        ) from None


def _tables(
    maps: Iterable[np.ndarray],
    truths: Iterable[np.ndarray],
    folds: Sequence[int] | np.ndarray,
    gates: Sequence[float] | np.ndarray | None,
) -> Tables:
    """Return the threshold tables of the images, whose ids are their numbers."""
    counted = [_count(row, *pair) for row, pair in enumerate(_pairs(maps, truths))]
    if not counted:
        raise GatemaskError("There were no maps.", expected="the out-of-fold maps of at least two folds")
    area, intersection = (np.stack(part) for part in zip(*counted, strict=True))
    n, classes = area.shape[:2]
    return Tables(
        ids=np.array([f"{row:08}" for row in range(n)]),
        folds=_folds(folds, n),
        gate=np.ones(n) if gates is None else _gates(gates, n, classes),
        area=area,
        intersection=intersection,
        truth=intersection[:, :, 0].copy(),  # all truth pixels reach level 0
    )


def _pairs(maps: Iterable[np.ndarray], truths: Iterable[np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    missing: Any = object()
    counts = [0, 0]
    for pair in zip_longest(maps, truths, fillvalue=missing):
        counts = [count + (one is not missing) for count, one in zip(counts, pair, strict=True)]
        if counts[0] == counts[1]:
            yield pair
    if counts[0] != counts[1]:
        raise GatemaskError(
            "There are not as many truths as maps.",
            received=f"{counts[0]} maps and {counts[1]} truths",
            expected="one truth per map, in the same order",
        )


def _count(row: int, probabilities: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    where = f"image {row}"
    full_map, values = _as_map(probabilities, where), _planes(np.asarray(truth), where)
    if values.shape != full_map.shape:
        raise GatemaskError(
            "Map and truth differ in shape.",
            where=where,
            received=f"map {full_map.shape}, truth {values.shape}",
            do="Resize the map to the competition's size before it is tuned.",
        )
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise GatemaskError(
            "A truth must be a boolean array, or 0 and 1.",
            where=where,
            received=f"{values.dtype} from {values.min()} to {values.max()}",
            do="Pass truth > 0.",
        )
    return count_image(full_map, values.astype(bool))


def _as_map(probabilities: np.ndarray, where: str) -> np.ndarray:
    """Return a map as uint8 (height, width, classes)."""
    values = _planes(np.asarray(probabilities), where)
    if values.dtype == np.uint8:
        return values
    if np.isnan(values).any():
        raise GatemaskError(
            "A map must hold probabilities, not NaN.", where=where, received=f"{int(np.isnan(values).sum())} pixels"
        )
    if not np.issubdtype(values.dtype, np.floating) or not (values.min() >= 0 and values.max() <= 1):
        raise GatemaskError(
            "A map must hold probabilities.",
            where=where,
            received=f"{values.dtype} from {values.min()} to {values.max()}",
            expected="float from 0 to 1, or uint8 with 255 for 1",
            do="Apply the sigmoid to logits.",
        )
    return as_uint8(values)


def _planes(values: np.ndarray, where: str) -> np.ndarray:
    if values.ndim not in (2, 3) or not values.size:
        raise GatemaskError(
            "An image has the wrong shape.",
            where=where,
            received=values.shape,
            expected="(height, width) or (height, width, classes)",
        )
    return values if values.ndim == 3 else values[:, :, None]


def _folds(folds: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    numbers = _one_per_image("folds", np.asarray(folds), n)
    if len(np.unique(numbers)) < 2:
        raise GatemaskError(
            "A score is cross-fitted over at least two folds.",
            received=f"fold {numbers[0]} for all {n} images",
            do="Pass the fold in which each image was validated.",
        )
    return numbers.astype(int)


def _groups(groups: Sequence[str] | np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the group of each image; groups with images in several folds are reported."""
    names = _one_per_image("groups", np.asarray(groups).astype(str), len(folds))
    pairs = np.unique(np.stack([names, folds.astype(str)]), axis=1)
    found, count = np.unique(pairs[0], return_counts=True)
    if leaking := int((count > 1).sum()):
        share = np.isin(names, found[count > 1]).mean()
        say(
            f"warning: {leaking} of {len(found)} groups have images in several folds, {share:.0%} of all images: "
            "networks may have seen the groups that they are scored on."
        )
    return names


def _gates(gates: Sequence[float] | np.ndarray, n: int, classes: int) -> np.ndarray:
    values = np.asarray(gates, float)
    _one_per_image("gates", values, n)
    if values.size not in (n, n * classes) or not (values.min() >= 0 and values.max() <= 1):
        raise GatemaskError(
            "Gates must be probabilities, one per image, or one per image and class.",
            received=f"shape {values.shape}, from {values.min()} to {values.max()}",
            expected=f"({n},) or ({n}, {classes}), from 0 to 1",
        )
    return values


def _one_per_image(name: str, values: np.ndarray, n: int) -> np.ndarray:
    if not values.ndim or len(values) != n:
        raise GatemaskError(
            f"'{name}' must have one entry per image.",
            received=f"{len(values) if values.ndim else 'a single value'}",
            expected=f"{n}, as there are maps",
        )
    return values
