"""Find the files of all experiments by their times and sizes alone: nothing is opened, so thousands take milliseconds.

A signature names files with time of change (ns) and size. What was read from files with the same signature is current.

Of a finished run, only the folder, its stamp and its predictions are looked at. Any other file that is replaced changes
the time of the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gatemask.project import DOCUMENTS, PRODUCTS, TRIALS, Project

STAMP = "result.json"

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
        STAMP,
        "tables.npz",
    )
)
_FOLD = re.compile(r"fold(\d{1,3})")


class FoundFold(NamedTuple):
    """Folder of a run.

    Args:
        signature: Signature of its files.
        finished: Whether it has its stamp.
    """

    signature: str
    finished: bool


def find_runs(project: Project) -> dict[str, dict[int, FoundFold]]:
    """Return the folders of all runs, by experiment and fold."""
    found: dict[str, dict[int, FoundFold]] = {}
    for folder in _folders(project.runs):
        if folder.name in PRODUCTS or folder.name.startswith("."):
            continue
        folds = {
            int(match[1]): _look_into(fold) for fold in _folders(folder.path) if (match := _FOLD.fullmatch(fold.name))
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


def names_in(folder: Path) -> frozenset[str]:
    """Return the names of a run's files, of those in WATCHED."""
    with _entries(folder) as entries:
        return frozenset(entry.name for entry in entries) & WATCHED


def _look_into(folder: os.DirEntry[str]) -> FoundFold:
    stamp = _looked_up(folder, STAMP)
    if stamp is None:  # in training
        return FoundFold(_signature_of_files(folder.path), finished=False)
    predictions = _looked_up(folder, "oof.h5") or _looked_up(folder, "oof.csv")
    tables = _looked_up(folder, "tables.npz")
    return FoundFold(_short(f"{folder.stat().st_mtime_ns}|{stamp}|{predictions}|{tables}"), finished=True)


def _looked_up(folder: os.DirEntry[str], name: str) -> str | None:
    try:
        return _signed(name, os.stat(f"{folder.path}/{name}"))  # noqa: PTH116 (thousands of Paths take time)
    except OSError:
        return None


def _signature_of_files(folder: str) -> str:
    signed = []
    with _entries(folder) as entries:
        for entry in entries:
            if entry.name in WATCHED:
                with suppress(OSError):  # just replaced
                    signed.append(_signed(entry.name, entry.stat()))
    return _short("|".join(sorted(signed)))


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
