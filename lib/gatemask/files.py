"""Atomic writes, hashes and locks.

Each file is written under a temporary name in the same folder, flushed to disk, and then renamed. A process killed
before the rename leaves the old file; one killed after it leaves the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError, StorageError
from gatemask.storage import storage_error, storage_errors
from gatemask.yaml12 import dump_yaml, parse_yaml

MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]  # part of temporary names, for shared disks
LOCK_S = 10.0  # a process whose parent was killed needs a moment to end
LOCK_WAIT = "GATEMASK_LOCK_WAIT"  # environment variable: seconds in place of LOCK_S


def write_with(path: Path, write: Callable[[Path], object], size: int | None = None) -> Path:
    """Call `write` with a temporary path, then rename its file to `path`.

    The temporary name keeps the suffix, which some writers (Keras, NumPy) check. It names process and machine, so two
    processes never write to the same one; the next process removes what a killed one left.

    Args:
        path: File to write; its folder is created.
        write: Writes the file at the path it is given.
        size: Size of the file, in bytes. Default: unknown. If the disk is full, the message names it.

    Raises:
        StorageError: The disk is full or read-only, or access is denied. The old file is unchanged.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{MACHINE}-{path.name}")
    written = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_strays(path.parent)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        written = True
    except Exception as error:
        _name_final_file(error, temporary, path)
        if (fault := storage_error(error, path, size)) is None or fault is error:
            raise
        raise fault from error
    finally:
        if not written:
            with suppress(OSError):  # of a disk that became read-only
                temporary.unlink()
    return path


def _name_final_file(error: Exception, temporary: Path, path: Path) -> None:
    """Replace the temporary name in an error by the one that the user knows."""
    if isinstance(error, StorageError):
        if error.details["where"] == temporary:
            error.details["where"] = path
    elif isinstance(error, OSError) and str(temporary) in map(str, (error.filename, error.filename2)):
        error.filename, error.filename2 = str(path), None


_cleaned: set[tuple[int, Path]] = set()


