"""Scores of experiments, exactly as `gatemask compare` scores a side, kept by the predictions they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from gatemask.config import Competition, Members
from gatemask.console import progress
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.runs import RunScore
from gatemask.results.tuning import Kind
from gatemask.runs.beside import Beside
from gatemask.runs.cache import VERSION, Difference, RunCache, ScoreFacts, SplitFacts
from gatemask.runs.facts import Found

if TYPE_CHECKING:
    import numpy as np

    from gatemask.runs.computing import Computing

AUC = "auc"
Wanted = tuple[str, tuple[int, ...]]  # name of an experiment, and folds


class Scorer:
    """Scores experiments on their finished folds.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        beside: Ensemble, whose members are on the other side.
        split: Facts of the fold file.
        found: All experiments.
        cache: Cache of scores.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        beside: Beside,
        split: SplitFacts,
        found: Mapping[str, Found],
        cache: RunCache,
    ) -> None:
        self._project, self._comp, self._beside, self._split = project, comp, beside, split
        self._found, self._cache = found, cache
        self._keys: dict[Wanted, str] = {}
        self._current: set[Wanted] = set()

    def folds_of(self, name: str) -> tuple[int, ...]:
        """Return the finished folds of an experiment that are folds of the present split."""
        return self._beside.folds_of(name)

    def key(self, wanted: Wanted) -> str:
        """Return the fingerprint of all that decides a score."""
        if wanted not in self._keys:
            self._keys[wanted] = self._key(*wanted)
            self._cache.use(self._keys[wanted])
        return self._keys[wanted]

    def _key(self, name: str, folds: tuple[int, ...]) -> str:
        task = self.task(name)
        others = self._beside.others(task)
        parts = [self._context_of[task], *(self.digests(one, folds) for one in (name, *others))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def task(self, name: str) -> Kind:
        settings = self._found[name].settings
        return settings.task if settings else "mask"

    def score_all(self, wanted: Iterable[Wanted]) -> None:
        """Compute the scores that are not known, with a progress bar."""
        asked = set(wanted) - self._current
        missing = [item for item in sorted(asked) if not self._is_current(item)]
        for item in progress(missing, "scoring runs") if missing else ():
            self._cache.facts.scored[_label(item)] = self._score(item)
            self._cache.changed()
        self._current |= asked

    def score(self, wanted: Wanted) -> RunScore | str:
        """Return a score that `score_all` has computed, or why there is none."""
        known = self._cache.facts.scored[_label(wanted)]
        return known.problem or self._cache.facts.scores[known.key]

    def difference(self, first: Wanted, second: Wanted) -> Difference | None:
        """Return the second score less the first on the same images; None if one of them is missing."""
        keys = self.key(first), self.key(second)
        pair = "-".join(keys)
        if (known := self._cache.facts.differences.get(pair)) is not None:
            return known
        values = [self._resamples(item, key) for item, key in zip((first, second), keys, strict=True)]
        if values[0] is None or values[1] is None:
            return None
        found = difference_of(values[0], values[1])
        self._cache.facts.differences[pair] = found
        self._cache.changed()
        return found

    # --- keys ----------------------------------------------------------------------------------------------

    @cached_property
    def context(self) -> str:
        """Fingerprint of metric, truth and split, and of how scores are computed."""
        comp, tune = self._comp, self._beside.ensemble.tune
        own = self._project.experiments / f"{comp.metric.split(':')[0].replace('.', '/')}.py"
        keys = {"classes", "exclusive", "metric", "metric_options", "image", "tiles", "objects", "records"}
        return fingerprint(
            [
                comp.model_dump(mode="json", include=keys),
                self._cache.hash_of(own) if ":" in comp.metric else None,
                self._split.sha256,
                self._cache.hash_of(self._project.data / "masks.csv"),
                tune.rule.model_dump(mode="json"),
                [tune.bootstrap, tune.seed],
            ]
        )

    @cached_property
    def _context_of(self) -> dict[Kind, str]:
        """What decides the scores of a task, apart from predictions."""
        gates, masks = self._beside.section("gate"), self._beside.section("mask")
        found: dict[Kind, str] = {}
        sides: tuple[tuple[Kind, Members], ...] = (("mask", gates), ("gate", masks))
        for task, other in sides:
            parts: list[object] = [VERSION, self.context, task]
            if self._beside.others(task):
                parts.append(other.weights)
            elif task == "gate":
                parts += [AUC, self._cache.hash_of(self._project.data / "manifest.csv")]
            found[task] = fingerprint(parts)
        return found

    def digests(self, name: str, folds: Sequence[int]) -> str:
        """Return the hashes of an experiment's predictions as one text."""
        runs = self._found[name].folds
        return ";".join([f"{fold} {file} {digest}" for fold in folds for file, digest in runs[fold].digests.items()])

    def _signature(self, name: str, folds: Sequence[int]) -> str:
        others = self._beside.others(self.task(name))
        signatures = [self._found[one].folds[fold].signature for one in (name, *others) for fold in folds]
        return hashlib.blake2b("".join(signatures).encode(), digest_size=12).hexdigest()

    def _is_current(self, wanted: Wanted) -> bool:
        known, key = self._cache.facts.scored.get(_label(wanted)), self.key(wanted)
        if known is None or known.key != key or known.signature != self._signature(*wanted):
            return False
        return known.problem is not None or key in self._cache.facts.scores

    # --- computing -----------------------------------------------------------------------------------------

    @cached_property
    def _computing(self) -> Computing:
        from gatemask.runs.computing import Computing

        return Computing(self._project, self._comp, self._beside, self._found, self._cache)

    def _score(self, wanted: Wanted) -> ScoreFacts:
        name, folds = wanted
        signed, key = self._signature(name, folds), self.key(wanted)
        try:
            values = self._cache.resamples(key)
            if values is None:
                values = self._computing.resamples(name, self.task(name), folds)
                self._cache.keep_resamples(key, values)
            else:
                self._computing.verify(name, self.task(name), folds)
            if key not in self._cache.facts.scores:
                self._cache.facts.scores[key] = self._as_score(wanted, values)
            return ScoreFacts(signature=signed, key=key)
        except GatemaskError as error:
            where = error.details["where"]
            return ScoreFacts(
                signature=signed, key=key, problem=f"{error.short()} ({where})" if where else error.short()
            )

    def _as_score(self, wanted: Wanted, values: np.ndarray) -> RunScore:
        from gatemask.tuning.crossfit import middle_95

        name, folds = wanted
        others = self._beside.others(self.task(name))
        is_auc = self.task(name) == "gate" and not others
        images, groups = self._computing.counts(folds)
        return RunScore(
            value=float(values[0]),
            ci95=middle_95(_finite(values[1:])),
            kind=AUC if is_auc else "cross-fitted" if len(folds) > 1 else "in-sample",
            metric=AUC if is_auc else self._comp.metric,
            folds=folds,
            images=images,
            groups=groups,
            beside=others,
        )

    def _resamples(self, wanted: Wanted, key: str) -> np.ndarray | None:
        if isinstance(self.score(wanted), str):
            return None
        values = self._cache.resamples(key)
        if values is None:  # deleted, or damaged
            try:
                values = self._computing.resamples(wanted[0], self.task(wanted[0]), wanted[1])
            except GatemaskError:
                return None
            self._cache.keep_resamples(key, values)
        return values


def _label(wanted: Wanted) -> str:
    return f"{wanted[0]}/{','.join(map(str, wanted[1]))}"


def difference_of(first: np.ndarray, second: np.ndarray) -> Difference:
    """Return the second score less the first.

    Args:
        first: A score followed by its bootstrap resamples, float (1 + times,).
        second: The same for the second score; resamples of the same groups.
    """
    from gatemask.tuning.compare import verdict_of
    from gatemask.tuning.crossfit import middle_95

    low, high = middle_95(_finite(second[1:] - first[1:]))
    return Difference(difference=float(second[0] - first[0]), ci95=(low, high), verdict=verdict_of(low, high))


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the values that are numbers: a resample of few groups may lack positive images."""
    finite = values[values == values]  # NaN differs from itself
    return finite if len(finite) else values[:1] * 0
