"""Keep a run complete on disk: resolved config, environment, and metrics as JSON lines, one per epoch."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json, write_json, write_text, write_yaml
from gatemask.remote import work as remote

# Fields of a row that were measured: a resumed training repeats all others.
#   seconds          training and validation
#   images_per_s     training images per second of training, compilation left out
#   input_wait       share of that time in which the step waited for input, 0 to 1
#   compile_seconds  seconds until the first step of a model was done, which compiles it; 0 in other epochs
#   memory_mb        peak memory of the device, or resident memory of the process
MEASURED = frozenset({"seconds", "images_per_s", "input_wait", "compile_seconds", "memory_mb"})
PACKAGES = ["gatemask", "tensorflow", "keras", "jax", "numpy", "segmentation-models", "efficientnet"]


def fold_lock(folder: Path) -> Path:
    """Return the lock file of a run. It lies next to the folder, so it survives when the folder is set aside."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def locked_run(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a run, so that no other process trains it, or moves or replaces its folder.

    With a remote, its files are fetched before the block and uploaded after it.

    Args:
        folder: Folder of the run.
        name: Name of the run for messages.

    Raises:
        GatemaskError: Another process holds it.
    """
    with (
        locked(fold_lock(folder), f"Another process is training or fetching {name}."),
        remote.work_on(folder / "result.json", True, f"Another machine is training or fetching {name}."),
    ):
        yield


def begin_run(folder: Path, settings: Mapping[str, object], runtime: Mapping[str, object], root: Path) -> None:
    """Write config.yaml and environment.json of a run.

    Args:
        folder: Folder of the run.
        settings: Resolved settings of the experiment.
        runtime: Backend and devices.
        root: Project root, whose commit is recorded.
    """
    write_config(folder, settings)
    environment = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": commit(root),
        "runtime": runtime,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_json(folder / "environment.json", environment)


def write_config(folder: Path, settings: Mapping[str, object]) -> Path:
    """Write config.yaml, the resolved settings of a run."""
    return write_yaml(folder / "config.yaml", dict(settings))


def write_metrics(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write metrics.jsonl, one row per epoch. It is a log: nothing but figures and W&B are made from it."""
    write_text(path, "".join(json.dumps(dict(row)) + "\n" for row in rows))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl; none if the file does not exist.

    Raises:
        GatemaskError: A line is not the row of an epoch.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            raise GatemaskError(
                "A line of this log is not the row of an epoch.",
                where=f"{path}, line {number}",
                received=line[:80],
                expected='such as {"epoch": 0, "loss": 0.5}',
                do="Delete the line. Only figures and W&B are made from this file.",
            )
        rows.append(row)
    return rows


def read_readable_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl for a figure; lines that cannot be read are reported and left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    read = [_row(line) for line in lines if line.strip()]
    rows = [row for row in read if row is not None]
    if len(rows) < len(read):
        say(f"{path}: {len(read) - len(rows)} lines cannot be read and are left out.")
    return rows


def _row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    valid = isinstance(row, dict) and isinstance(row.get("epoch"), int)
    return row if valid and all(isinstance(value, int | float) for value in row.values()) else None


def commit(root: Path) -> str | None:
    """Return the project's commit, with `+dirty` if files have changed since; None outside git."""
    if (session := root / "session.json").exists():  # in a Kaggle kernel, which has no repository
        return read_json(session)["commit"]
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
