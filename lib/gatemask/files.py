"""Atomic writes, hashes and locks.

Each file is written under a temporary name in the same folder, flushed to disk, and then renamed. A process killed
before the rename leaves the old file; one killed after it leaves the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gatemask.errors import GatemaskError

LOCK_S = 10.0  # a process whose parent was killed needs a moment to end


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary path, then rename its file to `path`.

    The temporary name keeps the suffix, which some writers (Keras, NumPy) check. It is always the same, so the next
    process overwrites what a killed one left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    return write_with(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, data: bytes) -> Path:
    return write_with(path, lambda tmp: tmp.write_bytes(data))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=json_default) + "\n")


def write_yaml(path: Path, value: Any) -> Path:
    return write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def read_json(path: Path) -> Any:
    """Read a JSON file that gatemask wrote.

    Raises:
        GatemaskError: The file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatemaskError(
            "Not valid JSON, though gatemask wrote this file.",
            where=path,
            received=str(error),
            do=f"Delete {path} and run the command again; only its own stage is repeated.",
        ) from None


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON-like value.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=json_default)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listing_fingerprint(paths: Iterable[Path], root: Path) -> str:
    """Return a hash of names, sizes and modification times: cheap enough for ten thousand raw files."""
    rows = [(os.path.relpath(p, root), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    return fingerprint(sorted(rows))


@contextmanager
def locked(path: Path, busy: str) -> Iterator[int]:
    """Hold a lock file while the block runs.

    Args:
        path: Lock file.
        busy: Error message if another process holds the lock.

    Yields:
        The file descriptor; a process that inherits it holds the lock as well.

    Raises:
        GatemaskError: Another process has held the lock for LOCK_S seconds.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GatemaskError(busy, where=path.parent, do="Wait until it ends, or stop it.") from None
                time.sleep(0.2)
        yield file.fileno()


def fresh_folder(path: Path) -> Path:
    """Create an empty folder, deleting its previous content, and return it."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def set_aside(folder: Path) -> Path:
    """Rename a folder to `<name>.replaced<n>`, with the first free number, and return the new path."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.replaced{number}")).exists():
        number += 1
    return folder.rename(aside)


def json_default(value: Any) -> Any:
    """Convert NumPy scalars and paths for json.dumps."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
