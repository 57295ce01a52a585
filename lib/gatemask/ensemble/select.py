"""`gatemask ensemble`: choose the members that are shipped, with their shares and hashes, the rule and the score.

runs/<comp>/ensemble/ensemble.yaml   members and everything that inference needs
runs/<comp>/ensemble/scores.npz      cross-fitted score of each image, for `gatemask finalists`
runs/<comp>/ensemble/selection.png   path of greedy selection, where there was one
runs/<comp>/ensemble/costs.json      costs of the networks, see gatemask.cost.kernel_time
runs/<comp>/ensemble/result.json     written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatemask.config import Competition, Ensemble, Members, load_run_config, metric_title
from gatemask.console import say, table
from gatemask.cost.kernel_time import KernelEstimate, count_test_images, estimate_kernel
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import copy_file, fingerprint, sha256
from gatemask.masks import rule_files
from gatemask.masks.metrics import guide
from gatemask.project import Project
from gatemask.results.ensemble import (
    CompetitionFacts,
    EnsembleResult,
    SelectionSummaries,
    SelectionSummary,
    ShippedEnsemble,
    ShippedMember,
    ShippedScore,
)
from gatemask.results.training import FoldResult
from gatemask.results.tuning import Kind, MemberSelection, Selections, TunedResult
from gatemask.stage import Stage, Stamp
from gatemask.tracking.send_results import send_at_once
from gatemask.tuning.members import given_weights
from gatemask.tuning.outdated import as_trained_notes
from gatemask.tuning.tune import require_tuned

if TYPE_CHECKING:
    from gatemask.plots.selection import SelectionPath

KINDS: tuple[Kind, ...] = ("gate", "mask")
PANEL_TITLES: dict[Kind, str] = {"mask": "Mask experiments", "gate": "Gate experiments"}


@dataclass(frozen=True)
class _Run:
    """A trained fold: its result, and the hashes of its files."""

    result: FoldResult
    outputs: Mapping[str, str | None]


def select_members(project: Project, comp: Competition, ensemble: Ensemble) -> EnsembleResult:
    """Take all folds of each experiment with weight, or its best n by the fold's own score, as ensemble.yaml says.

    Members are listed by importance, since a kernel that runs short of time drops the last ones: in the order of
    greedy selection, else the best fold of each experiment before any second-best.

    Raises:
        GatemaskError: The rule or a run is missing or outdated, or a cap is exceeded.
    """
    tuned = require_tuned(project, comp, ensemble)
    runs, notes = _read_runs(project, ensemble), as_trained_notes(project, comp, ensemble)
    stage = _stage(project, comp, ensemble, tuned, runs, notes)

    def work() -> tuple[EnsembleResult, list[Path]]:
        costs = estimate_kernel(project, comp, ensemble)
        gates, masks = (_names_with_weight(ensemble, kind, tuned) for kind in KINDS)
        _require_caps(costs, ensemble, gates, masks, tuned.passing)
        shipped = _ship(project, comp, ensemble, tuned, runs, costs)
        if notes:
            shipped = shipped.model_copy(update={"as_trained": notes})
        folder = project.runs / "ensemble"
        outputs = [shipped.save(folder / "ensemble.yaml"), *_write_figure(folder, tuned)]
        if (scores := project.tuned / "scores.npz").exists():  # absent where an earlier version tuned
            outputs.append(copy_file(scores, folder / "scores.npz"))
        seconds = costs.seconds(gates, masks, tuned.passing)
        return _result(shipped, tuned, costs.images, seconds, notes), outputs

    result = stage.run(work)
    send_at_once(project, [stage.stamp])
    return result


def require_ensemble(project: Project, comp: Competition, ensemble: Ensemble) -> Path:
    """Return the path of ensemble.yaml.

    Raises:
        GatemaskError: The ensemble is missing, or older than its rule or runs.
    """
    tuned = require_tuned(project, comp, ensemble)
    notes = as_trained_notes(project, comp, ensemble)
    stage = _stage(project, comp, ensemble, tuned, _read_runs(project, ensemble), notes)
    stage.require(
        "No ensemble has been chosen yet.",
        "The ensemble is older than its rule or its runs.",
        f"Run gatemask ensemble {project.comp}.",
    )
    return stage.stamp.with_name("ensemble.yaml")


def weights_file(project: Project, member: ShippedMember) -> Path:
    """Return the path of a member's weights in the runs."""
    return project.fold(member.experiment, member.fold) / "best.weights.h5"


