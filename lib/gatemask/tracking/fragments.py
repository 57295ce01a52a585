"""Runs of W&B on disk: found, read, and written again with some rows left out.

A training that took two sessions leaves two fragments of one run, `offline-run-TIME-ID/run-ID.wandb` each; online it
is `run-TIME-ID/`, with the same in it. Such a file is a log of records: a header of 7 bytes, then blocks of 32 KiB in
which each record lies in one piece or several, each with a checksum. A process that was killed leaves its last piece
cut off; anything else that does not add up is damage.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError
from gatemask.files import sha256

HEADER = b":W&B\xe1\xbe\x00"
BLOCK, PIECE = 32768, 7  # bytes of a block, and of what stands before each piece: checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
QUIET_S = 60.0  # a training that runs writes what the machine does every 15 s


@dataclass(frozen=True)
class Fragment:
    """What one session wrote of a run.

    Args:
        path: the .wandb file.
        digest: of its content, by which it is known again wherever it is copied to.
        run: the run's id.
        project: on W&B.
        entity: on W&B; empty for whoever uploads.
        started: seconds since 1970.
        epochs: those of its rows, in order.
        summary: the last value under each name.
        ended: whether the session closed it; one that was killed did not.
    """

    path: Path
    digest: str
    run: str
    project: str
    entity: str
    started: float
    epochs: tuple[int, ...]
    summary: dict[str, Any]
    ended: bool


def find(runs: Path) -> list[Path]:
    """The .wandb files of all runs' sessions below a folder.

    Links (`latest-run`) name nothing new; what was rehearsed, or is still being fetched, is no run.
    """
    runs_own = [folder for folder in runs.glob("*") if folder.name not in ("kaggle", "rehearsal-train", "rehearsal")]
    kinds = ("offline-run", "run")
    found = [path for folder in runs_own for kind in kinds for path in folder.glob(f"**/wandb/{kind}-*/run-*.wandb")]
    return sorted(path for path in found if not path.parent.is_symlink())


def read(path: Path) -> Fragment | None:
    """Look through a fragment; None where it ends before it says of which run it is.

    Raises:
        GatemaskError: it is damaged.
    """
    digest = sha256(path)
    run: Any = None
    ended = False
    epochs: list[int] = []
    summary: dict[str, Any] = {}
    for record in _parsed(path):
        kind = record.WhichOneof("record_type")
        if kind == "run" and run is None:
            run = record.run
        elif kind == "history":
            row = _values(record.history.item)
            epochs += [int(row["epoch"])] if "epoch" in row else []
            summary |= row
        elif kind == "summary":
            summary |= _values(record.summary.update)
        elif kind == "exit":
            ended = True
    if run is None:
        return None
    started = run.start_time.ToNanoseconds() / 1e9
    shown = {name: value for name, value in summary.items() if not name.startswith("_")}
    return Fragment(path, digest, run.run_id, run.project, run.entity, started, tuple(epochs), shown, ended)


def grows(path: Path) -> bool:
    """Whether a session that did not close its file still runs, as far as can be seen from here."""
    return time.time() - path.stat().st_mtime < QUIET_S or _held(path)


def write_without(fragment: Fragment, there: set[int], again: set[int], folder: Path) -> Path:
    """A fragment again, without the rows of some epochs, as a session's folder below `folder`.

    What was cut off at its end is left out too; pictures and other files are linked, not copied.

    Args:
        fragment: what to write.
        there: epochs that W&B has; what was measured of the machine until then, it has too.
        again: epochs of which another session's rows count.
        folder: where to.
    """
    out = folder / fragment.path.parent.name
    out.mkdir(parents=True)
    for beside in fragment.path.parent.iterdir():
        if beside.is_dir():
            (out / beside.name).symlink_to(beside.resolve(), target_is_directory=True)
    records = list(_parsed(fragment.path))
    rows = {
        n: _values(record.history.item).get("epoch")
        for n, record in enumerate(records)
        if record.WhichOneof("record_type") == "history"
    }
    old = max((n for n, epoch in rows.items() if epoch in there), default=-1)
    kept = (
        record.SerializeToString()
        for n, record in enumerate(records)
        if rows.get(n) not in there | again and not (n < old and record.WhichOneof("record_type") == "stats")
    )
    path = out / fragment.path.name
    path.write_bytes(_joined(kept))
    return path


def _parsed(path: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _records(path):
        try:
            yield Record.FromString(data)
        except DecodeError as error:
            raise _damaged(path, str(error)) from None


def _values(items: Any) -> dict[str, Any]:
    """A row, or part of a summary, by name. Values that lie deeper, such as W&B's own, are left out."""
    found = {}
    for item in items:
        path = list(item.nested_key) or [item.key]
        kind = item.WhichOneof("value") if hasattr(item, "number") else None
        if len(path) == 1:  # clients before 0.31 know value_json alone
            plain = kind in ("boolean", "integer", "number", "text")
            found[path[0]] = getattr(item, kind) if plain and kind else json.loads(item.value_json or "null")
    return found


def _records(path: Path) -> Iterator[bytes]:
    """The records of a log, up to a last one that was cut off."""
    data = path.read_bytes()
    if data[: len(HEADER)] != HEADER[: len(data)]:
        raise _damaged(path, "it does not begin as such a file does")
    at = len(HEADER)
    pieces: list[bytes] = []
    while at + PIECE <= len(data):
        left = BLOCK - at % BLOCK
        if left < PIECE:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + PIECE : at + PIECE + length]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or PIECE + length > left:
            raise _damaged(path, f"no record begins at byte {at}")
        if len(piece) < length:
            return  # cut off
        if zlib.crc32(data[at + 6 : at + 7] + piece) != int.from_bytes(data[at : at + 4], "little"):
            raise _damaged(path, f"the checksum at byte {at} does not fit")
        if (kind in (WHOLE, FIRST)) != (not pieces):
            raise _damaged(path, f"a record at byte {at} has no beginning or no end")
        pieces.append(piece)
        if kind in (WHOLE, LAST):
            yield b"".join(pieces)
            pieces = []
        at += PIECE + length


def _joined(records: Iterable[bytes]) -> bytes:
    """A log of these records."""
    out = bytearray(HEADER)
    for record in records:
        at, first = 0, True
        while first or at < len(record):
            left = BLOCK - len(out) % BLOCK
            if left < PIECE:
                out += bytes(left)
                left = BLOCK
            piece = record[at : at + left - PIECE]
            at += len(piece)
            last = at == len(record)
            kind = bytes([(WHOLE if last else FIRST) if first else LAST if last else MIDDLE])
            out += zlib.crc32(kind + piece).to_bytes(4, "little") + len(piece).to_bytes(2, "little") + kind + piece
            first = False
    return bytes(out)


def _held(path: Path) -> bool:
    """Whether a process of ours has the file open; False where the system does not tell."""
    real = str(path.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == real:  # noqa: PTH115 - Path.readlink is much slower over thousands
                return True
        except OSError:
            continue
    return False


def _damaged(path: Path, why: str) -> GatemaskError:
    return GatemaskError(
        "A W&B file is damaged.",
        where=path,
        received=why,
        do="Fetch it again, or delete its folder; metrics.jsonl of the run has the same numbers.",
    )
