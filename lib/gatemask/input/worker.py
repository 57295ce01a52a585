"""A worker process: fills parts of batches in shared memory.

It imports numpy, OpenCV and the input, and never Keras, TensorFlow, JAX or pandas. It ends when its connection is
closed, which the system does when the main process dies. Messages are pickled: they come from the main process alone.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.augment import AugmentationStep
from gatemask.input.decoding import Cache, DecodedExample, Decoder, cache_key
from gatemask.input.geometry import Crop
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch
from gatemask.input.shared_cache import NOWHERE, Shapes, SharedCache
from gatemask.input.shared_memory import Place, Region, map_region
from gatemask.input.source import RecordSource
from gatemask.parallel import keep_freed_memory


@dataclass(frozen=True)
class SourceContent:
    """What a worker needs to fill batches from a source.

    Args:
        examples, steps, with_masks, labels, soft_masks, crop: As in `RecordSource`.
        layout, size: As in `Decoder`.
        cache: Memory of the cache.
        places: Place of each example in the cache, int64.
        shapes: Shapes of the cached examples; None to cache nothing.
    """

    examples: Sequence[EncodedExample]
    steps: Sequence[AugmentationStep]
    with_masks: bool
    labels: int
    soft_masks: bool
    crop: Crop | None
    layout: Layout
    size: tuple[int, int]
    cache: Region
    places: np.ndarray
    shapes: Shapes | None


class AddSource(NamedTuple):
    """Message: a source that parts will refer to by its number, as a pickled `SourceContent`."""

    number: int
    content: bytes


class DropSource(NamedTuple):
    """Message: no more parts of a source will follow."""

    number: int


class Fill(NamedTuple):
    """Message: fill some slots of a batch.

    Args:
        task: Number of the message, which `Done` repeats.
        source: Number of the source.
        place: Where the batch is.
        batch_size: Images per batch.
        seed: Seed of the batch.
        start: First slot.
        indices: Examples of the slots from `start` on.
    """

    task: int
    source: int
    place: Place
    batch_size: int
    seed: tuple[int, ...]
    start: int
    indices: list[int]


class Mix(NamedTuple):
    """Message: mix the images of a filled batch. Arguments as in `Fill`."""

    task: int
    source: int
    place: Place
    batch_size: int
    seed: tuple[int, ...]


class Done(NamedTuple):
    """Answer: a `Fill` or `Mix` is finished.

    Args:
        task: Its number.
        error: What it raised. Default: nothing.
    """

    task: int
    error: GatemaskError | RuntimeError | None = None


class NoCache:
    """A cache that keeps nothing."""

    def get(self, key: object) -> None:
        """Return None."""

    def add(self, key: object, decoded: DecodedExample) -> None:
        """Do nothing."""


def run(connection: int, memory: int) -> None:
    """Work until the connection is closed.

    Args:
        connection: File descriptor of this end of a socket pair.
        memory: File descriptor of the shared memory.
    """
    cv2.setNumThreads(1)  # the processes share the cores already
    keep_freed_memory()
    Worker(memory).serve(Connection(connection))


class Worker:
    """Sources and mapped memory of a worker process.

    Args:
        memory: File descriptor of the shared memory.
    """

    def __init__(self, memory: int) -> None:
        self._file = memory
        self._mapped: dict[Region, np.ndarray] = {}
        self._sources: dict[int, RecordSource | Exception] = {}

    def serve(self, connection: Connection) -> None:
        """Answer messages until the main process closes the connection or dies."""
        while True:
            try:
                message = pickle.loads(connection.recv_bytes())
                answer = self.answer(message)
                if answer is not None:
                    connection.send_bytes(pickle.dumps(answer))
            except (EOFError, ConnectionError):
                return

    def answer(self, message: AddSource | DropSource | Fill | Mix) -> Done | None:
        """Do what a message asks for."""
        if isinstance(message, AddSource):
            self._sources[message.number] = self._open(message.content)
        elif isinstance(message, DropSource):
            del self._sources[message.number]
        else:
            try:
                self._work(message)
            except GatemaskError as error:
                return Done(message.task, error)
            except Exception:  # of any library, so perhaps none that can be pickled
                return Done(message.task, RuntimeError(f"In a worker of the input: {traceback.format_exc()}"))
            return Done(message.task)
        return None

    def _work(self, message: Fill | Mix) -> None:
        source = self._sources[message.source]
        if isinstance(source, Exception):
            raise source
        memory = self._map(message.place.region)[message.place.start :]
        batch = source.batch_in(memory, message.batch_size)
        if isinstance(message, Fill):
            slots = range(message.start, message.start + len(message.indices))
            source.fill(batch, slots, message.indices, message.seed)
        else:
            _overwrite(batch, source.mix(batch, message.seed))

    def _open(self, content: bytes) -> RecordSource | Exception:
        try:
            parts: SourceContent = pickle.loads(content)
        except Exception as error:  # the files of its examples may be gone; parts of the source will raise it
            return error
        decoder = Decoder(parts.layout, parts.size, NoCache())
        source = RecordSource(
            parts.examples, decoder, parts.steps, parts.with_masks, parts.labels, parts.soft_masks, parts.crop
        )
        decoder.cache = self._cache(source, parts)
        return source

    def _cache(self, source: RecordSource, parts: SourceContent) -> Cache:
        if parts.shapes is None:
            return NoCache()
        keys = (cache_key(example, parts.layout, source.decodes_masks) for example in parts.examples)
        places = {key: place for key, place in zip(keys, parts.places.tolist(), strict=True) if place != NOWHERE}
        return SharedCache(self._map(parts.cache), places, parts.shapes)

    def _map(self, region: Region) -> np.ndarray:
        if region not in self._mapped:
            self._mapped[region] = np.frombuffer(map_region(self._file, region), np.uint8)
        return self._mapped[region]


def _overwrite(batch: ImageBatch, mixed: ImageBatch) -> None:
    if mixed is batch:
        return
    batch.images[:] = mixed.images
    batch.labels[:] = mixed.labels
    if batch.masks is not None and mixed.masks is not None:
        batch.masks[:] = mixed.masks
