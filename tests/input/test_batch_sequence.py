"""Batches reach Keras in order, once, and in the number that was announced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from gatemask import quiet
from gatemask.errors import GatemaskError

quiet.keras()

from gatemask.input.batch_sequence import BatchSequence  # noqa: E402

Pass = Iterator[tuple[np.ndarray, ...]]


class Passes:
    """Passes of some batches, each an array of its number in its pass; they note when they begin and end."""

    def __init__(self, batches: int) -> None:
        self.batches, self.begun, self.ended = batches, 0, 0

    def __call__(self) -> Pass:
        self.begun += 1
        try:
            for number in range(self.batches):
                yield (np.array([number]),)
        finally:
            self.ended += 1


@pytest.fixture
def read() -> Callable[[BatchSequence, range], list[int]]:
    return lambda sequence, indices: [int(sequence[index][0][0]) for index in indices]


def test_a_pass_ends_with_its_last_batch(read) -> None:
    passes = Passes(3)
    sequence = BatchSequence(passes, 3)
    assert len(sequence) == sequence.num_batches == 3
    assert read(sequence, range(3)) == [0, 1, 2]
    assert (passes.begun, passes.ended) == (1, 1)


def test_the_first_batch_starts_a_new_pass(read) -> None:
    """Keras looks at a batch or two to build a model, then starts again; a second epoch reads all again."""
    passes = Passes(3)
    sequence = BatchSequence(passes, 3)
    assert read(sequence, range(2)) == [0, 1]
    sequence.on_epoch_end()
    assert (passes.begun, passes.ended) == (1, 1)
    assert read(sequence, range(1)) == [0]
    for _ in range(2):
        assert read(sequence, range(3)) == [0, 1, 2]
    assert (passes.begun, passes.ended) == (4, 4)


@pytest.mark.parametrize(("batches", "message"), [(2, "fewer than 3"), (4, "more than 3"), (0, "fewer than 3")])
def test_another_number_of_batches_is_an_error(read, batches: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        read(BatchSequence(Passes(batches), 3), range(3))


def test_batches_out_of_order_are_an_error(read) -> None:
    """They would be trained as others than those that the state of a run counts."""
    sequence = BatchSequence(Passes(3), 3)
    with pytest.raises(RuntimeError, match="Batch 2 was asked for, and batch 1 is due"):
        read(sequence, range(0, 3, 2))


def test_keras_reads_each_batch_once_and_raises_errors_as_they_are() -> None:
    """Through the part of Keras that feeds JAX, which needs no JAX model."""
    from keras.src.trainers.data_adapters import get_data_adapter

    passes = Passes(3)
    adapter = get_data_adapter(BatchSequence(passes, 3))
    assert [int(batch[0][0]) for batch in adapter.get_numpy_iterator()] == [0, 1, 2]
    assert passes.begun == 1

    def damaged() -> Pass:
        yield (np.array([0]),)
        raise GatemaskError("An image is damaged.", where="i4")

    with pytest.raises(GatemaskError, match="i4"):
        list(get_data_adapter(BatchSequence(damaged, 3)).get_numpy_iterator())
