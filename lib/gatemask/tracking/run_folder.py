"""A run complete on disk: resolved config, environment, and metrics as JSON lines, one an epoch."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from gatemask.files import read_json, write_json, write_text, write_yaml

PACKAGES = ["gatemask", "tensorflow", "keras", "jax", "numpy", "segmentation-models", "efficientnet"]


def begin(folder: Path, settings: dict[str, Any], runtime: dict[str, Any], root: Path) -> None:
    """Write config.yaml and environment.json of a run."""
    write_yaml(folder / "config.yaml", settings)
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    environment = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": commit(root),
        "runtime": runtime,
        "packages": versions,
    }
    write_json(folder / "environment.json", environment)


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """One epoch's row. A row of the same epoch, left by a run that was killed before its state, is replaced."""
    kept = [old for old in read_metrics(path) if old["epoch"] < row["epoch"]]
    write_text(path, "".join(json.dumps(one) + "\n" for one in [*kept, row]))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def commit(root: Path) -> str | None:
    """The project's commit, with `+dirty` where files were changed since; None outside git."""
    if (bundled := root / "session.json").exists():  # in a Kaggle kernel, which has no repository
        return read_json(bundled)["commit"]
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+dirty" if changed.stdout.strip() else "")