def _stage(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    tuned: TunedResult,
    runs: Mapping[str, Sequence[_Run]],
    notes: Sequence[str],
) -> Stage[EnsembleResult]:
    facts = CompetitionFacts.of(comp).model_dump(mode="json")
    inference = ensemble.inference
    selections = tuned.selection.model_dump(mode="json")
    made_from = {
        "settings": fingerprint([ensemble.model_dump(exclude={"quick", "tune", "inference", "as_trained"}), facts]),
        "kernel": fingerprint(
            [inference.hours, inference.precision, comp.kaggle.inference, count_test_images(project, comp)]
        ),
        "rule": sha256(project.tuned / "rule.yaml"),
        "score": fingerprint([tuned.cross_fitted, tuned.in_sample, tuned.all_empty]),
        "selection": fingerprint([selections, tuned.passing]),
        "weights": fingerprint([_shares(ensemble, kind, tuned) for kind in KINDS]),
        "views": fingerprint(_view_weights(ensemble, tuned)),
        "runs": fingerprint([run.outputs for folds in runs.values() for run in folds]),
    }
    if notes:
        made_from["as_trained"] = fingerprint(list(notes))
    return Stage("ensemble", project.runs / "ensemble" / "result.json", made_from, EnsembleResult)


def _read_runs(project: Project, ensemble: Ensemble) -> dict[str, list[_Run]]:
    """Read the trained folds of each experiment."""
    folds = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    runs = {}
    for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]:
        stamps = [project.fold(name, fold) / "result.json" for fold in folds]
        if missing := [stamp for stamp in stamps if not stamp.exists()]:
            raise GatemaskError(
                "A fold is not trained yet.", where=missing[0].parent, do=f"Run gatemask train {project.comp}/{name}."
            )
        runs[name] = [_Run(FoldResult.load(stamp), Stamp.load(stamp).outputs) for stamp in stamps]
    return runs


def _require_caps(
    costs: KernelEstimate, ensemble: Ensemble, gates: Sequence[str], masks: Sequence[str], passing: float
) -> None:
    """Reject an ensemble over a cap. Greedy selection makes one only where its final rule lets more images pass."""
    for kind, part, cost, names in (
        ("gate", ensemble.gate, costs.gate, gates),
        ("mask", ensemble.mask, costs.mask, masks),
    ):
        if cost.exceeds_cap(names):
            raise GatemaskError(
                f"There are more networks than {kind}.members allows.",
                where="ensemble.yaml",
                received=f"{len(names) * cost.folds}: {len(names)} experiments, {cost.folds} folds of each",
                expected=f"at most {part.members}",
                do=f"Name fewer experiments, ship fewer folds ({kind}.folds), or set {kind}.weights: greedy.",
            )
    hours = costs.seconds(gates, masks, passing) / 3600
    if hours > costs.hours:
        raise GatemaskError(
            "The kernel would take longer than inference.hours.",
            where="ensemble.yaml",
            received=f"{hours:.2f} hours predicted for {costs.images} images, {passing:.0%} of them past the gate",
            expected=f"at most {costs.hours:g}",
            do="Ship fewer folds (folds: 1) or experiments, fewer views (tta), or infer in float16.",
        )


def _shares(ensemble: Ensemble, kind: Kind, tuned: TunedResult) -> list[float]:
    """Return the weight of each experiment of a kind."""
    part = _part(ensemble, kind)
    if part.weights == "tuned":
        return [float(sum(views)) for views in _weights_by_experiment(tuned)]
    if part.weights == "greedy" and (selection := tuned.selection.of(kind)):
        return list(selection.weights)
    return given_weights(part)


def _part(ensemble: Ensemble, kind: Kind) -> Members:
    return ensemble.gate if kind == "gate" else ensemble.mask


def _names_with_weight(ensemble: Ensemble, kind: Kind, tuned: TunedResult) -> list[str]:
    weights = _shares(ensemble, kind, tuned)
    return [name for name, weight in zip(_part(ensemble, kind).experiments, weights, strict=True) if weight]


def _weights_by_experiment(tuned: TunedResult) -> list[list[float]]:
    """Return the tuned weights of each mask experiment's views; most experiments have a single one."""
    flat = iter(tuned.weights)
    return [[next(flat) for _ in range(views)] for views in tuned.views]


