"""`gatemask oof-tune`: from out-of-fold predictions to a rule and its cross-fitted score.

runs/<comp>/tuned/tables.npz      threshold tables of the averaged members
runs/<comp>/tuned/scores.npz      cross-fitted score of each image
runs/<comp>/tuned/components.npz  connected components, only for a rule that uses them
runs/<comp>/tuned/study.log       Optuna's journal
runs/<comp>/tuned/rule.yaml       rule, read by inference
runs/<comp>/tuned/*.png           figures
runs/<comp>/tuned/result.json     written last
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gatemask.config import Competition, Ensemble, Members, Tune
from gatemask.cost.kernel_time import count_test_images
from gatemask.data.split import read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.masks import rule as rules
from gatemask.masks.metrics import guide
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables
from gatemask.pieces.piece import Place
from gatemask.project import Project
from gatemask.results.tuning import ALL_EMPTY, MEAN_DICE, Kind, TunedMember, TunedResult
from gatemask.stage import Stage, Stamp
from gatemask.tracking.send_results import send_at_once
from gatemask.tuning.members import MemberPredictions, open_members, prediction_hashes, training_images
from gatemask.tuning.outcome import Tuned, summarize, write_tuned

if TYPE_CHECKING:
    import optuna

    from gatemask.oof.components import Components
    from gatemask.tuning.candidates import Candidate, TuningImages
    from gatemask.tuning.optuna_search import StudyResult
    from gatemask.tuning.weighing import MemberWeights

LEVELS = range(12, 256, 12)  # lower thresholds of component rules; each costs one more pass over every image
JOURNAL = "study.log"
SCRATCH = "weights"  # folder of tables by weighting, present during a search


def tune(project: Project, comp: Competition, ensemble: Ensemble, place: Place | None = None) -> TunedResult:
    """Tune the rule of an ensemble on its out-of-fold predictions.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        ensemble: Gates and mask networks to average, and how to search.
        place: Place that counts the threshold tables. Default: the threads of this process.

    Raises:
        GatemaskError: Predictions are missing, outdated or damaged, the settings do not fit the metric, or another
            process is tuning.
    """
    _require_counts_for_quantile(comp, ensemble)
    stage = _stage(project, comp, ensemble)

    def work() -> tuple[TunedResult, dict[Path, str | None]]:
        inputs = fingerprint(stage.made_from)
        tuned = _tune(project, comp, ensemble, inputs, place)
        files = write_tuned(project.tuned, comp, ensemble, tuned)
        # The dashboard may write notes into the study: it must exist, whatever its hash.
        outputs: dict[Path, str | None] = {path: sha256(path) for path in files}
        journal: dict[Path, str | None] = {project.tuned / JOURNAL: None} if tuned.studies else {}
        group_of = training_images(project).group_of
        result = summarize(comp, ensemble, tuned, group_of)
        return result.model_copy(update={"members": _tuned_members(project, ensemble)}), {**outputs, **journal}

    result = stage.run(work, lambda: shutil.rmtree(project.tuned / SCRATCH, ignore_errors=True))
    send_at_once(project, [stage.stamp])
    return result


def _require_counts_for_quantile(comp: Competition, ensemble: Ensemble) -> None:
    """Raise if a share of images would be searched on a sample of them, half of which has masks."""
    from gatemask.tuning.final_pass import searched_on_masks

    if ensemble.tune.rule.by_quantile and searched_on_masks(comp):
        raise GatemaskError(
            "A gate that lets a share of the images pass cannot be searched with this metric.",
            where="tune.rule.gate of ensemble.yaml",
            received=f"quantile, with the metric {comp.metric}" + (" of objects" if comp.objects is not None else ""),
            expected="a metric that pixel counts decide, such as mean_dice",
            do="Set tune.rule.gate: true.",
        )


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


def load_counted(project: Project, rules: Sequence[Rule]) -> Tables | Components:
    """Load the counts on which the tuned rules were scored."""
    from gatemask.oof.components import Components

    if any(rule.by_component for rule in rules):
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


def _tuned_members(project: Project, ensemble: Ensemble) -> list[TunedMember]:
    """Return all folds of all members, with the hashes of their weights."""
    names: list[tuple[Kind, str]] = [("gate", name) for name in ensemble.gate.experiments]
    names += [("mask", name) for name in ensemble.mask.experiments]
    folds, members = sorted(set(training_images(project).fold_of.values())), []
    for task, name in names:
        for fold in folds:
            weights = Stamp.load(project.fold(name, fold) / "result.json").outputs.get("best.weights.h5")
            members.append(TunedMember(experiment=name, fold=fold, task=task, sha256=weights))
    return members


def _stage(project: Project, comp: Competition, ensemble: Ensemble) -> Stage[TunedResult]:
    return Stage("oof-tune", project.tuned / "result.json", _made_from(project, comp, ensemble), TunedResult)


def _made_from(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, str]:
    """Return hashes of what decides the rule: settings, truth, and every member's out-of-fold predictions."""
    read_folds(project)  # or an error that names the command
    read_manifest(project)
    files = [project.root / name for name in ensemble.tune.beside]
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
        "settings": fingerprint(
            [selected_by, ensemble.tune.model_dump(), comp.image.size, comp.metric, *_further_settings(project, comp)]
        ),
        "beside": fingerprint([sha256(file) for file in files]),
        "masks": sha256(project.data / "masks.csv"),
        "folds": sha256(project.folds),
        "predictions": fingerprint(prediction_hashes(project, comp, ensemble)),
    }


