"""One experiment with everything that its folds share: one model, one trace of its step, weights fold by fold."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data import records as store
from gatemask.data.records import Example
from gatemask.data.split import HOLDOUT
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.project import Project
from gatemask.training.initial_weights import Start, starting_weights
from gatemask.training.time_budget import Clock


@dataclass
class Job:
    """An experiment at work; what needs Keras is built when the first fold needs it.

    Args:
        project: where things lie.
        comp: the competition.
        exp: the experiment.
        folds: pandas frame of folds/<comp>.csv.
        clock: says when to stop.
        devices: what it runs on.
        network: the built architecture.
        steps: compiled training models on the same layers: True while `freeze:` holds, False after it. Each has an
            optimizer of its own.
        evaluator: the predictor, compiled apart: a training step should not pay for validation's histograms.
        fresh: each optimizer's variables before its first step.
        cache: encoded images by id, once they were read.
    """

    project: Project
    comp: Competition
    exp: Experiment
    folds: Any
    clock: Clock
    devices: Any = None
    network: Any = None
    steps: dict[bool, Any] = field(default_factory=dict)
    evaluator: Any = None
    fresh: dict[bool, list[np.ndarray]] = field(default_factory=dict)
    cache: dict[str, Example] = field(default_factory=dict)

    @property
    def competition(self) -> Competition:
        """The competition as this experiment reads it: with records of the size that it names."""
        return reads(self.comp, self.exp)

    @property
    def records(self) -> Path:
        return self.project.records(self.competition.records.size)

    @property
    def batch(self) -> int:
        """Images a step, over all devices."""
        return self.exp.batch.per_device * self.devices.count

    def start(self, fold: int) -> Start:
        return starting_weights(self.project, self.exp, fold)

    def made_from(self, fold: int) -> dict[str, Any]:
        """Hashes of what decides this fold's outcome."""
        return {
            "settings": fingerprint(self.exp.settings),
            "weights": self.start(fold).identity,
            "fold": fold,
            "folds": sha256(self.project.folds),
            "records": fingerprint(store.require_records(self.project, self.competition)),
        }

    def frozen(self, epoch: int) -> bool:
        return self.exp.freeze is not None and epoch < self.exp.freeze.epochs

    def examples(self, fold: int) -> tuple[list[Example], list[Example]]:
        """Training and validation images of a fold, still encoded; read once for all folds."""
        frame = self.folds[self.folds["fold"] != HOLDOUT]
        if not self.cache:
            self.cache = {one.image_id: one for one in store.read_records(self.records, list(frame["image_id"]))}
        inside = frame["fold"] == fold
        return [self.cache[i] for i in frame["image_id"][~inside]], [self.cache[i] for i in frame["image_id"][inside]]


def reads(comp: Competition, exp: Experiment) -> Competition:
    """`comp` with the size of records that `exp` names, where it names one."""
    if exp.input.records is None:
        return comp
    return comp.model_copy(update={"records": comp.records.model_copy(update={"size": exp.input.records})})


def ready(job: Job) -> None:
    """Find the devices, build and compile the models once."""
    if job.network is not None:
        return
    if (built := _built.get(_what_is_traced(job))) is not None:
        vars(job).update(built)
        return
    from gatemask.builders import encoder_weights
    from gatemask.training import runtime

    runtime.insist(job.exp.runtime)
    encoder_weights.find_weights_file(
        job.exp.model, job.project.root
    )  # downloads them, or says what is missing, before anything else
    job.devices = runtime.start(job.exp.runtime)
    from gatemask.builders import losses, metrics, models

    exp = job.exp
    with job.devices.scope():
        job.network = models.build_network(exp.model, exp.input.size, job.comp.image.channels, len(job.comp.classes))
        options = {"jit_compile": job.devices.backend == "jax"}  # TensorFlow without XLA was the fastest on a CPU
        for frozen in [True, False] if exp.freeze else [False]:
            job.steps[frozen] = _step(job, frozen, options)
        job.evaluator = job.network.model
        loss = losses.WeightedLoss(exp.loss, exp.label_smoothing)
        measured = [metrics.MeanLoss(loss.call), *metrics.build_metrics(exp.task)]
        job.evaluator.compile(None, loss=loss, weighted_metrics=measured, **options)  # Keras insists on a loss
    job.fresh = {frozen: [np.array(v) for v in model.optimizer.variables] for frozen, model in job.steps.items()}
    _built.clear()
    _built[_what_is_traced(job)] = {name: getattr(job, name) for name in SHARED}


# What the last experiment of this process compiled, for the next one, should it only differ in what is not traced.
SHARED = ("devices", "network", "steps", "evaluator", "fresh")
_built: dict[str, dict[str, Any]] = {}


def _what_is_traced(job: Job) -> str:
    """A fingerprint of all that the compiled steps depend on; rates, epochs, sampling and images are not among it."""
    exp, comp = job.exp, job.comp
    parts = {"task", "model", "loss", "label_smoothing", "gate_loss", "optimizer", "batch", "runtime"}
    frozen = exp.freeze.layers if exp.freeze else None
    settings = exp.model_dump(mode="json", include=parts)
    return fingerprint([settings, frozen, exp.input.size, comp.image.channels, len(comp.classes)])


def _step(job: Job, frozen: bool, options: dict[str, Any]) -> Any:
    """A compiled training model with an optimizer of its own."""
    from gatemask.builders import optimizers, schedules, step

    exp = job.exp
    model = step.training_model(job.network, exp)
    with trainable(job, frozen, model):
        optimizer = optimizers.build_optimizer(
            exp.optimizer, schedules.learning_rate(exp.schedule, 0, exp.epochs), exp.runtime.precision
        )
        # Built before the first step: variables that appear while a step is traced make TensorFlow trace it twice.
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, **options)
    return model


@contextlib.contextmanager
def trainable(job: Job, frozen: bool, model: Any = None) -> Any:
    """While the block runs, the layers that `freeze:` names are frozen, if they are to be."""
    layers = _frozen_layers(job, model or job.steps[frozen]) if frozen else []
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def _frozen_layers(job: Job, model: Any) -> list[Any]:
    assert job.exp.freeze is not None
    if job.exp.freeze.layers == "encoder":
        return list(job.network.encoder.layers)
    starts = tuple(job.exp.freeze.layers)
    named = [layer for layer in model._flatten_layers(include_self=False) if layer.name.startswith(starts)]
    if not named:
        raise GatemaskError(
            "No layer's name begins so.",
            where="freeze.layers",
            received=", ".join(starts),
            expected="'encoder', or such as " + ", ".join(layer.name for layer in job.network.encoder.layers[-3:]),
        )
    return named


def begin_fold(job: Job, fold: int) -> int:
    """Initial weights and fresh optimizers, decided by seed and fold, not by what ran before. Returns the seed."""
    from gatemask.builders import encoder_weights, models
    from gatemask.training import state

    seed = job.exp.seed * 1000 + fold
    model = job.steps[False]
    state.assign(state.variables(model), models.draw_initial_weights(model, seed))
    for frozen, step in job.steps.items():
        state.assign(step.optimizer.variables, job.fresh[frozen])
    start = job.start(fold)
    if start.kind == "none":
        return seed
    path = start.path or encoder_weights.find_weights_file(job.exp.model, job.project.root)
    assert path is not None
    if start.kind == "run":
        loaded = encoder_weights.load_run_weights(job.network, path)
    else:
        loaded = encoder_weights.load_encoder_weights(job.network, job.exp.model, path, job.comp.image.channels)
    say(f"{job.exp.name} fold {fold}: starts from {path}, {loaded}")
    return seed
