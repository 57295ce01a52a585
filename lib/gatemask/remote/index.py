"""What this machine knows to be equal here and in the remote: data/.remote/<hash>.sqlite.

A row holds size and time of the local file, and the tag of the object, as they were when one was copied to the other.
Lost, the index is made again by comparing contents.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

WAIT_S = 60.0  # for another process that writes


class Version(NamedTuple):
    """Size, in bytes, and time of change, in nanoseconds, of a local file."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Version:
        """Return the version of a file."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


class Row(NamedTuple):
    """A file that is equal here and in the remote.

    Args:
        version: Version of the local file.
        tag: Tag of the object.
    """

    version: Version
    tag: str


class Index:
    """The rows of a project and a remote.

    Args:
        root: Project folder.
        url: Address of the remote.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.path = root / "data" / ".remote" / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}.sqlite"

    def rows(self, folder: str) -> dict[str, Row]:
        """Return the rows of a file, or of all files below a folder, by path."""
        if not self.path.exists():
            return {}
        with closing(self._open()) as database:
            found = database.execute(
                "select key, size, mtime_ns, tag from files where key = ? or (key >= ? and key < ?)",
                (folder, f"{folder}/", f"{folder}0"),  # "0" follows "/"
            ).fetchall()
        return {key: Row(Version(size, mtime_ns), tag) for key, size, mtime_ns, tag in found}

    def write(self, rows: Mapping[str, Row], forget: Iterable[str] = ()) -> None:
        """Add rows, and remove others."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as database, database:
            database.executemany("delete from files where key = ?", [(key,) for key in forget])
            database.executemany(
                "insert or replace into files values (?, ?, ?, ?)",
                [(key, *row.version, row.tag) for key, row in rows.items()],
            )

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=WAIT_S)
        database.execute(
            "create table if not exists files (key text primary key, size integer, mtime_ns integer, tag text)"
        )
        return database
