"""`gatemask train`: one experiment, fold by fold, in one process with one model and one trace of its step.

runs/<comp>/<experiment>/fold<k>/
    config.yaml environment.json   what ran, on what
    metrics.jsonl                  one row an epoch
    state/                         to go on from; removed when the fold is done
    best.weights.h5                of the best epoch by `monitor`
    oof.h5 (gate: oof.csv)         out-of-fold predictions of the best weights
    result.json                    written last
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config.schema import Competition, Experiment
from gatemask.console import progress, say
from gatemask.data import records
from gatemask.data.folds import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import (
    fingerprint,
    is_current,
    read_json,
    sha256,
    stamped_result,
    write_stamp,
    write_text,
    write_with,
)
from gatemask.project import Project


@dataclass
class Job:
    """One experiment with everything its folds share; the model is built when the first fold needs it."""

    project: Project
    comp: Competition
    exp: Experiment
    folds: Any  # pandas: folds/<comp>.csv
    runtime: dict[str, Any] = field(default_factory=dict)
    model: Any = None
    evaluator: Any = None
    fresh_optimizer: list[np.ndarray] = field(default_factory=list)

    @property
    def records(self) -> Path:
        return self.project.records(self.comp.records.size)

    def made_from(self, fold: int) -> dict[str, Any]:
        """Hashes of what decides this fold's outcome."""
        return {
            "settings": fingerprint(self.exp.settings),
            "weights": _weights_hash(self.exp),
            "fold": fold,
            "folds": sha256(self.project.folds),
            "records": fingerprint(records.require_current(self.project, self.comp)),
        }


def _weights_hash(exp: Experiment) -> str | None:
    """The encoder's weights by content: a file of the same name may be another one tomorrow."""
    if exp.model.weights == "none":
        return None
    path = Path(exp.model.weights)
    if not path.is_file():
        raise GatemaskError(
            "There is no such weights file.",
            where="model.weights",
            received=path,
            expected="'none', or the path of an .h5 file",
            do="Download it once and name its path.",
        )
    return sha256(path)


def train(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None = None) -> dict[str, Any]:
    """Train the folds of an experiment that are not done yet.

    Args:
        project: where things lie.
        comp: the competition.
        exp: the experiment.
        folds: their numbers; None for all.

    Returns:
        experiment, and under `folds` each fold's result; `current` where nothing had to be done.
    """
    job = Job(project, comp, exp, read_folds(project))
    known = sorted(set(job.folds["fold"]) - {HOLDOUT})
    chosen = known if folds is None else list(folds)
    if unknown := [fold for fold in chosen if fold not in known]:
        raise GatemaskError("There is no such fold.", received=unknown[0], expected=", ".join(map(str, known)))
    results = {fold: _train_fold(job, fold) for fold in chosen}
    current = all(result.pop("current", False) for result in results.values())
    return {"experiment": exp.name, "current": current, "folds": {str(k): v for k, v in results.items()}}


def _train_fold(job: Job, fold: int) -> dict[str, Any]:
    folder = job.project.fold(job.exp.name, fold)
    made_from = job.made_from(fold)
    if is_current(folder / "result.json", made_from):
        _tidy(folder)
        return {"current": True, **stamped_result(folder / "result.json")}
    _make_room(folder, made_from)
    started = time.monotonic()
    _ready(job)
    training, validation = _examples(job, fold)
    history = _fit(job, fold, folder, training, validation, started)
    best = max(history, key=lambda row: row[job.exp.monitor])
    oof = _predict_out_of_fold(job, folder, validation)
    result = {
        "experiment": job.exp.name,
        "fold": fold,
        "task": job.exp.task,
        "best_epoch": best["epoch"],
        "monitor": job.exp.monitor,
        "score": best[job.exp.monitor],
        "epochs": len(history),
        "train_images": len(training),
        "validation_images": len(validation),
        **_scores(best),
    }
    result["seconds_training"] = round(sum(row["seconds"] for row in history), 2)
    outputs = [folder / "best.weights.h5", oof, folder / "metrics.jsonl", folder / "config.yaml"]
    say(f"{job.exp.name} fold {fold}: {job.exp.monitor} {result['score']:.4f} (epoch {best['epoch']})")
    result = write_stamp(folder / "result.json", made_from, result, outputs, started)
    _tidy(folder)
    return result


