"""Worker processes make the batches that threads make, however many there are and whichever of them die."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Experiment
from gatemask.data import tfrecord
from gatemask.data.example import EncodedExample, Example
from gatemask.data.shards import Shard
from gatemask.errors import GatemaskError
from gatemask.input import workers
from gatemask.input.decoding import Decoder, MemoryCache, cache_key
from gatemask.input.feeding import filled_batches
from gatemask.input.layout import ONE_CLASS
from gatemask.input.mix import ImageBatch
from gatemask.input.pipeline import epoch_order, evaluation_batches, record_source, training_batches
from gatemask.input.shared_cache import NOWHERE, Directory, Shapes, SharedCache
from gatemask.input.shared_memory import Buffers, SharedMemory
from gatemask.input.source import ALIGNMENT, BatchPlan, RecordSource
from gatemask.input.workers import KEPT_SOURCES, MOST_DEATHS, Workers, close_shared_workers, shared_workers
from tests.conftest import ROOT, slow

pytestmark = pytest.mark.integration

SIDE = 32
BATCH = 12
STEPS = {
    "mixed": [
        {"mixup": {"p": 0.3}},
        {"cutmix": {"p": 0.5}},
        {"copy_paste": {"p": 0.8, "feather": 1.0}},
        "noise",
        "jpeg",
    ],
    "crops": ["hflip", "affine", {"cutmix": {"p": 0.5}}],
    "mask": ["hflip", "affine", "zoom_to_mask", {"brightness_contrast": 0.2}],
    "gate": ["hflip", {"affine": {"rotate": 9}}, {"mixup": {"p": 0.5}}, {"cutmix": {"p": 0.5}}],
}


@pytest.fixture(scope="module", autouse=True)
def _no_workers_are_left() -> Iterator[None]:
    yield
    close_shared_workers()


def examples(count: int) -> list[Example]:
    """Return different images, a quarter of them with masks."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        image, mask = rng.integers(0, 256, (64, 64), np.uint8), np.zeros((64, 64), np.uint8)
        x, y = rng.integers(0, 40, 2).tolist()
        mask[y : y + 20, x : x + 16] = 255
        encoded = [cv2.imencode(".png", array)[1].tobytes() for array in (image, mask)]
        found.append(Example(f"i{number}", *encoded, int(number % 4 == 0)))
    return found


RECORDS = examples(50)


def experiment(task: str = "mask", number: int = 0) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "e",
            "task": "gate" if task == "gate" else "mask",
            "model": {"name": "gate" if task == "gate" else "unet", "encoder": "efficientnetb0"},
            "input": {"size": 64, "crop": SIDE, "crop_positives": 0.7} if task == "crops" else {"size": SIDE},
            "loss": {"bce": 1},
            "epochs": 2,
            "augment": STEPS[task],
            "runtime": {"workers": number},
        }
    )


def source_of(task: str = "mask", records: list[EncodedExample] | None = None) -> RecordSource:
    exp = experiment(task)
    return record_source(RECORDS if records is None else records, exp, ONE_CLASS, exp.augment, crops=True)


def plan_of(batches: int, images: int = len(RECORDS), seed: int = 0) -> BatchPlan:
    order = np.random.default_rng(seed).integers(0, images, batches * BATCH)
    return BatchPlan(order, BATCH, (seed, 3), range(batches))


def arrays(batch: ImageBatch) -> list[np.ndarray]:
    return [array for array in batch if array is not None]


