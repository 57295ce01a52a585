"""Unpack archives as a stream of files: zip (wheels, npz), tar, gzip, bzip2 and xz, in any nesting."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

IN_MEMORY = 1 << 25  # bytes of an unpacked file; larger ones go to a temporary file
DEEPEST = 8  # archives in archives
LARGEST = 1 << 36  # bytes that may be unpacked from one file
TAR_MAGIC = slice(257, 262)
STREAMS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
OTHERS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x28\xb5\x2f\xfd": "zstd"}
FAULTS = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError),
    *(OSError, NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class UnreadableArchiveError(Exception):
    """An archive whose content cannot be searched."""


class Unpacker:
    """Unpacking of one file, with a limit on what comes out of it."""

    def __init__(self) -> None:
        self._left = LARGEST

    def files(self, name: str, file: IO[bytes], depth: int = 0) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield everything that is packed in the file, and then the file; each is open at its beginning.

        Args:
            name: Name of the file. That of a packed one is `archive: name`.
            file: Open file in which positions can be changed.
            depth: Number of archives around it.

        Raises:
            UnreadableArchiveError: It is an archive that cannot be unpacked.
        """
        try:
            for inner_name, member in _members(file):
                if depth == DEEPEST:
                    raise UnreadableArchiveError(f"{name}: more than {DEEPEST} archives in each other")
                with self._copy(member) as copy:
                    yield from self.files(f"{name}: {inner_name}", copy, depth + 1)
        except FAULTS as error:
            raise UnreadableArchiveError(f"{name}: {error or type(error).__name__}") from None
        file.seek(0)
        yield name, file

    @contextmanager
    def _copy(self, member: IO[bytes]) -> Iterator[IO[bytes]]:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
            while part := member.read(1 << 20):
                self._left -= len(part)
                if self._left < 0:
                    raise UnreadableArchiveError(f"more than {LARGEST / 1e9:.0f} GB when unpacked")
                copy.write(part)
            yield copy


def _members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the names and open files of an archive's members; none if it is not an archive."""
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    for magic, kind in OTHERS.items():
        if head.startswith(magic):
            raise UnreadableArchiveError(f"archives of the kind {kind} cannot be unpacked here")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as member:
                        yield info.filename, member
        return
    file.seek(0)
    if head[TAR_MAGIC] == b"ustar":
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.isreg() and (packed := tar.extractfile(entry)) is not None:
                    yield entry.name, packed
        return
    for magic, opened in STREAMS.items():
        if head.startswith(magic):
            with opened(file) as stream:
                yield "content", stream
