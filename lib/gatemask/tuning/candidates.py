"""Candidates for the shipped rule, each with an in-sample score that flatters and a cross-fitted one that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask.config import Tune
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, score
from gatemask.tuning import exact
from gatemask.tuning.crossfit import CrossFit, cross_fit, resamples
from gatemask.tuning.optuna_search import STARTS, search

if TYPE_CHECKING:
    from gatemask.oof.components import Components

COARSE = range(4, 256, 4)  # levels of bootstrap optima: their median is finer than any of them


@dataclass(frozen=True)
class Candidate:
    """A way to find a rule, and what it is worth.

    Args:
        rule: found on all images.
        in_sample: its score on the same images.
        fit: the same way on all folds but one, scored on that one.
    """

    rule: Rule
    in_sample: float
    fit: CrossFit

    def summary(self) -> dict[str, Any]:
        return {"cross_fitted": self.fit.score, "in_sample": self.in_sample, "rule": asdict(self.rule)}


@dataclass(frozen=True)
class Evidence:
    """What rules are found and scored on.

    Args:
        tables: of all images.
        components: where the rule looks at them.
    """

    tables: Tables
    components: Components | None = None

    @property
    def counted(self) -> Tables | Components:
        """What any rule can be scored on."""
        return self.components or self.tables

    def behind(self, gate: Mapping[str, float]) -> Evidence:
        """The same maps behind other gates, whose probability is given by image id."""
        tables = replace(self.tables, gate=np.array([gate[str(i)] for i in self.tables.ids]))
        return Evidence(tables, None if self.components is None else replace(self.components, tables=tables))

    def searched(self, tune: Tune) -> Tables | Components:
        """What the rules that are searched are scored on: components may be there for other rules' sake."""
        return self.counted if tune.rule.by_component else self.tables


def candidates(
    seen: Evidence, metric: str, tune: Tune, group_of: Mapping[str, str], others: Mapping[int, Evidence] | None = None
) -> dict[str, Candidate]:
    """Every way to find a rule that these images and settings allow, by name.

    Args:
        seen: of all images.
        metric: a name in METRICS.
        tune: settings.
        group_of: what is drawn together in a bootstrap, by image id.
        others: see `cross_fit`.
    """
    found: dict[str, Candidate] = {}
    if exact.covers(seen.tables, metric):
        tables = {fold: one.tables for fold, one in (others or {}).items()}

        def best(some: Tables) -> Rule:
            return exact.search(some, metric, tune.rule)[0]

        found["exact"] = _candidate(seen.tables, metric, "exact", best, tables)
        middle = partial(_median, metric=metric, tune=tune, group_of=group_of)
        found["median"] = _candidate(seen.tables, metric, "median", middle, tables)
    if tune.rule.by_component or tune.ship == "optuna" or not found:
        counted = {fold: one.searched(tune) for fold, one in (others or {}).items()}
        tried = partial(_optuna, metric=metric, tune=tune)
        found["optuna"] = _candidate(seen.searched(tune), metric, "optuna", tried, counted)
    return found


def fixed(
    seen: Evidence, metric: str, rules: Sequence[Rule], others: Mapping[int, Evidence] | None = None
) -> Candidate:
    """Rules that are given: the best of them, which for one rule is no tuning at all."""

    def best(some: Any) -> Rule:
        return max(rules, key=lambda rule: score(some, rule, metric))

    return _candidate(seen.counted, metric, "", best, {fold: one.counted for fold, one in (others or {}).items()})


def choose(found: Mapping[str, Candidate], ship: str) -> str:
    """The name of the candidate that is shipped: the one asked for, or that of the highest cross-fitted score.

    Choosing between two or three names by a cross-fitted score flatters it by next to nothing, unlike choosing
    between thousands of rules.
    """
    if ship in found:
        return ship
    return max(found, key=lambda name: found[name].fit.score)


def _candidate(
    counted: Any, metric: str, label: str, find: Callable[[Any], Rule], others: Mapping[int, Any]
) -> Candidate:
    rule = find(counted)
    return Candidate(rule, score(counted, rule, metric), cross_fit(counted, metric, find, label, others))


def _median(tables: Tables, metric: str, tune: Tune, group_of: Mapping[str, str]) -> Rule:
    groups = np.array([group_of[i] for i in tables.ids])
    drawn = resamples(groups, tune.optima, tune.seed)
    return exact.median([exact.search(tables, metric, tune.rule, COARSE, counts)[0] for counts in drawn])


def _optuna(counted: Tables | Components, metric: str, tune: Tune) -> Rule:
    start = starts(counted, metric, tune)
    return search(counted, metric, tune.rule, tune.sampler, tune.trials, tune.seed, start=start).rule


def starts(counted: Tables | Components, metric: str, tune: Tune) -> list[Rule]:
    """The rules that Optuna tries first; the exact optimum of these images among them, where that is asked for."""
    tables = counted if isinstance(counted, Tables) else counted.tables
    if not tune.enqueue_exact or not exact.covers(tables, metric):
        return list(STARTS)
    return [*STARTS, exact.search(tables, metric, tune.rule)[0]]