def remove_strays(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder; each process looks once."""
    if (os.getpid(), folder) in _cleaned:
        return
    _cleaned.add((os.getpid(), folder))
    for path in folder.glob(f".tmp-*-{MACHINE}-*"):
        number = path.name.split("-")[1]
        if number.isdigit() and not is_running(int(number)):
            with suppress(OSError):
                path.unlink()


def is_running(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 atomically.

    Raises:
        GatemaskError: The text holds a file name that is not UTF-8.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise not_utf8(_word_at(text, error.start), path) from None
    return write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> Path:
    return write_with(path, lambda tmp: tmp.write_bytes(data), len(data))


def copy_file(source: Path, target: Path) -> Path:
    """Copy the contents of a file atomically."""
    return write_with(target, lambda tmp: shutil.copyfile(source, tmp), source.stat().st_size)


def write_json(path: Path, value: Any) -> Path:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=json_default) + "\n"
    # Bytes of file names that are not UTF-8 become escapes, which read_json turns into the same names.
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_yaml(path: Path, value: Any) -> Path:
    return write_text(path, dump_yaml(value))


def not_utf8(name: str, where: object) -> GatemaskError:
    """Return the error about a file name whose bytes are not UTF-8."""
    return GatemaskError(
        "A file name is not UTF-8.",
        where=where,
        received=repr(os.fsencode(name))[1:] if _is_name(name) else ascii(name),
        expected="names that tables and other programs can hold",
        do="Rename the file, for example with convmv -f latin1 -t utf8 -r --notest FOLDER.",
    )


def require_utf8(paths: Iterable[Path]) -> None:
    """Raise if the bytes of a file name are not UTF-8.

    Raises:
        GatemaskError: A name is not UTF-8.
    """
    for path in paths:
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            raise not_utf8(path.name, str(path.parent).encode("utf-8", "backslashreplace").decode()) from None


def _is_name(name: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in name)


def _word_at(text: str, position: int) -> str:
    """Return the cell or word around a position, for messages."""
    start = max(text.rfind(mark, 0, position) for mark in ",\n\"' ") + 1
    ends = [end for mark in ",\n\"' " if (end := text.find(mark, position)) >= 0]
    return text[start : min(ends, default=len(text))][:200]


def read_json(path: Path, do: str | None = None) -> Any:
    """Read a JSON file that gatemask wrote.

    Args:
        path: The file.
        do: What the user should do if it is damaged. Default: delete it, as fits the stamp of a stage.

    Raises:
        GatemaskError: The file is not valid JSON, or cannot be read.
    """
    try:
        with storage_errors(path):
            return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise GatemaskError(
            "Not valid JSON, though gatemask wrote this file.",
            where=path,
            received=str(error) or "an empty file",
            do=do or f"Delete {path} and run the command again; only its own stage is repeated.",
        ) from None


def read_json_object(path: Path, *keys: str, do: str | None = None) -> dict[str, Any]:
    """Read a JSON object that gatemask wrote.

    Args:
        path: The file.
        keys: Keys that it must have.
        do: What the user should do if it is damaged. Default: delete it, as fits the stamp of a stage.

    Raises:
        GatemaskError: The file is not a JSON object, or lacks a key.
    """
    value = read_json(path, do)
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if isinstance(value, dict) and not missing:
        return value
    raise GatemaskError(
        "A file that gatemask wrote is damaged.",
        where=path,
        received=f"no '{missing[0]}'" if isinstance(value, dict) else json_kind(value),
        expected=f"an object with {', '.join(keys)}" if keys else "an object",
        do=do or f"Delete {path} and run the command again; only its own stage is repeated.",
    )


def json_kind(value: object) -> str:
    """Return what a JSON value is, for messages.

    >>> json_kind([]), json_kind(None)
    ('a list', 'null')
    """
    if value is None:
        return "null"
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


def read_yaml(path: Path) -> Any:
    """Read a YAML file that gatemask wrote.

    Raises:
        GatemaskError: The file is not valid YAML, or cannot be read.
    """
    try:
        with storage_errors(path):
            text = path.read_bytes().decode("utf-8")
    except ValueError as error:
        raise GatemaskError(
            "Not valid YAML.",
            where=path,
            received=" ".join(str(error).split()),
            do="Restore the file, or run the command that writes it again.",
        ) from None
    return parse_yaml(text, path).value


def sha256(path: Path) -> str:
    with storage_errors(path), path.open("rb") as file:
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
def locked(path: Path, busy: str, wait_s: float | None = None) -> Iterator[int]:
    """Hold a lock file while the block runs. The file names the process that holds it.

    Args:
        path: Lock file.
        busy: Error message if another process holds the lock.
        wait_s: How long to wait for it, in seconds. Default: the variable GATEMASK_LOCK_WAIT, or LOCK_S.

    Yields:
        The file descriptor; a process that inherits it holds the lock as well.

    Raises:
        GatemaskError: Another process holds the lock, or the disk does not permit locks.
    """
    import fcntl

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + (float(os.environ.get(LOCK_WAIT, LOCK_S)) if wait_s is None else wait_s)
        while True:
            try:
                with storage_errors(path):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    do = "Wait until it ends, or stop it."
                    raise GatemaskError(busy, where=path.parent, received=_holder(path), do=do) from None
                time.sleep(0.2)
        with suppress(OSError):  # a full disk; the lock holds without it
            os.truncate(descriptor, 0)
            note = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            os.pwrite(descriptor, note.encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(lock: Path) -> str | None:
    """Return which process holds a lock, as far as it is known."""
    try:
        return lock.read_text(encoding="utf-8", errors="replace").strip()[:200] or None
    except OSError:
        return None


def is_locked(path: Path) -> bool:
    """Return whether a process holds this lock file."""
    import fcntl

    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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
