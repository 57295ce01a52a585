"""Optimizers by name; the learning rate is set epoch by epoch from the schedule."""

from __future__ import annotations

import math
from typing import Any, get_args

import keras
from keras import ops

from gatemask.config import Optimizer, OptimizerName


class RAdam(keras.optimizers.Optimizer):
    """Adam whose steps wait until their variance is known (RAdam, Liu 2019).

    While the length of the approximated moving average is at most 4, the step is that of momentum alone;
    then Adam's, times the rectification r. The choice is made by `where`, so that the step stays one graph.

    Args:
        learning_rate: a number.
        beta_1, beta_2: decay of the gradients' mean and of their squares' mean.
        epsilon: added to the root of the squares' mean.
        kwargs: of every Keras optimizer: clipnorm, weight_decay, use_ema, ...
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

    def build(self, var_list: list[Any]) -> None:
        if self.built:
            return
        super().build(var_list)
        self._means = [self.add_variable_from_reference(variable, name="mean") for variable in var_list]
        self._squares = [self.add_variable_from_reference(variable, name="square") for variable in var_list]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, "float32")
        index = self._get_variable_index(variable)
        mean, square = self._means[index], self._squares[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        # 1 - beta^t in a form that keeps its digits in float32.
        left_1, left_2 = -ops.expm1(step * math.log(self.beta_1)), -ops.expm1(step * math.log(self.beta_2))
        longest = 2 / (1 - self.beta_2) - 1
        length = longest - 2 * step / ops.expm1(-step * math.log(self.beta_2))
        safe = ops.maximum(length, 4.0)
        r = ops.sqrt((safe - 4) * (safe - 2) * longest / ((longest - 4) * (longest - 2) * safe))
        adapted = ops.cast(r, variable.dtype) / (ops.sqrt(square / ops.cast(left_2, variable.dtype)) + self.epsilon)
        factor = ops.where(length > 4, adapted, ops.ones_like(adapted))
        self.assign_sub(variable, rate * factor * mean / ops.cast(left_1, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class KeepsWeights:
    """Keras puts the averages in place of the weights at the end of every `fit`: here, the trainer decides when."""

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Nothing."""


_CLASSES = {kind.__name__.lower(): kind for kind in (*vars(keras.optimizers).values(), RAdam) if isinstance(kind, type)}
OPTIMIZERS: dict[OptimizerName, type[keras.optimizers.Optimizer]] = {
    name: _CLASSES[name] for name in get_args(OptimizerName)
}


def build_optimizer(config: Optimizer, learning_rate: float, precision: str = "float32") -> keras.optimizers.Optimizer:
    """An optimizer that starts at `learning_rate`, as `compile` is to take it.

    Args:
        config: name and options. `ema` keeps averages beside the weights and never writes them back by itself.
        learning_rate: of the first epoch.
        precision: of the layers; with float16 the loss is scaled so that small gradients do not vanish.
    """
    options = config.model_dump(exclude={"name", "ema", "accumulate"}, exclude_none=True)
    kind = OPTIMIZERS[config.name]
    if config.ema is not None:
        options |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
        kind = type(kind.__name__, (KeepsWeights, kind), {})
    optimizer = kind(learning_rate=learning_rate, gradient_accumulation_steps=config.accumulate, **options)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that hold the averages of the trainable variables, in the order it was built with; or none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(inner._model_variables_moving_average) if inner.use_ema else []
