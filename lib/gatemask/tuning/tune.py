"""`gatemask oof-tune`: from out-of-fold predictions to a rule and its cross-fitted score.

runs/<comp>/tuned/tables.npz      threshold tables of the averaged members
runs/<comp>/tuned/components.npz  connected components, only for a rule that uses them
runs/<comp>/tuned/study.log       Optuna's journal
runs/<comp>/tuned/rule.yaml       rule, read by inference
runs/<comp>/tuned/*.png           figures
runs/<comp>/tuned/result.json     written last
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gatemask.config import Competition, Ensemble, Members
from gatemask.cost.kernel_time import count_test_images
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.masks import rule as rules
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, all_empty_score
from gatemask.project import Project
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ALL_EMPTY, EVERYTHING_PASSES, CandidateSummary, FoldRule, TunedResult
from gatemask.stage import Stage
from gatemask.tuning.members import open_members, prediction_hashes

if TYPE_CHECKING:
    from gatemask.oof.components import Components
    from gatemask.tuning.candidates import Candidate, TuningImages
    from gatemask.tuning.optuna_search import StudyResult
    from gatemask.tuning.weighing import MemberWeights

LEVELS = range(12, 256, 12)  # lower thresholds of component rules; each costs one more pass over every image
JOURNAL = "study.log"
SCRATCH = "weights"  # folder of tables by weighting, present during a search


class TrainingImages(NamedTuple):
    """Images that are used for tuning: all but the hold-out.

    Args:
        fold_of: Fold by image id.
        group_of: Group by image id.
    """

    fold_of: dict[str, int]
    group_of: dict[str, str]


@dataclass(frozen=True)
class _Tuned:
    """Everything that a tuning run found.

    Args:
        images: Images as the members' weights average them.
        members: Weights of the members.
        candidates: Candidates by name.
        shipped: Name of the shipped candidate.
        beside: Scores of the rules that `tune.beside` names.
        study: Optuna's study.
    """

    images: TuningImages
    members: MemberWeights
    candidates: Mapping[str, Candidate]
    shipped: str
    beside: Mapping[str, CandidateSummary]
    study: StudyResult

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


def tune(project: Project, comp: Competition, ensemble: Ensemble) -> TunedResult:
    """Tune the rule of an ensemble on its out-of-fold predictions.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        ensemble: Gates and mask networks to average, and how to search.

    Raises:
        GatemaskError: Predictions are missing, outdated or damaged, or another process is tuning.
    """
    stage = _stage(project, comp, ensemble)

    def work() -> tuple[TunedResult, dict[Path, str | None]]:
        inputs = fingerprint(stage.made_from)
        tuned = _tune(project, comp, ensemble, inputs)
        files = _write_files(project, comp, ensemble, tuned)
        # The dashboard may write notes into the study: it must exist, whatever its hash.
        outputs: dict[Path, str | None] = {path: sha256(path) for path in files}
        return _result(project, comp, ensemble, tuned), {**outputs, project.tuned / JOURNAL: None}

    return stage.run(work, lambda: shutil.rmtree(project.tuned / SCRATCH, ignore_errors=True))


def require_tuned(project: Project, comp: Competition, ensemble: Ensemble) -> TunedResult:
    """Return the tuned result.

    Raises:
        GatemaskError: No rule has been tuned, or it was tuned on other predictions.
    """
    return _stage(project, comp, ensemble).require(
        "No rule has been tuned yet.",
        "The rule was tuned on other predictions than those on disk.",
        f"Run gatemask oof-tune {project.comp}.",
    )


def load_counted(project: Project, rule: Rule) -> Tables | Components:
    """Load the counts on which the tuned rule was scored."""
    from gatemask.oof.components import Components

    if rule.by_component:
        return Components.load(project.tuned / "components.npz")
    return Tables.load(project.tuned / "tables.npz")


def with_selected_weights(project: Project, comp: Competition, ensemble: Ensemble) -> Ensemble:
    """Return the ensemble with the weights of greedy selection in place of 'greedy', where they are current."""
    greedy = {"gate": ensemble.gate.weights == "greedy", "mask": ensemble.mask.weights == "greedy"}
    if not any(greedy.values()):
        return ensemble
    try:
        selections = require_tuned(project, comp, ensemble).selection.made()
    except GatemaskError:  # nothing was selected yet, or from other predictions
        return ensemble
    changed: dict[str, Members] = {
        kind: getattr(ensemble, kind).model_copy(update={"weights": selection.weights})
        for kind, selection in selections.items()
        if greedy[kind]
    }
    return ensemble.model_copy(update=changed)


def training_images(project: Project) -> TrainingImages:
    """Read fold and group of every image outside the hold-out."""
    frame = read_folds(project)
    frame = frame[frame["fold"] != HOLDOUT]
    ids = frame["image_id"].astype(str)
    fold_of = {image: int(fold) for image, fold in zip(ids, frame["fold"], strict=True)}
    return TrainingImages(fold_of, dict(zip(ids, frame["group"].astype(str), strict=True)))


def _stage(project: Project, comp: Competition, ensemble: Ensemble) -> Stage[TunedResult]:
    return Stage("oof-tune", project.tuned / "result.json", _made_from(project, comp, ensemble), TunedResult)


def _made_from(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, str]:
    """Return hashes of what decides the rule: settings, truth, and every member's out-of-fold predictions."""
    read_folds(project)  # or an error that names the command
    read_manifest(project)
    files = [project.root / name for name in ensemble.tune.beside if name.endswith((".yaml", ".yml"))]
    parts = (ensemble.gate, ensemble.mask)
    selected_by: list[object] = [[part.experiments, part.weights] for part in parts]
    if any(part.weights == "greedy" for part in parts):  # caps decide the selection
        images = count_test_images(project, comp)
        selected_by.append([[part.folds, part.members] for part in parts])
        selected_by.append([ensemble.inference.hours, ensemble.inference.precision, comp.kaggle.inference, images])
    if missing := [file for file in files if not file.is_file()]:
        raise GatemaskError(
            "A rule in 'tune.beside' does not exist.", where=missing[0], do="Correct tune.beside in ensemble.yaml."
        )
    return {
        "settings": fingerprint([selected_by, ensemble.tune.model_dump(), comp.image.size, comp.metric]),
        "beside": fingerprint([sha256(file) for file in files]),
        "masks": sha256(project.data / "masks.csv"),
        "folds": sha256(project.folds),
        "predictions": fingerprint(prediction_hashes(project, comp, ensemble)),
    }


