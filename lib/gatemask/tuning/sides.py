"""Score one side of a comparison: experiments behind the ensemble's gates, or in front of its mask networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gatemask.config import Competition, Ensemble, Members
from gatemask.masks.metrics import METRICS, guide, total
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables
from gatemask.project import Project
from gatemask.results.tuning import Kind
from gatemask.tuning import exact
from gatemask.tuning.crossfit import CrossFit, cross_fit
from gatemask.tuning.final_pass import MaskScoring, score_on_masks, scored_on_masks
from gatemask.tuning.members import build_tables, given_weights, open_members

COARSE = range(2, 256, 2)  # levels of the rules: every second level costs a fraction of all


def is_trained(project: Project, names: Iterable[str], folds: Iterable[int]) -> bool:
    """Return whether all folds of some experiments are trained."""
    folds = list(folds)
    return all((project.fold(name, fold) / "result.json").exists() for name in names for fold in folds)


def side_of(ensemble: Ensemble, task: Kind, names: Sequence[str], gated: bool) -> Ensemble:
    """Return the ensemble with the experiments of one side in place of its own.

    Args:
        ensemble: Members on the other side, and how to search.
        task: Task of the experiments.
        names: Experiments of the side; their predictions are averaged by equal weights.
        gated: Whether mask networks are scored behind gates.
    """
    changed: dict[str, Members] = {task: Members(experiments=list(names))}
    if task == "gate" and ensemble.mask.weights == "tuned":  # tuned behind another gate they would differ
        changed["mask"] = ensemble.mask.model_copy(update={"weights": "equal"})
    if not gated:
        changed["gate"] = without_gates()
    return ensemble.model_copy(update=changed)


def without_gates() -> Members:
    """Return the section `gate` of an ensemble in which every image passes."""
    return Members.model_construct(experiments=[], folds="all", weights="equal")


def fit_side(
    project: Project, comp: Competition, side: Ensemble, fold_of: Mapping[str, int], tables: Tables | None = None
) -> CrossFit:
    """Score a side, each fold by rules that were tuned on the other folds.

    A single fold has no others: it is scored by rules that were tuned on its own images.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        side: Experiments, as `side_of` returns them.
        fold_of: Fold of each image to score.
        tables: Threshold tables of the side. Default: counted from its maps.
    """
    gates, names = side.gate.experiments, side.mask.experiments
    if tables is None:
        tables = build_tables(project, comp, side, fold_of)
    variant = side.tune.rule.model_copy(update={} if gates else {"gate": False})
    label, guiding = "+".join([*gates, *names]), guide(comp.metric)

    def find(some: Tables) -> list[Rule]:
        return exact.search_classes(some, guiding, variant, COARSE)[0]

    several = len(np.unique(tables.folds)) > 1
    fit = cross_fit(tables, guiding, find, label) if several else _in_sample(tables, guiding, find(tables))
    if not scored_on_masks(comp):
        return fit
    with open_members(project, comp, side, fold_of) as predictions:
        scoring = MaskScoring.of(comp, project.experiments)
        worth, weight = score_on_masks(predictions, given_weights(side.mask), scoring, [fit.rules], label)[0]
    return replace(fit, worth=worth, weight=weight)


def _in_sample(tables: Tables, metric: str, rules: Sequence[Rule]) -> CrossFit:
    fold = int(tables.folds[0])
    worth, weight = METRICS[metric](*tables.counts(rules), tables.truth)
    return CrossFit({fold: rules}, worth, weight, {fold: total(worth, weight)})