def _view_weights(ensemble: Ensemble, tuned: TunedResult) -> dict[str, list[float]]:
    """Return the weights of a mask experiment's views, where they were weighed and differ."""
    if ensemble.mask.weights != "tuned":
        return {}
    by_name = zip(ensemble.mask.experiments, _weights_by_experiment(tuned), strict=True)
    return {name: weights for name, weights in by_name if len(set(weights)) > 1}


def _ship(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    tuned: TunedResult,
    runs: Mapping[str, Sequence[_Run]],
    costs: KernelEstimate,
) -> ShippedEnsemble:
    view_weights = _view_weights(ensemble, tuned)
    masks = [
        member.model_copy(update={"view_weights": view_weights[member.experiment]})
        if member.experiment in view_weights
        else member
        for member in _members(project, comp, ensemble, "mask", runs, tuned, costs.mask.seconds)
    ]
    summaries = {kind: _summary(selection) for kind, selection in tuned.selection.made().items()}
    return ShippedEnsemble(
        competition=CompetitionFacts.of(comp),
        score=ShippedScore(
            cross_fitted=tuned.cross_fitted, in_sample=tuned.in_sample, all_empty=tuned.all_empty, **_by_class(tuned)
        ),
        selection=SelectionSummaries(mask=summaries.get("mask"), gate=summaries.get("gate")),
        rule=rule_files.as_values(rule_files.load_rules(project.tuned / "rule.yaml", comp.classes)),
        passing_share=tuned.passing,
        gate=_members(project, comp, ensemble, "gate", runs, tuned, costs.gate.seconds),
        mask=masks,
    )


def _members(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    kind: Kind,
    runs: Mapping[str, Sequence[_Run]],
    tuned: TunedResult,
    seconds: Mapping[str, float],
) -> list[ShippedMember]:
    """Return the members of a kind in order, without experiments of weight 0."""
    part, selection = _part(ensemble, kind), tuned.selection.of(kind)
    order = _order(part, selection)
    weights = dict(zip(part.experiments, _shares(ensemble, kind, tuned), strict=True))
    members: dict[tuple[int, int], ShippedMember] = {}
    for name in _names_with_weight(ensemble, kind, tuned):
        best = sorted(runs[name], key=lambda run: (-run.result.score, run.result.fold))
        taken = best if part.folds == "all" else best[: part.folds]
        why = "all folds" if part.folds == "all" else f"among its best {part.folds}"
        why = f"{_rounds_text(selection, name)}; {why}" if selection else why
        for rank, run in enumerate(taken):
            member = _member(project, comp, run, why, weights[name] / len(taken), seconds[name])
            members[(order[name], rank) if selection else (rank, order[name])] = member
    return [members[place] for place in sorted(members)]


def _order(part: Members, selection: MemberSelection | None) -> dict[str, int]:
    """Return the place of each experiment: the round that took it first, else its place in ensemble.yaml."""
    names = [step.taken for step in selection.rounds] if selection else part.experiments
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def _rounds_text(selection: MemberSelection, name: str) -> str:
    """Return what an experiment added to the ensemble, round by round."""
    texts: list[str] = []
    before: float | None = None
    for number, step in enumerate(selection.rounds[: selection.cut], start=1):
        if step.taken == name:
            change = f"alone {step.score:.4f}" if before is None else f"{before:.4f} -> {step.score:.4f}"
            texts.append(f"round {number}: {change}")
        before = step.score
    return ", ".join(texts)


def _member(project: Project, comp: Competition, run: _Run, why: str, weight: float, seconds: float) -> ShippedMember:
    name, fold = run.result.experiment, run.result.fold
    config = project.fold(name, fold) / "config.yaml"
    if not config.exists() or sha256(config) != run.outputs.get("config.yaml"):
        raise GatemaskError(
            "The settings of a run are missing or were edited: what it was trained with is unknown.",
            where=config,
            expected="the file with the hash in result.json",
            do=f"Run gatemask train {project.comp}/{name} --fold {fold}: it writes the file again and trains nothing.",
        )
    exp = load_run_config(config.parent)
    # Random views are drawn from the augmentation, which is shipped only for them.
    augment = {"augment": exp.augment} if any(view.random for view in exp.tta) else {}
    tile = {} if exp.input.tile is None else {"tile": exp.input.tile}
    return ShippedMember(
        name=f"{name}-fold{fold}",
        experiment=name,
        fold=fold,
        weight=weight,
        score=run.result.score,
        why=why,
        seconds_per_image=float(f"{seconds:.3g}"),
        sha256=run.outputs["best.weights.h5"] or "",
        task=exp.task,
        size=exp.input.size,
        records=exp.input.records or comp.records.size,
        tta=exp.tta,
        **augment,
        **tile,
        model=exp.model,
    )


