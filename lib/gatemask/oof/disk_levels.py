"""Counts of more images than fit in memory, in a file that is read one level at a time.

The file holds a run of whole numbers per level and class, one per image: 4 MB per million images. It has no name: it
vanishes with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from gatemask.errors import GatemaskError
from gatemask.storage import storage_errors

COPIED = 1 << 24  # bytes at a time


class DiskLevels:
    """Whole numbers (n, classes, levels) on disk, which behave like an array for all that rules need.

    `values[:, :, k]` reads one level. `values[rows]` and `values[:, a:b]` select images and classes without reading
    anything. Any other use reads the whole array.

    Args:
        shape: Images, classes, levels.
        dtype: Type of the numbers. Default: int32.

    >>> levels = DiskLevels((3, 1, 2))
    >>> levels.write(1, np.array([[[5, 6]], [[7, 8]]]))
    >>> levels[:, :, 1].ravel().tolist(), levels[np.array([2, 0])][:, 0, 0].tolist()
    ([0, 6, 8], [7, 0])
    """

    ndim = 3

    def __init__(self, shape: tuple[int, int, int], dtype: Any = np.int32) -> None:
        self.dtype = np.dtype(dtype)
        self._file_shape = shape
        self._classes = range(shape[1])
        self._rows: np.ndarray | None = None
        self._folder = Path(tempfile.gettempdir())
        with storage_errors(self._folder):
            self._descriptor, name = tempfile.mkstemp(prefix="gatemask-")
            Path(name).unlink()
            os.ftruncate(self._descriptor, int(np.prod(shape)) * self.dtype.itemsize)
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        self._owner = self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, classes, levels."""
        images = self._file_shape[0] if self._rows is None else len(self._rows)
        return images, len(self._classes), self._file_shape[2]

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 3 and key[0] == slice(None) and isinstance(key[2], int | np.integer):
            level = self._level(int(key[2]))
            return level if key[1] == slice(None) else level[:, key[1]]
        if isinstance(key, np.ndarray) and key.ndim == 1:
            rows = np.arange(self._file_shape[0]) if self._rows is None else self._rows
            return self._view(rows[key], self._classes)
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice):
            return self._view(self._rows, self._classes[key[1]])
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty(self.shape, self.dtype, order="F")
        for level in range(self.shape[2]):
            values[:, :, level] = self._level(level)
        return values if dtype is None else values.astype(dtype)

    def write(self, start: int, values: np.ndarray) -> None:
        """Write all levels of some images.

        Args:
            start: First image.
            values: Whole numbers (images, classes, levels).
        """
        for level in range(values.shape[2]):
            for index in range(values.shape[1]):
                self._write(self._place(level, index, start), np.ascontiguousarray(values[:, index, level], self.dtype))

    def write_level(self, level: int, values: np.ndarray) -> None:
        """Write one level of all images, whole numbers (n, classes)."""
        for index in range(values.shape[1]):
            self._write(self._place(level, index, 0), np.ascontiguousarray(values[:, index], self.dtype))

    def save(self, file: IO[bytes]) -> None:
        """Write the array as .npy, level by level."""
        order = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": True, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, order)
        for level in range(self.shape[2]):
            file.write(np.ascontiguousarray(self._level(level).T).tobytes())

    @classmethod
    def load(cls, file: IO[bytes], shape: tuple[int, int, int], dtype: np.dtype) -> Self:
        """Read what follows the header of an .npy in Fortran order, some MB at a time.

        Raises:
            ValueError: The file ends early.
        """
        levels = cls(shape, dtype)
        left, place = levels.size * levels.dtype.itemsize, 0
        while left:
            part = file.read(min(COPIED, left))
            if not part:
                raise ValueError(f"{left} bytes are missing")
            levels._write(place, np.frombuffer(part, np.uint8))
            place, left = place + len(part), left - len(part)
        return levels

    def _view(self, rows: np.ndarray | None, classes: range) -> DiskLevels:
        view = object.__new__(DiskLevels)
        view.dtype, view._file_shape, view._folder = self.dtype, self._file_shape, self._folder
        view._rows, view._classes = rows, classes
        view._descriptor, view._owner = self._descriptor, self._owner  # which keeps the file open
        return view

    def _level(self, level: int) -> np.ndarray:
        """Return one level in Fortran order, whole numbers (n, classes)."""
        parts = [self._read(self._place(level % self._file_shape[2], index, 0)) for index in self._classes]
        chosen = [part if self._rows is None else part[self._rows] for part in parts]
        return np.stack(chosen).T if len(chosen) > 1 else chosen[0][:, None]

    def _place(self, level: int, index: int, start: int) -> int:
        images, classes, _ = self._file_shape
        return ((level * classes + index) * images + start) * int(self.dtype.itemsize)

    def _read(self, place: int) -> np.ndarray:
        size = self._file_shape[0] * int(self.dtype.itemsize)
        parts: list[bytes] = []
        with storage_errors(self._folder):
            while size:
                part = os.pread(self._descriptor, size, place)
                if not part:
                    raise GatemaskError("A temporary file was cut short.", where=self._folder, do="Run it again.")
                parts.append(part)
                place, size = place + len(part), size - len(part)
        return np.frombuffer(b"".join(parts), self.dtype)

    def _write(self, place: int, values: np.ndarray) -> None:
        view, done = values.view(np.uint8).data, 0
        with storage_errors(self._folder):
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], place + done)


Counts = np.ndarray | DiskLevels  # whole numbers (n, classes, levels), in memory or on disk
