"""Write HDF5 files on disks that may be full.

The HDF5 library does not survive a failed write: it keeps the file open, fails again whenever it tries to close it, and
may crash the process at exit. Here, Python writes the file. After a failed write, HDF5 is told that all is well, what
it writes goes to memory, and the fault is raised when the file is closed, or at the next `check`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatemask.storage import require_space


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
def create_hdf5(path: Path) -> Iterator[tuple[Any, SafeFile]]:
    """Create an HDF5 file; yield it, and the file on disk, whose `check` raises the fault of an earlier write.

    Raises:
        OSError: The file cannot be written.
    """
    import h5py

    disk = SafeFile(path)
    try:
        with h5py.File(disk, "w") as file:
            yield file, disk
    finally:
        disk.close()
    disk.check()


def save_weights(model: Any, path: Path) -> None:
    """Save the weights of a Keras model, which writes the HDF5 file itself, after a test that there is enough space.

    Args:
        model: Keras model.
        path: File to write, *.weights.h5.

    Raises:
        StorageError: There is too little space.
    """
    size = sum(variable.value.nbytes for variable in model.weights)
    require_space(path, round(1.05 * size) + (1 << 20))
    model.save_weights(path)