def _tune(project: Project, comp: Competition, ensemble: Ensemble, inputs: str) -> _Tuned:
    from gatemask.tuning.candidates import choose_candidate, find_candidates, score_given_rules
    from gatemask.tuning.reference_rules import reference_rules
    from gatemask.tuning.weighing import count_for_held_out_folds, count_for_tuning, weigh_members
    from gatemask.tuning.weighted_tables import WeightedTables

    settings, metric = ensemble.tune, comp.metric
    fold_of, group_of = training_images(project)
    beside = {name: reference_rules(name, comp.image.size, project.root) for name in settings.beside}
    levels = _component_levels(ensemble, beside)
    with open_members(project, comp, ensemble, fold_of) as predictions:
        weighted = WeightedTables(predictions, project.tuned / SCRATCH, inputs)
        members = weigh_members(project, comp, ensemble, weighted)
        images = count_for_tuning(weighted, members.weights, members.gate_weights, levels)
        others = count_for_held_out_folds(weighted, members, images, levels)
    candidates = find_candidates(images, metric, settings, group_of, others)
    return _Tuned(
        images=images,
        members=members,
        candidates=candidates,
        shipped=choose_candidate(candidates, settings.ship),
        beside={name: score_given_rules(images, metric, grid, others).summary() for name, grid in beside.items()},
        study=_run_study(project, comp, ensemble, images, inputs),
    )


