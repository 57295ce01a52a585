"""The account that pushes, the commit it records, and the lock that keeps two commands apart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gatemask.config import Competition
from gatemask.errors import GatemaskError
from gatemask.files import locked
from gatemask.kaggle.client import api
from gatemask.kaggle.client.cli import missing_credentials
from gatemask.project import TRIALS, Project
from gatemask.shipped import SOURCE, runs_from_source
from gatemask.tracking import run_folder


@contextmanager
def exclusive(project: Project) -> Iterator[None]:
    """Let one command at a time record what Kaggle does for this competition.

    Raises:
        GatemaskError: Another command is doing so.
    """
    busy = "Another gatemask command is working with Kaggle for this competition."
    with locked(project.runs / "kaggle" / ".lock", busy):
        yield


def owner(comp: Competition) -> str:
    """Return the account that owns kernels and datasets: `kaggle.owner`, else that of the credentials.

    Raises:
        KaggleError: There are no credentials.
    """
    name = comp.kaggle.owner or api.user()
    if name is None:
        raise missing_credentials()
    return name


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def clean_commit(project: Project, allow_dirty: bool) -> str | None:
    """Return the commit that a push records.

    Args:
        project: Project to push from.
        allow_dirty: Whether changed files are accepted; the commit then ends in "+dirty".

    Raises:
        GatemaskError: There is no commit, or files that a push includes were changed since.
    """
    changed = {root: _changed_files(root) for root in {*([SOURCE] if runs_from_source() else []), project.root}}
    commit = run_folder.commit(project.root)
    if allow_dirty:
        return commit
    if commit is None or None in changed.values():
        raise GatemaskError(
            "There is no commit to record with the run.",
            where=project.root,
            do="git init && git add . && git commit, or push with --allow-dirty.",
        )
    if files := [f"{root / name}" for root, names in changed.items() for name in names or []]:
        raise GatemaskError(
            "Files have changed since the last commit, so the run could not be reproduced.",
            where=project.root,
            received=", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else ""),
            do="Commit them, or push with --allow-dirty.",
        )
    return commit.removesuffix("+dirty")  # other changed files are not part of a push


def _changed_files(root: Path) -> list[str] | None:
    """Return changed and new files among those that a push includes; None outside git.

    New YAMLs of trials do not count: `gatemask search` makes them from a committed experiment, and the run keeps them.
    """
    folders = [f for f in ("lib/gatemask", "kaggle_kernels", "experiments", "folds") if (root / f).exists()]
    if root != SOURCE:
        folders = [f for f in folders if f in ("experiments", "folds")]
    git = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=all", "--", *folders]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line for line in done.stdout.splitlines() if not (line.startswith("??") and f"/{TRIALS}/" in line)]
    return [line[3:] for line in lines]