def _further_settings(project: Project, comp: Competition) -> list[object]:
    """Return what else decides the rule; nothing where all of it is as by default."""
    changed: dict[str, object] = {}
    if len(comp.classes) > 1:
        changed |= {"classes": comp.classes, "exclusive": comp.exclusive}
    if comp.image.scoring_size is not None:
        changed["scoring_size"] = comp.image.scoring_size
    if comp.image.fit != "stretch":
        changed |= {"fit": comp.image.fit, "records": comp.records.shape}
    for name in ("tiles", "objects"):
        if (section := getattr(comp, name)) is not None:
            changed[name] = section.model_dump(mode="json")
    if comp.metric_options:
        changed["options"] = comp.metric_options
    own = project.experiments / f"{comp.metric.split(':')[0].replace('.', '/')}.py"
    if ":" in comp.metric and own.is_file():
        changed["metric"] = sha256(own)
    return [changed] if changed else []


def _tune(project: Project, comp: Competition, ensemble: Ensemble, inputs: str, place: Place | None) -> Tuned:
    from gatemask.tuning.candidates import choose_candidate
    from gatemask.tuning.final_pass import scored_on_masks, searched_on_masks
    from gatemask.tuning.reference_rules import names_of, reference_rules
    from gatemask.tuning.table_pieces import count_at
    from gatemask.tuning.weighing import count_for_held_out_folds, count_for_tuning, weigh_members
    from gatemask.tuning.weighted_tables import WeightedTables

    settings = ensemble.tune
    fold_of, group_of = training_images(project)
    size = comp.image.scoring_size or (comp.records.shape if comp.image.size == "mixed" else comp.image.size)
    files = names_of(settings.beside)
    given = {name: reference_rules(project.root / file, size, comp.classes) for name, file in files.items()}
    levels = _component_levels(ensemble, given)
    with open_members(project, comp, ensemble, fold_of) as predictions:
        count = None if place is None else partial(count_at, place, project, comp, ensemble, len(fold_of))
        weighted = WeightedTables(predictions, project.tuned / SCRATCH, inputs, count)
        members = weigh_members(project, comp, ensemble, weighted)
        images = count_for_tuning(weighted, members.weights, members.gate_weights, levels)
        others = count_for_held_out_folds(weighted, members, images, levels)
        found = _Found(images, others, members)
        candidates, beside = _find(comp, settings, found, given, group_of, predictions, project.experiments)
    return Tuned(
        images=images,
        members=members,
        candidates=candidates,
        shipped=choose_candidate(candidates, settings.ship),
        beside={name: candidate.summary() for name, candidate in beside.items()},
        studies=[] if searched_on_masks(comp) else _run_studies(project, comp, ensemble, images, inputs),
        on_masks=scored_on_masks(comp),
    )


