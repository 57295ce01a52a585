"""Batches in the form that Keras reads without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np


class BatchSequence(keras.utils.PyDataset):
    """Batches of known number, each made when Keras asks for it.

    Keras asks for them in order, in the thread that runs `fit`. It starts again from the first one after it has looked
    at one to build a model; each start is a new pass. JAX holds the arrays for as long as a step uses them.

    Args:
        make: Returns a new pass over the batches.
        count: Number of batches in a pass.
    """

    def __init__(self, make: Callable[[], Iterator[tuple[np.ndarray, ...]]], count: int) -> None:
        super().__init__()
        self._make, self._count = make, count
        self._batches: Iterator[tuple[np.ndarray, ...]] = iter(())
        self._due = 0  # index of the batch that is due

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Return a batch: the first one, or the one after the batch returned before.

        Raises:
            GatemaskError: As raised by `make` or its pass.
            RuntimeError: The batch is not due, or a pass has another number of batches than `count`.
        """
        if index == 0:
            self.on_epoch_end()
            self._batches = iter(self._make())
        if index != self._due:
            raise RuntimeError(f"Batch {index} was asked for, and batch {self._due} is due.")
        batch = next(self._batches, None)
        self._due += 1
        complete = self._due == self._count
        if batch is None or (complete and next(self._batches, None) is not None):
            raise RuntimeError(f"There are {'fewer' if batch is None else 'more'} than {self._count} batches.")
        if complete:
            self.on_epoch_end()
        return batch

    def on_epoch_end(self) -> None:
        """End the present pass, and with it the threads that make its batches."""
        self._batches, self._due = iter(()), 0
