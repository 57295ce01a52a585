"""Make batches in worker processes, in order and a few ahead, in memory that all processes share.

The main process only hands out parts of batches and waits for them. Parts are handed out ahead of time, so that workers
are busy while a step runs, and a dead worker is replaced: its parts are done again.
"""

from __future__ import annotations

import operator
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing.connection import Connection, Pipe

import numpy as np

from gatemask.console import say
from gatemask.data.example import EncodedExample
from gatemask.errors import GatemaskError
from gatemask.input.augment import BATCH_STEPS
from gatemask.input.decoding import CACHE_SHARE, cache_key
from gatemask.input.layout import Layout
from gatemask.input.mix import ImageBatch
from gatemask.input.shared_cache import NOWHERE, Directory, shapes_of
from gatemask.input.shared_memory import Buffers, Place, SharedMemory
from gatemask.input.source import BatchPlan, RecordSource
from gatemask.input.worker import AddSource, Done, DropSource, Fill, Mix, SourceContent
from gatemask.parallel import available_memory, keep_freed_memory

PART_IMAGES = 8  # images per part: handing out a part is cheap compared with eight images
BATCHES_AHEAD = 2  # at least; more if workers would otherwise be idle
KEPT_SOURCES = 4  # training and validation, of this fold and the last one
MOST_DEATHS = 3  # of workers at the same part, or of every worker without a finished part
SECONDS_TO_END = 5.0  # for a worker that closed its connection
# Arguments: file descriptors of connection and memory, then sys.path, which offline kernels extend by wheels.
START = "import sys; sys.path[:] = sys.argv[3:]; from gatemask.input.worker import run; run(*map(int, sys.argv[1:3]))"
# Libraries of linear algebra would start a thread per core in every worker.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(eq=False)
class _Source:
    """A source that is known to the workers.

    Args:
        number: Its number in messages.
        examples: Its examples.
        settings: Its steps, whether it has masks, its number of labels, whether its masks are soft, and its crops.
        content: Pickled `SourceContent`.
    """

    number: int
    examples: Sequence[EncodedExample]
    settings: tuple[object, ...]
    content: bytes


@dataclass(eq=False)
class _Batch:
    """A batch in the making. Its buffer is free again once the arrays are garbage.

    Args:
        number: Number of the batch.
        source: Its source.
        place: Its buffer.
        arrays: The batch.
        fills: Messages that fill it; they get the number of their task when they are sent.
        mix: Message that follows when it is full. Default: none.
        waiting: Number of parts that are not done.
        error: What a part raised.
    """

    number: int
    source: _Source
    place: Place
    arrays: ImageBatch
    fills: list[Fill]
    mix: Mix | None
    waiting: int = 0
    error: Exception | None = None


@dataclass(eq=False)
class _Part:
    """A message of a batch on its way to a worker or in its hands."""

    batch: _Batch
    message: Fill | Mix
    deaths: int = 0

    @property
    def images(self) -> int:
        return len(self.message.indices) if isinstance(self.message, Fill) else self.message.batch_size