def _component_levels(ensemble: Ensemble, beside: Mapping[str, Sequence[Rule]]) -> list[int]:
    """Return the lower thresholds at which components are listed; empty where no rule uses components."""
    given = [rules.level(rule.lower) for grid in beside.values() for rule in grid if rule.by_component]
    return sorted({*(LEVELS if ensemble.tune.rule.by_component else ()), *given})


def _run_study(
    project: Project, comp: Competition, ensemble: Ensemble, images: TuningImages, inputs: str
) -> StudyResult:
    """Run Optuna on all images, for the dashboard and to compare with the exact optimum."""
    from gatemask.tuning.candidates import starting_rules
    from gatemask.tuning.optuna_search import search_with_optuna

    settings, counted = ensemble.tune, images.searched(ensemble.tune)
    return search_with_optuna(
        counted,
        comp.metric,
        settings.rule,
        settings.sampler,
        settings.trials,
        settings.seed,
        project.tuned / JOURNAL,
        f"{project.label}-{inputs}",
        starting_rules(counted, comp.metric, settings),
    )


def _result(project: Project, comp: Competition, ensemble: Ensemble, tuned: _Tuned) -> TunedResult:
    from gatemask.tuning import exact
    from gatemask.tuning.crossfit import bootstrap_interval
    from gatemask.tuning.gate_statistics import gate_numbers

    best, tables, members = tuned.best, tuned.images.tables, tuned.members
    group_of = training_images(project).group_of
    groups = np.array([group_of[i] for i in tables.ids])
    exact_score = _exact_score(ensemble, tuned.candidates)
    tune = ensemble.tune
    return TunedResult(
        images=len(tables),
        positives=int((tables.truth.sum(axis=1) > 0).sum()),
        groups=len(np.unique(groups)),
        metric=comp.metric,
        cross_fitted=best.fit.score,
        ci95=bootstrap_interval(best.fit.worth, best.fit.weight, groups, tune.bootstrap, tune.seed),
        in_sample=best.in_sample,
        all_empty=all_empty_score(tables, comp.metric),
        shipped=tuned.shipped,
        rule=RuleValues(**asdict(best.rule)),
        passing=float((tables.gate >= best.rule.gate).mean()),
        masks_alone=tuned.candidates[EVERYTHING_PASSES].fit.score if exact.is_searchable(tables, comp.metric) else None,
        per_fold={
            str(fold): FoldRule(score=best.fit.by_fold[fold], rule=RuleValues(**asdict(rule)))
            for fold, rule in best.fit.rules.items()
        },
        gate=gate_numbers(tables, best.rule),
        optuna=tuned.study.best,
        exact_gap=None if exact_score is None else exact_score - tuned.study.best,
        trials=len(tuned.study.values),
        candidates={name: candidate.summary() for name, candidate in tuned.candidates.items()},
        beside=dict(tuned.beside),
        weights=members.weights,
        views=members.views,
        weighing=members.weighing,
        gate_weights=members.gate_weights,
        selection=members.selection,
    )


def _exact_score(ensemble: Ensemble, candidates: Mapping[str, Candidate]) -> float | None:
    """Return the best score that the study could have reached, where it is known."""
    return candidates["exact"].in_sample if "exact" in candidates and not ensemble.tune.rule.by_component else None


def _write_files(project: Project, comp: Competition, ensemble: Ensemble, tuned: _Tuned) -> list[Path]:
    from gatemask.tuning.figures import FigureInput, write_figures

    best, drawn, folder, images = tuned.best, tuned.drawn, project.tuned, tuned.images
    shown = FigureInput(
        tables=images.tables,
        counted=images.counted,
        rule=drawn.rule,
        metric=comp.metric,
        fold_rules=drawn.fit.rules,
        fold_scores=drawn.fit.by_fold,
        cross_fitted=drawn.fit.score,
        trials=tuned.study.values,
        exact_score=_exact_score(ensemble, tuned.candidates),
    )
    figures = write_figures(folder, shown)
    files = [images.tables.save(folder / "tables.npz"), rules.save_rule(best.rule, folder / "rule.yaml"), *figures]
    if best.rule.by_component:
        files.append(images.counted.save(folder / "components.npz"))
    return files
