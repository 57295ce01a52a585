"""Submissions that are zip archives of mask files: write, list and read them."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.storage import BROKEN_ZIP, storage_errors

LARGEST_FILE = 1 << 31  # bytes of one unpacked file: more is not a mask


class MaskFile(NamedTuple):
    """One file of an archive that is written.

    Args:
        name: Name of the file.
        size: Height and width, in pixels.
        masks: Value and mask, bool (height, width), of each class that is present.
    """

    name: str
    size: tuple[int, int]
    masks: Sequence[tuple[int, np.ndarray]]


def write_archive(path: Path, files: Iterable[MaskFile], tiff: bool = False, deepest: int = 255) -> Path:
    """Write an archive. The same masks give the same bytes.

    Args:
        path: Name of the archive.
        files: Its files, one at a time: memory holds only one.
        tiff: Whether the files are TIFF, not PNG. Default: False.
        deepest: Largest value of a pixel in any file; above 255 all files have 16 bits. Default: 255.
    """
    extension = ".tiff" if tiff else ".png"

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                pixels = np.zeros(file.size, np.uint8 if deepest < 256 else np.uint16)
                for value, mask in file.masks:
                    pixels[mask] = value
                _, data = cv2.imencode(extension, pixels)
                info = zipfile.ZipInfo(file.name, date_time=(1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED if tiff else zipfile.ZIP_STORED
                archive.writestr(info, data.tobytes())

    return write_with(path, write)


def file_names(path: Path) -> list[str]:
    """Return the names of the files in an archive, in its order.

    Raises:
        GatemaskError: The file is missing or not a zip archive, or a name occurs twice.
    """
    if not path.is_file():
        raise GatemaskError("The archive of masks is missing.", where=path.parent, expected=path.name)
    with _opened(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise GatemaskError("An archive has two files of one name.", where=path, received=repeated[0])
    return names


def read_archive(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the pixels of each file, integers (height, width).

    Raises:
        GatemaskError: The file is not a zip archive, or a file in it is not a gray image.
    """
    names = file_names(path)
    with _opened(path) as archive:
        for name in names:
            yield name, _read_mask(archive, name, path)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _faults_of(path), zipfile.ZipFile(path) as archive:
        yield archive


@contextmanager
def _faults_of(path: Path, name: str = "") -> Iterator[None]:
    """Raise faults of the disk as such, and all others as those of the archive."""
    try:
        with storage_errors(path):
            yield
    except (*BROKEN_ZIP, OSError) as error:
        raise GatemaskError(
            "The submission is not a zip archive that can be read.",
            where=path,
            received=f"{name}: {error}" if name else error,
        ) from None


def _read_mask(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    with _faults_of(path, name):
        if archive.getinfo(name).file_size > LARGEST_FILE:
            raise ValueError(f"{archive.getinfo(name).file_size} bytes")
        data = archive.read(name)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        received = "no image" if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise GatemaskError(
            "A file of the archive is not a mask.",
            where=f"{path}, {name}",
            received=received,
            expected="a gray PNG or TIFF of 8 or 16 bits",
        )
    return pixels


def masks_in(pixels: np.ndarray, values: Mapping[int, int], where: object) -> dict[int, np.ndarray]:
    """Return the mask of each class in one file.

    Args:
        pixels: Integers (height, width).
        values: Value of the pixels of each class, by class index.
        where: Archive and file, for messages.

    Returns:
        bool (height, width) by class index.

    Raises:
        GatemaskError: A pixel has a value that means no class.

    >>> masks_in(np.array([[0, 2]]), {0: 1, 1: 2}, "")[1].tolist()
    [[False, True]]
    """
    if unknown := sorted(set(np.unique(pixels).tolist()) - {0, *values.values()}):
        raise GatemaskError(
            "A mask has a value that means no class.",
            where=where,
            received=", ".join(map(str, unknown[:5])),
            expected=", ".join(map(str, [0, *values.values()])),
            do="Compare archive.values in competition.yaml with the competition's page.",
        )
    return {index: pixels == value for index, value in values.items()}