@dataclass(eq=False)
class _Worker:
    """A worker process.

    Args:
        process: The process.
        connection: This end of its socket pair.
        parts: Parts it has not finished, by task, in the order in which it does them.
        load: Number of their images.
        sources: Numbers of the sources that it has, the one that was used last at the end.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    parts: dict[int, _Part] = field(default_factory=dict)
    load: int = 0
    sources: dict[int, None] = field(default_factory=dict)


class Workers:
    """Worker processes with their shared memory, for one input size and one kind of records.

    Several threads may take batches at once. The processes end when this object is garbage, or with this process,
    however it ends.

    Args:
        number: Number of processes.
        layout: Channels and planes of the records.
        size: Height and width of the network's input, in pixels.
        cache_limit: Size of the cache of decoded images, in bytes. Default: `CACHE_SHARE` of the available memory.
    """

    def __init__(self, number: int, layout: Layout, size: tuple[int, int], cache_limit: float | None = None) -> None:
        self.number, self.layout, self.size = number, layout, size
        limit = int(CACHE_SHARE * available_memory() if cache_limit is None else cache_limit)
        self._memory = SharedMemory()
        self._cache, self._directory = self._memory.extend(max(1, limit)), Directory(limit)
        self._buffers: dict[int, Buffers] = {}
        self._sources: deque[_Source] = deque(maxlen=KEPT_SOURCES)
        self._source_numbers, self._tasks = count(1), count(1)
        self._ready: deque[_Part] = deque()  # parts to hand out
        self._deaths = 0  # since a part was finished
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._changed = threading.Condition()  # guards everything; notified when a part is done
        self._listening = False  # whether a thread waits for messages
        self._end = weakref.finalize(self, _end, self._workers, self._selector, os.getpid())

    def batches(self, source: RecordSource, plan: BatchPlan) -> Generator[tuple[int, ImageBatch], None, None]:
        """Yield the number of each batch and the batch, in order; mixed where steps of the source mix images.

        The arrays of a batch may be kept for any time.

        Args:
            source: Source whose layout and size are those of these workers.
            plan: Batches to make.

        Raises:
            GatemaskError: An image of the batch that is due cannot be decoded, or workers die again and again.
        """
        keep_freed_memory()
        ahead = max(BATCHES_AHEAD, -(-2 * self.number * min(PART_IMAGES, plan.batch_size) // plan.batch_size))
        with self._changed:
            known = self._add_source(source)
        waiting: deque[_Batch] = deque()
        numbers = iter(plan.numbers)
        while True:
            with self._changed:
                for number in islice(numbers, ahead + 1 - len(waiting)):
                    waiting.append(self._begin(source, known, plan, number))
                self._hand_out()
            if not waiting:
                return
            batch = waiting.popleft()
            try:
                self._wait_for(batch)
            except KeyboardInterrupt:  # perhaps in the middle of a message
                self.close()
                raise
            yield batch.number, batch.arrays
            del batch  # so that its buffer can be used for the next one

    def close(self) -> None:
        """End the processes. Arrays of batches stay valid."""
        self._end()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._end.alive

    @property
    def processes(self) -> list[int]:
        """Ids of the running processes."""
        return [worker.process.pid for worker in self._workers]

    # --- sources and batches ---

    def _add_source(self, source: RecordSource) -> _Source:
        """Return the source as the workers know it: the same one for the same examples and settings."""
        settings = (list(source.steps), source.with_masks, source.labels, source.soft_masks, source.crop)
        for known in self._sources:
            if known.settings == settings and _are_same(known.examples, source.examples):
                return known
        keys = [cache_key(example, self.layout, source.decodes_masks) for example in source.examples]
        shapes = shapes_of(source.examples, source.decoder)
        places = np.full(len(keys), NOWHERE) if shapes is None else self._directory.places(keys, shapes)
        examples = tuple(source.examples)
        content = SourceContent(examples, *settings, self.layout, self.size, self._cache, places, shapes)
        known = _Source(next(self._source_numbers), examples, settings, pickle.dumps(content))
        self._sources.append(known)
        return known

    def _begin(self, source: RecordSource, known: _Source, plan: BatchPlan, number: int) -> _Batch:
        """Make the parts of a batch ready to be handed out."""
        size = source.batch_bytes(plan.batch_size)
        if size not in self._buffers:
            self._buffers[size] = Buffers(self._memory, size)
        place, memory = self._buffers[size].take()
        common = (known.number, place, plan.batch_size, plan.batch_seed(number))
        fills = []
        for first in range(0, plan.batch_size, PART_IMAGES):
            slots = range(first, min(first + PART_IMAGES, plan.batch_size))
            fills.append(Fill(0, *common, first, plan.indices(number, slots)))
        mixes = any(step.name in BATCH_STEPS for step in source.steps)
        arrays = source.batch_in(memory, plan.batch_size)
        batch = _Batch(number, known, place, arrays, fills, Mix(0, *common) if mixes else None)
        self._fill(batch)
        return batch

    def _fill(self, batch: _Batch) -> None:
        batch.waiting = len(batch.fills)
        self._ready.extend(_Part(batch, message) for message in batch.fills)

    def _wait_for(self, batch: _Batch) -> None:
        """Handle messages of workers until a batch is done."""
        with self._changed:
            self._receive(0)  # parts of later batches, so that they can be mixed in time
            while batch.waiting:
                if self._listening:  # another thread does it
                    self._changed.wait()
                else:
                    self._receive(None)
        if batch.error is not None:
            raise batch.error

    # --- messages ---

    def _hand_out(self) -> None:
        """Send all ready parts, each to the worker with the fewest images to do."""
        while self._ready:
            while len(self._workers) < self.number:
                self._start()
            part = self._ready.popleft()
            worker = min(self._workers, key=_load)
            task = next(self._tasks)
            worker.parts[task] = part
            worker.load += part.images
            try:
                self._send_source(worker, part.batch.source)
                worker.connection.send_bytes(pickle.dumps(part.message._replace(task=task)))
            except ConnectionError:
                self._replace(worker)

    def _send_source(self, worker: _Worker, source: _Source) -> None:
        """Send a source to a worker that does not have it; it drops the one that it used longest ago."""
        if source.number in worker.sources:
            del worker.sources[source.number]
        else:
            worker.connection.send_bytes(pickle.dumps(AddSource(source.number, source.content)))
            if len(worker.sources) >= KEPT_SOURCES:
                oldest = next(iter(worker.sources))
                del worker.sources[oldest]
                worker.connection.send_bytes(pickle.dumps(DropSource(oldest)))
        worker.sources[source.number] = None

    def _receive(self, timeout: float | None) -> None:
        """Wait for messages and handle them. Other threads may hand out parts meanwhile, but none receives."""
        if self._listening:
            return
        self._listening = True
        try:
            self._changed.release()
            try:
                events = self._selector.select(timeout)
            finally:
                self._changed.acquire()
            for key, _ in events:
                self._receive_from(key.data)
            self._hand_out()
        finally:
            self._listening = False
            self._changed.notify_all()

    def _receive_from(self, worker: _Worker) -> None:
        if worker not in self._workers:  # replaced while the events were handled
            return
        try:
            done: Done = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        part = worker.parts.pop(done.task)
        worker.load -= part.images
        self._deaths = 0
        self._finish(part, done.error)

    def _finish(self, part: _Part, error: Exception | None) -> None:
        """Note that a part is done, or failed."""
        batch = part.batch
        batch.error = batch.error or error
        batch.waiting -= 1
        if not batch.waiting and batch.error is None and batch.mix is not None and isinstance(part.message, Fill):
            batch.waiting = 1
            self._ready.appendleft(_Part(batch, batch.mix))

    # --- processes ---

    def _start(self) -> None:
        ours, theirs = Pipe()
        files = (theirs.fileno(), self._memory.file)
        command = [sys.executable, "-I", "-c", START, *map(str, files), *map(str, sys.path)]
        try:
            # A group of its own: Ctrl-C is the main process's to answer.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD},
                pass_fds=files,
                process_group=0,
            )
        except OSError as error:
            raise GatemaskError(
                "Could not start a worker process of the input.",
                received=error.strerror,
                expected=f"{self.number} processes",
                do="Set runtime.workers to a smaller number, or to 0 to use threads.",
            ) from None
        finally:
            theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _replace(self, worker: _Worker) -> None:
        """Start another worker for one that died, and make its parts ready again."""
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        worker.connection.close()
        how = _end_of(worker.process)
        self._deaths += 1
        parts = list(worker.parts.values())
        if parts:
            parts[0].deaths += 1  # the part it was at
        give_up = self._deaths >= MOST_DEATHS * self.number
        for part in reversed(parts):
            if give_up or part.deaths >= MOST_DEATHS:
                self._finish(part, self._repeated_deaths(part, how))
            elif isinstance(part.message, Mix):  # it may have mixed some of the images
                self._fill(part.batch)
            else:
                self._ready.appendleft(part)
        if give_up:
            self._deaths = 0
        elif self._deaths <= MOST_DEATHS:  # not one line for each of a hundred
            say(f"A worker process of the input {how}; another one does its work again.")

    def _repeated_deaths(self, part: _Part, how: str) -> GatemaskError:
        batch, message = part.batch, part.message
        fills = [message] if isinstance(message, Fill) else batch.fills
        ids = [batch.source.examples[index].image_id for fill in fills for index in fill.indices]
        return GatemaskError(
            "Worker processes of the input die again and again.",
            where=f"images {', '.join(ids)}",
            received=f"the last one {how}",
            do="If memory ran out, set runtime.workers or batch.per_device to a smaller number. If not, run gatemask "
            "records check. The training resumes from its last state.",
        )


_shared: Workers | None = None
_lock = threading.Lock()


def shared_workers(number: int, layout: Layout, size: tuple[int, int]) -> Workers:
    """Return the worker processes of this process.

    There is one set at a time: asking for another number, size or layout starts new ones; the previous ones end once
    no batches are taken from them.

    Args:
        number: Number of processes.
        layout: Channels and planes of the records.
        size: Height and width of the network's input, in pixels.
    """
    global _shared
    with _lock:
        settings = (number, layout, size)
        if _shared is None or _shared.closed or (_shared.number, _shared.layout, _shared.size) != settings:
            _shared = None  # before the new ones measure the available memory
            _shared = Workers(number, layout, size)
        return _shared


def close_shared_workers() -> None:
    """End the worker processes of this process, if there are any."""
    global _shared
    with _lock:
        if _shared is not None:
            _shared.close()
        _shared = None


def _leave_to_parent() -> None:
    """In a copy of this process made by fork: close its copies of the connections, which would keep workers alive."""
    global _shared, _lock
    _lock = threading.Lock()
    if _shared is not None:
        _shared.close()
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _are_same(first: Sequence[EncodedExample], second: Sequence[EncodedExample]) -> bool:
    return len(first) == len(second) and all(map(operator.is_, first, second))


def _load(worker: _Worker) -> int:
    return worker.load


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended. One that only closed its connection is killed."""
    try:
        code = process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was ended by {name}" + ("; memory probably ran out" if name == "SIGKILL" else "")
    return f"was ended by signal {-code}"


def _end(workers: list[_Worker], selector: selectors.BaseSelector, parent: int) -> None:
    """End workers at once: they have nothing to finish. A copy of this process, made by fork, leaves them alone."""
    for worker in workers:
        worker.connection.close()
        if os.getpid() == parent:
            worker.process.kill()
    selector.close()
    if os.getpid() == parent:
        for worker in workers:
            worker.process.wait()
    workers.clear()
