"""Unpack zips from untrusted sources.

All names are checked before the first byte is written. Then plain files are written at new paths, never longer than
declared, with the right CRC. Zips inside the zip (such as train.zip with the images) follow the same rules, one level
deep.
"""

from __future__ import annotations

import re
import shutil
import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder
from gatemask.storage import BROKEN_ZIP

MAX_BYTES = 500_000_000_000  # an archive that declares more is a mistake or an attack
Members = list[tuple[zipfile.ZipInfo, PurePosixPath]]
TakenPaths = dict[str, bool]  # normalized path -> whether it is a folder


class DamagedFileError(GatemaskError):
    """A file whose bytes differ from what was published; fetching it again may help."""


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack an archive.

    Args:
        archive: The zip file.
        folder: Folder for its files; emptied first.

    Raises:
        DamagedFileError: The zip does not open, or a member has a wrong CRC or length.
        GatemaskError: A member is unsafe, or the disk is too small.
    """
    taken: TakenPaths = {}
    with open_zip(archive) as opened:
        members = safe_members(opened, archive.name)
        _reserve_paths(members, taken, archive.name)
        _check_disk_space(members, folder.parent, archive.name)
        fresh_folder(folder)
        _extract(opened, members, folder, archive.name)
    for inner in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file()):
        _unpack_inner(inner, folder, taken)


def open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except BROKEN_ZIP as error:
        raise DamagedFileError("A zip cannot be opened.", where=path, received=error) from None


def safe_members(archive: zipfile.ZipFile, name: str) -> Members:
    """Return each member with its path below the folder.

    Args:
        archive: The open zip.
        name: Name of the archive, for messages.

    Raises:
        GatemaskError: A member is unsafe.
    """
    members = []
    for info in archive.infolist():
        if reason := unsafe_because(info):
            raise _unsafe_zip(f"{name}: {info.orig_filename!r}", reason)
        path = PurePosixPath(info.filename)
        if path.parts:
            members.append((info, path))
    total = sum(info.file_size for info, _ in members)
    if total > MAX_BYTES:
        raise _unsafe_zip(name, f"{total / 1e9:,.0f} GB unpacked; the limit is {MAX_BYTES / 1e9:,.0f} GB")
    return members


def unsafe_because(info: zipfile.ZipInfo) -> str | None:
    """Return why a member must not be written, or None."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link" if kind == stat.S_IFLNK else "a device or another special file"
    if info.flag_bits & 1:
        return "encrypted with a password"
    for name in (info.orig_filename, info.filename):
        if name.startswith("/"):
            return "an absolute path"
        if re.match(r"[A-Za-z]:", name):
            return "a drive letter"
        if "\\" in name:
            return "a backslash"
        if ".." in name.split("/"):
            return "a path out of the folder"
        if any(ord(character) < 32 for character in name):
            return "a control character"
    return None


def _unpack_inner(inner: Path, folder: Path, taken: TakenPaths) -> None:
    """Unpack a zip from inside the zip, next to it or into a folder of its name, and remove it."""
    name = inner.relative_to(folder).as_posix()
    if not zipfile.is_zipfile(inner):
        return  # not a zip in spite of its name, such as files in __MACOSX; its CRC was right
    if not inner.stem.strip(". "):
        say(f"{name} has no name for a folder, and is not unpacked.")  # "...zip" would lead to the folder above
        return
    with open_zip(inner) as opened:
        if any(info.flag_bits & 1 for info in opened.infolist()):
            say(f"{name} is encrypted with a password, and is not unpacked.")
            return
        members = safe_members(opened, name)
        parent = PurePosixPath(name).parent
        if not all(path.parts[0] == inner.stem for _, path in members):
            parent /= inner.stem
        members = [(info, parent / path) for info, path in members]
        _reserve_paths(members, taken, name)
        _check_disk_space(members, folder, name)
        _extract(opened, members, folder, name)
    inner.unlink()


def _reserve_paths(members: Members, taken: TakenPaths, name: str) -> None:
    """Add all paths to `taken`, ignoring case as some disks do; reject a path that is taken already."""

    def key(path: PurePosixPath) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    for info, path in members:
        folders = [*path.parents[:-1], *([path] if info.is_dir() else [])]
        free = all(taken.setdefault(key(folder), True) for folder in folders)
        if not info.is_dir():
            free = free and key(path) not in taken
            taken[key(path)] = False
        if not free:
            raise _unsafe_zip(f"{name}: {info.orig_filename!r}", "the path of another member (case is ignored)")


def _check_disk_space(members: Members, folder: Path, name: str) -> None:
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(info.file_size for info, _ in members), shutil.disk_usage(folder).free
    if needed > free:
        raise GatemaskError(
            "Not enough disk space to unpack.",
            where=f"{name} into {folder}",
            received=f"{free / 1e6:,.0f} MB free",
            expected=f"{needed / 1e6:,.0f} MB",
            do="Free disk space, or name a folder on another disk with --data. The download is kept.",
        )


def _extract(archive: zipfile.ZipFile, members: Members, folder: Path, name: str) -> None:
    """Write the members; zipfile stops at the declared length and compares the CRC there."""
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
        except (*BROKEN_ZIP, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a fault of the disk: bz2 reports bad data as an OSError without a number
            raise DamagedFileError("A zip is damaged.", where=f"{name}: {info.filename!r}", received=error) from None


def _unsafe_zip(where: str, received: str) -> GatemaskError:
    return GatemaskError(
        "A zip is not unpacked because that could do harm.",
        where=where,
        received=received,
        expected="plain files and folders, each at its own path below the folder",
        do="See the competition's data page, and unpack the files by hand if you trust them.",
    )
