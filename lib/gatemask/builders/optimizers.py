"""Build optimizers by name; training sets the learning rate of each epoch from the schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import keras
from keras import ops

from gatemask.builders import bridge
from gatemask.builders.tensor import Tensor
from gatemask.config import Optimizer, OptimizerName


class RAdam(keras.optimizers.Optimizer):
    """Rectified Adam (RAdam, Liu 2019): adaptive steps start once their variance is bounded.

    While the length of the approximated moving average is at most 4, the step is that of momentum alone. From then on
    it is Adam's, times the rectification r. `where` decides, so the step remains one graph.

    Args:
        learning_rate: Learning rate. Default: 0.001.
        beta_1: Decay of the gradients' moving average. Default: 0.9.
        beta_2: Decay of the squared gradients' moving average. Default: 0.999.
        epsilon: Constant added to the root of the second average. Default: 1e-7.
        name: Name of the optimizer. Default: "radam".
        kwargs: Options of every Keras optimizer: clipnorm, weight_decay, use_ema, ...

    >>> weight = keras.Variable([1.0])
    >>> RAdam(learning_rate=0.1).apply([keras.ops.ones(1)], [weight])
    >>> round(float(weight[0]), 3)
    0.9
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "radam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(var_list)
        self._means = [self.add_variable_from_reference(variable, name="mean") for variable in var_list]
        self._squares = [self.add_variable_from_reference(variable, name="square") for variable in var_list]

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, "float32")
        index = self._get_variable_index(variable)
        mean, square = self._means[index], self._squares[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        # 1 - beta^t, without losing digits in float32.
        correction_1, correction_2 = -ops.expm1(step * math.log(self.beta_1)), -ops.expm1(step * math.log(self.beta_2))
        longest = 2 / (1 - self.beta_2) - 1
        length = longest - 2 * step / ops.expm1(-step * math.log(self.beta_2))
        bounded = ops.maximum(length, 4.0)
        rectification = ops.sqrt((bounded - 4) * (bounded - 2) * longest / ((longest - 4) * (longest - 2) * bounded))
        adapted = ops.cast(rectification, variable.dtype) / (
            ops.sqrt(square / ops.cast(correction_2, variable.dtype)) + self.epsilon
        )
        factor = ops.where(length > 4, adapted, ops.ones_like(adapted))
        self.assign_sub(variable, rate * factor * mean / ops.cast(correction_1, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class Muon(keras.optimizers.Muon):
    """Muon (Jordan 2024, Liu 2025) for the kernels of a segmentation network, and AdamW for all other variables.

    Keras applies Muon to matrices alone, and these networks have few. Here it also applies to kernels of convolutions,
    flattened to one row per input and one column per filter. Variables of one dimension, depthwise kernels and the last
    layers keep AdamW.

    Args:
        learning_rate: Learning rate of both. Default: 0.001.
        weight_decay: Weight decay of both. Default: 0.004.
        kwargs: Other options of `keras.optimizers.Muon`.

    >>> weight = keras.Variable([[1.0, 0.0], [0.0, 1.0]])
    >>> muon = Muon(learning_rate=0.1)
    >>> muon.apply([keras.ops.eye(2)], [weight])
    >>> round(float(weight[0, 0]), 2)
    0.97
    """

    def __init__(self, learning_rate: float = 1e-3, weight_decay: float | None = 0.004, **kwargs: Any) -> None:
        given = {"adam_weight_decay": weight_decay, "exclude_layers": ["logit"], **kwargs}
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **given)

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        if len(variable.shape) not in (2, 4) or variable.shape[-1] == 1 or "depthwise" in variable.path:
            return True
        return any(name in variable.path for name in self.exclude_layers)

    def _muon_update_step(self, gradient: Tensor, variable: keras.Variable, lr: Tensor, m: keras.Variable) -> None:
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        step = ops.add(gradient, self.momentum * m) if self.nesterov else m
        matrix = ops.reshape(step, (-1, variable.shape[-1]))
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, ops.reshape(update, variable.shape))


class KeepWeights:
    """Mixin for an optimizer with averaged weights: the trainer decides when they replace the weights.

    Keras would replace them at the end of each `fit`.
    """

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Leave the weights unchanged."""


class DecayKernels:
    """Mixin for an optimizer whose weight decay spares biases and the variables of normalization layers.

    These are the variables of one dimension.
    """

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Create the optimizer's variables."""
        if not self.built:  # type: ignore[attr-defined]
            spared = [variable for variable in var_list if len(variable.shape) < 2]
            self.exclude_from_weight_decay(var_list=spared)  # type: ignore[attr-defined]
        super().build(var_list)  # type: ignore[misc]


class HostZeros:
    """Mixin for an optimizer whose variables start as zeros from the host, with nothing to compile."""

    def add_variable_from_reference(
        self, reference_variable: keras.Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        """Add a variable of the shape and dtype of another; see Keras's own method."""
        initializer = bridge.zeros if initializer == "zeros" else initializer
        return super().add_variable_from_reference(reference_variable, name, initializer)  # type: ignore[misc]


_OWN = (RAdam, Muon)  # later ones replace those of Keras
_CLASSES = {cls.__name__.lower(): cls for cls in (*vars(keras.optimizers).values(), *_OWN) if isinstance(cls, type)}
OPTIMIZERS: dict[OptimizerName, type[keras.optimizers.Optimizer]] = {
    name: _CLASSES[name] for name in get_args(OptimizerName)
}


def build_optimizer(config: Optimizer, learning_rate: float, precision: str = "float32") -> keras.optimizers.Optimizer:
    """Return an optimizer for `compile`.

    Args:
        config: The experiment's `optimizer:`. With `ema`, averaged weights are kept next to the weights and replace
            them only when the trainer decides.
        learning_rate: Learning rate of the first epoch.
        precision: Precision of the layers; with "float16", the loss is scaled to keep small gradients from vanishing.
            Default: "float32".

    >>> build_optimizer(Optimizer(name="sgd", momentum=0.9, ema=0.99), 0.01).momentum
    0.9
    """
    options = config.model_dump(exclude={"name", "ema", "accumulate", "weight_decay_on"}, exclude_none=True)
    bases: tuple[type, ...] = (HostZeros, OPTIMIZERS[config.name])
    if config.weight_decay_on == "kernels":
        bases = (DecayKernels, *bases)
    if config.ema is not None:
        options |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
        bases = (KeepWeights, *bases)
    optimizer_class = type(bases[-1].__name__, bases, {})
    optimizer = optimizer_class(learning_rate=learning_rate, gradient_accumulation_steps=config.accumulate, **options)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the averages of the trainable variables, in the order the optimizer was built with; [] without `ema`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(inner._model_variables_moving_average) if inner.use_ema else []
