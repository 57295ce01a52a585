"""Files that are either whole or absent, and the stamps by which a stage knows that its work is current.

Every write goes to a temporary name in the same folder, is flushed to disk, and then takes the final name in
one step. Killed before the rename: the old file stands. Killed after: the new one does. Nothing in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gatemask.errors import GatemaskError

LOCK_S = 10.0  # a process whose parent was killed needs a moment to go


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write(temporary path)`, then put its file in place of `path`.

    The temporary name keeps the suffix, since some writers (Keras, numpy) look at it; it is always the same, so
    that what a killed process left is overwritten by the next one.
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
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n")


def write_yaml(path: Path, value: Any) -> Path:
    return write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatemaskError(
            "A file that gatemask wrote cannot be read.",
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
    """A short hash of any JSON-like value; equal values give equal fingerprints."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listing_fingerprint(paths: Iterable[Path], root: Path) -> str:
    """A hash of names, sizes and modification times: cheap enough for ten thousand raw files."""
    rows = [(os.path.relpath(p, root), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    return fingerprint(sorted(rows))


@contextmanager
def locked(path: Path, busy: str) -> Iterator[int]:
    """Hold a lock file while the block runs, and yield its number: a process that inherits it holds it too.

    Raises:
        GatemaskError: `busy`, when another process has held it for LOCK_S seconds.
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
                    raise GatemaskError(busy, where=path.parent, do="Wait until it ends, or end it.") from None
                time.sleep(0.2)
        yield file.fileno()


def fresh_folder(path: Path) -> Path:
    """`path` as an empty folder."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def set_aside(folder: Path) -> Path:
    """Rename a folder to `<name>.replaced<n>`, the first that is free, and return it."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.replaced{number}")).exists():
        number += 1
    return folder.rename(aside)


def is_current(stamp: Path, made_from: dict[str, Any]) -> bool:
    """Whether the stage that ends by writing `stamp` has run on these inputs and its outputs still stand."""
    if not stamp.exists():
        return False
    recorded = read_json(stamp)
    if recorded.get("made_from") != made_from:
        return False
    outputs = recorded.get("outputs", {})
    return all((stamp.parent / name).exists() for name in outputs) and all(
        digest is None or sha256(stamp.parent / name) == digest for name, digest in outputs.items()
    )


def write_stamp(
    stamp: Path,
    made_from: dict[str, Any],
    result: dict[str, Any],
    outputs: Iterable[Path] | Mapping[Path, str] | Mapping[Path, str | None],
    started: float,
) -> dict[str, Any]:
    """The last act of a stage: what it was made from, what came out (with hashes), and how long it took.

    Args:
        stamp: the file that says "done".
        made_from: hashes and settings that decide the output.
        result: what the command reports.
        outputs: the files made, with their hashes where they are known; paths are kept relative to the stamp's folder.
        started: `time.monotonic()` when the stage began.
    """
    known = outputs if isinstance(outputs, Mapping) else {path: sha256(path) for path in outputs}
    hashes = {os.path.relpath(path, stamp.parent): digest for path, digest in known.items()}
    seconds = round(time.monotonic() - started, 2)
    write_json(stamp, {"made_from": made_from, "outputs": hashes, "seconds": seconds, **result})
    return {"seconds": seconds, **result}


def stamped_result(stamp: Path) -> dict[str, Any]:
    """What a current stage reported when it ran."""
    return {k: v for k, v in read_json(stamp).items() if k not in ("made_from", "outputs")}


def plain(value: Any) -> Any:
    """numpy scalars and paths, as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
