"""Shared fixtures: a project in a temporary folder, and a quick loop that is killed and run again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import cv2
import numpy as np
import pytest

from tests.tiny import INSTALL, install
from tests.warm import HEAVY, Call, Warm

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
# gatemask that lists what it has imported, in modules.txt of the project.
LISTED_IMPORTS = """
import os, pathlib, sys
from gatemask.cli import main
try:
    main()
finally:
    pathlib.Path(os.environ["GATEMASK_ROOT"], "modules.txt").write_text("\\n".join(sorted(sys.modules)))
"""
TINY_GATEMASK = ("-c", INSTALL + "from gatemask.cli import main; main()")  # gatemask with a tiny encoder
os.environ.pop("GATEMASK_NOTIFY_URL", None)  # no test may send a message to anyone
UNPATCHED = dict(os.environ)  # before any test changes it

needs_siim = pytest.mark.skipif(not (SHARED / "siim").is_dir(), reason="the SIIM labels are missing")
needs_nuclei = pytest.mark.skipif(not (SHARED / "nuclei").is_dir(), reason="the nuclei tiles are missing")


# Tests that use these fixtures, which start processes, or real data are integration tests.
PROCESS_FIXTURES = {"phantom_loop", "phantom_records"}
REAL_DATA = (needs_siim.mark, needs_nuclei.mark)
unit_test: pytest.Item | None = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark integration tests, and schedule the longest files first.

    A long file that starts last would keep one worker busy while the other waits. The order within a file stays.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        trains = item.get_closest_marker("trains") is not None
        real_data = any(mark in REAL_DATA for mark in item.iter_markers("skipif"))
        if trains or real_data or PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
        rank = 0 if trains else 1 if item.get_closest_marker("integration") else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Remember whether the running test is a unit test."""
    global unit_test
    marked = item.get_closest_marker("integration") or item.get_closest_marker("slow")
    unit_test = None if marked else item
    try:
        return (yield)
    finally:
        unit_test = None


@pytest.fixture(autouse=True)
def operations_without_seeds() -> Iterator[None]:
    """Turn off TensorFlow's determinism after a test that trained with it: later tests would need seeds."""
    yield
    if (tensorflow := sys.modules.get("tensorflow")) and hasattr(tensorflow, "config"):
        from tensorflow.python.framework import config  # TensorFlow has no public way back

        config.disable_op_determinism()


def _reject_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a unit test that starts Python, kaggle or make. Audit hooks cannot be removed, so this one checks a flag."""
    if unit_test is None or event != "subprocess.Popen":
        return
    command = arguments[1] if isinstance(arguments[1], (list, tuple)) else str(arguments[1]).split()
    if Path(os.fsdecode(command[0])).name.startswith(("python", "kaggle", "make")):
        raise RuntimeError(f"{unit_test.nodeid} starts a process: mark it with @pytest.mark.integration.")


sys.addaudithook(_reject_processes)


def slow(*values: object, id: str | None = None) -> Any:
    """Return the parameters of a test that only `make test-all` runs: a variation of what a fast one shows."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


