"""What JAX compiles is kept: nothing wrong with the folder stops a training, and the user's own settings win."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gatemask.training import compilation
from tests.conftest import ROOT

# For each line of a folder and a mode, a fork compiles a function, before the backend is started here. It writes the
# function's value, and the number of functions that were not compiled.
HELPER = """
import os, resource, sys
from pathlib import Path
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy
import numpy as np
from jax import monitoring
from gatemask.training import compilation

compilation.LEAST_COMPILE_S = 0.0
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[1]))
for line in sys.stdin:
    folder, mode = line.split()
    if os.fork() == 0:
        if mode == "nobody":
            os.setuid(65534)
        if mode == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
        compilation.keep_compiled(Path(folder), "cpu")
        value = jax.jit(lambda x: sum((x * n).sum() for n in range(40)))(np.ones((4, 4), np.float32))
        print(float(value), events.count("cache_hits"), flush=True)
        os._exit(0)
    if os.wait()[1]:
        print("died", flush=True)
"""
SUM = 16.0 * sum(range(40))


@pytest.fixture(scope="module")
def helper() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-c", HELPER]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        _, errors = process.communicate()
        assert "persistent compilation cache" not in errors


@pytest.fixture
def hits(helper: subprocess.Popen[str]) -> Callable[..., int]:
    """Return a function that computes a sum in a process, and returns how many functions it did not compile."""

    def run(folder: Path, mode: str = "plain") -> int:
        assert helper.stdin and helper.stdout
        print(folder, mode, file=helper.stdin, flush=True)
        value, count = helper.stdout.readline().split()
        assert float(value) == SUM
        return int(count)

    return run


def entries(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob(compilation.ENTRIES)}


@pytest.mark.integration
def test_entries_are_read_by_the_next_process_and_replaced_where_damaged(
    hits: Callable[..., int], tmp_path: Path
) -> None:
    assert hits(tmp_path / "a") == 0
    count = len(entries(tmp_path / "a"))
    assert count >= 1
    moved = (tmp_path / "a").rename(tmp_path / "moved")  # as in the kernel of the next session
    assert hits(moved) == count
    for path in moved.rglob(compilation.ENTRIES):
        path.write_bytes(path.read_bytes()[:-40])  # as after a kill
    assert hits(moved) == 0
    assert hits(moved) == count
    for path in moved.rglob(compilation.ENTRIES):
        path.write_bytes(os.urandom(path.stat().st_size))  # of the listed size, so only JAX finds out
    assert hits(moved) == 0


@pytest.mark.integration
def test_a_full_disk_and_a_folder_that_cannot_be_written(hits: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "full"
    assert hits(folder, "full") == 0
    assert hits(folder) == 0  # what the full disk cut short is gone
    (tmp_path / "file").write_text("not a folder")
    assert hits(tmp_path / "file") == 0
    # Another user may read it only: root could write it whatever its mode. Nor may others see the tests' own folders.
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        readable = Path(shutil.copytree(folder, Path(name) / "readable"))
        for path in (readable, *readable.iterdir()):
            path.chmod(0o555)
        before = entries(readable)
        assert hits(readable, "nobody" if os.geteuid() == 0 else "plain") == len(before) > 0
        assert entries(readable) == before
        readable.chmod(0o755)


def test_entries_that_were_cut_short_are_removed(tmp_path: Path) -> None:
    whole = zlib.compress(os.urandom(5000))
    contents = {"a": whole, "b": whole[:-1], "c": b"", "d": os.urandom(5000)}
    for name, data in contents.items():
        (tmp_path / f"{name}-cache").write_bytes(data)
    (tmp_path / "other").write_bytes(b"x")
    compilation.remove_damaged(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "checked.json", "other"]
    (tmp_path / "a-cache").write_bytes(whole[:-1])  # lost after it was found whole, as after a power failure
    (tmp_path / "checked.json").write_text("[")
    compilation.remove_damaged(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checked.json", "other"]


def test_the_folder_is_bounded(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - number, 1000 - number))
    compilation.remove_oldest(tmp_path, limit=250)
    assert sorted(entries(tmp_path)) == ["0-cache", "1-cache"]


def test_the_users_own_cache_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    compilation.keep_compiled(tmp_path / "project", "cpu")
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("accelerator", "deterministic", "before", "after"),
    [
        ("cpu", True, None, None),
        ("tpu", True, "--a=1", "--a=1"),
        ("gpu", False, None, "--xla_gpu_autotune_level=0"),
        ("gpu", True, "--a=1", "--a=1 --xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true"),
        ("gpu", False, "--xla_gpu_autotune_level=4", "--xla_gpu_autotune_level=4"),
        (
            "gpu",
            True,
            "--xla_gpu_deterministic_ops=false",
            "--xla_gpu_deterministic_ops=false --xla_gpu_autotune_level=0",
        ),
        ("gpu", True, "flags.txt", "flags.txt"),
    ],
)
def test_xla_flags(
    accelerator: str, deterministic: bool, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", before or "")
    compilation.set_xla_flags(accelerator, deterministic)
    assert os.environ["XLA_FLAGS"] == (after or "")
    compilation.set_xla_flags(accelerator, deterministic)  # of the next experiment
    assert os.environ["XLA_FLAGS"] == (after or "")
