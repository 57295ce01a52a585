"""Compiled models of one experiment. All folds share them: one build, one trace, weights fold by fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.input.layout import Layout
from gatemask.stage import require_unchanged
from gatemask.training.first_step import FirstStep
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.found_batch import batch_path
from gatemask.training.runtime import Devices

if TYPE_CHECKING:
    import keras

    from gatemask.builders.models import Network
    from gatemask.builders.step import TrainingModel


@dataclass(frozen=True)
class CompiledModels:
    """Models of an experiment on the devices they were compiled for.

    Args:
        devices: Devices that run the models.
        network: The architecture. All models below share its layers.
        training_models: Compiled training models by whether the layers of `freeze:` are frozen; each has its own
            optimizer. False is always present, True only where the experiment freezes layers.
        evaluator: Network whose weights are validated and kept.
        predictor: Prediction model of whole inputs, compiled separately: a training step should not pay for
            validation's histograms. With crops it is another model than `evaluator`, see `predictor_for`.
        fresh_optimizers: Variables of each training model's optimizer before its first step.
    """

    devices: Devices
    network: Network
    training_models: Mapping[bool, TrainingModel]
    evaluator: keras.Model
    predictor: keras.Model
    fresh_optimizers: Mapping[bool, list[np.ndarray]]


class CompiledModelsCache:
    """The compiled models of the last experiment, for the next one if it traces the same graph."""

    def __init__(self) -> None:
        self.models: CompiledModels | None = None
        self._key: str | None = None

    def get(self, key: str, build: Callable[[], CompiledModels]) -> CompiledModels:
        """Return the models of this key. Models of another key are dropped and replaced by those that `build` makes."""
        if self.models is None or self._key != key:
            self.models = self._key = None  # frees the memory before the next models are built
            self.models, self._key = build(), key
        return self.models

    def rename(self, key: str) -> None:
        """Keep the models under another key."""
        self._key = key


COMPILED = CompiledModelsCache()


class Trainer:
    """The models of an experiment and the operations on them that all folds share.

    Args:
        inputs: Inputs of the experiment.
        cache: Compiled models to reuse. Default: those of the last experiment of this process.
    """

    def __init__(self, inputs: TrainingInputs, cache: CompiledModelsCache = COMPILED) -> None:
        self.inputs, self._cache = inputs, cache
        self.models = cache.get(_traced_fingerprint(inputs), lambda: _compile(inputs))
        self.found = inputs.found_batch  # read once: a fold trains with one batch, whatever happens to the file

    @property
    def exp(self) -> Experiment:
        return self.inputs.exp

    @property
    def comp(self) -> Competition:
        return self.inputs.comp

    @property
    def layout(self) -> Layout:
        """Channels and planes of the examples."""
        return self.inputs.layout

    @property
    def batch(self) -> int:
        """Images per training step over all devices.

        Raises:
            GatemaskError: A batch that was found on other devices cannot be divided among these.
        """
        found = self.found
        if found is None:
            return self.evaluation_batch
        if found.images % self.models.devices.count:
            raise GatemaskError(
                "The batch of this experiment cannot be divided among these devices.",
                where=batch_path(self.inputs.project, self.exp.name),
                received=f"{self.models.devices.count} devices",
                expected=f"a divisor of {found.images} images: it was found on {found.devices} x {found.accelerator}",
                do="Set runtime.devices. Or delete the file to find another batch: all folds are then trained again.",
            )
        return found.images

    @property
    def evaluation_batch(self) -> int:
        """Images per step of a validation or prediction over all devices, whose results do not depend on it."""
        per_device = self.exp.batch.per_device if self.found is None else self.found.per_device
        assert per_device != "auto", "the batch is found before the training"
        return per_device * self.models.devices.count

    @property
    def rate_factor(self) -> int:
        """Factor of the learning rate, by `batch.scale_learning_rate`."""
        if not self.exp.batch.scale_learning_rate:
            return 1
        return self.models.devices.count if self.found is None else self.found.devices

    @property
    def predictor(self) -> keras.Model:
        """Prediction model of whole inputs, with the present weights."""
        from gatemask.builders import models

        models.copy_weights(self.models.network, self.models.predictor)
        return self.models.predictor

    def training_model(self, epoch: int) -> TrainingModel:
        """Return the training model of an epoch; epochs with and without frozen layers have different ones."""
        return self.models.training_models[self._freezes(epoch)]

    def first_step(self, epoch: int) -> FirstStep:
        """Return the wait for the first step of an epoch's training model, if it has not trained yet."""
        return FirstStep(f"{self.exp.name}, training step", self.training_model(epoch).train_function is None)

    def layers_as_in(self, epoch: int) -> AbstractContextManager[None]:
        """Freeze the layers that `freeze:` names inside the block, if it freezes them in this epoch."""
        if not self._freezes(epoch):
            return _frozen(())
        return _frozen(_layers_to_freeze(self.exp, self.models.network, self.training_model(epoch)))

    def keep_for_found_batch(self) -> None:
        """Keep the models for the batch that has been found with them."""
        self._cache.rename(_traced_fingerprint(self.inputs))

    def reset(self, fold: int) -> int:
        """Set the initial weights and optimizers of a fold, and return its seed.

        Both depend on seed and fold alone, never on folds that were trained before.
        """
        from gatemask.builders import encoder_weights, models
        from gatemask.training import state

        seed = self.exp.seed * 1000 + fold
        network, training_models = self.models.network, self.models.training_models
        state.assign(state.variables(training_models[False]), models.draw_initial_weights(training_models[False], seed))
        for frozen, model in training_models.items():
            state.assign(model.optimizer.variables, self.models.fresh_optimizers[frozen])
        initial = self.inputs.initial_weights(fold)
        if initial.kind == "none":
            return seed
        path = initial.path or encoder_weights.find_weights_file(self.exp.model, self.inputs.project.root)
        assert path is not None
        if initial.kind == "run":
            do = f"Restore the file, or train {path.parent.parent.name} again."
            require_unchanged(path.with_name("result.json"), path, do)
            loaded = encoder_weights.load_run_weights(network, path)
        else:
            loaded = encoder_weights.load_encoder_weights(network, self.exp.model, path, self.comp.image.channels)
        say(f"{self.exp.name} fold {fold}: starts from {path}, {loaded}")
        return seed

    def evaluate(self, validation: Sequence[EncodedExample]) -> dict[str, float]:
        """Return `val_loss` and the metrics of the present weights, by name.

        Raises:
            GatemaskError: One of them is NaN or infinite.
        """
        from gatemask.input import keras_input, pipeline
        from gatemask.training.loss_watch import ValidationWatch

        batches = pipeline.evaluation_dataset(validation, self.exp, self.layout, self.evaluation_batch)
        predictor = self.predictor
        first = FirstStep(f"{self.exp.name}, validation step", predictor.test_function is None)
        first.begin()
        with keras_input.original_errors(), first.shown():
            values = predictor.evaluate(batches, verbose=0, return_dict=True, callbacks=[ValidationWatch(first.done)])
        scores = {name: float(value) for name, value in values.items() if name != "loss"}
        if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
            raise GatemaskError(
                "Validation scores became NaN or infinite.",
                where=self.exp.name,
                received=", ".join(bad),
                do="Lower the learning rate, or set optimizer.clipnorm. The state before this epoch is kept.",
            )
        return scores

    def _freezes(self, epoch: int) -> bool:
        return self.exp.freeze is not None and epoch < self.exp.freeze.epochs


