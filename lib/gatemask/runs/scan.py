"""Find the files of all experiments by their times and sizes alone: nothing is opened, so thousands take milliseconds.

A signature names files with time of change (ns) and size. What was read from files with the same signature is current.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gatemask.project import DOCUMENTS, PRODUCTS, TRIALS, Project

# Files of a run that are read, or that decide a score. A stamp is written after them.
WATCHED = frozenset(
    (
        "begun.json",
        "config.yaml",
        "environment.json",
        "kaggle.json",
        "metrics.jsonl",
        "oof.csv",
        "oof.h5",
        "result.json",
        "tables.npz",
    )
)
_FOLD = re.compile(r"fold(\d{1,3})")


class FoundFold(NamedTuple):
    """Folder of a run.

    Args:
        signature: Signature of its files.
        names: Names of its files, of those in WATCHED.
    """

    signature: str
    names: frozenset[str]


def find_runs(project: Project) -> dict[str, dict[int, FoundFold]]:
    """Return the folders of all runs, by experiment and fold."""
    found: dict[str, dict[int, FoundFold]] = {}
    for folder in _folders(project.runs):
        if folder.name in PRODUCTS or folder.name.startswith("."):
            continue
        folds = {
            int(match[1]): _look_into(fold.path)
            for fold in _folders(folder.path)
            if (match := _FOLD.fullmatch(fold.name))
        }
        if folds:
            found[folder.name] = dict(sorted(folds.items()))
    return found


def find_names(project: Project) -> set[str]:
    """Return the names of all experiments that have a YAML or a run; names that a YAML sets itself only with a run."""
    yamls = {path.stem for path in find_yamls(project) if path.name not in DOCUMENTS}
    return yamls | set(find_runs(project))


def find_yamls(project: Project) -> dict[Path, str]:
    """Return the YAMLs of a competition, those of trials and those that others extend included, with signatures."""
    found: dict[Path, str] = {}
    for folder in (project.experiments, project.experiments / TRIALS):
        with _entries(folder) as entries:
            files = sorted((entry for entry in entries if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
            found |= {folder / entry.name: _signed(entry.name, entry.stat()) for entry in files if entry.is_file()}
    return found


def signature(paths: Iterable[Path]) -> str:
    """Return the signature of some files; those that do not exist are part of it, too."""
    parts = []
    for path in paths:
        try:
            parts.append(_signed(path.name, path.stat()))
        except OSError:
            parts.append(f"{path.name}:-")
    return "|".join(parts)


def folder_signature(folder: Path, suffix: str) -> str:
    """Return the signature of a folder's files of one suffix, temporary ones left out."""
    with _entries(folder) as entries:
        names = [entry for entry in entries if entry.name.endswith(suffix) and not entry.name.startswith(".")]
        return "|".join(sorted(_signed(entry.name, entry.stat()) for entry in names))


def _look_into(path: str) -> FoundFold:
    signed: dict[str, str] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name in WATCHED:
                try:
                    status = entry.stat()
                except OSError:  # just replaced
                    continue
                signed[name] = f"{name}:{status.st_mtime_ns}:{status.st_size}"
    return FoundFold(_short("|".join([signed[name] for name in sorted(signed)])), frozenset(signed))


def _short(text: str) -> str:
    """Return a hash: thousands of signatures are kept."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _signed(name: str, status: os.stat_result) -> str:
    return f"{name}:{status.st_mtime_ns}:{status.st_size}"


@contextmanager
def _entries(folder: Path | str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Yield the entries of a folder; none if it does not exist."""
    try:
        scan = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        yield iter(())
        return
    with scan:
        yield scan


def _folders(folder: Path | str) -> list[os.DirEntry[str]]:
    with _entries(folder) as entries:
        return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
