"""Zips that came from elsewhere, unpacked without trusting them.

Every name is judged before the first byte is written; what is then written are plain files at new paths, never
longer than declared, with the right CRC. Zips inside the zip (train.zip with the images) follow by the same rules,
one level deep.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder

LIMIT = 500_000_000_000  # bytes; what declares more is a mistake or an attack
# What zipfile raises on damaged, locked or exotic archives, next to BadZipFile.
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error)
Members = list[tuple[zipfile.ZipInfo, PurePosixPath]]


class DamagedError(GatemaskError):
    """A file whose bytes are not what was published: fetching it once more may help."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`, which is emptied first.

    Raises:
        DamagedError: the zip does not open, or a member's CRC or length is wrong.
        GatemaskError: a member is refused, or the disk is too small.
    """
    taken: dict[str, bool] = {}
    with open_zip(archive) as opened:
        members = plan(opened, archive.name)
        _reserve(members, taken, archive.name)
        _check_room(members, folder.parent, archive.name)
        fresh_folder(folder)
        _extract(opened, members, folder, archive.name)
    for inner in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file()):
        _unpack_inner(inner, folder, taken)


def open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise DamagedError("A zip cannot be opened.", where=path, received=error) from None


def plan(archive: zipfile.ZipFile, name: str) -> Members:
    """Each member with the path it may have below the folder; refuses the archive at the first unsafe member."""
    members = []
    for info in archive.infolist():
        if reason := unsafe(info):
            raise _refusal(f"{name}: {info.orig_filename!r}", reason)
        path = PurePosixPath(info.filename)
        if path.parts:
            members.append((info, path))
    total = sum(info.file_size for info, _ in members)
    if total > LIMIT:
        raise _refusal(name, f"{total / 1e9:,.0f} GB unpacked; the limit is {LIMIT / 1e9:,.0f} GB")
    return members


def unsafe(info: zipfile.ZipInfo) -> str | None:
    """Why a member is not to be written, or None."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link" if kind == stat.S_IFLNK else "a device or another special file"
    if info.flag_bits & 1:
        return "locked with a password"
    for name in (info.orig_filename, info.filename):
        if name.startswith("/"):
            return "an absolute path"
        if re.match(r"[A-Za-z]:", name):
            return "a drive letter"
        if "\\" in name:
            return "a backslash"
        if ".." in name.split("/"):
            return "a path that leads out of the folder"
        if any(ord(character) < 32 for character in name):
            return "a control character"
    return None


def _unpack_inner(inner: Path, folder: Path, taken: dict[str, bool]) -> None:
    """Unpack a zip that lay in the zip, beside it or into a folder of its name, and remove it."""
    name = inner.relative_to(folder).as_posix()
    if not zipfile.is_zipfile(inner):
        return  # only called .zip, such as what macOS leaves in __MACOSX; its CRC was right
    if not inner.stem.strip(". "):
        say(f"{name} has no name to unpack it under, and stays as it is.")  # "...zip" would lead to the folder above
        return
    with open_zip(inner) as opened:
        if any(info.flag_bits & 1 for info in opened.infolist()):
            say(f"{name} is locked with a password and stays as it is.")
            return
        members = plan(opened, name)
        below = PurePosixPath(name).parent
        if not all(path.parts[0] == inner.stem for _, path in members):
            below /= inner.stem
        members = [(info, below / path) for info, path in members]
        _reserve(members, taken, name)
        _check_room(members, folder, name)
        _extract(opened, members, folder, name)
    inner.unlink()


def _reserve(members: Members, taken: dict[str, bool], name: str) -> None:
    """Note every path in `taken` (True: a folder), as a disk that ignores case sees it; refuse a second owner."""

    def key(path: PurePosixPath) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    for info, path in members:
        folders = [*path.parents[:-1], *([path] if info.is_dir() else [])]
        free = all(taken.setdefault(key(folder), True) for folder in folders)
        if not info.is_dir():
            free = free and key(path) not in taken
            taken[key(path)] = False
        if not free:
            raise _refusal(
                f"{name}: {info.orig_filename!r}",
                "a path that another member takes (upper and lower case count as one)",
            )


def _check_room(members: Members, folder: Path, name: str) -> None:
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(info.file_size for info, _ in members), shutil.disk_usage(folder).free
    if needed > free:
        raise GatemaskError(
            "There is not enough room on the disk to unpack.",
            where=f"{name} into {folder}",
            received=f"{free / 1e6:,.0f} MB free",
            expected=f"{needed / 1e6:,.0f} MB",
            do="Make room, or name a folder on another disk with --data. What was downloaded is kept.",
        )


def _extract(archive: zipfile.ZipFile, members: Members, folder: Path, name: str) -> None:
    """Write the members. zipfile reads no further than the declared length, and compares the CRC at its end."""
    for info, path in progress(members, f"unpacking {name}"):
        target = folder / path
        if info.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(info) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if target.stat().st_size != info.file_size:
                raise zipfile.BadZipFile(f"shorter than the declared {info.file_size} bytes")
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the archive: bz2 reports bad data as an OSError without a number
            raise DamagedError("A zip is damaged.", where=f"{name}: {info.filename!r}", received=error) from None


def _refusal(where: str, received: str) -> GatemaskError:
    return GatemaskError(
        "A zip is refused, since unpacking it could do harm.",
        where=where,
        received=received,
        expected="plain files and folders, each at a path of its own below the folder",
        do="Look at the competition's data page, and unpack the files by hand if you trust them.",
    )
