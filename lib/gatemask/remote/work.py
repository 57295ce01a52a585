"""A stage's work with a remote: its lease is held, its files are fetched before and uploaded after, the stamp last.

Without a remote, nothing happens and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import read_json
from gatemask.remote.address import remote_url

if TYPE_CHECKING:
    from gatemask.remote.lease import Lease
    from gatemask.remote.mirror import Mirror

_at_work: dict[Path, Work] = {}  # stages of this process, by their stamps


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror of the project that a path belongs to; None without a remote, or outside of a project."""
    if (url := remote_url()) is None:
        return None
    path = path.absolute()
    root = next((folder for folder in path.parents if (folder / "experiments").is_dir()), None)
    return None if root is None else _mirror(root, url)


@cache
def _mirror(root: Path, url: str) -> Mirror:
    from gatemask.remote.mirror import Mirror

    return Mirror(root, url)


def fetch(root: Path, folders: Iterable[str]) -> list[str]:
    """Copy what a command reads from the remote, as `Mirror.fetch` does; nothing without a remote."""
    mirror = mirror_of(root / "experiments")
    return [] if mirror is None else mirror.fetch(folders)


def upload_file(path: Path) -> None:
    """Copy one file to the remote, if there is one and the file differs."""
    if (mirror := mirror_of(path)) is not None:
        mirror.push([], [path])


def is_uploaded(stamp: Path, whole: bool) -> bool:
    """Return whether the remote has all files of a finished stage, as far as this machine knows.

    Args:
        stamp: Its stamp.
        whole: Whether all that lies below the stamp's folder belongs to it.
    """
    mirror = mirror_of(stamp)
    return mirror is None or not mirror.pending(stage_files(stamp, whole))


def upload_now(stamp: Path) -> None:
    """Copy the files of an unfinished stage to the remote, such as the state of a training.

    A remote that cannot be reached is reported, and the stage continues: its next upload includes these files.

    Args:
        stamp: Stamp of a stage that this process works on.

    Raises:
        LostLeaseError: Another machine took over the stage.
    """
    if (work := _at_work.get(stamp)) is not None:
        from gatemask.remote.objects import RemoteError

        try:
            work.push()
        except RemoteError as error:
            say(f"The last state is on this machine only: {error.short()}")


@contextmanager
def work_on(stamp: Path, whole: bool, busy: str) -> Iterator[None]:
    """Hold the lease of a stage while the block runs. Its files are fetched first, and uploaded if the block succeeds.

    Args:
        stamp: Stamp of the stage.
        whole: Whether all that lies below the stamp's folder belongs to the stage.
        busy: Error message if another machine works on it.

    Raises:
        GatemaskError: Another machine works on it, or the remote cannot be reached.
    """
    mirror = mirror_of(stamp)
    if mirror is None or not stamp.absolute().is_relative_to(mirror.root):
        yield
        return
    from gatemask.remote.lease import Lease

    with Lease(mirror.objects, mirror.key(stamp), busy) as lease:
        work = _at_work[stamp] = Work(mirror, lease, stamp, whole)
        try:
            work.fetch()
            yield
            work.push()
        finally:
            del _at_work[stamp]


class Work:
    """A stage whose lease this process holds.

    Args:
        mirror: Project and remote.
        lease: Its lease.
        stamp: Its stamp.
        whole: Whether all that lies below the stamp's folder belongs to it.
    """

    def __init__(self, mirror: Mirror, lease: Lease, stamp: Path, whole: bool) -> None:
        self._mirror, self._lease, self._stamp, self._whole = mirror, lease, stamp, whole
        self._folder = mirror.key(stamp.parent)

    def fetch(self) -> None:
        """Copy the stage's files that are missing here or differ."""
        self._mirror.fetch([f"{self._folder}/" if self._whole else f"{self._folder}/*"])
        others = [path for path in _listed_outputs(self._stamp) if path.parent != self._stamp.parent]
        folders = {self._mirror.key(path.parent) for path in others}
        if not self._whole and folders:
            self._mirror.fetch([f"{folder}/*" for folder in sorted(folders)])

    def push(self) -> None:
        """Copy the stage's files to the remote, the stamp last; delete there what the stage has deleted."""
        files = stage_files(self._stamp, self._whole)
        self._lease.check()
        self._mirror.push(files[:-1], files[-1:], self._lease.check)
        if self._whole:
            self._mirror.delete(self._folder)


def stage_files(stamp: Path, whole: bool) -> list[Path]:
    """Return the files of a stage in the order of their upload: states after weights, stamps last, its own at the end.

    Args:
        stamp: Its stamp.
        whole: Whether all that lies below the stamp's folder belongs to it.
    """
    from gatemask.remote.mirror import STAMP, files_below

    files = {*files_below(stamp.parent, deep=whole), *_listed_outputs(stamp)} - {stamp}
    # A state names the weights of its best epochs, so it follows them.
    return [*sorted(files, key=lambda path: (path.suffix == STAMP, path.name.startswith("at-"), path)), stamp]


def _listed_outputs(stamp: Path) -> list[Path]:
    """Return the files that a stamp lists; none if it does not exist or cannot be read."""
    try:
        outputs = read_json(stamp).get("outputs", {}) if stamp.is_file() else {}
        return [stamp.parent / name for name in outputs]
    except (GatemaskError, AttributeError):
        return []
