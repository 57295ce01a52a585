"""Find the files of a glob, through links to folders too, and alike on every Python version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from gatemask.config.path_patterns import as_glob
from gatemask.errors import GatemaskError
from gatemask.files import require_utf8

JUNK = {"__MACOSX", "$RECYCLE.BIN", "@eaDir", "lost+found"}  # folders of operating systems, which hold no images


def list_images(root: Path, pattern: str) -> Iterator[Path]:
    """Return the files that match a glob, sorted, without hidden files and folders (`._name`, `.ipynb_checkpoints`).

    Links to files and folders are followed, below `**` too; a link to a folder that contains it is not entered again.
    A hidden file or folder is listed only if the pattern gives its full name.

    Args:
        root: Folder to search.
        pattern: Glob below it; named parts such as {case} match like *.

    Raises:
        GatemaskError: The pattern is absolute, a link that matches it leads nowhere, or a name is not UTF-8.
    """
    if Path(pattern).is_absolute():
        raise GatemaskError("A glob of images is absolute.", received=pattern, expected="a path below the raw folder")
    parts = [part for part in as_glob(pattern).split("/") if part not in ("", ".")]
    if parts and parts[-1] == "**":  # all files below, as newer versions of Python understand it
        parts.append("*")
    found = sorted(set(_matches(root, parts, ())))
    require_utf8(path.relative_to(root) for path in found)
    return (path for path in found if not path.name.startswith("._") and _is_file(path))


def _is_file(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise GatemaskError(
            "A link to a file leads nowhere.",
            where=path,
            received=os.readlink(path),  # noqa: PTH115 - Path.readlink has the same result
            expected="a file",
            do="Restore the file, or delete the link.",
        )
    return path.is_file()


def _matches(folder: Path, parts: Sequence[str], entered: tuple[str, ...]) -> Iterator[Path]:
    """Yield what matches the parts of a glob below a folder; `entered` are the real paths of the folders above."""
    if not parts:
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        real = os.path.realpath(folder)
        if real not in entered:
            yield from _matches(folder, rest, entered)
            for name in _names(folder):
                if os.path.isdir(folder / name):  # noqa: PTH112 - Path.is_dir raises on a link to itself
                    yield from _matches(folder / name, parts, (*entered, real))
        return
    names = [part] if not has_magic(part) else [name for name in _names(folder) if fnmatchcase(name, part)]
    for name in names:
        path = folder / name
        if rest:
            yield from _matches(path, rest, entered)
        elif os.path.lexists(path):
            yield path


def _names(folder: Path) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
    return [name for name in names if not name.startswith(".") and name not in JUNK]