def assert_equal(first: list[ImageBatch], second: list[ImageBatch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for left, right in zip(arrays(one), arrays(other), strict=True):
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes()


def in_threads(source: RecordSource, plan: BatchPlan) -> list[ImageBatch]:
    return [batch for _, batch in filled_batches(source, plan, 0)]


def in_processes(source: RecordSource, plan: BatchPlan, number: int = 2) -> list[ImageBatch]:
    return [batch for _, batch in filled_batches(source, plan, number)]


def pool(number: int = 2) -> Workers:
    return shared_workers(number, ONE_CLASS, (SIDE, SIDE))


def exists(process: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 300
    while any(map(exists, processes)):
        assert time.monotonic() < deadline, "a worker outlived its main process"
        time.sleep(0.02)


# --- the same batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, slow(2), 5])
def test_batches_are_those_of_threads_even_if_workers_are_killed(number: int) -> None:
    rng = random.Random(time.time_ns())
    kills = 2
    for task in STEPS:
        source, plan = source_of(task), plan_of(14)
        made, workers_of_size = [], shared_workers(number, ONE_CLASS, source.decoder.size)
        for _, batch in workers_of_size.batches(source, plan):
            made.append(batch)
            if kills and rng.random() < 0.5:
                time.sleep(rng.uniform(0, 0.02))
                os.kill(rng.choice(workers_of_size.processes), signal.SIGKILL)
                kills -= 1
        assert_equal(in_threads(source, plan), made)


def test_a_dataset_hands_over_these_batches() -> None:
    datasets = []
    for number in (0, 2):
        exp = experiment("mask", number)
        order = epoch_order(RECORDS, exp, BATCH, 1, 5)
        dataset = training_batches(RECORDS, exp, ONE_CLASS, order, BATCH, 1, 5, 1, None)
        kept = list(dataset)  # not copied: nothing may overwrite them
        datasets.append([tuple(map(np.asarray, batch)) for batch in kept])
    assert len(datasets[0]) == 3
    for first, second in zip(*datasets, strict=True):
        assert [array.tobytes() for array in first] == [array.tobytes() for array in second]


def test_evaluation_pads_its_last_batch() -> None:
    first, second = (list(evaluation_batches(RECORDS, experiment("gate", n), ONE_CLASS, BATCH)) for n in (0, 2))
    assert len(first) == 5
    for one, other in zip(first, second, strict=True):
        assert [array.tobytes() for array in one] == [array.tobytes() for array in other]


def test_threads_may_take_batches_at_once_and_leave_in_the_middle() -> None:
    plans = [plan_of(6, seed=seed) for seed in range(4)]
    source, results = source_of(), {}

    def take(number: int) -> None:
        results[number] = in_processes(source, plans[number])

    started = [threading.Thread(target=take, args=(number,)) for number in range(len(plans))]
    for thread in started:
        thread.start()
    abandoned = pool().batches(source, plan_of(9, seed=9))
    next(abandoned)
    abandoned.close()
    for thread in started:
        thread.join()
    for number, plan in enumerate(plans):
        assert_equal(in_threads(source, plan), results[number])


def test_more_sources_than_workers_keep() -> None:
    sources = [source_of(records=list(RECORDS[start:])) for start in range(KEPT_SOURCES + 2)]
    for _ in range(2):
        for source in sources:
            plan = plan_of(2, images=len(source.examples))
            assert_equal(in_threads(source, plan), in_processes(source, plan))


# --- buffers -------------------------------------------------------------------------------------------------


def test_a_buffer_is_used_again_only_when_nothing_refers_to_it() -> None:
    shared = SharedMemory()
    assert os.fstat(shared.file).st_nlink == 0, "no file is left when all processes are killed"
    buffers = Buffers(shared, 10_000)
    places, kept = [], []
    for number in range(20):
        place, memory = buffers.take()
        assert memory.ctypes.data % ALIGNMENT == 0
        memory[:] = number
        places.append(place)
        kept.append(memory[100:200].reshape(10, 10)[3:, 2:])  # a view of views
        del memory
    assert len(set(places)) == 20
    assert [set(view.ravel().tolist()) for view in kept] == [{number} for number in range(20)]
    count = buffers.count
    del kept[5:]
    gc.collect()
    again = [buffers.take() for _ in range(count - 5)]
    assert buffers.count == count
    assert {place for place, _ in again}.isdisjoint(places[:5])


def test_a_consumer_that_keeps_nothing_needs_few_buffers() -> None:
    source, own = source_of(), Workers(1, ONE_CLASS, (SIDE, SIDE), cache_limit=0)
    for _ in own.batches(source, plan_of(40)):
        pass
    (buffers,) = own._buffers.values()
    assert buffers.count <= 8
    kept = [batch for _, batch in own.batches(source, plan_of(40))]
    assert buffers.count >= 40
    own.close()
    assert_equal(in_threads(source, plan_of(40)), kept)  # also without workers


# --- the cache -----------------------------------------------------------------------------------------------


class Counted:
    """An example that adds a byte to a file whenever its image is read."""

    def __init__(self, example: Example, log: Path) -> None:
        self.example, self.log = example, log
        self.image_id, self.mask, self.label, self.origin = example.image_id, example.mask, example.label, None

    @property
    def image(self) -> bytes:
        with self.log.open("ab") as file:
            file.write(b".")
        return self.example.image

    @property
    def key(self) -> object:
        return self.example.key


@pytest.mark.parametrize("limit", [20 * (64 + SIDE * SIDE), 1e9])
def test_images_are_decoded_once_as_far_as_the_cache_holds_them(limit: float, tmp_path: Path) -> None:
    log = tmp_path / "read"
    records: list[EncodedExample] = [Counted(example._replace(label=0), log) for example in RECORDS]
    source, plan = source_of("mask", records), BatchPlan(np.arange(48), BATCH, (0, 0), range(4))
    # One worker, so that no two decode an image at once.
    own, reads = Workers(1, ONE_CLASS, (SIDE, SIDE), limit), []
    for other in (source, source_of("mask", records[:49])):  # another fold
        first = [batch for _, batch in own.batches(other, plan)]
        reads.append(log.stat().st_size)
    own.close()
    cached = 48 if limit == 1e9 else 20
    shapes = 2  # one read per source, to learn the shapes
    assert reads == [48 + 1, 48 + shapes + 48 - cached]
    assert_equal(in_threads(source, plan), first)


def test_the_cache_never_returns_what_another_shape_or_mask_left() -> None:
    directory, decoder = Directory(10**6), Decoder(ONE_CLASS, (SIDE, SIDE), MemoryCache(0))
    key, unmasked = (cache_key(RECORDS[0], ONE_CLASS, with_mask) for with_mask in (True, False))
    small, large = Shapes((SIDE, SIDE, 1), 1), Shapes((64, 64, 1), 1)
    places = [directory.places([key, unmasked], shapes).tolist() for shapes in (small, large, small)]
    assert places[0] == places[2]
    assert len({*places[0], *places[1]}) == 4
    memory = np.zeros(10**5, np.uint8)
    decoded = decoder.decode(RECORDS[0], with_mask=True)
    cache = SharedCache(memory, {key: places[0][0]}, small)
    wrong = SharedCache(memory, {key: places[1][0]}, large)
    wrong.add(key, decoded)
    assert wrong.get(key) is None
    assert not memory.any()
    cache.add(key, decoded)
    found = cache.get(key)
    assert found is not None
    assert np.array_equal(found.image, decoded.image)
    assert np.array_equal(found.mask, decoded.mask)
    assert cache.get(unmasked) is None
    assert Directory(10).places([key], small).tolist() == [NOWHERE]


# --- faults --------------------------------------------------------------------------------------------------


def test_a_damaged_record_is_raised_when_its_batch_is_due() -> None:
    records = [*RECORDS[:30], RECORDS[30]._replace(image=b"x"), *RECORDS[31:]]
    batches = evaluation_batches(records, experiment("mask", 2), ONE_CLASS, BATCH)
    assert len([next(batches) for _ in range(2)]) == 2
    with pytest.raises(GatemaskError, match="i30") as caught:
        next(batches)
    assert "records check" in str(caught.value)
    assert_equal(in_threads(source_of(), plan_of(2)), in_processes(source_of(), plan_of(2)))


class Deadly(Counted):
    """An example that kills the worker that reads it."""

    @property
    def image(self) -> bytes:
        if os.getpid() != int(self.log.read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.example.image


def test_workers_that_die_at_the_same_images_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = tmp_path / "parent"
    parent.write_text(str(os.getpid()))
    deadly = RECORDS[30]._replace(image=RECORDS[30].image + b"0")  # so that the cache does not have it
    records: list[EncodedExample] = [*RECORDS[:30], Deadly(deadly, parent), *RECORDS[31:]]
    source = source_of("mask", records)
    batches = pool().batches(source, BatchPlan(np.arange(48), BATCH, (0, 0), range(4)))
    assert [number for number, _ in (next(batches), next(batches))] == [0, 1]
    with pytest.raises(GatemaskError, match="die again and again") as caught:
        next(batches)
    assert "i30" in str(caught.value)
    assert "SIGKILL; memory probably ran out" in str(caught.value)
    assert "does its work again" in capsys.readouterr().err
    assert_equal(in_threads(source_of(), plan_of(2)), in_processes(source_of(), plan_of(2)))


def test_workers_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START", "raise SystemExit(3)")
    own = Workers(2, ONE_CLASS, (SIDE, SIDE))
    with pytest.raises(GatemaskError, match="exit code 3"):
        next(own.batches(source_of(), plan_of(2)))
    own.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(GatemaskError, match=r"runtime\.workers"):
        next(Workers(2, ONE_CLASS, (SIDE, SIDE)).batches(source_of(), plan_of(2)))
    assert MOST_DEATHS > 1


def test_other_errors_arrive_with_their_traceback() -> None:
    source = source_of("mask", [*RECORDS[:-1], RECORDS[-1]._replace(label=None)])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="TypeError"):
        in_processes(source, BatchPlan(np.arange(50), 50, (0, 0), range(1)))


# --- the processes -------------------------------------------------------------------------------------------

MAIN = """
import sys, time
from tests.input.test_workers import plan_of, pool, source_of
batches = pool().batches(source_of(), plan_of(100_000))
for number, _ in batches:
    if number == 3:
        print(*pool().processes, flush=True)
        if "idle" in sys.argv:
            time.sleep(600)
"""


@pytest.mark.parametrize("state", ["busy", "idle"])
def test_a_killed_main_process_leaves_no_workers(state: str) -> None:
    main = subprocess.Popen([sys.executable, "-c", MAIN, state], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    processes = [int(number) for number in main.stdout.readline().split()]
    assert len(processes) == 2
    assert all(map(exists, processes))
    assert all(os.getpgid(process) == process for process in processes), "Ctrl-C must not reach them"
    main.kill()
    main.wait()
    main.stdout.close()
    wait_until_gone(processes)


def test_workers_end_with_their_set_and_are_kept_between_passes() -> None:
    in_processes(source_of(), plan_of(1))
    processes = pool().processes
    in_processes(source_of("gate"), plan_of(1))
    assert pool().processes == processes
    shared_workers(1, ONE_CLASS, (SIDE, SIDE))
    gc.collect()
    wait_until_gone(processes)


def test_workers_import_nothing_heavy() -> None:
    code = "import gatemask.input.worker, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"keras", "tensorflow", "jax", "pandas", "torch", "rich", "h5py", "scipy", "matplotlib"}
    assert heavy.isdisjoint(name.split(".")[0] for name in done.stdout.split())


# --- shards in workers ---------------------------------------------------------------------------------------


def write_shard(path: Path, records: list[Example]) -> None:
    tfrecord.write(
        path, ({"image_id": r.image_id.encode(), "image": r.image, "mask": r.mask, "label": r.label} for r in records)
    )


def test_workers_read_the_file_that_is_open_even_if_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "0.tfrec"
    write_shard(path, RECORDS)
    stored: list[EncodedExample] = list(Shard(path).examples(None))
    other = tmp_path / "other"
    write_shard(other, RECORDS[::-1])
    other.replace(path)
    assert_equal(in_threads(source_of(), plan_of(3)), in_processes(source_of("mask", stored), plan_of(3)))


def test_a_shard_that_was_replaced_and_closed_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "0.tfrec"
    write_shard(path, RECORDS[:3])
    (first, *_) = Shard(path).examples(None)
    sent = pickle.dumps(first)
    assert len(sent) < 500
    assert pickle.loads(sent).load() == RECORDS[0]
    assert pickle.loads(sent).key == first.key
    del first, _
    gc.collect()
    assert pickle.loads(sent).load() == RECORDS[0]  # by its path
    os.utime(path, ns=(1, 1))
    with pytest.raises(GatemaskError, match="replaced while it was in use"):
        pickle.loads(sent)
    path.unlink()
    with pytest.raises(GatemaskError, match="or none"):
        pickle.loads(sent)