def _traced_fingerprint(inputs: TrainingInputs) -> str:
    """Return a fingerprint of what the compiled models depend on; rates, epochs and sampling are not part of it."""
    exp = inputs.exp
    sections = {"task", "model", "loss", "label_smoothing", "gate_loss", "optimizer", "batch", "runtime"}
    frozen = exp.freeze.layers if exp.freeze else None
    settings = exp.model_dump(mode="json", include=sections)
    # A model that was traced for one batch would be traced for any number of images next: shapes must be static.
    found = [] if inputs.found_batch is None else [str(inputs.found_batch)]
    table = [_table_length(exp)] if _table_length(exp) else []
    sizes = [exp.input.shape, exp.input.training_shape, exp.input.tile]
    return fingerprint([settings, frozen, sizes, asdict(inputs.layout), exp.has_soft_masks, *found, *table])


def _table_length(exp: Experiment) -> int:
    """Return the number of steps that are trained between two transfers of learning rates; 0 for whole epochs."""
    return exp.checkpoints.steps if exp.schedule.per == "step" else 0


def _compile(inputs: TrainingInputs) -> CompiledModels:
    """Find the devices, then build and compile the models."""
    from gatemask.builders import encoder_weights
    from gatemask.training import runtime

    exp, layout = inputs.exp, inputs.layout
    runtime.require_accelerator(exp.runtime)
    encoder_weights.find_weights_file(
        exp.model, inputs.project.root
    )  # a missing file should be reported before Keras is imported
    devices = runtime.start_keras(exp.runtime, inputs.project.compiled)
    require_accumulation(exp, devices)
    from gatemask.builders import losses, metrics, models

    jit_compile = devices.backend == "jax"  # TensorFlow without XLA was the fastest on a CPU
    with devices.scope():
        network = models.network_for(exp, inputs.comp)
        training_models = {
            frozen: _compile_training_model(exp, layout, inputs.class_weights, network, frozen, jit_compile)
            for frozen in ([True, False] if exp.freeze else [False])
        }
        predictor = models.predictor_for(exp, inputs.comp, network)
        loss = losses.WeightedLoss(exp.loss, exp.label_smoothing, layout, inputs.class_weights)
        labels = network.model.output.shape[-1]
        measured = [metrics.MeanLoss(loss.call), *metrics.build_metrics(exp.task, layout, labels)]
        # Keras requires a loss here too.
        predictor.compile(None, loss=loss, weighted_metrics=measured, jit_compile=jit_compile)
    fresh = {frozen: [np.array(v) for v in model.optimizer.variables] for frozen, model in training_models.items()}
    return CompiledModels(devices, network, training_models, network.model, predictor, fresh)


