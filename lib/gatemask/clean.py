"""`make clean`: delete what can be made again in minutes, and list the rest, which CONFIRM=yes deletes too.

It runs before anything is installed, so it uses the standard library alone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MINUTES_S = 600.0  # what took longer than this is not deleted without being asked
MADE_FROM_RUNS = {
    *("tuned", "ensemble", "rehearsal", "rehearsal-train", "report", "leaderboard", "finalists", "summary.json")
}
RECORDS_OF_KAGGLE = {"kaggle", "submissions", "notified", "wandb-synced.json", ".kaggle"}


class Item(NamedTuple):
    """A file or folder below data/, runs/, dist/ or folds/.

    Args:
        path: Its path.
        reason: Why it is not deleted without being asked; "" if it can be made again in minutes.
    """

    path: Path
    reason: str


def list_items(root: Path) -> list[Item]:
    """Return everything that commands have written to a project, with what keeps it."""
    items: list[Item] = []
    for comp in _children(root / "data"):
        items += _data_items(comp)
    for label in _children(root / "runs"):
        items += _run_items(label)
    for label in _children(root / "dist"):
        trained = (root / "runs" / label.name).is_dir() or label.name.lstrip(".").startswith("device-kit-")
        items.append(Item(label, "" if trained else "its trained runs are gone"))
    folds = {*(root / "folds").glob("phantom*.csv"), *(root / "folds").glob("*-quick.csv")}
    site = [path.parent for path in root.glob("site/index.html") if (root / "mkdocs.yml").exists()]  # of make docs
    return [*items, *(Item(path, "") for path in [*sorted(folds), *site])]


def clean(root: Path, everything: bool) -> int:
    """Delete what can be made again in minutes, or everything; print what is deleted and what is kept.

    Args:
        root: Folder of the project.
        everything: Whether to delete what would be kept, too.

    Returns:
        Exit code.
    """
    if busy := _process_at_work(root):
        print(f"error: A command is running.\n  received: {busy}\n  do:       Wait until it ends.", file=sys.stderr)
        return 1
    items = list_items(root)
    deleted = [item for item in items if everything or not item.reason]
    kept = [item for item in items if item not in deleted]
    _print("deleted", root, deleted)
    _print("kept", root, kept)
    if kept:
        print("make clean CONFIRM=yes deletes these, too.")
    failed = 0
    for item in deleted:
        failed |= not _delete(item.path)
    for folder in ("data", "runs", "dist"):
        _remove_empty(root / folder)
    return int(failed)


def _data_items(comp: Path) -> Iterator[Item]:
    if comp.name in (".compiled", ".remote") and comp.is_dir() and not comp.is_symlink():
        yield Item(comp, "")
        return
    if comp.is_symlink() or not comp.is_dir():
        yield Item(comp, "not made by gatemask")
        return
    if not any((comp / name).exists() for name in ("manifest.json", "folds.json", "raw")):
        yield Item(comp, "downloaded" if comp.name == "weights" else "not made by gatemask")
        return
    raw = comp.parents[1] / str(_read(comp / "manifest.json").get("raw") or comp / "raw")  # of a path in the project
    for path in _children(comp):
        if path.name == "raw":
            drawn = (path / "phantom.json").exists() and not path.is_symlink()
            yield Item(path, "" if drawn else "raw files")
        elif path.name.startswith((".download", "download")):
            yield Item(path, "record of a download")
        elif path.name == "sources":
            yield Item(path, "extra training images")
        elif not raw.is_dir():
            yield Item(path, "its raw files are not available")
        else:
            yield Item(path, _too_long(path / "index.json"))


def _run_items(label: Path) -> Iterator[Item]:
    if label.name in (".logs", "audit"):
        yield Item(label, "")
    elif label.name in RECORDS_OF_KAGGLE or label.is_symlink() or not label.is_dir():
        yield Item(label, "record of what is on Kaggle" if label.name in RECORDS_OF_KAGGLE else "not made by gatemask")
    else:
        for path in _children(label):
            if path.name in MADE_FROM_RUNS:
                yield Item(path, _too_long(path / "result.json"))
            elif path.name in RECORDS_OF_KAGGLE:
                yield Item(path, "record of what is on Kaggle or W&B")
            elif path.name == "notes.json":
                yield Item(path, "your tags and notes")
            elif path.name == ".runs" or path.suffix == ".lock" or path.name.startswith(".tmp-"):
                yield Item(path, "")
            else:
                yield Item(path, "" if label.name.endswith("-quick") and _trained_here(path) else "trained folds")


def _trained_here(experiment: Path) -> bool:
    """Return whether all folds of an experiment are done and were trained here in minutes."""
    stamps = [fold / "result.json" for fold in _children(experiment) if fold.is_dir()]
    fetched = any((stamp.parent / "kaggle.json").exists() for stamp in stamps)
    complete = stamps and all(stamp.exists() for stamp in stamps) and not fetched
    return bool(complete) and sum(_seconds(stamp) for stamp in stamps) <= MINUTES_S


def _too_long(stamp: Path) -> str:
    seconds = _seconds(stamp)
    return f"took {seconds / 60:.0f} minutes" if seconds > MINUTES_S else ""


def _seconds(stamp: Path) -> float:
    seconds = _read(stamp).get("seconds", 0.0)
    return float(seconds) if isinstance(seconds, int | float) else float("inf")


def _read(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _process_at_work(root: Path) -> str | None:
    """Return what a lock file says about the process that holds it; None if no lock is held."""
    for folder in ("data", "runs", "dist"):
        for path in (*(root / folder).rglob("*.lock"), *(root / folder).rglob("*-lock")):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return f"{path}: {file.read(200).decode('utf-8', 'replace') or 'locked'}"
                except OSError:
                    continue  # a broken link, or a disk without locks
    return None


def _print(what: str, root: Path, items: list[Item]) -> None:
    if not items:
        return
    sizes = [_size(item.path) for item in items]
    print(f"{what}, {_readable(sum(sizes))}:")
    for item, size in zip(items, sizes, strict=True):
        reason = f"   ({item.reason})" if item.reason else ""
        print(f"  {_readable(size):>9}  {os.fsencode(item.path.relative_to(root)).decode('utf-8', 'replace')}{reason}")


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _delete(path: Path) -> bool:
    """Delete a file, a folder or a link, never what a link points to."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        print(f"error: {path} cannot be deleted: {error.strerror}", file=sys.stderr)
        return False
    return True


def _remove_empty(folder: Path) -> None:
    for path in (*_children(folder), folder):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="Delete everything.")
    sys.exit(clean(Path.cwd(), parser.parse_args().all))