def gatemask(
    *arguments: object, root: Path, limit_s: int = 900, tiny: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the gatemask command in a process of its own.

    Args:
        arguments: Arguments of the command line.
        root: Project folder.
        limit_s: Time limit, in seconds.
        tiny: Whether a tiny encoder replaces all encoders.
    """
    code = TINY_GATEMASK if tiny else ("-m", "gatemask")
    return run_python(*code, *arguments, root=root, limit_s=limit_s)


def run_python(*arguments: object, root: Path, limit_s: int = 900) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, which starts with -m or -c, without the seconds of its imports."""
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        call = start_python(*arguments, root=root, stdout=output, stderr=errors)
        try:
            code = call.wait(limit_s)
        finally:
            call.kill()
        return subprocess.CompletedProcess(arguments, code, contents(output), contents(errors))


def start_python(*arguments: object, root: Path, stdout: IO[Any], stderr: IO[Any]) -> Call:
    """Start `python ARGUMENTS` without the seconds of its imports, and lead a process group of its own."""
    if unit_test is not None:
        raise RuntimeError(f"{unit_test.nodeid} starts a process: mark it with @pytest.mark.integration.")
    return warm_gatemask().start(list(map(str, arguments)), stdout=stdout, stderr=stderr, environment=environment(root))


def kill_when(
    condition: Callable[[int], object], *arguments: object, root: Path, group: bool = False, limit_s: int = 1800
) -> None:
    """Start `python ARGUMENTS`, and kill it as soon as a condition holds.

    Args:
        condition: Called with the id of the process, again and again.
        arguments: Arguments of Python, which start with -m or -c.
        root: Project folder.
        group: Whether the processes that it has started are killed too.
        limit_s: Time limit of the condition, in seconds.
    """
    with TemporaryFile("w+") as errors:
        process = start_python(*arguments, root=root, stdout=errors, stderr=errors)
        deadline = time.monotonic() + limit_s
        while not condition(process.pid):
            assert process.poll() is None, f"It ended too early: {contents(errors)[-2000:]}"
            assert time.monotonic() < deadline, f"It did not get that far in time: {contents(errors)[-2000:]}"
            time.sleep(0.005)
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()


def contents(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@cache
def warm_gatemask() -> Warm:
    """Return the process that has imported all that gatemask imports; it ends with the session."""
    quiet_wandb = {"WANDB_ERROR_REPORTING": "false"}  # read when it is imported
    return Warm(Path(tempfile.mkdtemp(prefix="warm")), HEAVY, {**UNPATCHED, **quiet_wandb})


@pytest.fixture(scope="session")
def warm_kaggle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the socket of a process that has imported the kaggle command; `tests.kaggle.warm.starter` calls it."""
    from tests.kaggle.warm import warm_process

    with warm_process(tmp_path_factory.mktemp("kaggle")) as place:
        yield place


def pytest_sessionfinish() -> None:
    if warm_gatemask.cache_info().currsize:
        warm_gatemask().close()
        shutil.rmtree(warm_gatemask().folder)


def environment(root: Path) -> dict[str, str]:
    """Return the environment of a gatemask process: its project, no W&B, wide tables."""
    return {**os.environ, "GATEMASK_ROOT": str(root), "WANDB_MODE": "disabled", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def make_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a project folder with all shipped experiments."""

    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "experiments", root / "experiments")
        (root / "folds").mkdir()
        return root

    return make


compiled_with_tiny_encoder: tuple[Any, str | None] = (None, None)


@pytest.fixture
def tiny_encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace all encoders in this process. Models compiled with them serve only tests that use this fixture."""
    global compiled_with_tiny_encoder
    from gatemask import quiet
    from gatemask.training.trainer import COMPILED

    quiet.tensorflow()
    install(monkeypatch.setattr)
    others = COMPILED.models, COMPILED._key
    COMPILED.models, COMPILED._key = compiled_with_tiny_encoder
    yield
    compiled_with_tiny_encoder = COMPILED.models, COMPILED._key
    COMPILED.models, COMPILED._key = others


@pytest.fixture(scope="session")
def phantom_records(make_root: Callable[[str], Path]) -> Path:
    """Return a project with folds and records of the quick phantoms."""
    root = make_root("records")
    for command in ("data phantom", "data prepare", "folds make", "records make"):
        done = gatemask(*command.split(), "phantom", "--quick", root=root)
        assert done.returncode == 0, done.stderr[-2000:]
    return root


@dataclass
class Loop:
    """A finished quick loop.

    Args:
        root: Project folder.
        comp: Folder name of the competition in runs/ and data/.
        result: Output of `--json`.
        killed_at: Stamps that existed when the loop was killed, with their modification times in ns.
    """

    root: Path
    comp: str
    result: dict[str, Any]
    killed_at: dict[str, int]

    @property
    def runs(self) -> Path:
        return self.root / "runs" / self.comp

    @property
    def data(self) -> Path:
        return self.root / "data" / self.comp


def stamps(root: Path) -> dict[str, int]:
    """Return the stamps of a project with their modification times, in ns."""
    names = {"result.json", "manifest.json", "folds.json", "index.json", "phantom.json", "package.json"}
    paths = [p for p in root.rglob("*.json") if p.name in names and "rehearsal/kaggle" not in p.as_posix()]
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in paths}


@pytest.fixture(scope="session")
def phantom_loop(make_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Run `gatemask loop phantom --quick` with a tiny encoder, kill it between two epochs, and run it again to the end.

    All workers share the result, so tests must change only copies of it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _killed_loop(make_root("phantom"))
    shared = tmp_path_factory.getbasetemp().parent / "phantom-loop.json"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            fields = asdict(_killed_loop(make_root("phantom")))
            shared.write_text(json.dumps({**fields, "root": str(fields["root"])}))
    fields = json.loads(shared.read_text())
    return Loop(**{**fields, "root": Path(fields["root"])})


def _killed_loop(root: Path) -> Loop:
    state = root / "runs/phantom-quick/unet_b0/fold0/state"
    command = [*TINY_GATEMASK, "loop", "phantom", "--quick", "--json"]
    kill_when(lambda _: list(state.glob("at-*.h5")), *command, root=root, limit_s=3600)
    killed_at = stamps(root)
    done = run_python("-c", INSTALL + LISTED_IMPORTS, "loop", "phantom", "--quick", "--json", root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return Loop(root, "phantom-quick", json.loads(done.stdout), killed_at)


def write_tiles(folder: Path, count: int = 36, size: int = 128) -> Path:
    """Write a competition like the nuclei tiles: color PNGs, PNG masks, a table with groups."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = ["id,group_image,positive,mask_area"]
    for number in range(count):
        image = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
        mask = np.zeros((size, size), np.uint8)
        if number % 3:
            for _ in range(4):
                center = tuple(int(v) for v in rng.integers(20, size - 20, 2))
                cv2.circle(mask, center, int(rng.integers(6, 14)), 255, -1)
        image[mask > 0] += 150
        name = f"tile{number:03d}"
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
        lines.append(f"{name},picture{number // 2},{int(mask.any())},{int((mask > 0).sum())}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_siim(folder: Path) -> Path:
    """Write the files of SIIM-ACR, with phantoms of the same size as X-rays."""
    from gatemask.config import Phantom
    from gatemask.data import phantom

    phantom.make_phantoms(folder, Phantom(images=16, test_images=4, size=1024, positives=0.5))
    for old, new in {
        "train": "dicom-images-train",
        "test": "stage_2_images",
        "train-rle.csv": "stage_2_train.csv",
        "sample_submission.csv": "stage_2_sample_submission.csv",
    }.items():
        (folder / old).rename(folder / new)
    return folder
