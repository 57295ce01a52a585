"""Faults of the disk and the system become one sentence: which file, which disk, how much is free and needed."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gatemask import files
from gatemask.errors import GatemaskError, StorageError
from gatemask.hdf5 import create_hdf5, save_weights
from gatemask.kaggle.image.sandbox import kernel_failure
from gatemask.oof import store
from gatemask.oof.tables import Tables
from gatemask.storage import SENTENCES, full_disk, require_space, storage_error, storage_errors
from tests.full_disk import limited_files


@pytest.mark.parametrize("number", SENTENCES)
def test_each_fault_of_the_system_is_a_sentence_with_its_file(number: int, tmp_path: Path) -> None:
    fault = storage_error(OSError(number, os.strerror(number), str(tmp_path / "a.csv")))
    assert isinstance(fault, GatemaskError)
    assert isinstance(fault, OSError), "code that survives faults of the disk survives this one"
    assert fault.errno == number
    assert fault.what.endswith(".")
    assert fault.details["where"] == tmp_path / "a.csv"
    assert fault.details["do"]


def test_a_full_disk_is_named_with_its_free_space(tmp_path: Path) -> None:
    fault = storage_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "a.h5", needed=12_300_000)
    assert fault is not None
    assert " free on the disk mounted at /" in str(fault)
    assert "12.3 MB for this file" in str(fault)
    copy = pickle.loads(pickle.dumps(fault))  # from a worker process
    assert (str(copy), copy.errno, type(copy)) == (str(fault), errno.ENOSPC, StorageError)


WRAPPED = {
    "HDF5": RuntimeError("Can't close file (file write failed: errno = 28, error message = 'No space left on device')"),
    "HDF5, limit": OSError("Can't write data (file write failed: errno = 27, error message = 'File too large')"),
    "shutil": shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    "NumPy": OSError("30000 requested and 12288 written"),
    "TensorFlow": RuntimeError("{{function_node}} /x/shard; No space left on device [Op:WriteFile]"),
    "quota": RuntimeError("write: Disk quota exceeded"),
}


@pytest.mark.parametrize("library", WRAPPED)
def test_faults_that_libraries_wrap_are_recognized(library: str, tmp_path: Path) -> None:
    fault = storage_error(WRAPPED[library], tmp_path)
    assert fault is not None
    assert fault.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def test_other_errors_stay_what_they_are() -> None:
    for error in (KeyError("a"), ValueError("[Errno 2] in a text"), OSError("no number"), GatemaskError("No.")):
        assert storage_error(error) is None
    with pytest.raises(KeyError), storage_errors():
        raise KeyError("a")


def test_memory_that_ran_out_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Memory ran out"), storage_errors(tmp_path):
        raise MemoryError


def test_of_two_files_the_written_one_is_named(tmp_path: Path) -> None:
    fault = storage_error(OSError(errno.ENOSPC, "full", "source", None, str(tmp_path / "copy")))
    assert fault is not None
    assert fault.details["where"] == tmp_path / "copy"


def test_a_name_that_is_too_long_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"file name is too long[\s\S]*a name of 300 bytes"):
        files.write_text(tmp_path / ("x" * 300), "")


def test_too_many_open_files_are_reported_with_the_limit(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "a.json").write_text("{}")
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").exists() else 0
    opened = [os.open(os.devnull, os.O_RDONLY)]
    while opened[-1] < highest:
        opened.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[-1] + 1, hard))
    try:
        with pytest.raises(StorageError, match=r"too many open files[\s\S]*a limit of \d+ files"):
            files.read_json(tmp_path / "a.json")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)


NOISE = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 1)).astype(np.uint8)
IDS = [f"image{number}" for number in range(6)]


def _tables() -> Tables:
    rng = np.random.default_rng(0)
    area, hits = rng.integers(0, 10_000, (2, 6, 1, 257)).astype(np.int32)
    return Tables(np.array(IDS), np.zeros(6, int), np.ones(6), area, hits, hits[:, :, 0])


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: files.write_text(path, "x" * 9000),
    "JSON": lambda path: files.write_json(path, list(range(3000))),
    "YAML": lambda path: files.write_yaml(path, {"a": list(range(3000))}),
    "maps": lambda path: store.write_maps(path, IDS, [NOISE[:3], NOISE[3:]], (32, 32, 1)),
    "maps per view": lambda path: store.write_maps_per_view(
        path, IDS, [(NOISE, NOISE.repeat(2, axis=3))], (32, 32, 1), 2
    ),
    "gates": lambda path: store.write_gates(path, [f"image{n}" for n in range(900)], np.ones(900)),
    "threshold tables": lambda path: _tables().save(path.with_suffix(".npz")),
}


@pytest.mark.parametrize("size", [0, 700, 5000])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_cannot_be_written_leaves_the_old_one(kind: str, size: int, tmp_path: Path) -> None:
    """The real fault of the system, through every kind of writer: a sentence, nothing half-written, then success."""
    path = tmp_path / "oof.h5"
    WRITERS[kind](path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert before
    with limited_files(size), pytest.raises(StorageError) as caught:
        WRITERS[kind](path)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.details["where"] in before
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    WRITERS[kind](path)
    assert set(tmp_path.iterdir()) == set(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system lacks /dev/full")
@pytest.mark.parametrize("kind", ["text", "JSON", "gates"])
def test_a_full_device_is_reported(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "remove_strays", lambda folder: None)
    path = tmp_path / "a"
    (tmp_path / f".tmp-{os.getpid()}-{files.MACHINE}-a").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"The disk is full[\s\S]*free on the disk[\s\S]*for this file"):
        WRITERS[kind](path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [*range(0, 4000, 399), 60_000])
def test_hdf5_survives_a_full_disk_at_any_place(size: int, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with create_hdf5(path) as (file, disk):
            for number in range(10):
                file.create_group(f"group{number}").create_dataset("values", data=np.arange(1000.0))
                file.attrs["progress"] = "x" * number
                disk.check()

    with limited_files(size), pytest.raises(OSError, match="too large"):
        write(tmp_path / "a.h5")
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert all((file[f"group{number}/values"][()] == np.arange(1000.0)).all() for number in range(10))
        assert file.attrs["progress"] == "x" * 9


def test_space_is_checked_before_keras_writes_weights(tmp_path: Path) -> None:
    class Network:
        """Stands in for a Keras model of 800 kB."""

        class Variable:
            shape = (200_000,)

        weights = (Variable(),)

        def save_weights(self, path: Path) -> None:
            path.write_bytes(bytes(800_000))

    path = tmp_path / "best.weights.h5"
    with limited_files(900_000), pytest.raises(StorageError, match=r"larger than the system allows[\s\S]*1.9 MB"):
        save_weights(Network(), path)
    assert not path.exists()
    save_weights(Network(), path)
    assert path.stat().st_size == 800_000


def test_space_can_be_required(tmp_path: Path) -> None:
    require_space(tmp_path / "a", 1000)
    assert not list(tmp_path.iterdir())
    with limited_files(100), pytest.raises(StorageError, match=r"1.0 kB for this file"):
        require_space(tmp_path / "a", 1000)
    assert not list(tmp_path.iterdir())


def test_a_kernel_that_met_a_full_disk_did_not_fail_for_a_reason_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("Traceback ...\nOSError: [Errno 28] No space left on device: 'x'\n")
    fault = kernel_failure(log, "exit 1", "rehearse again")
    assert fault.what == "The disk is full."
    log.write_text("ValueError: x\n")
    assert kernel_failure(log, "exit 1", "rehearse again").what == "The kernel failed in the rehearsal."
    assert full_disk(log, "all is well") is None