def _tidy(folder: Path) -> None:
    """Remove what was only there to go on from; after the stamp, so that a kill in between loses nothing."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    (folder / "begun.json").unlink(missing_ok=True)


def _make_room(folder: Path, made_from: dict[str, Any]) -> None:
    """A run of other settings or data is set aside, never overwritten; the same one is resumed."""
    begun = folder / "begun.json"
    old = next((f for f in (folder / "result.json", begun) if f.exists()), None)
    if old is not None and read_json(old).get("made_from") != made_from:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.replaced{number}")).exists():
            number += 1
        folder.rename(aside)
        say(f"{folder} was made from other settings or data: moved to {aside.name}.")
    write_text(begun, json.dumps({"made_from": made_from}))


def _ready(job: Job) -> None:
    """Build and compile the model once; every fold uses it with weights of its own."""
    if job.model is not None:
        return
    from gatemask.training import runtime

    job.runtime = runtime.start(job.exp.runtime)
    say(f"{job.exp.name}: Keras on {job.runtime['backend']}, {', '.join(job.runtime['devices'])}")
    import keras

    from gatemask.builders import losses, metrics, optimizers, schedules

    exp = job.exp
    keras.backend.clear_session()
    job.model = _build(job)
    optimizer = optimizers.build(exp.optimizer, schedules.learning_rate(exp.schedule, 0, exp.epochs))
    # Built before the first step: variables that appear while a step is traced make TensorFlow trace it twice.
    optimizer.build(job.model.trainable_variables)
    loss = losses.Sum(exp.loss, exp.label_smoothing)
    # TensorFlow without XLA was the fastest on a CPU; JAX always compiles.
    options = {"loss": loss, "jit_compile": job.runtime["backend"] == "jax"}
    job.model.compile(optimizer, **options)
    # The same weights, compiled apart: a training step should not pay for validation's histograms.
    job.evaluator = keras.Model(job.model.inputs, job.model.outputs)
    job.evaluator.compile(None, **options, weighted_metrics=metrics.build(exp.task))
    job.fresh_optimizer = [np.array(v) for v in optimizer.variables]


def _build(job: Job) -> Any:
    from gatemask.builders import models

    return models.build(job.exp.model, job.exp.input.size, job.comp.image.channels, len(job.comp.classes))


def _begin_fold(job: Job, fold: int) -> int:
    """Initial weights and a fresh optimizer, decided by seed and fold, not by what ran before. The seed."""
    from gatemask.training import state

    seed = job.exp.seed * 1000 + fold
    # Keras draws the seeds of initialisers and dropout from Python's random. TensorFlow's own seed, which nothing
    # here uses, is left alone: setting it throws away every compiled function, seven seconds a fold.
    random.seed(seed)
    fresh = _build(job)
    state.restore(job.model, {"variables": [np.array(v) for v in fresh.variables], "optimizer": job.fresh_optimizer})
    return seed


def _examples(job: Job, fold: int) -> tuple[list[records.Example], list[records.Example]]:
    frame = job.folds
    training = frame["image_id"][(frame["fold"] != fold) & (frame["fold"] != HOLDOUT)]
    validation = frame["image_id"][frame["fold"] == fold]
    both = records.read(job.records, [*training, *validation])
    return both[: len(training)], both[len(training) :]


def _fit(
    job: Job,
    fold: int,
    folder: Path,
    training: list[records.Example],
    validation: list[records.Example],
    started: float,
) -> list[dict[str, Any]]:
    """The epochs, from wherever an earlier session got to. Returns metrics.jsonl's rows."""
    from gatemask.tracking import local
    from gatemask.tracking.wandb import Mirror
    from gatemask.training import state

    exp, metrics = job.exp, folder / "metrics.jsonl"
    seed = _begin_fold(job, fold)
    local.begin(folder, exp.model_dump(mode="json", exclude={"quick"}), job.runtime, job.project.root)
    resumed = state.load(folder / "state", job.model)
    at: dict[str, Any] = {"best": -math.inf, "best_epoch": 0}
    first, at = resumed if resumed is not None else (0, at)
    if resumed is not None:
        say(f"{exp.name} fold {fold}: goes on after epoch {first - 1}")
    run_id = fingerprint([job.project.label, exp.name, job.made_from(fold)])
    mirror = Mirror(exp, job.project.label, fold, folder, run_id)
    for epoch in range(first, exp.epochs):
        row = _epoch(job, fold, epoch, seed, training, validation)
        if not math.isfinite(row["loss"]):
            raise GatemaskError(
                "The loss is not a number any more.",
                where=f"{folder}, epoch {epoch}",
                received=row["loss"],
                do="Lower the learning rate or set optimizer.clipnorm; the state before this epoch is kept.",
            )
        if row[exp.monitor] > at["best"]:
            at = {"best": row[exp.monitor], "best_epoch": epoch}
        local.append_metrics(metrics, row)
        state.save(folder / "state", job.model, epoch, at)
        mirror.log(row)
    history = local.read_metrics(metrics)
    mirror.finish({"best": at["best"], "seconds": time.monotonic() - started})
    state.load_best(folder / "state", job.model, at["best_epoch"])
    # Through the evaluator, which has no optimizer: its moments would make the file three times as large.
    write_with(folder / "best.weights.h5", job.evaluator.save_weights)
    return history


