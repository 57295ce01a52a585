"""Build optimizers by name; training sets the learning rates from the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np
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


class ScheduleFreeAdamW(keras.optimizers.Optimizer):
    """Schedule-free AdamW (Defazio 2024): averages the weights instead of lowering the learning rate.

    The gradient is taken at y, between the fast weights z and their average x: y = (1 - beta_1) z + beta_1 x. The
    network holds y while it is trained; x is what `averaged_values` returns, to be validated and kept. Steps count
    towards the average by the square of their learning rate, so those of a warm-up count little.

    Stored are z - y, which is 0 at first for any initial weights, and the squares' average.

    Args:
        learning_rate: Learning rate. Default: 0.0025.
        beta_1: Weight of the average in y. Default: 0.9.
        beta_2: Decay of the squared gradients' moving average. Default: 0.999.
        epsilon: Constant added to the root of that average. Default: 1e-8.
        name: Name of the optimizer. Default: "schedule_free_adamw".
        kwargs: Options of every Keras optimizer: clipnorm, weight_decay, ...

    >>> weight = keras.Variable([1.0])
    >>> optimizer = ScheduleFreeAdamW(learning_rate=0.1)
    >>> for _ in range(2):
    ...     optimizer.apply([keras.ops.ones(1)], [weight])
    >>> [round(float(value), 3) for value in (weight[0], optimizer.averaged_values()[0][0])]
    [0.845, 0.85]
    """

    def __init__(
        self,
        learning_rate: float = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "schedule_free_adamw",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(var_list)
        self._offsets = [self.add_variable_from_reference(variable, name="offset") for variable in var_list]
        self._squares = [self.add_variable_from_reference(variable, name="square") for variable in var_list]
        self._sum = self.add_variable(
            (), initializer=bridge.zeros, name="sum_of_squared_rates", aggregation="only_first_replica"
        )

    def averaged_values(self) -> list[np.ndarray]:
        """Return the average x of each variable, in the order the optimizer was built with."""
        share = np.float32((1 - self.beta_1) / self.beta_1)
        pairs = zip(self._trainable_variables, self._offsets, strict=True)
        return [np.array(variable) - share * np.array(offset) for variable, offset in pairs]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Leave it to `update_step`: the decay of y is part of the step of z."""

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: Tensor
    ) -> None:
        self._sum.assign_add(ops.square(ops.cast(learning_rate, self._sum.dtype)))
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        offset, square = self._offsets[index], self._squares[index]
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        # 1 - beta^t, without losing digits in float32.
        correction = -ops.expm1(ops.cast(self.iterations + 1, "float32") * math.log(self.beta_2))
        direction = gradient / (ops.sqrt(square / ops.cast(correction, variable.dtype)) + self.epsilon)
        if self.weight_decay and self._use_weight_decay(variable):
            direction = direction + self.weight_decay * variable
        # `rate` may have a factor of this variable: shares of the average are those of the common rate.
        squared_rate = ops.square(ops.cast(self.learning_rate, self._sum.dtype))
        share = ops.cast(squared_rate / ops.maximum(self._sum, 1e-30), variable.dtype)
        # z' = z - rate d, x' = (1 - share) x + share z', y' = (1 - beta_1) z' + beta_1 x', in terms of y and z - y.
        kept, step = 1 - share, rate * direction
        self.assign_add(variable, share * offset + (self.beta_1 * kept - 1) * step)
        self.assign(offset, kept * (offset - self.beta_1 * step))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


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


