"""Find the candidates for the shipped rule, each with an in-sample and a cross-fitted score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gatemask.config import Tune
from gatemask.masks.metrics import ratio, total
from gatemask.masks.rule import Rule
from gatemask.masks.rule_files import as_values
from gatemask.oof.tables import Scorable, Tables, score, worths
from gatemask.results.tuning import ABSOLUTE_GATE, ALL_EMPTY, EVERYTHING_PASSES, CandidateSummary
from gatemask.tuning import exact
from gatemask.tuning.crossfit import CrossFit, cross_fit, resample_counts
from gatemask.tuning.members import GateValue
from gatemask.tuning.optuna_search import STARTS, search_with_optuna
from gatemask.tuning.weighted_tables import with_gates

if TYPE_CHECKING:
    from gatemask.oof.components import Components

NOTHING = Rule(gate=1.0, upper=1.0, lower=1.0, min_area=2**31 - 1)  # no mask has that many pixels
COARSE = range(4, 256, 4)  # levels of bootstrap optima: their median is finer than any of them
C = TypeVar("C", bound=Scorable)


@dataclass(frozen=True)
class Candidate:
    """Rules, and the scores of the way they were found.

    Args:
        rules: Rule of each class, found on all images.
        in_sample: Score of the rules on the same images.
        fit: Rules found the same way on all folds but one, each scored on that fold.
        in_sample_by_class: Score of each rule in its class; Default: unknown.
    """

    rules: Sequence[Rule]
    in_sample: float
    fit: CrossFit
    in_sample_by_class: Sequence[float] = ()

    def summary(self) -> CandidateSummary:
        """Return scores and rule as plain values."""
        return CandidateSummary(cross_fitted=self.fit.score, in_sample=self.in_sample, rule=as_values(self.rules))


@dataclass(frozen=True)
class TuningImages:
    """Images on which rules are found and scored.

    Args:
        tables: Threshold tables.
        components: Connected components, where a rule uses them.
    """

    tables: Tables
    components: Components | None = None

    @property
    def counted(self) -> Tables | Components:
        """Counts on which any rule can be scored."""
        return self.components or self.tables

    def behind(self, gate: Mapping[str, GateValue]) -> TuningImages:
        """Return the same maps behind other gates, given as a probability by image id."""
        tables = with_gates(self.tables, gate.__getitem__)
        return TuningImages(tables, None if self.components is None else replace(self.components, tables=tables))

    def searched(self, tune: Tune) -> Tables | Components:
        """Return the counts that the search uses: components may be present for the sake of given rules only."""
        return self.counted if tune.rule.by_component else self.tables


def find_candidates(
    images: TuningImages,
    metric: str,
    tune: Tune,
    group_of: Mapping[str, str],
    others: Mapping[int, TuningImages] | None = None,
) -> dict[str, Candidate]:
    """Find rules in every way that these images and settings allow.

    Args:
        images: All images.
        metric: Name in METRICS.
        tune: Settings of the search.
        group_of: Group by image id; groups are drawn whole in a bootstrap.
        others: All images as the other folds' weights average them, by held-out fold; see `cross_fit`.

    Returns:
        Candidates by name: 'exact' and 'median', 'optuna' where rules use components or the settings ask for it, and
        always the two that any tuned rule must beat: 'everything-passes', without a gate, and 'all-empty'. Where the
        gate is a share of images, 'absolute-gate' has the best probability instead.
    """
    found: dict[str, Candidate] = {}
    tables = {fold: other.tables for fold, other in (others or {}).items()}
    found["exact"] = find_on_tables(images, metric, tune, others)
    median = partial(_median, metric=metric, tune=tune, group_of=group_of)
    found["median"] = _candidate(images.tables, metric, "median", _each(median), tables)
    if tune.rule.by_component or tune.ship == "optuna":
        counted = {fold: other.searched(tune) for fold, other in (others or {}).items()}
        best_trial = partial(_best_trial, metric=metric, tune=tune)
        found["optuna"] = _candidate(images.searched(tune), metric, "optuna", _each(best_trial), counted)
    if tune.rule.by_quantile:
        absolute = tune.rule.model_copy(update={"gate": True})
        rules = tune.model_copy(update={"rule": absolute})
        found[ABSOLUTE_GATE] = find_on_tables(images, metric, rules, others, ABSOLUTE_GATE)
    found[EVERYTHING_PASSES] = find_without_gate(images, metric, tune, others)
    found[ALL_EMPTY] = score_given_rules(images, metric, [NOTHING], others)
    return found


def find_without_gate(
    images: TuningImages, metric: str, tune: Tune, others: Mapping[int, TuningImages] | None = None
) -> Candidate:
    """Return the mask networks without a gate, with thresholds that are tuned exactly.

    Args:
        images: All images.
        metric: Name in METRICS.
        tune: Settings of the search.
        others: All images as the other folds' weights average them, by held-out fold; see `cross_fit`.
    """
    gateless = tune.rule.model_copy(update={"gate": False})
    return find_on_tables(images, metric, tune.model_copy(update={"rule": gateless}), others, EVERYTHING_PASSES)


def find_on_tables(
    images: TuningImages,
    metric: str,
    tune: Tune,
    others: Mapping[int, TuningImages] | None = None,
    label: str = "exact",
) -> Candidate:
    """Return the exact optimum of a counted metric, each class by itself; arguments as for `find_candidates`."""
    tables = {fold: other.tables for fold, other in (others or {}).items()}

    def optimum(some: Tables) -> list[Rule]:
        return exact.search_classes(some, metric, tune.rule)[0]

    return _candidate(images.tables, metric, label, optimum, tables)


def score_given_rules(
    images: TuningImages,
    metric: str,
    rules: Sequence[Rule] | Sequence[Sequence[Rule]],
    others: Mapping[int, TuningImages] | None = None,
) -> Candidate:
    """Score given rules: for each class the best of them, chosen on the other folds; a single one needs no choice.

    Args:
        images: All images.
        metric: Name in METRICS.
        rules: Rules to choose from, for all classes or for each.
        others: All images as the other folds' weights average them, by held-out fold; see `cross_fit`.
    """
    choices = [[rule] * images.tables.classes if isinstance(rule, Rule) else rule for rule in rules]

    def best(some: Scorable) -> list[Rule]:
        found = []
        for index in range(images.tables.classes):
            rules_of_class = [choice[index] for choice in choices]
            part = some.of_class(index)
            scores = [score(part, rule, metric) for rule in rules_of_class]
            found.append(rules_of_class[int(np.argmax(scores))])
        return found

    counted = {fold: other.counted for fold, other in (others or {}).items()}
    return _candidate(images.counted, metric, "", best, counted)


def choose_candidate(candidates: Mapping[str, Candidate], ship: str) -> str:
    """Return the name of the shipped candidate: the one asked for, or that of the highest cross-fitted score.

    Of equals the first is shipped. Choosing between a few candidates by a cross-fitted score hardly flatters it, unlike
    choosing between thousands of rules. A candidate whose rules score lower on all images counts with that score: its
    rules differ from those that were cross-fitted. The median of optima that form two groups lies between them.

    >>> fit = CrossFit({}, np.ones(1), np.ones(1), {})
    >>> choose_candidate({"exact": Candidate([Rule(0, 1, 1, 0)], 0.9, fit)}, "best")
    'exact'
    """
    if ship in candidates:
        return ship
    return max(candidates, key=lambda name: min(candidates[name].fit.score, candidates[name].in_sample))


def _candidate(
    counted: C, metric: str, label: str, find: Callable[[C], list[Rule]], others: Mapping[int, C]
) -> Candidate:
    rules = find(counted)
    worth, weight = worths(counted, rules, metric)
    fit = cross_fit(counted, metric, find, label, others)
    return Candidate(rules, total(worth, weight), fit, ratio(worth.sum(axis=0), weight.sum(axis=0)).tolist())


def _each(find: Callable[[C], Rule]) -> Callable[[C], list[Rule]]:
    """Return a search of all classes, each by itself."""

    def find_each(some: C) -> list[Rule]:
        return [find(some.of_class(index)) for index in range(some.truth.shape[1])]

    return find_each


def _median(tables: Tables, metric: str, tune: Tune, group_of: Mapping[str, str]) -> Rule:
    """Return the median of optima on bootstrap resamples of whole groups."""
    groups = np.array([group_of[i] for i in tables.ids])
    resamples = resample_counts(groups, tune.optima, tune.seed)
    return exact.median_rule([exact.search(tables, metric, tune.rule, COARSE, counts)[0] for counts in resamples])


def _best_trial(counted: Tables | Components, metric: str, tune: Tune) -> Rule:
    start = starting_rules(counted, metric, tune)
    return search_with_optuna(counted, metric, tune.rule, tune.sampler, tune.trials, tune.seed, start=start).rule


def starting_rules(counted: Tables | Components, metric: str, tune: Tune) -> list[Rule]:
    """Return the rules that Optuna tries first, with the exact optimum of these images if the settings ask for it."""
    tables = counted if isinstance(counted, Tables) else counted.tables
    if not tune.enqueue_exact:
        return list(STARTS)
    return [*STARTS, exact.search(tables, metric, tune.rule)[0]]
