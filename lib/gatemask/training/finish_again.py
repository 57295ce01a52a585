"""Bring a trained fold up to date without training it: choose among the kept epochs again, predict again.

A fold whose `monitor`, `checkpoints` or `tta` changed, or whose predictions were edited or lost, keeps its training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gatemask.config import Experiment
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.hdf5 import load_weights
from gatemask.results.training import FoldResult
from gatemask.stage import Stage, Stamp
from gatemask.tracking import run_folder
from gatemask.training import finishing, state
from gatemask.training.differences import differences
from gatemask.training.finishing import KEPT, Choice
from gatemask.training.fold_inputs import TrainingInputs, written_settings

WEIGHTS = "best.weights.h5"


@dataclass(frozen=True)
class _Plan:
    """What must be made again.

    Args:
        reasons: Why, in words.
        choice: Epochs of the final weights.
        weights: Whether the final weights must be written again.
        predict: Whether the validation fold must be predicted again.
    """

    reasons: list[str]
    choice: Choice
    weights: bool
    predict: bool


def finish_again(inputs: TrainingInputs, fold: int, stage: Stage[FoldResult]) -> FoldResult:
    """Return the result of a trained fold for the present `monitor`, `checkpoints` and `tta`.

    Args:
        inputs: Inputs of the experiment.
        fold: Fold, whose stamp is of the same training.
        stage: Its stage. The caller holds its lock.

    Raises:
        GatemaskError: The final weights are damaged, and the epochs they were made of are not kept.
    """
    exp, folder = inputs.exp, stage.stamp.parent
    recorded, stamp = FoldResult.load(stage.stamp), Stamp.load(stage.stamp)
    plan = _plan(inputs.exp, folder, stage, recorded, stamp)
    say(f"{exp.name} fold {fold} is trained, and nothing is trained again. {'; '.join(plan.reasons)}.")
    started = time.monotonic() - recorded.seconds
    before = files = _predictions(stamp.outputs)
    fields = recorded.model_dump(exclude={"current", "seconds"})
    if plan.weights or plan.predict:
        made, files = _make(inputs, fold, folder, plan, recorded, files)
        fields |= made
    else:
        fields |= plan.choice.fields(_scores(recorded))
    run_folder.write_config(folder, written_settings(exp))
    result = FoldResult.model_validate(fields)
    result = stage.finish(result, [folder / name for name in (*finishing.FILES, *files)], started)
    for name in set(before) - set(files):
        (folder / name).unlink(missing_ok=True)
    return result


def _plan(exp: Experiment, folder: Path, stage: Stage[FoldResult], recorded: FoldResult, stamp: Stamp) -> _Plan:
    damaged = [name for name, digest in stamp.outputs.items() if not _is_sound(folder / name, digest)]
    reasons = differences(folder, stamp.made_from, stage.made_from, exp)
    reasons += [f"{name} is missing or differs from the file that was written" for name in damaged]
    rows = state.read_best_rows(folder / KEPT, state.kept_epochs(folder / KEPT))
    if stamp.made_from.get("selection") == stage.made_from["selection"]:
        choice = Choice(_as_recorded(recorded), recorded.monitor, recorded.best_single)
    else:
        choice = _choose(exp, recorded, rows)
    same = set(choice.epochs) == set(recorded.best_epochs)
    weights = not same or WEIGHTS in damaged
    if weights and not set(choice.epochs) <= set(rows):
        raise GatemaskError(
            "The weights of a trained fold are missing or damaged.",
            where=folder / WEIGHTS,
            received="no file with the hash in result.json, and its epochs were not kept",
            do=f"Restore the file. Or delete {folder} to train the fold again: its last training took "
            f"{recorded.seconds_training / 3600:.2g} hours.",
        )
    predict = weights or stamp.made_from.get("prediction") != stage.made_from["prediction"]
    predict = predict or any(name in damaged for name in _predictions(stamp.outputs))
    return _Plan(reasons, choice, weights, predict)


def _choose(exp: Experiment, recorded: FoldResult, rows: Mapping[int, state.Row]) -> Choice:
    """Choose among the kept epochs by the present settings. Where only one was kept, there is no choice."""
    if not set(recorded.best_epochs) <= set(rows):
        if exp.monitor != recorded.monitor or exp.checkpoints.keep > len(recorded.best_epochs):
            epochs = ", ".join(str(epoch + 1) for epoch in recorded.best_epochs)
            say(f"Only the final weights were kept, of epoch {epochs}: there is no other choice.")
        return Choice(_as_recorded(recorded), exp.monitor, _scores(recorded)[exp.monitor])
    best = finishing.rank(rows, exp.monitor)[: exp.checkpoints.keep]
    if len(rows) < min(exp.checkpoints.keep, recorded.epochs):
        say(f"Weights of {len(rows)} epochs were kept, fewer than checkpoints.keep ({exp.checkpoints.keep}).")
    return Choice.of(best, rows, exp)


def _make(
    inputs: TrainingInputs, fold: int, folder: Path, plan: _Plan, recorded: FoldResult, files: list[str]
) -> tuple[dict[str, object], list[str]]:
    """Make weights and predictions again; return the fields of the result and the files of predictions."""
    from gatemask.training.out_of_fold import predict_out_of_fold
    from gatemask.training.trainer import Trainer

    trainer, validation = Trainer(inputs), inputs.examples(fold).validation
    if plan.weights:
        finishing.write_weights(trainer, folder, folder / KEPT, plan.choice)
        fields = plan.choice.fields(trainer.evaluate(validation))
    else:
        load_weights(trainer.models.evaluator, folder / WEIGHTS)
        fields = plan.choice.fields(_scores(recorded))
    if plan.predict:
        out_of_fold = predict_out_of_fold(trainer, fold, validation)
        fields, files = {**fields, **out_of_fold.scores}, out_of_fold.files
    return fields, files


def _as_recorded(recorded: FoldResult) -> tuple[int, ...]:
    """Return the epochs of the final weights, the best first."""
    others = (epoch for epoch in recorded.best_epochs if epoch != recorded.best_epoch)
    return (recorded.best_epoch, *others)


def _scores(recorded: FoldResult) -> dict[str, float]:
    """Return the metrics of the final weights."""
    fields = recorded.model_dump(include=set(finishing.SCORES))
    return {name: value for name, value in fields.items() if value is not None}


def _predictions(outputs: Mapping[str, str | None]) -> list[str]:
    return [name for name in outputs if name.startswith("oof") or name == "tables.npz"]


def _is_sound(path: Path, digest: str | None) -> bool:
    return path.exists() and (digest is None or sha256(path) == digest)
