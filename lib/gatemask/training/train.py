"""`gatemask train`: train one experiment fold by fold, in one process with one model and one trace of its step.

With `runtime.folds: parallel` and several devices, folds are trained side by side, one process per device.

runs/<comp>/<experiment>/fold<k>/
    config.yaml environment.json   settings, and the environment they ran in
    metrics.jsonl                  one row per epoch
    begun.json                     what the run is made from; removed when the fold is done
    state/                         state to resume from; removed when the fold is done
    kept/                          weights of the best epochs, where `checkpoints.keep` keeps several
    best.weights.h5                weights of the best epoch by `monitor`, or the mean of the best few
    oof.h5 (gate: oof.csv)         out-of-fold predictions of these weights
    tables.npz                     masks: their threshold tables at the competition's own size
    result.json                    stamp, written last
    tensorboard/                   event file, with `tracking.tensorboard`; it is a log, like metrics.jsonl
runs/<comp>/<experiment>/logs/    what the processes of folds side by side printed
runs/<comp>/<experiment>/.fold<k>.lock   held by the process that trains the fold
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.files import set_aside, write_text
from gatemask.pieces.piece import Place
from gatemask.project import Project
from gatemask.results.training import FoldResult, TrainingResult, trained_from
from gatemask.stage import Stage, Stamp
from gatemask.tracking import run_folder
from gatemask.tracking.mode import tracking_mode
from gatemask.training.differences import differences
from gatemask.training.fold_inputs import TrainingInputs, class_weights, count_views
from gatemask.training.side_by_side import (
    NOT_BEGUN,
    FoldOutcome,
    devices_for,
    raise_failures,
    train_at,
    train_side_by_side,
    unfinished_folds,
)
from gatemask.training.time_budget import TimeBudget

ResultsAndLeft = tuple[dict[int, FoldResult], dict[int, str]]  # of finished folds, and what is left of the others


def train(
    project: Project,
    comp: Competition,
    exp: Experiment,
    folds: Sequence[int] | None = None,
    budget: TimeBudget | None = None,
    place: Place | None = None,
) -> TrainingResult:
    """Train the unfinished folds of an experiment, as far as its time limit allows.

    Args:
        project: Project to train in.
        comp: Competition.
        exp: Experiment.
        folds: Numbers of the folds. Default: all.
        budget: Time limit that is shared with other trainings of this session. Default: `hours`, starting now.
        place: Place that trains. Default: this machine, in this process or on a device per fold.

    Raises:
        GatemaskError: A fold does not exist, its inputs are missing or invalid, or another process is training it. Of
            folds side by side, raised after the others have finished.
    """
    inputs = TrainingInputs(project, comp, exp)
    # Mistakes in these settings are reported before hours of work.
    tracking_mode(exp)
    class_weights(comp, exp)
    budget = budget or TimeBudget(exp.hours)
    chosen = inputs.choose_folds(folds)
    if place is not None:
        results, left = _train_at_place(inputs, chosen, budget, place)
    elif devices := devices_for(inputs, chosen):
        results, left = _sorted_out(inputs, train_side_by_side(inputs, chosen, devices, budget))
    else:
        results, left = _train_in_sequence(inputs, chosen, budget)
    if left:
        _say_what_is_left(exp, left)
        return TrainingResult(experiment=exp.name, current=False, folds=results, stopped=True, left=left)
    current = all(result.current for result in results.values())
    return TrainingResult(experiment=exp.name, current=current, folds=results)


def _sorted_out(inputs: TrainingInputs, outcomes: Mapping[int, FoldOutcome]) -> ResultsAndLeft:
    raise_failures(inputs, outcomes)
    results = {fold: outcome.result for fold, outcome in outcomes.items() if outcome.result is not None}
    return results, {fold: outcome.left for fold, outcome in outcomes.items() if outcome.left is not None}


def _train_at_place(inputs: TrainingInputs, folds: Sequence[int], budget: TimeBudget, place: Place) -> ResultsAndLeft:
    unfinished = unfinished_folds(inputs, folds)
    outcomes = train_at(place, [(inputs, fold) for fold in unfinished], budget) if unfinished else {}
    trained, left = _sorted_out(inputs, outcomes.get(inputs.exp.name, {}))
    recorded, _ = _train_in_sequence(inputs, [fold for fold in folds if fold not in unfinished], budget)
    return {fold: result for fold in folds if (result := (trained | recorded).get(fold)) is not None}, left


def _train_in_sequence(inputs: TrainingInputs, folds: Sequence[int], budget: TimeBudget) -> ResultsAndLeft:
    """Return the results of the folds, and the work that is left of those that time did not suffice for."""
    results: dict[int, FoldResult] = {}
    left: dict[int, str] = {}
    for fold in folds:
        outcome = train_fold(inputs, fold, budget, may_begin=not left)
        if isinstance(outcome, FoldResult):
            results[fold] = outcome
        else:
            left[fold] = outcome
    return results, left


def _say_what_is_left(exp: Experiment, left: Mapping[int, str]) -> None:
    say(f"{exp.name}: stopped in good order, because the remaining time is too short for the next step. Left:")
    for fold, work in left.items():
        say(f"  fold {fold}: {work}")
    say("Run the same command again to resume.")


def train_fold(inputs: TrainingInputs, fold: int, budget: TimeBudget, may_begin: bool) -> FoldResult | str:
    """Train a fold in this process.

    Args:
        inputs: Inputs of the experiment.
        fold: Number of the fold.
        budget: Time limit.
        may_begin: Whether the fold is trained if it is not finished yet.

    Returns:
        The result, or the work that is left if time runs out or the fold may not begin.
    """
    stage = inputs.stage(fold)
    folder = stage.stamp.parent
    if (recorded := stage.current()) is not None:
        remove_resume_files(folder)
        if stage.is_uploaded():
            return recorded
    elif not may_begin or not budget.allows():
        return NOT_BEGUN
    with run_folder.locked_run(folder, f"{inputs.exp.name} fold {fold}"):
        if (recorded := stage.current()) is not None:  # finished by another process in the meantime
            return recorded
        if stage.made_from.get("batch", "fixed") is None:
            from gatemask.training.batch_size import find_batch

            find_batch(inputs, fold)
            stage = inputs.stage(fold)
        if _has_same_training(stage):
            from gatemask.training.finish_again import finish_again

            result: FoldResult | str = finish_again(inputs, fold, stage)
            settled = False
        else:
            result, settled = _train_locked(inputs, fold, stage, budget)
        if isinstance(result, FoldResult):
            _show(inputs, folder, settled)
        return result


def _show(inputs: TrainingInputs, folder: Path, settled: bool) -> None:
    """Send what belongs to a finished fold to W&B, and draw its images for TensorBoard."""
    if inputs.exp.tracking.tensorboard:
        from gatemask.tracking.tensorboard import write_finished

        write_finished(inputs.project, inputs.comp, inputs.exp, folder)
    if tracking_mode(inputs.exp) == "online":
        from gatemask.tracking.sync import upload_fold
        from gatemask.tracking.wandb_run import supports_finish_timeout

        if supports_finish_timeout():  # other clients are offline, whatever the mode
            upload_fold(inputs.project, folder, settled)


def _has_same_training(stage: Stage[FoldResult]) -> bool:
    """Return whether the fold was finished with these settings and data, up to what is applied after training."""
    if not stage.stamp.exists():
        return False
    return trained_from(Stamp.load(stage.stamp).made_from) == trained_from(stage.made_from)


def _train_locked(
    inputs: TrainingInputs, fold: int, stage: Stage[FoldResult], budget: TimeBudget
) -> tuple[FoldResult | str, bool]:
    """Return the result, or the work that is left, and whether W&B received all epochs."""
    exp, folder = inputs.exp, stage.stamp.parent
    claim_folder(folder, stage.made_from, exp)
    started = time.monotonic()
    from gatemask.training.batch_size import explained_out_of_memory
    from gatemask.training.fold_run import FoldRun
    from gatemask.training.trainer import Trainer

    trainer = Trainer(inputs)
    run = FoldRun(trainer, fold, budget)
    with explained_out_of_memory(trainer):
        progress = run.train()
        if progress.epoch < exp.epochs:
            return f"{exp.epochs - progress.epoch} of {exp.epochs} epochs, and out-of-fold predictions", False
        if not budget.allows(validations=1 + count_views(exp)):
            return "out-of-fold predictions", False
        result, outputs = run.finish(progress)
    epochs = ", ".join(str(epoch + 1) for epoch in result.best_epochs)
    say(f"{exp.name} fold {fold}: {exp.monitor} {result.score:.4f} (epochs {epochs})")
    result = stage.finish(result, outputs, started)
    remove_resume_files(folder)
    return result, run.tracked_online


def remove_resume_files(folder: Path) -> None:
    """Remove what only an unfinished run needs. Call it after the stamp is written: a kill in between loses nothing."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    (folder / "begun.json").unlink(missing_ok=True)


def claim_folder(folder: Path, made_from: Mapping[str, object], exp: Experiment | None = None) -> None:
    """Mark the folder as the run of these inputs. A run of other inputs is set aside, never overwritten.

    Call it while the run is locked: no other process may be using the folder.

    Args:
        folder: Folder of the run.
        made_from: Hashes of the inputs.
        exp: Experiment, to name the settings that differ. Default: they are not named.
    """
    begun = folder / "begun.json"
    stamp = next((path for path in (folder / "result.json", begun) if path.exists()), None)
    if stamp is not None:
        recorded = Stamp.load(stamp).made_from
        if trained_from(recorded) != trained_from(made_from):
            changed = "; ".join(differences(folder, recorded, trained_from(made_from), exp))
            say(f"{folder} was made from other settings or data ({changed}): moved to {set_aside(folder).name}.")
    write_text(begun, json.dumps({"made_from": dict(made_from)}))
