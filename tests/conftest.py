"""What several tests share: a project in a temporary folder, and one quick loop, really run and really killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

needs_siim = pytest.mark.skipif(not (SHARED / "siim").is_dir(), reason="the SIIM labels are not on this machine")
needs_nuclei = pytest.mark.skipif(not (SHARED / "nuclei").is_dir(), reason="the nuclei tiles are not on this machine")


# Fixtures that run gatemask in processes of its own.
PROCESS_FIXTURES = {"phantom_loop", "phantom_records"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark integration tests, and schedule the longest files first.

    A long file that starts last would keep one worker busy while the other waits. The order within a file stays.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        trains = item.get_closest_marker("trains") is not None
        if trains or PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
        rank = 0 if trains else 1 if item.get_closest_marker("integration") else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def gatemask(*arguments: object, root: Path, limit_s: int = 900) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    command = [sys.executable, "-m", "gatemask", *map(str, arguments)]
    return subprocess.run(command, env=environment(root), capture_output=True, text=True, timeout=limit_s)


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "GATEMASK_ROOT": str(root), "WANDB_MODE": "disabled", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def make_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A project folder with the experiments that ship."""

    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "experiments", root / "experiments")
        (root / "folds").mkdir()
        return root

    return make


@pytest.fixture(scope="session")
def phantom_records(make_root: Callable[[str], Path]) -> Path:
    """A project whose quick phantoms are ready to train on: folds and records."""
    root = make_root("records")
    for command in ("data phantom", "data prepare", "folds make", "records make"):
        done = gatemask(*command.split(), "phantom", "--quick", root=root)
        assert done.returncode == 0, done.stderr[-2000:]
    return root


@dataclass
class Loop:
    """A finished quick loop.

    Args:
        root: its project.
        comp: the competition's folder name below runs/ and data/.
        result: what `--json` printed.
        killed_at: files and modification times of what was finished when it was killed.
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
    """The files that say "done", with the times at which they were written."""
    names = {"result.json", "manifest.json", "folds.json", "index.json", "phantom.json", "package.json"}
    found = [p for p in root.rglob("*.json") if p.name in names and "rehearsal/kaggle" not in p.as_posix()]
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in found}


@pytest.fixture(scope="session")
def phantom_loop(make_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Loop:
    """`gatemask loop phantom --quick`, killed by SIGKILL between two epochs, then run again to the end.

    Once for all workers, so tests change copies of it only.
    """
    if worker_id == "master":
        return _killed_loop(make_root("phantom"))
    told = tmp_path_factory.getbasetemp().parent / "phantom-loop.json"
    with told.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            made = asdict(_killed_loop(make_root("phantom")))
            told.write_text(json.dumps({**made, "root": str(made["root"])}))
    known = json.loads(told.read_text())
    return Loop(**{**known, "root": Path(known["root"])})


def _killed_loop(root: Path) -> Loop:
    command = [sys.executable, "-m", "gatemask", "loop", "phantom", "--quick", "--json"]
    first = subprocess.Popen(command, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    state = root / "runs/phantom-quick/unet_b0/fold0/state"
    deadline = time.monotonic() + 600
    while not list(state.glob("at-*.h5")):
        assert first.poll() is None, f"the loop ended by itself: {first.stderr.read().decode()[-2000:]}"  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "the loop did not get as far as the second experiment"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed_at = stamps(root)
    done = gatemask("loop", "phantom", "--quick", "--json", root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return Loop(root, "phantom-quick", json.loads(done.stdout), killed_at)


def write_tiles(folder: Path, count: int = 36, size: int = 128) -> Path:
    """A competition in the shape of the nuclei tiles: colour PNGs, PNG masks, a table with groups."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = ["id,group_image,positive,mask_area"]
    for number in range(count):
        image = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
        mask = np.zeros((size, size), np.uint8)
        if number % 3:
            for _ in range(4):
                centre = tuple(int(v) for v in rng.integers(20, size - 20, 2))
                cv2.circle(mask, centre, int(rng.integers(6, 14)), 255, -1)
        image[mask > 0] += 150
        name = f"tile{number:03d}"
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
        lines.append(f"{name},picture{number // 2},{int(mask.any())},{int((mask > 0).sum())}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_siim(folder: Path) -> Path:
    """SIIM-ACR's files, with phantoms of its size in place of its X-rays."""
    from gatemask.config import Phantom
    from gatemask.data import phantom

    phantom.make_phantoms(folder, Phantom(images=24, test_images=4, size=1024, positives=0.5))
    for old, new in {
        "train": "dicom-images-train",
        "test": "stage_2_images",
        "train-rle.csv": "stage_2_train.csv",
        "sample_submission.csv": "stage_2_sample_submission.csv",
    }.items():
        (folder / old).rename(folder / new)
    return folder