def _epoch(
    job: Job, fold: int, epoch: int, seed: int, training: list[records.Example], validation: list[records.Example]
) -> dict[str, Any]:
    """Train one epoch and validate: one row of metrics."""
    from gatemask.builders import schedules
    from gatemask.data import pipeline

    exp, started = job.exp, time.monotonic()
    rate = schedules.learning_rate(exp.schedule, epoch, exp.epochs)
    job.model.optimizer.learning_rate = rate
    batch, channels = exp.batch.per_device, job.comp.image.channels
    batches = pipeline.training_batches(training, exp, channels, batch, epoch, seed)
    steps = int(batches.cardinality())
    label = f"{exp.name} fold {fold} epoch {epoch + 1}/{exp.epochs}"
    with _bar(label, steps) as callbacks:
        fitted = job.model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
    row = {"epoch": epoch, "loss": fitted.history["loss"][0], "learning_rate": rate}
    row |= _evaluate(job, validation)
    row["steps"] = steps
    row["seconds"] = round(time.monotonic() - started, 2)
    return {key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()}


def _evaluate(job: Job, validation: list[records.Example]) -> dict[str, float]:
    """val_loss, and the metrics under their own names."""
    from gatemask.data import pipeline

    batches = pipeline.evaluation_dataset(validation, job.exp, job.comp.image.channels, job.exp.batch.per_device)
    found = job.evaluator.evaluate(batches, verbose=0, return_dict=True)
    return {"val_loss" if name == "loss" else name: float(value) for name, value in found.items()}


@contextmanager
def _bar(label: str, steps: int) -> Iterator[list[Any]]:
    """A progress bar as a list of Keras callbacks."""
    import keras

    with closing(progress(range(steps + 1), label)) as ticks:
        next(ticks)
        yield [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: next(ticks, None))]


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {key: row[key] for key in ("auc", "dice", "dice_positives", "val_loss") if key in row}


def _predict_out_of_fold(job: Job, folder: Path, validation: list[records.Example]) -> Path:
    """Predict the validation fold with the weights that are shipped: every id exactly once."""
    from gatemask.builders.predict import as_uint8, predict
    from gatemask.data import pipeline
    from gatemask.oof import store

    exp = job.exp
    job.evaluator.load_weights(folder / "best.weights.h5")
    ids = [example.image_id for example in validation]

    def predictions() -> Iterator[np.ndarray]:
        batches = pipeline.evaluation_batches(validation, exp, job.comp.image.channels, exp.batch.per_device)
        total = -(-len(validation) // exp.batch.per_device)
        for images, _, weights in progress(batches, f"{exp.name} out-of-fold", total):
            yield predict(job.model, images, exp.tta)[weights > 0]

    if exp.task == "gate":
        return store.write_gates(folder / "oof.csv", ids, np.concatenate(list(predictions()))[:, 0])
    shape = (exp.input.size, exp.input.size, len(job.comp.classes))
    return store.write_maps(folder / "oof.h5", ids, (as_uint8(maps) for maps in predictions()), shape)
