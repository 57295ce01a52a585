"""Weights of the mask members, found on out-of-fold predictions, and whether they are worth having.

The weightings that are tried do not look at scores: equal weights, each member alone, and points of a scrambled Sobol
sequence. So every fold may choose among the same ones without learning anything of itself, and one pass over the maps
serves all folds. What a choice is worth is measured as rules are: chosen on the other folds, scored on this one.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Variant
from gatemask.console import progress
from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.masks.metrics import total
from gatemask.oof.store import MapReader
from gatemask.oof.tables import Tables, count_maps, score
from gatemask.tuning import exact
from gatemask.tuning.crossfit import CrossFit, cross_fit

COARSE = range(4, 256, 8)  # levels of each weighting's optimum: enough to tell weightings apart
TIED = 1e-12


@dataclass(frozen=True)
class Tried:
    """What a weighting came to.

    Args:
        weights: one a member, of sum 1.
        in_sample: the score of the best rule of all images, on these.
        fit: the best rule of all folds but one, scored on that one.
        on_others: the score of those rules on the images that they were found on, by the fold held out.
        passing: the share of images that pass the gate of the best rule of all images.
    """

    weights: list[float]
    in_sample: float
    fit: CrossFit
    on_others: dict[int, float]
    passing: float


def search_weights(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    gate: Callable[[str], float],
    metric: str,
    variant: Variant,
    candidates: int,
    seed: int,
    scratch: Path,
    inputs: str,
    equal: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The weighting whose best rule scores highest, if weighing beats equal weights on folds that it was not chosen on.

    Memory is that of one weighting's threshold tables; they wait in `scratch`, so that a killed search goes on.

    Args:
        fold_of: the fold of each image.
        readers: one a member.
        truth: masks by id, at the competition's own size.
        gate: probability by id.
        metric: a name in METRICS.
        variant: which of the rule's numbers are searched; its component parts are left at none.
        candidates: weightings to try; equal weights and each member alone are tried in any case.
        seed: of the Sobol sequence.
        scratch: folder of the tables; for the caller to remove.
        inputs: hash of everything that the tables are made from, but the weights.
        equal: what stands for equal weights, where some members are views of one network.

    Returns:
        weights (of sum 1), cross_fitted, equal_cross_fitted, taken (whether weights are the tuned ones), tried (weights
        and in_sample of each), per_fold (weights and rule that the other folds chose). Of one member there is nothing
        to tune: the scores are None.
    """
    if len(readers) == 1:
        return {
            "weights": [1.0],
            "cross_fitted": None,
            "equal_cross_fitted": None,
            "taken": False,
            "tried": [],
            "per_fold": {},
        }
    listed = weightings(len(readers), candidates, seed, equal)
    tried = []
    for weights in progress(listed, "weights", len(listed)):
        tables = tables_of(fold_of, readers, truth, gate, weights, table_file(scratch, weights, inputs))
        tried.append(try_out(tables, weights, metric, variant))
    return _choose(tried, np.array([fold_of[i] for i in sorted(fold_of)]))


def weightings(members: int, count: int, seed: int, equal: Sequence[float] | None = None) -> list[list[float]]:
    """What is tried: equal weights, each member alone, then Sobol points; each of sum 1.

    Args:
        members: how many there are to weigh.
        count: of weightings; the equal and the single ones are there in any case.
        seed: of the sequence.
        equal: the first one; ones where there is none.
    """
    first = np.array([equal or [1.0] * members])
    found = np.concatenate([first, np.eye(members), _sobol(members, count - 1 - members, seed)])
    return [[float(share) for share in row / row.sum()] for row in found]


def _sobol(dimensions: int, count: int, seed: int) -> np.ndarray:
    """Points of a scrambled Sobol sequence in the unit cube, float (count, dimensions)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {str(n): optuna.distributions.FloatDistribution(0, 1) for n in range(dimensions)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler learns the space from a finished trial; without one its first point would be random.
    study.add_trial(optuna.trial.create_trial(params=dict.fromkeys(space, 0.5), distributions=space, value=0.0))
    points = [list(study.ask(space).params.values()) for _ in range(count)]
    return np.array(points).reshape(-1, dimensions)


def table_file(scratch: Path, weights: Sequence[float], inputs: str) -> Path:
    """Where the tables of a weighting wait; `inputs` is the hash of all else that they are made from."""
    return scratch / f"{fingerprint([list(weights), inputs])}.npz"


def tables_of(
    fold_of: Mapping[str, int],
    readers: Sequence[MapReader],
    truth: Masks,
    gate: Callable[[str], float],
    weights: Sequence[float],
    path: Path,
) -> Tables:
    """Threshold tables of one weighting, from `path` where an earlier search has left them."""
    if path.exists():
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):  # else counted anew
            return Tables.load(path)
    heard = [n for n, weight in enumerate(weights) if weight > 0]  # no need to read what does not count
    members, shares = [readers[n] for n in heard], [weights[n] for n in heard]
    tables = count_maps(fold_of, members, truth, "tables", gate, shares)
    tables.save(path)
    return tables


def try_out(tables: Tables, weights: list[float], metric: str, variant: Variant) -> Tried:
    """What these images, averaged by these weights, are worth under rules that are found on coarse levels.

    Raises:
        GatemaskError: the metric cannot be searched exactly.
    """
    if not exact.covers(tables, metric):
        raise GatemaskError(
            f"Weights cannot be searched by {metric} over several classes.",
            where="ensemble.yaml",
            received="weights: tuned, or greedy",
            expected="equal, or a list of numbers",
            do="Set weights: equal, or choose another metric.",
        )
    rule, in_sample = exact.search(tables, metric, variant, COARSE)
    fit = cross_fit(tables, metric, lambda some: exact.search(some, metric, variant, COARSE)[0], "weights")
    on_others = {fold: score(tables.subset(tables.folds != fold), rule, metric) for fold, rule in fit.rules.items()}
    return Tried(weights, in_sample, fit, on_others, float((tables.gate >= rule.gate).mean()))


def _choose(tried: list[Tried], folds: np.ndarray) -> dict[str, Any]:
    """Let each fold's others choose, score the fold by their choice, and compare with equal weights, the first tried.

    Args:
        tried: all weightings.
        folds: (n,) int.
    """
    equal = tried[0]
    worth, weight, per_fold = np.zeros_like(equal.fit.worth), np.zeros_like(equal.fit.weight), {}
    for fold in equal.on_others:
        held, chosen = folds == fold, _best(tried, [one.on_others[fold] for one in tried])
        worth[held], weight[held] = chosen.fit.worth[held], chosen.fit.weight[held]
        per_fold[str(fold)] = {"weights": chosen.weights, "rule": asdict(chosen.fit.rules[fold])}
    cross_fitted = total(worth, weight)
    taken = cross_fitted > equal.fit.score + TIED
    return {
        "weights": (_best(tried, [one.in_sample for one in tried]) if taken else equal).weights,
        "cross_fitted": cross_fitted,
        "equal_cross_fitted": equal.fit.score,
        "taken": taken,
        "tried": [{"weights": one.weights, "in_sample": one.in_sample} for one in tried],
        "per_fold": per_fold,
    }


def _best(tried: list[Tried], scores: list[float]) -> Tried:
    """Of equally good ones the first: equal weights before single members before anything between."""
    top = max(scores)
    return next(one for one, value in zip(tried, scores, strict=True) if value >= top - TIED)
