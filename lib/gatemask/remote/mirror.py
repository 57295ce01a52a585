"""Copies files between a project folder, the cache, and a remote with the same paths.

Only what differs is copied. A file that changed on both sides since they were equal is taken from the remote, so all
machines agree. Files outside data/, runs/ and dist/ (folds, which are under version control) are fetched only where
they are missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gatemask.console import say
from gatemask.remote.index import Index, Row, Version
from gatemask.remote.objects import AT_ONCE, Object, Objects, is_hidden

GENERATED = ("data", "runs", "dist")
STAMP = ".json"
WORTH_SAYING = 1 << 20  # bytes


class Mirror:
    """A project folder and its remote.

    Args:
        root: Project folder.
        url: Address of the remote.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.objects = Objects(url)
        self.index = Index(root, url)

    def key(self, path: Path) -> str:
        """Return the path of a file in the remote."""
        return Path(os.path.normpath(path)).relative_to(self.root).as_posix()

    def fetch(self, folders: Iterable[str]) -> list[str]:
        """Copy files from the remote that are missing here or differ, stamps after all others.

        Args:
            folders: Folders or files: `a/b/` with all that is below, `a/b/*` without subfolders, `a/b/*/*` with one
                level of them, `a/b.csv` for a file.

        Returns:
            The paths of the copied files, relative to the project.
        """
        listed: dict[str, Object] = {}
        for name in folders:
            folder, depth = parse_folder(name)
            if depth == 0:
                parent = folder.rpartition("/")[0]
                found = {key: each for key, each in self.objects.list(parent, depth=1).items() if key == folder}
            else:
                found = self.objects.list(folder, depth)
            listed |= found
            rows = self.index.rows(folder)
            gone = [key for key in rows if key not in found and _is_within(key, folder, depth)]
            if gone:  # deleted there: what is still here counts as new
                self.index.write({}, gone)
        wanted = self._differing(listed)
        wanted.sort(key=lambda key: (key.endswith(STAMP), key))
        size = sum(listed[key].size for key in wanted)
        if size >= WORTH_SAYING:
            say(f"{len(wanted)} files ({size / 1e6:.1f} MB) from {self.objects.url}")
        for keys in _batches(wanted):
            self.objects.download({key: self.root / key for key in keys})
            for key in keys:
                self._take_time(key, listed[key])
            self._record({key: listed[key] for key in keys})
        return wanted

    def push(self, files: Sequence[Path], last: Sequence[Path] = (), before_last: Callable[[], object] = int) -> int:
        """Copy files to the remote that it lacks or that differ there; the last ones after all others have arrived.

        Args:
            files: Local files, in this order.
            last: Local files to copy at the end, one after the other, such as a stamp.
            before_last: Called before them.

        Returns:
            The number of copied files.
        """
        pending = self.pending([*files, *last])
        ending = {self.key(path) for path in last}
        versions = {key: Version.of(self.root / key) for key in pending}
        size = sum(version.size for version in versions.values())
        if size >= WORTH_SAYING:
            say(f"{len(pending)} files ({size / 1e6:.1f} MB) to {self.objects.url}")
        # Groups one after the other: what a file needs has arrived before it.
        for keys in _batches([key for key in pending if key not in ending]):
            self.objects.upload({key: self.root / key for key in keys})
        for key in pending:
            if key in ending:
                before_last()
                self.objects.upload({key: self.root / key})
        self._record_uploaded(versions)
        return len(pending)

    def compare(self, files: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
        """Return the files that the remote lacks or has in the version they had here, those it has, and the others."""
        changed = {self.key(path): path for path in files}
        listed: dict[str, Object] = {}
        for folder in sorted({"/".join(key.split("/")[:2]) for key in changed}):
            listed |= self.objects.list(folder) if "." not in folder else self.objects.list("folds", 1)
        lacks, equal, differ = [], {}, []
        rows: dict[str, Row] = {}
        for folder in {key.rpartition("/")[0] for key in changed}:
            rows |= self.index.rows(folder)
        for key, path in changed.items():
            known, row = listed.get(key), rows.get(key)
            if known is None:
                lacks.append(path)
            elif row is not None and row.tag == known.tag:
                if row.version == Version.of(path):
                    equal[key] = known
                else:
                    lacks.append(path)
            elif self.objects.holds(key, known, path):
                equal[key] = known
            else:
                differ.append(path)
        self._record(equal)
        self.index.write({}, [self.key(path) for path in lacks])
        return lacks, [self.root / key for key in equal], differ

    def delete(self, folder: str) -> None:
        """Delete what lies below a folder of the remote, was equal here before, and does not exist here any more."""
        gone = [key for key in self.index.rows(folder) if not (self.root / key).exists()]
        if gone:
            self.objects.delete(gone)
            self.index.write({}, gone)

    def pending(self, files: Iterable[Path]) -> list[str]:
        """Return the paths of the files that the remote lacks, or that have changed here, in their order."""
        keys = {self.key(path): path for path in files if path.is_file()}
        rows: dict[str, Row] = {}
        for folder in {key.rpartition("/")[0] for key in keys}:
            rows |= self.index.rows(folder)
        return [key for key, path in keys.items() if key not in rows or rows[key].version != Version.of(path)]

    def _differing(self, listed: Mapping[str, Object]) -> list[str]:
        """Return the objects to be copied here; those found to be equal enter the index."""
        rows: dict[str, Row] = {}
        for folder in {key.rpartition("/")[0] for key in listed}:
            rows |= self.index.rows(folder)
        wanted, equal = [], {}
        for key, known in listed.items():
            path, row = self.root / key, rows.get(key)
            if not path.is_file():
                wanted.append(key)
            elif not key.startswith(tuple(f"{name}/" for name in GENERATED)):
                continue  # folds: the checkout decides
            elif row is not None and row.tag == known.tag:
                continue  # equal, or changed here since
            elif row is None and self.objects.holds(key, known, path):
                equal[key] = known
            else:
                wanted.append(key)
        self._record(equal)
        return wanted

    def _record_uploaded(self, versions: Mapping[str, Version]) -> None:
        """Enter uploaded files into the index, with the tags that the remote gave them.

        A process that is killed before compares contents instead of uploading again.
        """
        folders = {key.rpartition("/")[0] for key in versions}
        listed: dict[str, Object] = {}
        for folder in folders:
            if not any(folder.startswith(f"{other}/") for other in folders):
                is_nested = any(other.startswith(f"{folder}/") for other in folders)
                listed |= self.objects.list(folder, None if is_nested else 1)
        rows = {
            key: Row(self._take_time(key, listed[key]) or version, listed[key].tag)
            for key, version in versions.items()
            if key in listed and listed[key].size == version.size
        }
        if rows:
            self.index.write(rows)

    def _take_time(self, key: str, known: Object) -> Version | None:
        """Give a raw file the time of its object: the manifest lists times, which must be those of all machines."""
        parts = key.split("/")
        if parts[0] != "data" or len(parts) < 4 or parts[2].startswith("records-"):  # data/<comp>/<folder>/<file>
            return None
        path = self.root / key
        os.utime(path, ns=(known.modified_ns, known.modified_ns))
        return Version.of(path)

    def _record(self, equal: Mapping[str, Object]) -> None:
        rows = {key: Row(Version.of(self.root / key), known.tag) for key, known in equal.items()}
        if rows:
            self.index.write(rows)


def parse_folder(name: str) -> tuple[str, int | None]:
    """Return the folder of a name that `fetch` takes, and the levels of files below it: None for all, 0 for a file.

    >>> parse_folder("runs/a/"), parse_folder("runs/a/*"), parse_folder("runs/a/*/*"), parse_folder("folds/a.csv")
    (('runs/a', None), ('runs/a', 1), ('runs/a', 2), ('folds/a.csv', 0))
    """
    if name.endswith("/"):
        return name.rstrip("/"), None
    folder = name.rstrip("/*")
    return folder, name.count("*")


def files_below(folder: Path, deep: bool = True) -> list[Path]:
    """Return the files of a folder, with subfolders or without; hidden ones are left out."""
    paths = folder.rglob("*") if deep else folder.glob("*")
    return sorted(p for p in paths if p.is_file() and not is_hidden(p.relative_to(folder).parts))


def _is_within(key: str, folder: str, depth: int | None) -> bool:
    return depth is None or key.count("/") - folder.count("/") <= depth


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]