class RateTable:
    """Mixin for an optimizer that looks up the learning rate of each step in a table.

    The table is a variable of a fixed length: the step is traced once, and the device receives one table for many
    steps.
    """

    table_length = 0  # steps

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Create the optimizer's variables."""
        if not self.built:  # type: ignore[attr-defined]
            shared = {"initializer": bridge.zeros, "aggregation": "only_first_replica"}
            self._rates = self.add_variable((self.table_length,), name="rates", **shared)  # type: ignore[attr-defined]
            self._first_step = self.add_variable((), dtype="int", name="first_step", **shared)  # type: ignore[attr-defined]
        super().build(var_list)  # type: ignore[misc]

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rates of the next steps.

        Args:
            rates: Learning rate of each step; at most `table_length`. The last one holds beyond them.
        """
        self._rates.assign(np.pad(np.array(rates, np.float32), (0, self.table_length - len(rates)), mode="edge"))
        self._first_step.assign(np.array(self._iterations))  # type: ignore[attr-defined]

    @property
    def table(self) -> tuple[keras.Variable, keras.Variable]:
        """The table, (table_length,), and the step of its first row."""
        return self._rates, self._first_step

    def _get_current_learning_rate(self) -> Tensor:
        if not self.built:  # type: ignore[attr-defined]
            return super()._get_current_learning_rate()  # type: ignore[misc]
        step = self._iterations - self._first_step  # type: ignore[attr-defined]
        return ops.take(self._rates, ops.clip(step, 0, self.table_length - 1))


class LayerDecay:
    """Mixin for an optimizer with a factor of the learning rate for each variable, of updates and weight decay."""

    rate_factors: Mapping[int, float] = {}  # by id of the variable; 1 for others

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Create the optimizer's variables."""
        self._factors = [self.rate_factors.get(id(variable), 1.0) for variable in var_list]
        self._factor = 1.0  # of `learning_rate`, while weight decay is applied to variables of this factor
        super().build(var_list)  # type: ignore[misc]

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Update a variable."""
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        groups: dict[float, list[keras.Variable]] = {}
        for variable in variables:
            groups.setdefault(self._factors[self._get_variable_index(variable)], []).append(variable)  # type: ignore[attr-defined]
        for factor, group in groups.items():
            self._factor = factor
            super()._apply_weight_decay(group)  # type: ignore[misc]
        self._factor = 1.0

    def _get_current_learning_rate(self) -> Tensor:
        rate = super()._get_current_learning_rate()  # type: ignore[misc]
        return rate if not self.built or self._factor == 1 else rate * self._factor  # type: ignore[attr-defined]


class HostZeros:
    """Mixin for an optimizer whose variables start as zeros from the host, with nothing to compile."""

    def add_variable_from_reference(
        self, reference_variable: keras.Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        """Add a variable of the shape and dtype of another; see Keras's own method."""
        initializer = bridge.zeros if initializer == "zeros" else initializer
        return super().add_variable_from_reference(reference_variable, name, initializer)  # type: ignore[misc]


_OWN = (RAdam, Muon, ScheduleFreeAdamW)  # later ones replace those of Keras
_CLASSES = {cls.__name__.lower(): cls for cls in (*vars(keras.optimizers).values(), *_OWN) if isinstance(cls, type)}
OPTIMIZERS: dict[OptimizerName, type[keras.optimizers.Optimizer]] = {
    name: _CLASSES[name] for name in get_args(OptimizerName)
}


_NOT_OF_KERAS = {"name", "ema", "accumulate", "weight_decay_on", "layer_decay"}


def build_optimizer(
    config: Optimizer,
    learning_rate: float,
    precision: str = "float32",
    table_length: int = 0,
    rate_factors: Mapping[int, float] | None = None,
) -> keras.optimizers.Optimizer:
    """Return an optimizer for `compile`.

    Args:
        config: The experiment's `optimizer:`. With `ema`, averaged weights are kept next to the weights and replace
            them only when the trainer decides.
        learning_rate: Learning rate of the first epoch.
        precision: Precision of the layers; with "float16", the loss is scaled to keep small gradients from vanishing.
            Default: "float32".
        table_length: Largest number of steps whose learning rates `set_rates` takes at a time. Default: 0, one rate
            for all steps.
        rate_factors: Factor of the learning rate by id of the variable; 1 for others. Default: 1 for all.

    >>> build_optimizer(Optimizer(name="sgd", momentum=0.9, ema=0.99), 0.01).momentum
    0.9
    """
    options = config.model_dump(exclude=_NOT_OF_KERAS, exclude_none=True)
    bases: tuple[type, ...] = (HostZeros, OPTIMIZERS[config.name])
    if config.weight_decay_on == "kernels":
        bases = (DecayKernels, *bases)
    if config.ema is not None:
        options |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
        bases = (KeepWeights, *bases)
    if table_length:
        bases = (RateTable, *bases)
    if rate_factors:
        bases = (LayerDecay, *bases)
    attributes = {"table_length": table_length, "rate_factors": rate_factors or {}}
    optimizer_class = type(bases[-1].__name__, bases, attributes)
    optimizer = optimizer_class(learning_rate=learning_rate, gradient_accumulation_steps=config.accumulate, **options)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def set_rates(optimizer: keras.optimizers.Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rates of the next steps.

    Args:
        optimizer: Optimizer from `build_optimizer`.
        rates: Learning rate of each step, at most `table_length`; a single one without a table.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, RateTable):
        inner.set_rates(rates)
    else:
        (inner.learning_rate,) = rates


def state_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that a resumed training needs: all but the table of rates, which is set before each use."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    table = {id(variable) for variable in inner.table} if isinstance(inner, RateTable) else set()
    return [variable for variable in optimizer.variables if id(variable) not in table]


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """Return the averages of the trainable variables, which are validated and kept in place of the weights.

    Returns:
        Averages in the order the optimizer was built with; [] for an optimizer without averages.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, ScheduleFreeAdamW):
        return inner.averaged_values()
    return [np.array(average) for average in inner._model_variables_moving_average] if inner.use_ema else []