class _Found(NamedTuple):
    """Counted images, and the weights by which they are averaged."""

    images: TuningImages
    others: dict[int, TuningImages] | None
    members: MemberWeights


def _find(
    comp: Competition,
    settings: Tune,
    found: _Found,
    given: Mapping[str, Sequence[Sequence[Rule]]],
    group_of: Mapping[str, str],
    predictions: MemberPredictions,
    folder: Path,
) -> tuple[dict[str, Candidate], dict[str, Candidate]]:
    """Return the candidates, and the rules given in `tune.beside`, with the scores that the competition would give."""
    from gatemask.tuning import final_pass, mask_search
    from gatemask.tuning.candidates import NOTHING, find_candidates, find_on_tables, score_given_rules

    images, others, members = found
    guiding = guide(comp.metric)
    scoring = final_pass.MaskScoring.of(comp, folder)
    weights = (members.weights, members.gate_weights)
    by_fold = members.by_held_out_fold()
    if final_pass.searched_on_masks(comp):
        setup = mask_search.SearchSetup(comp, settings, scoring, members.weights)
        table = mask_search.tabulate_masks(predictions, images.tables, setup)
        masks = {fold: chosen for fold, (chosen, _) in by_fold.items()}
        tables = {fold: other.tables for fold, other in (others or {}).items()}
        held_out = mask_search.tabulate_held_out(table, predictions, masks, tables, setup)
        candidates = {
            **mask_search.find_on_masks(table, held_out, settings),
            MEAN_DICE: find_on_tables(images, "mean_dice", settings, others),
            ALL_EMPTY: score_given_rules(images, guiding, [NOTHING], others),
        }
    else:
        candidates = find_candidates(images, comp.metric, settings, group_of, others)
    beside = {name: score_given_rules(images, guiding, grid, others) for name, grid in given.items()}
    if final_pass.scored_on_masks(comp):
        everything = final_pass.rescore({**candidates, **beside}, predictions, scoring, weights, by_fold)
        return {name: everything[name] for name in candidates}, {name: everything[name] for name in beside}
    return candidates, beside


def _component_levels(ensemble: Ensemble, beside: Mapping[str, Sequence[Sequence[Rule]]]) -> list[int]:
    """Return the lower thresholds at which components are listed; empty where no rule uses components."""
    given = [rule for grid in beside.values() for choice in grid for rule in choice if rule.by_component]
    levels = [rules.level(rule.lower) for rule in given]
    return sorted({*(LEVELS if ensemble.tune.rule.by_component else ()), *levels})


def _run_studies(
    project: Project, comp: Competition, ensemble: Ensemble, images: TuningImages, inputs: str
) -> list[StudyResult]:
    """Run Optuna on all images, class by class, for the dashboard and to compare with the exact optimum."""
    from gatemask.tuning.candidates import starting_rules
    from gatemask.tuning.database import chosen_database
    from gatemask.tuning.optuna_search import search_with_optuna

    settings, counted = ensemble.tune, images.searched(ensemble.tune)
    database, studies = chosen_database(), []

    def copy_to(study: optuna.Study) -> None:
        if database is not None:
            database.copy_trials(study, f"{project.label}/oof-tune/{study.study_name}")

    for index, name in enumerate(comp.classes):
        part = counted.of_class(index)
        studies.append(
            search_with_optuna(
                part,
                comp.metric,
                settings.rule,
                settings.sampler,
                settings.trials,
                settings.seed,
                project.tuned / JOURNAL,
                f"{project.label}-{inputs}" + (f"-{name}" if len(comp.classes) > 1 else ""),
                starting_rules(part, comp.metric, settings),
                family=f"{project.label}-{inputs}",
                copy_to=copy_to,
            )
        )
    return studies