def require_accumulation(exp: Experiment, devices: Devices) -> None:
    """Check that `optimizer.accumulate` works on these devices: Keras would fail in the first step.

    Raises:
        GatemaskError: It does not.
    """
    if exp.optimizer.accumulate and devices.strategy in ("MirroredStrategy", "TPUStrategy"):
        raise GatemaskError(
            "Keras cannot accumulate gradients on several devices with TensorFlow.",
            where="optimizer.accumulate",
            received=f"{exp.optimizer.accumulate} batches, on {devices.count} devices by {devices.strategy}",
            expected="one device, or JAX",
            do="Leave optimizer.accumulate out, or set runtime: {devices: 1} or runtime: {backend: jax}.",
        )


def _compile_training_model(
    exp: Experiment, layout: Layout, class_weights: Sequence[float], network: Network, frozen: bool, jit_compile: bool
) -> TrainingModel:
    """Return a compiled training model with its own optimizer."""
    from gatemask.builders import layer_rates, optimizers, schedules, step

    model = step.training_model(network, exp, layout, class_weights)
    with _frozen(_layers_to_freeze(exp, network, model) if frozen else ()):
        first_rate = schedules.learning_rate(exp.schedule, 0, exp.epochs)
        decay = exp.optimizer.layer_decay
        factors = layer_rates.rate_factors(network.encoder, decay) if decay else None
        optimizer = optimizers.build_optimizer(
            exp.optimizer, first_rate, exp.runtime.precision, _table_length(exp), factors
        )
        # Built before the first step: variables that appear while a step is traced make TensorFlow trace it twice.
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, jit_compile=jit_compile)
    return model


@contextmanager
def _frozen(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def _layers_to_freeze(exp: Experiment, network: Network, model: TrainingModel) -> list[keras.layers.Layer]:
    """Return the layers that `freeze:` names.

    Raises:
        GatemaskError: No layer has such a name.
    """
    assert exp.freeze is not None
    if exp.freeze.layers == "encoder":
        return list(network.encoder.layers)
    prefixes = tuple(exp.freeze.layers)
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer.name.startswith(prefixes)]
    if not layers:
        names = ", ".join(prefixes)
        raise GatemaskError(
            f"No layer name starts with {names}.",
            where="freeze.layers",
            received=names,
            expected="'encoder', or such as " + ", ".join(layer.name for layer in network.encoder.layers[-3:]),
        )
    return layers
