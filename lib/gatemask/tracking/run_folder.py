"""Keep a run complete on disk: resolved config, environment, and metrics as JSON lines, one per epoch."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from gatemask.files import read_json, write_json, write_text, write_yaml

PACKAGES = ["gatemask", "tensorflow", "keras", "jax", "numpy", "segmentation-models", "efficientnet"]


def begin_run(folder: Path, settings: Mapping[str, object], runtime: Mapping[str, object], root: Path) -> None:
    """Write config.yaml and environment.json of a run.

    Args:
        folder: Folder of the run.
        settings: Resolved settings of the experiment.
        runtime: Backend and devices.
        root: Project root, whose commit is recorded.
    """
    write_yaml(folder / "config.yaml", dict(settings))
    environment = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": commit(root),
        "runtime": runtime,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_json(folder / "environment.json", environment)


def append_metrics(path: Path, row: Mapping[str, float]) -> None:
    """Append the row of an epoch. A row of the same epoch, left by a run that was killed, is replaced."""
    kept = [old for old in read_metrics(path) if old["epoch"] < row["epoch"]]
    write_text(path, "".join(json.dumps(line) + "\n" for line in [*kept, row]))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl; none if the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


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
