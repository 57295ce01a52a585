"""The epochs of one fold, from wherever an earlier session got to.

An epoch is trained in legs of so many steps. Between two legs, and after each epoch, everything that is needed to go
on is written down; there, too, the clock is looked at. What an epoch shows depends on seed, epoch and position alone,
so that nobody can tell from the weights how often a training was interrupted.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.console import progress as bar
from gatemask.console import say
from gatemask.data.records import Example
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.training import state
from gatemask.training.state import Progress
from gatemask.training.trainer import Job, begin_fold, trainable


def fit(job: Job, fold: int, folder: Path, training: list[Example], validation: list[Example]) -> Progress:
    """Train until the last epoch or until the time is up; `epoch` of what is returned says which.

    Raises:
        GatemaskError: the loss is not a number any more (the last state stands), or the state on disk belongs to
            batches of another size.
    """
    from gatemask.tracking import run_folder
    from gatemask.tracking.wandb_mirror import Mirror

    exp = job.exp
    seed = begin_fold(job, fold)
    run_folder.begin(
        folder,
        exp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
        job.devices.described(),
        job.project.root,
    )
    at = _resume(job, fold, folder)
    run_id = fingerprint([job.project.label, exp.name, job.made_from(fold)])
    mirror = Mirror(exp, job.project.label, fold, folder, run_id)
    while at.epoch < exp.epochs:
        rate = _learning_rate(job, at)
        model = job.steps[job.frozen(at.epoch)]
        model.optimizer.learning_rate = rate
        epoch, steps, at = _train_epoch(job, fold, folder, training, seed, at)
        if at.step < steps:
            break  # the time is up
        with trainable(job, job.frozen(epoch)), state.averaged(model):
            row, at = _close_epoch(job, folder, validation, at, steps)
        row = {"epoch": epoch, "loss": row.pop("loss"), "learning_rate": rate, **row}
        run_folder.append_metrics(folder / "metrics.jsonl", row)
        state.save(folder / "state", model, at)
        mirror.log(row)
        say(f"{exp.name} fold {fold} epoch {epoch + 1}/{exp.epochs}: {_told(row, exp.monitor)}")
    mirror.finish({"best": at.best[0][0] if at.best else None, "epochs": at.epoch})
    return at


def _told(row: dict[str, Any], monitor: str) -> str:
    """An epoch in a line: the bars are gone when it ends, and a log never had any."""
    return f"loss {row['loss']:.4f}, {monitor} {row[monitor]:.4f}, {row['seconds']:.0f} s"


def _resume(job: Job, fold: int, folder: Path) -> Progress:
    """Put the newest state on disk into the models, if there is one."""
    found = state.load(folder / "state")
    if found is None:
        return Progress(job.batch)
    arrays, at = found
    if at.batch != job.batch:
        raise GatemaskError(
            "This fold was begun with batches of another size.",
            where=folder,
            received=f"{job.exp.batch.per_device} x {job.devices.count} devices = {job.batch}",
            expected=f"{at.batch}",
            do=f"Set batch.per_device so that all devices make {at.batch} together, or delete {folder / 'state'}.",
        )
    # After the last frozen epoch, the optimizer of all layers starts anew: what is saved belongs to the other one.
    state.restore(job.steps[job.frozen(at.epoch if at.step else at.epoch - 1)], arrays)
    if at.epoch < job.exp.epochs:
        say(f"{job.exp.name} fold {fold}: goes on with epoch {at.epoch + 1}, step {at.step + 1}")
    return at


def _learning_rate(job: Job, at: Progress) -> float:
    from gatemask.builders import schedules

    rate = schedules.learning_rate(job.exp.schedule, at.epoch, job.exp.epochs, at.scores)
    return rate * job.devices.count if job.exp.batch.scale_learning_rate else rate


def _train_epoch(
    job: Job, fold: int, folder: Path, training: list[Example], seed: int, at: Progress
) -> tuple[int, int, Progress]:
    """Train the legs of an epoch that are left, as far as time allows: (epoch, its steps, how far it came)."""
    from gatemask.input import pipeline

    exp, epoch = job.exp, at.epoch
    order = pipeline.epoch_order(training, exp, job.batch, epoch, seed)
    steps = len(order) // job.batch
    label = f"{exp.name} fold {fold} epoch {epoch + 1}/{exp.epochs}"
    with _bar(label, steps, at.step) as tick:
        while at.step < steps:
            stop = min(steps, (at.step // exp.checkpoints.steps + 1) * exp.checkpoints.steps)
            if not job.clock.fits(step=stop - at.step, validation=int(stop == steps)):
                break
            started = time.monotonic()
            loss = _leg(job, training, order, epoch, seed, (at.step, stop), tick)
            seconds = time.monotonic() - started
            job.clock.took("step", seconds, stop - at.step)
            total = at.loss + loss * (stop - at.step)
            at = replace(at, step=stop, loss=total, seconds=at.seconds + seconds)
            if stop < steps:
                state.save(folder / "state", job.steps[job.frozen(epoch)], at)
    return epoch, steps, at


def _leg(
    job: Job, training: list[Example], order: np.ndarray, epoch: int, seed: int, leg: tuple[int, int], tick: Any
) -> float:
    """Steps `leg[0]` to `leg[1]` of an epoch: their mean loss.

    Raises:
        GatemaskError: it is not a number; names the batch at which that began.
    """
    from gatemask.input import pipeline

    frozen = job.frozen(epoch)
    batches = pipeline.training_batches(training, job.exp, job.comp.image.channels, order, job.batch, epoch, seed, *leg)
    watch = _watch(tick)
    with trainable(job, frozen), pipeline.original_errors():
        fitted = job.steps[frozen].fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
    loss = float(fitted.history["loss"][0])
    if not math.isfinite(loss) or watch.bad:
        step = leg[0] + min(watch.bad, default=0)
        ids = [training[i].image_id for i in order[step * job.batch : (step + 1) * job.batch]]
        raise GatemaskError(
            "The loss is not a number any more.",
            where=f"epoch {epoch + 1}, step {step + 1}, images {', '.join(ids)}",
            received=loss,
            expected="a finite loss",
            do="Look at these images; lower the learning rate, or set optimizer.clipnorm. The state before is kept.",
        )
    return loss


def _watch(tick: Any) -> Any:
    """A callback that moves the bar and notes the steps after which the mean loss was no number.

    It is called from other threads, so that the device never waits for it.
    """
    import keras

    class Watch(keras.callbacks.Callback):
        async_safe = True

        def __init__(self) -> None:
            super().__init__()
            self.bad: list[int] = []
            self._lock = threading.Lock()

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            with self._lock:
                tick()
                if logs and not math.isfinite(float(logs["loss"])):
                    self.bad.append(batch)
                    self._model.stop_training = True  # `model` would copy the weights back from the device first

    return Watch()


def _close_epoch(
    job: Job, folder: Path, validation: list[Example], at: Progress, steps: int
) -> tuple[dict[str, Any], Progress]:
    """Validate, keep the weights if they are among the best: the row of metrics, and the next epoch's beginning."""
    exp, started = job.exp, time.monotonic()
    scores = evaluate(job, validation)
    seconds = time.monotonic() - started
    job.clock.took("validation", seconds)
    score = scores[exp.monitor]
    best = sorted([*at.best, (score, at.epoch)], key=lambda one: (-one[0], one[1]))[: exp.checkpoints.keep]
    if (score, at.epoch) in best:
        state.save_best(folder / "state", job.evaluator.weights, at.epoch)
    row = {"loss": at.loss / steps, **scores, "steps": steps, "seconds": round(at.seconds + seconds, 2)}
    after = Progress(job.batch, at.epoch + 1, scores=(*at.scores, score), best=tuple(best))
    return row, after


def evaluate(job: Job, validation: list[Example]) -> dict[str, float]:
    """val_loss, and the metrics under their own names."""
    from gatemask.input import pipeline

    batches = pipeline.evaluation_dataset(validation, job.exp, job.comp.image.channels, job.batch)
    with pipeline.original_errors():
        found = job.evaluator.evaluate(batches, verbose=0, return_dict=True)
    scores = {name: float(value) for name, value in found.items() if name != "loss"}
    if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise GatemaskError(
            "Validation gives what is not a number.",
            where=job.exp.name,
            received=", ".join(bad),
            do="Lower the learning rate, or set optimizer.clipnorm. The state before this epoch is kept.",
        )
    return scores


@contextmanager
def _bar(label: str, steps: int, done: int) -> Iterator[Any]:
    """A progress bar as a function to call after each step."""
    with closing(bar(range(steps + 1), label)) as ticks:
        for _ in range(done + 1):
            next(ticks)
        yield lambda: next(ticks, None)
