"""Find the files that options of `gatemask new` name, and write them as globs below the raw folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from glob import escape, has_magic
from pathlib import Path

from gatemask.config.path_patterns import as_glob, part_names
from gatemask.data.dicom import is_dicom
from gatemask.data.ids import EXTENSIONS, without_extension
from gatemask.data.listing import list_images
from gatemask.errors import GatemaskError


@dataclass(frozen=True)
class FoundFiles:
    """Files that an option names.

    Args:
        root: The folder, or the part of a glob before its first wildcard.
        files: Absolute paths, sorted.
        pattern: The glob below `root` as the user wrote it, with * in place of named parts; "" for a folder.
    """

    root: Path
    files: list[Path]
    pattern: str = ""


def find_images(option: str, argument: str, but: Collection[Path] = ()) -> FoundFiles:
    """Return the image files of a folder, with all folders below, or of a glob.

    Args:
        option: Name of the option, for messages.
        argument: Its value.
        but: Files and folders to leave out.

    Raises:
        GatemaskError: The folder does not exist, or there is no image.
    """
    root, pattern = _split(argument)
    if not root.exists():
        raise GatemaskError(f"{option} names a folder that does not exist.", where=root, received=argument)
    if root.is_file():
        found = [root]
        root = root.parent
    else:
        found = [path for path in list_images(root, pattern or "**/*") if pattern or _is_image(path)]
    left_out = set(but)
    files = [path for path in found if not left_out & {path, *path.parents}]
    if not files:
        raise GatemaskError(
            f"{option} names no image.",
            where=root,
            received=argument,
            expected="a folder with images, or a glob such as 'train/*.png' in quotes",
        )
    return FoundFiles(root, files, as_glob(pattern))


def absolute(path: str | Path) -> Path:
    """Return an absolute path without '..', through links."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - resolve would follow links


def _split(argument: str) -> tuple[Path, str]:
    """Return the folder before the first wildcard, and the glob below it; "" for a folder."""
    parts = Path(argument).expanduser().parts
    first = next((place for place, part in enumerate(parts) if has_magic(part) or part_names(part)), len(parts))
    return absolute(Path(*parts[:first])), "/".join(parts[first:])


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in EXTENSIONS:
        return True
    if re.fullmatch(r"|\.[0-9]+", path.suffix):  # DICOM files without a suffix may be named by their UID
        with path.open("rb") as file:
            return is_dicom(file.read(256), path)
    return False


def common_parent(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that contains all files and folders."""
    folders = [str(path if path.is_dir() else path.parent) for path in paths]
    return Path(os.path.commonpath(folders))


def names_below(raw: Path, files: Sequence[Path]) -> list[str]:
    """Return paths below the raw folder, with forward slashes."""
    return [path.relative_to(raw).as_posix() for path in files]


def plain_glob(names: Sequence[str]) -> str:
    """Return a glob for files, as narrow as their names allow.

    Args:
        names: Paths below the raw folder.

    >>> plain_glob(["train/a.png", "train/b.png"])
    'train/*.png'
    >>> plain_glob(["train/1/a.png", "train/2/b.jpg"])
    'train/*/*.[jp][np]g'
    >>> plain_glob(["a.jpg", "b.jpeg"])
    '*.jp*g'
    """
    folders = [name.split("/")[:-1] for name in names]
    suffix = _suffix_glob({_suffix(name) for name in names})
    if len({len(parts) for parts in folders}) > 1:
        shared = os.path.commonpath(["/".join(["", *parts]) for parts in folders]).strip("/")
        return f"{shared}/**/*{suffix}".lstrip("/")
    levels = [set(level) for level in zip(*folders, strict=True)]
    return "/".join([*(escape(next(iter(level))) if len(level) == 1 else "*" for level in levels), f"*{suffix}"])


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[len(without_extension(last)) :]


def suffix_of(names: Sequence[str]) -> str:
    """Return the glob of the suffixes that files have, such as ".png"."""
    return _suffix_glob({_suffix(name) for name in names})


def _suffix_glob(suffixes: set[str]) -> str:
    if len(suffixes) == 1:
        return next(iter(suffixes))
    if len({len(suffix) for suffix in suffixes}) > 1:
        first = shared_beginning(suffixes)
        return f"{first}*{shared_beginning(suffix[len(first) :][::-1] for suffix in suffixes)[::-1]}"
    letters = [sorted(set(letter)) for letter in zip(*sorted(suffixes), strict=True)]
    return "".join(one[0] if len(one) == 1 else f"[{''.join(one)}]" for one in letters)


def shared_beginning(texts: Iterable[str]) -> str:
    """Return the longest text with which all texts begin."""
    listed = list(texts)
    first, last = min(listed), max(listed)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def matched_besides(raw: Path, pattern: str, files: Sequence[Path]) -> list[str]:
    """Return the files that a glob matches beyond those it is meant for, below the raw folder."""
    wanted = set(files)
    return [path.relative_to(raw).as_posix() for path in list_images(raw, as_glob(pattern)) if path not in wanted]


def count_suffixes(names: Sequence[str]) -> str:
    """Return the number of files of each kind, for people.

    >>> count_suffixes(["a.png", "b.png", "c.jpg"])
    '2 .png, 1 .jpg'
    """
    counted = Counter(_suffix(name) or "no suffix" for name in names)
    return ", ".join(f"{count} {suffix}" for suffix, count in counted.most_common())
