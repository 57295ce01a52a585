"""Write HDF5 files on disks that may be full, and read only those that are sound: whole, unchanged, without links.

The HDF5 library does not survive a failed write: it keeps the file open, fails again whenever it tries to close it, and
may crash the process at exit. Here, Python writes the file. After a failed write, HDF5 is told that all is well, what
it writes goes to memory, and the fault is raised when the file is closed, or at the next `check`.

Nor does it survive every damaged file: a flipped bit may make it hang. It leaves the first 512 bytes of a file, its
user block, to the application. Here they hold one line of text with the SHA-256 of the rest, and zeros. HDF5's own
checksums (fletcher32) would cover the arrays, but neither their shapes nor their places in the file.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError
from gatemask.storage import require_space

BLOCK = 512  # bytes
TITLE = b"gatemask sha256 "
HDF5 = b"\x89HDF\r\n\x1a\n"  # how a file without a user block begins


class DamagedFileError(Exception):
    """The content of a file does not match its hash."""


class SafeFile(io.RawIOBase):
    """File for h5py's driver 'fileobj' whose writes never fail.

    Args:
        path: File to create.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.fault: OSError | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._unwritten: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size()}[whence]
        self._position = base + offset
        return self._position

    def write(self, data: Any) -> int:
        content = memoryview(data).cast("B")
        written = 0
        while self.fault is None and written < len(content):
            try:
                written += os.pwrite(self._descriptor, content[written:], self._position + written)
            except OSError as error:
                self.fault = error
        if self.fault is not None:
            self._unwritten.append((self._position, bytes(content)))
        self._position += len(content)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        start, size = self._position, len(target)
        target[:] = os.pread(self._descriptor, size, start).ljust(size, b"\0")
        for offset, content in self._unwritten:
            first, last = max(start, offset), min(start + size, offset + len(content))
            if first < last:
                target[first - start : last - start] = content[first - offset : last - offset]
        self._position += size
        return size

    def truncate(self, size: int | None = None) -> int:
        wanted = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, wanted)
        except OSError as error:
            self.fault = self.fault or error
        return wanted

    def close(self) -> None:
        if not self.closed:
            try:
                os.close(self._descriptor)  # network disks report a full quota here
            except OSError as error:
                self.fault = self.fault or error
        super().close()

    def check(self) -> None:
        """Raise the fault of an earlier write, if there was one."""
        if self.fault is not None:
            self.fault.filename = self.fault.filename or str(self.path)
            raise self.fault

    def _size(self) -> int:
        ends = [offset + len(content) for offset, content in self._unwritten]
        return max(os.fstat(self._descriptor).st_size, *ends, 0)


@contextmanager
def create_hdf5(path: Path, user_block: int = 0) -> Iterator[tuple[Any, SafeFile]]:
    """Create an HDF5 file; yield it, and the file on disk, whose `check` raises the fault of an earlier write.

    Args:
        path: File to create.
        user_block: Bytes to leave at its beginning: a power of two from 512. Default: none.

    Raises:
        OSError: The file cannot be written.
    """
    import h5py

    disk = SafeFile(path)
    try:
        with h5py.File(disk, "w", userblock_size=user_block or None) as file:
            yield file, disk
    finally:
        disk.close()
    disk.check()


@contextmanager
def create_hashed(path: Path) -> Iterator[tuple[Any, SafeFile]]:
    """Create an HDF5 file as `create_hdf5` does, and write its hash in the end."""
    with create_hdf5(path, BLOCK) as created:
        yield created
    with path.open("r+b") as file:
        block = _block(file)
        file.seek(0)
        file.write(block)


def verify_hash(path: Path, required: bool = False) -> None:
    """Compare the content of an HDF5 file with its hash.

    Args:
        path: The file.
        required: Whether to reject files without a hash, as earlier versions wrote them. Default: False.

    Raises:
        DamagedFileError: The file was changed since it was written.
    """
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if block.startswith(HDF5) and not required:
            return
        if not block.startswith(TITLE):
            raise DamagedFileError("it has no hash: it is damaged, or an earlier version of gatemask wrote it")
        if block != _block(file):
            raise DamagedFileError("its content does not match its hash")


def _block(file: Any) -> bytes:
    """Return the user block of an open file."""
    file.seek(BLOCK)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (TITLE + digest.encode() + b"\n").ljust(BLOCK, b"\0")


def save_weights(model: Any, path: Path) -> None:
    """Save the weights of a Keras model, which writes the HDF5 file itself, after a test that there is enough space.

    Args:
        model: Keras model.
        path: File to write, *.weights.h5.

    Raises:
        StorageError: There is too little space.
    """
    size = sum(4 * math.prod(variable.shape) for variable in model.weights)  # float32 at most
    require_space(path, round(1.05 * size) + (1 << 20))
    model.save_weights(path)


def load_weights(model: Any, path: Path) -> None:
    """Load weights into a Keras model of the same structure; the file may come from elsewhere.

    Raises:
        GatemaskError: The file refers to anything outside of it.
        Exception: Whatever Keras and h5py raise for a damaged file or another structure.
    """
    require_self_contained(path)
    model.load_weights(path)


def require_self_contained(path: Path) -> None:
    """Verify that an HDF5 file holds all of its data, each object under its own name.

    HDF5 follows external links, external storage and virtual datasets to any file that this user may read, without a
    word. Soft links stay in the file, but no program that writes weights makes them.

    Args:
        path: The file.

    Raises:
        GatemaskError: It contains a link, an array that is stored elsewhere, or a virtual array.
        OSError: It is not an HDF5 file.
    """
    import h5py

    kinds = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
    links: list[tuple[bytes, int]] = []
    with h5py.File(path, "r") as file:
        file.id.links.visit(lambda name, link: links.append((name, link.type)), info=True)  # follows no link
        for name, kind in links:
            if kind != h5py.h5l.TYPE_HARD:
                raise _refusal(path, name, kinds.get(kind, f"a link of type {kind}"))
        for name, _ in links:
            item = h5py.h5o.open(file.id, name)
            if not isinstance(item, h5py.h5d.DatasetID):
                continue
            settings = item.get_create_plist()
            if settings.get_external_count():
                raise _refusal(path, name, f"an array that is stored in {_text(settings.get_external(0)[0])}")
            if settings.get_layout() == h5py.h5d.VIRTUAL:
                raise _refusal(path, name, "a virtual array")


def _refusal(path: Path, name: bytes, received: str) -> GatemaskError:
    return GatemaskError(
        "An HDF5 file refers to data outside of its own arrays.",
        where=f"{path}, {_text(name)}",
        received=received,
        expected="plain arrays, as Keras and gatemask save them",
        do="Do not use this file; save it again, or train again.",
    )


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
