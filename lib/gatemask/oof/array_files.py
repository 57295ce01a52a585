"""Read and write .npz files of arrays, of which some may be larger than memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.errors import GatemaskError
from gatemask.oof.disk_levels import Counts, DiskLevels
from gatemask.storage import storage_error

LARGE = 1 << 28  # bytes from which an array of counts stays on disk


def write_arrays(path: Path, arrays: Mapping[str, Counts]) -> None:
    """Write arrays as NumPy's `savez_compressed` does; those on disk are copied level by level."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(values, DiskLevels):
                    values.save(file)
                else:
                    np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read the arrays of an .npz. Large arrays of counts are copied to a temporary file.

    Raises:
        GatemaskError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _large_array(path, name) or file[name] for name in file.files}
    except Exception as error:  # zipfile and NumPy raise almost anything on a damaged file
        if (fault := storage_error(error, path)) is not None:
            raise fault from None
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from None


def _large_array(path: Path, name: str) -> DiskLevels | None:
    """Return an array that is too large for memory; None for any other."""
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(f"{name}.npy").file_size < LARGE:
            return None
        with archive.open(f"{name}.npy") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            return DiskLevels.load(file, shape, dtype) if fortran_order and len(shape) == 3 else None


def select_arrays(arrays: Mapping[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    """Return the arrays of some names; `path` is their file, for messages.

    Raises:
        GatemaskError: One is missing.
    """
    if missing := [name for name in names if name not in arrays]:
        raise _damaged(path, f"no array '{missing[0]}'")
    return {name: arrays[name] for name in names}


def _damaged(path: Path, received: str) -> GatemaskError:
    return GatemaskError(
        "A file of counted pixels cannot be read.",
        where=path,
        received=received,
        do=f"Delete {path}, and run the command that made it again.",
    )
