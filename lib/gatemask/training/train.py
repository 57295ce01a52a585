"""`gatemask train`: one experiment, fold by fold, in one process with one model and one trace of its step.

runs/<comp>/<experiment>/fold<k>/
    config.yaml environment.json   what ran, on what
    metrics.jsonl                  one row an epoch
    state/                         to go on from; removed when the fold is done
    best.weights.h5                of the best epoch by `monitor`, or the mean of the best few
    oof.h5 (gate: oof.csv)         out-of-fold predictions of these weights
    tables.npz                     masks: their threshold tables at the competition's own size
    result.json                    written last
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import is_current, read_json, set_aside, stamped_result, write_stamp, write_text, write_with
from gatemask.project import Project
from gatemask.training.time_budget import Clock
from gatemask.training.trainer import Job, ready


def train(
    project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None = None, clock: Clock | None = None
) -> dict[str, Any]:
    """Train the folds of an experiment that are not done yet, as far as `hours` allows.

    Args:
        project: where things lie.
        comp: the competition.
        exp: the experiment.
        folds: their numbers; None for all.
        clock: of the session, where it trains more than this; else one for `hours` begins now.

    Returns:
        experiment, and under `folds` each finished fold's result; `current` where nothing had to be done; where time
        was up, `stopped` and under `left` how many epochs of how many each unfinished fold has behind it.
    """
    job = Job(project, comp, exp, read_folds(project), clock or Clock(exp.hours))
    known = sorted(set(job.folds["fold"]) - {HOLDOUT})
    chosen = known if folds is None else list(folds)
    if unknown := [fold for fold in chosen if fold not in known]:
        raise GatemaskError("There is no such fold.", received=unknown[0], expected=", ".join(map(str, known)))
    results: dict[int, dict[str, Any]] = {}
    left: dict[int, str] = {}
    for fold in chosen:
        result = _train_fold(job, fold, begin=not left)
        if "left" in result:
            left[fold] = result["left"]
        else:
            results[fold] = result
    done_before = [result.pop("current", False) for result in results.values()]
    current = not left and all(done_before)
    summary = {"experiment": exp.name, "current": current, "folds": {str(k): v for k, v in results.items()}}
    if left:
        _say_what_is_left(exp, left)
        summary |= {"stopped": True, "left": {str(fold): what for fold, what in left.items()}}
    return summary


def _say_what_is_left(exp: Experiment, left: dict[int, str]) -> None:
    say(f"{exp.name}: stopped in good order, since the session's hours would not do for the next step. Left:")
    for fold, what in left.items():
        say(f"  fold {fold}: {what}")
    say("Run the same command again to go on.")


def _train_fold(job: Job, fold: int, begin: bool) -> dict[str, Any]:
    """The fold's result; or, where the time is up before it is done (or `begin` is false), what is left."""
    folder, exp = job.project.fold(job.exp.name, fold), job.exp
    made_from = job.made_from(fold)
    if is_current(folder / "result.json", made_from):
        _tidy(folder)
        return {"current": True, **stamped_result(folder / "result.json")}
    if not begin or not job.clock.fits():
        return {"left": "not begun in this session"}
    _make_room(folder, made_from)
    started = time.monotonic()
    ready(job)
    from gatemask.training.fit import fit

    training, validation = job.examples(fold)
    at = fit(job, fold, folder, training, validation)
    views = 1 + sum(view.random or 1 for view in exp.tta)
    if at.epoch < exp.epochs:
        return {"left": f"{exp.epochs - at.epoch} of {exp.epochs} epochs, and out-of-fold predictions"}
    if not job.clock.fits(validation=1 + views):
        return {"left": "out-of-fold predictions"}
    result = _finish_fold(job, fold, folder, validation, [epoch for _, epoch in at.best])
    result = {**result, "train_images": len(training), "validation_images": len(validation)}
    outputs = [folder / name for name in ("best.weights.h5", "metrics.jsonl", "config.yaml", *result.pop("files"))]
    say(f"{exp.name} fold {fold}: {exp.monitor} {result['score']:.4f} (epochs {_counted(result['best_epochs'])})")
    result = write_stamp(folder / "result.json", made_from, result, outputs, started)
    _tidy(folder)
    return result


def _finish_fold(job: Job, fold: int, folder: Path, validation: list[Any], best: list[int]) -> dict[str, Any]:
    """Make the weights that are shipped, score them, and predict the validation fold with them."""
    from gatemask.tracking import run_folder
    from gatemask.training import state
    from gatemask.training.fit import evaluate
    from gatemask.training.out_of_fold import predict_out_of_fold

    exp = job.exp
    kept = best if exp.checkpoints.average else best[:1]
    state.assign(job.evaluator.weights, state.best_weights(folder / "state", kept))
    # Through the evaluator, which has no optimizer: its moments would make the file three times as large.
    write_with(folder / "best.weights.h5", job.evaluator.save_weights)
    history = run_folder.read_metrics(folder / "metrics.jsonl")
    row = next(row for row in history if row["epoch"] == best[0])
    scores = evaluate(job, validation) if len(kept) > 1 else row
    predicted = predict_out_of_fold(job, fold, folder, validation)
    return {
        "experiment": exp.name,
        "fold": fold,
        "task": exp.task,
        "best_epoch": best[0],
        "best_epochs": sorted(kept),
        "monitor": exp.monitor,
        "score": scores[exp.monitor],
        "best_single": row[exp.monitor],
        "epochs": len(history),
        "batch": job.batch,
        **{key: scores[key] for key in SCORES if key in scores},
        **predicted,
        "seconds_training": round(sum(row["seconds"] for row in history), 2),
    }


SCORES = ("auc", "sensitivity", "specificity", "dice", "dice_positives", "val_loss")


def _counted(epochs: list[int]) -> str:
    """Epochs as people count them, from 1."""
    return ", ".join(str(epoch + 1) for epoch in epochs)


def _tidy(folder: Path) -> None:
    """Remove what was only there to go on from; after the stamp, so that a kill in between loses nothing."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    (folder / "begun.json").unlink(missing_ok=True)


def _make_room(folder: Path, made_from: dict[str, Any]) -> None:
    """A run of other settings or data is set aside, never overwritten; the same one is resumed."""
    begun = folder / "begun.json"
    old = next((f for f in (folder / "result.json", begun) if f.exists()), None)
    if old is not None and read_json(old).get("made_from") != made_from:
        say(f"{folder} was made from other settings or data: moved to {set_aside(folder).name}.")
    write_text(begun, json.dumps({"made_from": made_from}))
