"""Faults of the disk and the system in one sentence: which file, which disk, how much is free and how much is needed.

`storage_error` is the only place that turns an OSError into words.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import resource
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gatemask.errors import GatemaskError, StorageError

AGAIN = "then run the same command again: what was finished is kept."
RETRY = "and run the same command again."
FREE_SPACE = f"Free some space on this disk, {AGAIN}"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
ALMOST_NOTHING = 1 << 20  # bytes; a disk with less is full for our purposes

# What went wrong, and what to do about it.
SENTENCES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("The disk is full.", FREE_SPACE),
    errno.EDQUOT: ("The disk quota is used up.", f"Free some space, or ask for a larger quota, {AGAIN}"),
    errno.EFBIG: ("The file is larger than the system allows.", f"Raise the limit or use another disk, {AGAIN}"),
    errno.EROFS: ("The disk is read-only.", f"Make it writable, or move the project to another disk, {AGAIN}"),
    errno.EACCES: ("Access to a file is denied.", f"Correct its owner or permissions, {AGAIN}"),
    errno.EPERM: ("The system does not permit access to a file.", f"Correct its owner or permissions, {AGAIN}"),
    errno.EIO: ("The disk failed to read or write a file.", f"Check the disk (dmesg), {RETRY}"),
    errno.ESTALE: ("A network disk has lost a file.", f"Mount it again, {RETRY}"),
    errno.ENXIO: ("A device is not available.", f"Connect it, {RETRY}"),
    errno.ENODEV: ("A device is not available.", f"Connect it, {RETRY}"),
    errno.ENOMEM: ("Memory ran out.", f"Close other programs, {RETRY}"),
    errno.EMFILE: ("This process has too many open files.", f"Raise the limit with ulimit -n, {RETRY}"),
    errno.ENFILE: ("This machine has too many open files.", f"Close other programs, {RETRY}"),
    errno.ENAMETOOLONG: ("A file name is too long for this disk.", "Shorten the name, or use another disk."),
    errno.EILSEQ: ("The disk does not accept the characters of a file name.", "Rename the file."),
    errno.ENOENT: ("A file does not exist, or vanished while it was needed.", f"Restore it, {RETRY}"),
    errno.EEXIST: ("A file is in the way.", f"Move it away, {RETRY}"),
    errno.ENOTDIR: ("A file is where a folder is expected.", f"Move it away, {RETRY}"),
    errno.EISDIR: ("A folder is where a file is expected.", f"Move it away, {RETRY}"),
    errno.ENOTEMPTY: (
        "A folder that was to be removed holds new files.",
        f"Wait until no other program writes to it, {RETRY}",
    ),
    errno.ELOOP: ("Symbolic links point at each other.", f"Correct them, {RETRY}"),
    errno.EXDEV: ("A file cannot be moved to another disk.", f"Keep the folder on one disk, {RETRY}"),
    errno.EBUSY: ("A file is in use by another program.", f"Close the program, {RETRY}"),
    errno.ETXTBSY: ("A file is in use by another program.", f"Close the program, {RETRY}"),
    errno.ENOLCK: ("This disk does not support locks.", "Move the project to a local disk."),
    errno.EOPNOTSUPP: ("This disk lacks an operation that gatemask needs.", "Move the project to a local disk."),
}
# Faults of the machine rather than of one file: a file that meets one is sound, and another try may succeed.
MACHINE_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV}
MACHINE_FAULTS |= {errno.EACCES, errno.EPERM}
# Libraries wrap faults of the disk in errors of their own: HDF5, shutil, TensorFlow and NumPy each in another way.
WRAPPED = re.compile(r"\berrno = (\d+)|\[Errno (\d+)\]")
IN_WORDS = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)}
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's tofile


# What zipfile raises for damaged, encrypted or unusual archives; bad data may also be an OSError without a number.
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)


def storage_error(error: BaseException, path: Path | None = None, needed: int | None = None) -> StorageError | None:
    """Return a fault of the disk or the system as a StorageError; None if the error is something else.

    Args:
        error: Any exception; those of HDF5, shutil and others that wrap a fault of the disk are recognized.
        path: File or folder in use. Default: the one that the error names.
        needed: Size of the file that could not be written, in bytes. Default: unknown.
    """
    if isinstance(error, GatemaskError):
        return error if isinstance(error, StorageError) else None
    if isinstance(error, MemoryError):
        what, do = SENTENCES[errno.ENOMEM]
        return StorageError(what, where=path, received=str(error) or None, do=do, number=errno.ENOMEM)
    number = fault_number(error)
    if number not in SENTENCES:
        return None
    what, do = SENTENCES[number]
    where = _file_of(error) or path
    if number == errno.ENOSPC and _file_of(error) is None:  # a library may write elsewhere, such as to /dev/shm
        folders = [*([] if path is None else [path]), *_usual_folders()]
        where = next((folder for folder in folders if _free(folder) < ALMOST_NOTHING), path)
    received, expected = _circumstances(number, where, needed)
    return StorageError(what, where=where, received=received, expected=expected, do=do, number=number)


def raise_machine_fault(error: Exception, path: Path) -> None:
    """Raise a StorageError if a file cannot be read because of a fault of the machine; otherwise do nothing.

    For code that leaves out files that are damaged: it must not leave out sound ones.
    """
    fault = storage_error(error, path)
    if fault is not None and fault.errno in MACHINE_FAULTS:
        raise fault from None


@contextmanager
def storage_errors(path: Path | None = None) -> Iterator[None]:
    """Raise faults of the disk and the system in the block as StorageError; `path` is the file or folder in use."""
    try:
        yield
    except Exception as error:
        if (fault := storage_error(error, path)) is None or fault is error:
            raise
        raise fault from error


def fault_number(error: BaseException) -> int | None:
    """Return the number of the system's fault behind an error, as in `errno`; None if there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if wrapped := WRAPPED.search(text):
        number = int(wrapped[1] or wrapped[2])
        return number if isinstance(error, OSError) or number in {*IN_WORDS.values(), errno.EIO, errno.EMFILE} else None
    if isinstance(error, OSError) and SHORT_WRITE.search(text):
        return errno.ENOSPC
    return next((number for words, number in IN_WORDS.items() if words in text), None)