def _summary(selection: MemberSelection) -> SelectionSummary:
    return SelectionSummary(
        path=[f"{step.taken} {step.score:.4f}" for step in selection.rounds[: selection.cut]],
        score=selection.score,
        nested=selection.nested,
        equal=selection.equal,
        best_member=selection.best_member,
        left_out=selection.left_out,
    )


def _result(
    shipped: ShippedEnsemble, tuned: TunedResult, images: int, seconds: float, notes: list[str]
) -> EnsembleResult:
    return EnsembleResult(
        gates=len(shipped.gate),
        masks=len(shipped.mask),
        cross_fitted=tuned.cross_fitted,
        ci95=tuned.ci95,
        members=[member.name for member in shipped.members],
        weights={member.name: member.weight for member in shipped.members},
        why={member.name: member.why for member in shipped.members},
        selection=tuned.selection,
        test_images=images,
        predicted_minutes=seconds / 60,
        **_by_class(tuned),
        **({"as_trained": notes} if notes else {}),
    )


def _by_class(tuned: TunedResult) -> dict[str, dict[str, float]]:
    """Return the field `by_class` of the scores, where there are several classes."""
    scores = {part.name: part.cross_fitted for part in tuned.classes}
    return {"by_class": scores} if scores else {}


def _write_figure(folder: Path, tuned: TunedResult) -> list[Path]:
    """Write selection.png, where anything was selected."""
    if not tuned.selection.made():
        return []
    from gatemask.plots.selection import draw_selection
    from gatemask.plots.style import save

    figure = draw_selection(selection_paths(tuned.selection), metric_title(guide(tuned.metric)))
    return [save(figure, folder / "selection.png")]


def selection_paths(selections: Selections) -> list[SelectionPath]:
    """Return greedy selections in the form that `draw_selection` takes."""
    from gatemask.plots.selection import SelectionPath

    return [
        SelectionPath(
            title=PANEL_TITLES[kind],
            taken=[step.taken for step in selection.rounds],
            scores=[step.score for step in selection.rounds],
            kept=selection.cut,
            experiments=len(selection.counts),
            best=(selection.best_member.name, selection.best_member.score),
            equal=selection.equal,
            nested=selection.nested,
        )
        for kind, selection in selections.made().items()
    ]


def print_ensemble(result: EnsembleResult) -> None:
    """Print the path of each selection, the members, and the predicted duration."""
    if result.current:
        say("Current: nothing to do.")
    for kind, selection in result.selection.made().items():
        _print_path(kind, selection)
    rows = [[name, result.weights[name], result.why[name]] for name in result.members]
    table(f"{result.gates} gates, {result.masks} mask networks", ["member", "weight", "why"], rows)
    minutes, images = result.predicted_minutes, result.test_images
    duration = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.2g} seconds"
    for note in result.as_trained:
        say(f"as trained, not as the YAMLs and data say now: {note}")
    if result.by_class:
        say("by class: " + ", ".join(f"{name} {score:.4f}" for name, score in result.by_class.items()))
    say(f"cross-fitted {result.cross_fitted:.4f}; predicted for {images} test images, without reading: {duration}")


def _print_path(kind: Kind, selection: MemberSelection) -> None:
    names = list(selection.rounds[0].counts)
    rows: list[list[object]] = []
    for number, step in enumerate(selection.rounds, start=1):
        scores = [step.scores.get(name, "-") for name in names]
        rows.append([f"{number}{' *' if number == selection.cut else ''}", step.taken, step.score, *scores])
    rows.append(["all equally", "", selection.equal, *["" for _ in names]])
    rows.append(["on other folds", "", selection.nested, *["" for _ in names]])
    title = f"{kind}s, round by round: cross-fitted score with each experiment added"
    table(title, ["round", "taken", "score", *names], rows)
    say("* is the last round that is kept. On other folds: each fold's weights and rule were chosen without it.")
    for name, why in selection.left_out.items():
        say(f"{name} is left out: {why}")
