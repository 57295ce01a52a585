"""The epochs of one fold, continued from wherever an earlier session stopped.

An epoch is trained in legs of `checkpoints.steps` steps. After each leg, and after each epoch, the complete state is
written and the time budget is checked. The batches of an epoch depend on seed, epoch and position alone, so a training
that was interrupted ends with exactly the weights of one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from gatemask.config import Experiment
from gatemask.console import progress as progress_bar
from gatemask.console import say
from gatemask.data.example import EncodedExample
from gatemask.errors import DivergedError, GatemaskError
from gatemask.input.wait import InputWait
from gatemask.notify import Event, notify
from gatemask.remote import work as remote
from gatemask.results.training import FoldResult
from gatemask.tracking import run_folder
from gatemask.training import finishing, state
from gatemask.training.first_step import FirstStep
from gatemask.training.fold_inputs import written_settings
from gatemask.training.out_of_fold import predict_out_of_fold
from gatemask.training.state import Progress
from gatemask.training.time_budget import TimeBudget
from gatemask.training.trainer import Trainer


class FoldRun:
    """Training of one fold.

    Args:
        trainer: Compiled models of the experiment. Creating a run resets their weights.
        fold: Number of the fold.
        budget: Time limit of the session.
    """

    def __init__(self, trainer: Trainer, fold: int, budget: TimeBudget) -> None:
        inputs = trainer.inputs
        self.trainer = trainer
        self.fold = fold
        self.budget = budget
        self.folder = inputs.project.fold(inputs.exp.name, fold)
        self.examples = inputs.examples(fold)
        self.training, self.validation = self.examples.training, self.examples.validation
        self.seed = trainer.reset(fold)
        self.tracked_online = False  # whether W&B received all epochs

    @property
    def exp(self) -> Experiment:
        return self.trainer.exp

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    def train(self) -> Progress:
        """Train until the last epoch or the end of the time budget, and return the progress.

        Raises:
            GatemaskError: The loss became NaN or infinite (the last state is kept), or the state on disk belongs to
                another run or was written with another batch size.
        """
        from gatemask.tracking.local_run import run_id
        from gatemask.tracking.tensorboard import EventFile
        from gatemask.tracking.wandb_run import WandbRun

        exp, inputs = self.exp, self.trainer.inputs
        run = run_id(inputs.project.label, exp.name, inputs.made_from(self.fold))
        run_folder.begin_run(
            self.folder, written_settings(exp), self.trainer.models.devices.facts(), inputs.project.root
        )
        self._say_extra()
        progress = self._resume(run)
        wandb_run = WandbRun(exp, inputs.project.label, self.fold, self.folder, run)
        wandb_run.log_missing(progress.rows)
        events = EventFile(self.folder, exp.tracking.tensorboard, progress.rows)
        while progress.epoch < exp.epochs:
            epoch = progress.epoch
            model = self.trainer.training_model(epoch)
            progress, steps = self._train_epoch(progress)
            if progress.step < steps:
                break  # the time is up
            with self.trainer.layers_as_in(epoch), state.averaged(model):
                progress = self._close_epoch(progress, steps)
            run_folder.write_metrics(self._log, progress.rows)
            state.save_state(self.state_folder, model, progress)
            remote.upload_now(self.folder / "result.json")
            wandb_run.log(progress.rows[-1])
            events.append(progress.rows[-1])
            self._say_epoch(progress.rows[-1])
        score = progress.rows[progress.best[0]][exp.monitor] if progress.best else None
        wandb_run.finish({"best": score, "epochs": progress.epoch})
        self.tracked_online = wandb_run.is_online
        return progress

    def finish(self, progress: Progress) -> tuple[FoldResult, list[Path]]:
        """Write the final weights and out-of-fold predictions; return the result and the files made."""
        exp, rows = self.exp, progress.rows
        best = progress.best or self._last_epoch(progress)
        choice = finishing.Choice.of(best, {epoch: rows[epoch] for epoch in best}, exp)
        finishing.write_weights(self.trainer, self.folder, self.state_folder, choice)
        state.copy_weights(self.state_folder, self.folder / finishing.KEPT, best if len(best) > 1 else ())
        scores = self.trainer.evaluate(self.validation) if len(choice.epochs) > 1 else rows[best[0]]
        out_of_fold = predict_out_of_fold(self.trainer, self.fold, self.validation)
        result = FoldResult.model_validate(
            {
                "experiment": exp.name,
                "fold": self.fold,
                "task": exp.task,
                **choice.fields(scores),
                **out_of_fold.scores,
                "epochs": progress.epoch,
                "batch": self.trainer.batch,
                "seconds_training": round(sum(row["seconds"] for row in rows), 2),
                **self._counts(),
            }
        )
        return result, [self.folder / name for name in (*finishing.FILES, *out_of_fold.files)]

    def _counts(self) -> dict[str, object]:
        """Return the fields of `FoldResult` that count images and, where there are any, tiles and extra images."""
        parts = {"train": self.examples.own, "validation": self.validation}
        counts: dict[str, object] = {f"{name}_images": _count_images(part) for name, part in parts.items()}
        if self.trainer.comp.tiles is not None:
            counts |= {f"{name}_tiles": len(part) for name, part in parts.items()}
        if extra := self.examples.extra:
            counts["extra_images"] = {part.source: _count_images(part.examples) for part in extra}
            counts["extra_copies"] = {part.source: part.dropped for part in extra}
        return counts

    def _say_extra(self) -> None:
        """Report what each source contributes."""
        for part in self.examples.extra:
            dropped = f", {part.dropped} copies of validation or hold-out images left out" if part.dropped else ""
            name = f"{self.exp.name} fold {self.fold}"
            say(f"{name}: {_count_images(part.examples)} images of {part.source}, weight {part.weight:g}{dropped}")

    def _last_epoch(self, progress: Progress) -> tuple[int, ...]:
        """Keep the weights of the last epoch, which the state holds: those of the best epochs are lost."""
        epoch = progress.epoch - 1
        say(f"{self.exp.name} fold {self.fold}: no weights of its best epochs can be read; the last epoch is used.")
        with state.averaged(self.trainer.training_model(epoch)):
            weights = self.trainer.models.evaluator.weights
            state.save_best_weights(self.state_folder, weights, epoch, progress.rows[epoch])
        return (epoch,)

    @property
    def _log(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _say_epoch(self, row: state.Row) -> None:
        """Log an epoch in one line: progress bars vanish, and log files have none."""
        exp = self.exp
        threshold = f" at {row['threshold']:.2f}" if exp.monitor == "dice" and "threshold" in row else ""
        memory = f", {peak / 1e9:.1f} GB" if (peak := self.trainer.models.devices.peak_bytes()) else ""
        wait = f", {row['input_wait']:.0%} of it waiting for input" if row["input_wait"] >= 0.1 else ""
        say(
            f"{exp.name} fold {self.fold} epoch {int(row['epoch']) + 1}/{exp.epochs}: loss {row['loss']:.4f}, "
            f"{exp.monitor} {row[exp.monitor]:.4f}{threshold}, {row['seconds']:.0f} s, "
            f"{row['images_per_s']:.3g} images/s{wait}{memory}"
        )

    def _resume(self, run: str) -> Progress:
        """Restore the newest state on disk, if there is one, and return its progress.

        Args:
            run: Fingerprint of this run. States of other runs are rejected.
        """
        exp, batch = self.exp, self.trainer.batch
        loaded = state.load_state(self.state_folder, run)
        if loaded is None:
            self._restore_log(())
            return Progress(batch, run=run)
        arrays, progress = loaded
        if progress.batch != batch:
            raise GatemaskError(
                "This fold was started with another batch size.",
                where=self.folder,
                received=f"{batch} images over {self.trainer.models.devices.count} devices",
                expected=f"{progress.batch}",
                do=f"Set batch.per_device so that all devices together make {progress.batch}, "
                f"or delete {self.state_folder}.",
            )
        # After the last frozen epoch, the optimizer of all layers starts fresh: the saved one is the other's.
        saved_in = progress.epoch if progress.step else progress.epoch - 1
        state.restore(self.trainer.training_model(saved_in), arrays)
        self._restore_log(progress.rows)
        if progress.epoch < exp.epochs:
            say(f"{exp.name} fold {self.fold}: resumes at epoch {progress.epoch + 1}, step {progress.step + 1}")
        # `monitor` and `checkpoints` may have changed since.
        best = finishing.rank({epoch: progress.rows[epoch] for epoch in progress.best}, exp.monitor)
        return replace(progress, best=best[: exp.checkpoints.keep])

    def _restore_log(self, rows: tuple[state.Row, ...]) -> None:
        """Write metrics.jsonl as the state has it: it is a log, and the state alone says what was trained."""
        if not rows and not self._log.exists():
            return
        try:
            logged = run_folder.read_metrics(self._log)[: len(rows)]
        except GatemaskError:
            logged = []
        if logged != list(rows):
            say(f"{self._log} differs from the state and was written again from it.")
        run_folder.write_metrics(self._log, rows)

    def _learning_rates(self, progress: Progress, steps: int, first: int, stop: int) -> list[float]:
        """Return the learning rate of each step from `first` to `stop` of an epoch of `steps`; one if all are equal."""
        from gatemask.builders import schedules

        exp, epoch = self.exp, progress.epoch
        if exp.schedule.per == "step":
            rates = schedules.step_rates(exp.schedule, epoch, exp.epochs, steps, first, stop)
        else:
            rates = [schedules.learning_rate(exp.schedule, epoch, exp.epochs, progress.scores(exp.monitor))]
        return [rate * self.trainer.rate_factor for rate in rates]

    def _train_epoch(self, progress: Progress) -> tuple[Progress, int]:
        """Train the remaining legs of an epoch as far as time allows; return the progress and the epoch's steps."""
        from gatemask.builders import optimizers
        from gatemask.input import pipeline

        exp, epoch, batch = self.exp, progress.epoch, self.trainer.batch
        order = pipeline.epoch_order(self.training, exp, batch, epoch, self.seed, self.examples.extra_parts)
        steps = len(order) // batch
        label = f"{exp.name} fold {self.fold} epoch {epoch + 1}/{exp.epochs}"
        first = self.trainer.first_step(epoch)
        with _step_bar(label, steps, progress.step, first) as on_step:
            while progress.step < steps:
                stop = min(steps, (progress.step // exp.checkpoints.steps + 1) * exp.checkpoints.steps)
                leg_steps = stop - progress.step
                if not self.budget.allows(steps=leg_steps, validations=int(stop == steps)):
                    break
                rates = self._learning_rates(progress, steps, progress.step, stop)
                optimizers.set_rates(self.trainer.training_model(epoch).optimizer, rates)
                started = self.budget.clock()
                wait, compiles = InputWait(), int(first.is_awaited)
                first.begin()
                loss = self._train_leg(order, progress, stop, on_step, wait)
                seconds, compiling = self.budget.clock() - started, first.seconds * compiles
                if leg_steps > compiles:  # the others tell how long a step takes
                    self.budget.record_steps(max(0.0, seconds - compiling), leg_steps - compiles)
                progress = replace(
                    progress,
                    step=stop,
                    loss=progress.loss + loss * leg_steps,
                    seconds=progress.seconds + seconds,
                    waited=progress.waited + wait.seconds(start=compiles),
                    compiling=progress.compiling + compiling,
                    compiled=progress.compiled + compiles,
                )
                if stop < steps:
                    state.save_state(self.state_folder, self.trainer.training_model(epoch), progress)
        return progress, steps

    def _train_leg(
        self, order: np.ndarray, progress: Progress, stop: int, on_step: Callable[[], object], wait: InputWait
    ) -> float:
        """Train from the step of `progress` up to the step `stop`, and return the mean loss.

        Raises:
            DivergedError: The loss became NaN or infinite. The message names the first such batch.
        """
        from gatemask.input import keras_input, pipeline
        from gatemask.training.loss_watch import LossWatch

        trainer, epoch = self.trainer, progress.epoch
        batches = pipeline.training_batches(
            self.training, self.exp, trainer.layout, order, trainer.batch, epoch, self.seed, progress.step, stop, wait
        )
        watch = LossWatch(on_step, wait)
        with trainer.layers_as_in(epoch), keras_input.original_errors():
            history = trainer.training_model(epoch).fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
        loss = float(history.history["loss"][0])
        if not math.isfinite(loss) or watch.bad_steps:
            step = progress.step + min(watch.bad_steps, default=0)
            images = order[step * trainer.batch : (step + 1) * trainer.batch]
            ids = [self.training[image].image_id for image in images]
            place = f"epoch {epoch + 1}, step {step + 1}"
            event = Event("loss_not_finite", f"In {place}.", f"{progress.run} {place}", self.exp.name, self.fold)
            notify(trainer.inputs.project, event, trainer.comp)
            raise DivergedError(
                "Loss became NaN or infinite.",
                where=f"{place}, images {', '.join(ids)}",
                received=loss,
                expected="a finite loss",
                do="Check these images; lower the learning rate, or set optimizer.clipnorm. The last state is kept.",
            )
        return loss

    def _close_epoch(self, progress: Progress, steps: int) -> Progress:
        """Validate, keep the weights if they are among the best, and return the new progress."""
        exp, started = self.exp, self.budget.clock()
        scores = self.trainer.evaluate(self.validation)
        seconds = self.budget.clock() - started
        self.budget.record_validation(seconds)
        epoch, loss = progress.epoch, progress.loss / steps
        (learning_rate,) = self._learning_rates(progress, steps, steps - 1, steps)  # that of the last step
        row: dict[str, float] = {"epoch": epoch, "loss": loss, "learning_rate": learning_rate, **scores}
        row |= {"steps": steps, "seconds": round(progress.seconds + seconds, 2), **self._measured(progress, steps)}
        candidates = {**{best: progress.rows[best] for best in progress.best}, epoch: row}
        best = finishing.rank(candidates, exp.monitor)[: exp.checkpoints.keep]
        if epoch in best:
            state.save_best_weights(self.state_folder, self.trainer.models.evaluator.weights, epoch, row)
        return Progress(progress.batch, epoch + 1, rows=(*progress.rows, row), best=best, run=progress.run)

    def _measured(self, progress: Progress, steps: int) -> dict[str, float]:
        """Return what was measured while an epoch was trained; see `run_folder.MEASURED`."""
        seconds, timed = progress.seconds - progress.compiling, steps - progress.compiled
        if timed <= 0:  # no step but such that were compiled
            seconds, timed = progress.seconds, steps
        seconds = max(seconds, 1e-9)
        return {
            "images_per_s": round(timed * self.trainer.batch / seconds, 2),
            "input_wait": round(min(1.0, progress.waited / seconds), 4),
            "compile_seconds": round(progress.compiling, 2),
            "memory_mb": self.trainer.models.devices.memory_mb(),
        }


def _count_images(examples: Sequence[EncodedExample]) -> int:
    return len({example.image_id for example in examples})


@contextmanager
def _step_bar(label: str, steps: int, done: int, first: FirstStep) -> Iterator[Callable[[], object]]:
    """Show a progress bar that says how long the first step has been compiling; yield what ends a step."""
    with closing(progress_bar(range(steps + 1), lambda: f"{label} {first.note()}".strip())) as ticks:
        for _ in range(done + 1):
            next(ticks)

        def on_step() -> None:
            first.done()
            next(ticks, None)

        yield on_step