def reserve(file: IO[bytes], size: int) -> None:
    """Make an empty file `size` bytes long, on the disk and not only by its length.

    Raises:
        OSError: The disk is full, or cannot reserve space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(1 << 20)  # macOS has no such call
    for start in range(0, size, len(block)):
        file.write(block[: size - start])
    file.flush()


def require_space(path: Path, size: int) -> None:
    """Raise unless `size` bytes can be written to this file. For writers that crash when the disk is full.

    Raises:
        StorageError: There is too little space.
    """
    try:
        with path.open("wb") as file:
            reserve(file, max(size, 1))
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        if (fault := storage_error(error, path, size)) is not None and error.errno in FULL:
            raise fault from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a disk that cannot reserve
            raise
    path.unlink(missing_ok=True)


def full_disk(path: Path, log: str) -> StorageError | None:
    """Return the error of a process that met a full disk; None if it seems to have failed for another reason.

    Args:
        path: File or folder that the process wrote to.
        log: What it printed; on a full disk, it may be cut short.
    """
    number = fault_number(RuntimeError(log))
    if number not in FULL:
        number = errno.ENOSPC if _free(path) < ALMOST_NOTHING else None
    return None if number is None else storage_error(OSError(number, os.strerror(number)), path)


def readable_size(size: float) -> str:
    """Return a number of bytes for people.

    >>> readable_size(512), readable_size(20_480_000), readable_size(3.2e9)
    ('512 B', '20.5 MB', '3.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _file_of(error: BaseException) -> Path | None:
    """Return the file that an error names; of two, the second, which is the one that is written."""
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str | bytes | os.PathLike) and name:
            return Path(os.fsdecode(name))
    return None


def _circumstances(number: int, where: Path | None, needed: int | None) -> tuple[str | None, str | None]:
    """Return what was found and what is needed, as far as it is known."""
    if number == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        found = None if limit == resource.RLIM_INFINITY else f"a limit of {readable_size(limit)} per file (ulimit -f)"
        return found, _need(needed)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return (None if where is None else disk_of(where)), _need(needed)
    if number == errno.EROFS and where is not None:
        return disk_of(where), None
    if number == errno.EMFILE:
        return f"a limit of {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files", None
    if number == errno.ENAMETOOLONG and where is not None:
        longest = max((len(os.fsencode(part)) for part in where.parts), default=0)
        return (
            f"a name of {longest} bytes, a path of {len(os.fsencode(where))}",
            "at most 230 and 4,000 bytes on most disks",
        )
    return None, None


def _need(needed: int | None) -> str | None:
    return None if needed is None else f"{readable_size(needed)} for this file"


def disk_of(path: Path) -> str:
    """Return the free space of the disk that holds a path, and where it is mounted."""
    try:
        folder = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
        disk = os.statvfs(folder)
    except (OSError, StopIteration):
        return "a disk that does not respond"
    free = f"{readable_size(disk.f_bavail * disk.f_frsize)} of {readable_size(disk.f_blocks * disk.f_frsize)} free"
    if disk.f_files and not disk.f_favail:
        free += ", but no room for another file (inodes)"
    return f"{free} on the disk mounted at {mount}"


def _free(path: Path) -> float:
    with suppress(OSError):
        disk = os.statvfs(path if path.exists() else path.parent)
        return disk.f_bavail * disk.f_frsize if disk.f_favail or not disk.f_files else 0.0
    return float("inf")


def _usual_folders() -> list[Path]:
    """Return folders that libraries write to without naming a file."""
    return [Path.cwd(), Path(tempfile.gettempdir()), Path("/dev/shm")]
