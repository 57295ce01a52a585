"""What a tuning run found: its result and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatemask.config import Competition, Ensemble, Tune, metric_title
from gatemask.masks import rule as rules
from gatemask.masks import rule_files
from gatemask.masks.metrics import guide, total
from gatemask.oof.image_scores import ImageScores
from gatemask.oof.tables import Tables, all_empty_score, passing
from gatemask.results.tuning import ALL_EMPTY, EVERYTHING_PASSES, CandidateSummary, ClassResult, FoldRule, TunedResult

if TYPE_CHECKING:
    from gatemask.tuning.candidates import Candidate, TuningImages
    from gatemask.tuning.crossfit import CrossFit
    from gatemask.tuning.figures import FigureInput
    from gatemask.tuning.optuna_search import StudyResult
    from gatemask.tuning.weighing import MemberWeights


@dataclass(frozen=True)
class Tuned:
    """Everything that a tuning run found.

    Args:
        images: Images as the members' weights average them.
        members: Weights of the members.
        candidates: Candidates by name.
        shipped: Name of the shipped candidate.
        beside: Scores of the rules that `tune.beside` names.
        studies: Optuna's study of each class; none where masks are searched.
        on_masks: Whether candidates have the scores of their masks at full size.
    """

    images: TuningImages
    members: MemberWeights
    candidates: Mapping[str, Candidate]
    shipped: str
    beside: Mapping[str, CandidateSummary]
    studies: Sequence[StudyResult]
    on_masks: bool

    @property
    def best(self) -> Candidate:
        return self.candidates[self.shipped]

    @property
    def drawn(self) -> Candidate:
        """The candidate that figures show: the best with thresholds, where nothing is predicted."""
        if self.shipped != ALL_EMPTY:
            return self.best
        others = [candidate for name, candidate in self.candidates.items() if name != ALL_EMPTY]
        return max(others, key=lambda candidate: candidate.fit.score)


def summarize(comp: Competition, ensemble: Ensemble, tuned: Tuned, group_of: Mapping[str, str]) -> TunedResult:
    """Return the result of a tuning run, with the bootstrap interval of its score.

    Args:
        comp: Classes and metric.
        ensemble: Settings of the search.
        tuned: What was found.
        group_of: Group by image id.
    """
    from gatemask.tuning.crossfit import bootstrap_interval
    from gatemask.tuning.gate_statistics import gate_numbers

    best, tables, members = tuned.best, tuned.images.tables, tuned.members
    groups = np.array([group_of[i] for i in tables.ids])
    exact_score = None if tuned.on_masks else _exact_score(ensemble, tuned.candidates)
    tune = ensemble.tune
    reached = float(np.mean([study.best for study in tuned.studies])) if tuned.studies else None
    several = {"classes": _class_results(comp, tune, tuned, groups)} if tables.classes > 1 else {}
    return TunedResult(
        images=len(tables),
        positives=int((tables.truth.sum(axis=1) > 0).sum()),
        groups=len(np.unique(groups)),
        metric=comp.metric,
        cross_fitted=best.fit.score,
        ci95=bootstrap_interval(best.fit.worth, best.fit.weight, groups, tune.bootstrap, tune.seed),
        in_sample=best.in_sample,
        all_empty=tuned.candidates[ALL_EMPTY].fit.score if tuned.on_masks else all_empty_score(tables, comp.metric),
        shipped=tuned.shipped,
        rule=rule_files.as_values(best.rules),
        **several,
        **({"on_masks": True} if tuned.on_masks else {}),
        passing=float(passing(tables, best.rules).mean()),
        masks_alone=tuned.candidates[EVERYTHING_PASSES].fit.score,
        per_fold={
            str(fold): FoldRule(score=best.fit.by_fold[fold], rule=rule_files.as_values(chosen))
            for fold, chosen in best.fit.rules.items()
        },
        gate=gate_numbers(tables, best.rules),
        optuna=reached,
        exact_gap=None if exact_score is None or reached is None else exact_score - reached,
        trials=len(tuned.studies[0].values) if tuned.studies else 0,
        candidates={name: candidate.summary() for name, candidate in tuned.candidates.items()},
        beside=dict(tuned.beside),
        weights=members.weights,
        views=members.views,
        weighing=members.weighing,
        gate_weights=members.gate_weights,
        selection=members.selection,
    )


def _class_results(comp: Competition, tune: Tune, tuned: Tuned, groups: np.ndarray) -> list[ClassResult]:
    """Return the scores and the rule of each class."""
    from gatemask.tuning.crossfit import bootstrap_interval
    from gatemask.tuning.gate_statistics import gate_numbers

    best, tables = tuned.best, tuned.images.tables
    own_gates = tables.gates_differ
    results = []
    for index, name in enumerate(comp.classes):
        part, column = tables.of_class(index), slice(index, index + 1)
        worth, weight = best.fit.worth[:, column], best.fit.weight[:, column]
        empty = tuned.candidates[ALL_EMPTY].fit.score_of_class(index)
        own = {"gate": gate_numbers(part, best.rules[index])} if own_gates else {}
        results.append(
            ClassResult(
                name=name,
                positives=int((part.truth > 0).sum()),
                cross_fitted=best.fit.score_of_class(index),
                ci95=bootstrap_interval(worth, weight, groups, tune.bootstrap, tune.seed),
                in_sample=best.in_sample_by_class[index],
                all_empty=empty,
                passing=float(passing(part, best.rules[index]).mean()),
                rule=rule_files.as_values([best.rules[index]]),
                **own,
            )
        )
    return results


def _exact_score(ensemble: Ensemble, candidates: Mapping[str, Candidate]) -> float | None:
    """Return the best score that the study could have reached, where it is known."""
    return candidates["exact"].in_sample if "exact" in candidates and not ensemble.tune.rule.by_component else None


def write_tuned(folder: Path, comp: Competition, ensemble: Ensemble, tuned: Tuned) -> list[Path]:
    """Write tables, rules and figures of a tuning run, and return their paths."""
    from gatemask.tuning.figures import write_class_figures, write_figures

    best, images = tuned.best, tuned.images
    shown = [_figure_input(comp, ensemble, tuned, index) for index in range(len(comp.classes))]
    if len(shown) == 1:
        figures = write_figures(folder, shown[0])
    else:
        figures = write_class_figures(
            folder, shown, images.tables, images.counted, [of_class.rule for of_class in shown]
        )
    written = rule_files.save_rules(best.rules, comp.classes, folder / "rule.yaml")
    scores = _image_scores(images.tables, best.fit).save(folder / "scores.npz")
    files = [images.tables.save(folder / "tables.npz"), scores, written, *figures]
    if any(rule.by_component for rule in best.rules) and images.components is not None:
        files.append(images.components.save(folder / "components.npz"))
    return files


def _image_scores(tables: Tables, fit: CrossFit) -> ImageScores:
    """Return the cross-fitted scores of single images."""
    positive: np.ndarray = np.any(tables.truth > 0, axis=1)
    return ImageScores(tables.ids, tables.folds, fit.worth, fit.weight, positive)


def _figure_input(comp: Competition, ensemble: Ensemble, tuned: Tuned, index: int) -> FigureInput:
    """Return what the figures of a class show."""
    from gatemask.tuning.figures import FigureInput

    drawn, images = tuned.drawn, tuned.images
    known = not tuned.on_masks and _exact_score(ensemble, tuned.candidates) is not None
    fold_of, column = images.tables.folds, slice(index, index + 1)
    return FigureInput(
        tables=images.tables.of_class(index),
        counted=images.counted.of_class(index),
        rule=drawn.rules[index] if images.components else rules.without_components(drawn.rules[index]),
        metric=guide(comp.metric),
        fold_rules={fold: chosen[index] for fold, chosen in drawn.fit.rules.items()},
        fold_scores={
            fold: total(drawn.fit.worth[fold_of == fold, column], drawn.fit.weight[fold_of == fold, column])
            for fold in drawn.fit.rules
        },
        cross_fitted=drawn.fit.score_of_class(index),
        trials=tuned.studies[index].values if tuned.studies else [],
        exact_score=tuned.candidates["exact"].in_sample_by_class[index] if known else None,
        score_title=metric_title(comp.metric),
        name=comp.classes[index] if len(comp.classes) > 1 else "",
    )
