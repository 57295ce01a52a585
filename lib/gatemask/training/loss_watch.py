"""Keras callbacks that report finished steps, and stop training when the loss stops being finite."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping

import keras

from gatemask.input.wait import InputWait


class LossWatch(keras.callbacks.Callback):
    """Callback that reports each finished step, and ends `fit` once the mean loss is NaN or infinite.

    Keras calls it from other threads, so the device never waits for it.

    Args:
        on_step: Called after each step.
        wait: Measures the wait for input. Default: it is not measured.
    """

    async_safe = True

    def __init__(self, on_step: Callable[[], object], wait: InputWait | None = None) -> None:
        super().__init__()
        self.bad_steps: list[int] = []  # steps after which the mean loss was not finite
        self._on_step, self._wait = on_step, wait
        self._lock = threading.Lock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        with self._lock:
            if logs and not math.isfinite(float(logs["loss"])):
                self.bad_steps.append(batch)
                self._model.stop_training = True  # `self.model` would first copy the weights from the device
            if self._wait is not None:
                self._wait.step_done(batch)
            self._on_step()  # the loss is known, so the device has finished the step


class ValidationWatch(keras.callbacks.Callback):
    """Callback that reports each finished step of `evaluate`. Keras calls it from other threads.

    Args:
        on_step: Called after each step.
    """

    async_safe = True

    def __init__(self, on_step: Callable[[], object]) -> None:
        super().__init__()
        self._on_step = on_step

    def on_test_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._on_step()
