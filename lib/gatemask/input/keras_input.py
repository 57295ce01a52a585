"""Hand batches to Keras's `fit` and `evaluate`, on any backend."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from gatemask import quiet
from gatemask.errors import GatemaskError

Arrays = tuple[np.ndarray, ...]
KerasInput = Any  # a `tf.data.Dataset` on TensorFlow, a `keras.utils.PyDataset` on other backends


class ArrayShape(NamedTuple):
    """Shape and dtype of one array of each batch."""

    shape: tuple[int, ...]
    dtype: type


def keras_input(make: Callable[[], Iterator[Arrays]], shapes: Sequence[ArrayShape], count: int) -> KerasInput:
    """Return batches in the form that Keras reads fastest on its backend.

    Args:
        make: Returns a new pass over the batches.
        shapes: Shape of each array of a batch.
        count: Number of batches.

    Returns:
        A dataset of known length and static shapes. An error in `make` is raised as described in `original_errors`.
    """
    if quiet.keras().backend.backend() == "tensorflow":
        return _tensorflow_dataset(make, shapes, count)
    from gatemask.input.batch_sequence import BatchSequence

    return BatchSequence(make, count)


def _tensorflow_dataset(make: Callable[[], Iterator[Arrays]], shapes: Sequence[ArrayShape], count: int) -> KerasInput:
    tf = quiet.tensorflow()
    signature = tuple(tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)) for array in shapes)
    maker = [make]
    dataset = tf.data.Dataset.from_generator(lambda: _note_errors(maker[0]()), output_signature=signature)
    options = tf.data.Options()
    # One generator makes whole batches: there is nothing left to spread over threads or machines.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(1).with_options(options)
    # TensorFlow never releases the functions it was given. Emptying the list releases the examples with the dataset.
    weakref.finalize(dataset, maker.clear)
    return dataset


_last_error: list[GatemaskError] = []
_lock = threading.Lock()


def _note_errors(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    try:
        yield from batches
    except GatemaskError as error:
        with _lock:
            _last_error[:] = [error]
        raise


@contextmanager
def original_errors() -> Iterator[None]:
    """Raise the original GatemaskError of a dataset around `fit` and `evaluate`.

    TensorFlow would raise an error of its own instead, with a traceback in its message.
    """
    with _lock:
        _last_error.clear()
    try:
        yield
    except GatemaskError:
        raise
    except Exception:
        with _lock:
            error = _last_error.pop() if _last_error else None
        if error is not None:
            raise error from None
        raise
