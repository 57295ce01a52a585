"""Find, read and rewrite the log files of W&B.

A training of two sessions leaves two logs of one run: offline in `offline-run-TIME-ID/run-ID.wandb`, online in
`run-TIME-ID/run-ID.wandb`. A log starts with a header of 7 bytes, followed by blocks of 32 KiB. Each record is stored
in one piece or several, none of which crosses a block, each with a checksum. A process that was killed leaves a last
piece that is cut off; any other inconsistency is damage.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError
from gatemask.files import sha256

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32768
PIECE_HEADER = 7  # bytes: checksum 4, length 2, kind 1
COMPLETE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of pieces
KINDS = {(True, True): COMPLETE, (True, False): FIRST, (False, False): MIDDLE, (False, True): LAST}
QUIET_S = 60.0  # a running training records its machine's state every 15 s
NO_RUNS = ("kaggle", "rehearsal-train", "rehearsal")  # folders below runs/<comp> that hold no finished runs


@dataclass(frozen=True)
class RunLog:
    """Contents of one session's log.

    Args:
        path: The .wandb file.
        digest: SHA-256 of the file, which identifies it wherever it is copied to.
        run: Run id.
        project: Project on W&B.
        entity: Entity on W&B; empty for the default entity of the account.
        started: Start of the session, in seconds since 1970.
        epochs: Epochs of its rows, in order.
        summary: Last value under each name.
        ended: Whether the session closed the log; a killed one does not.
    """

    path: Path
    digest: str
    run: str
    project: str
    entity: str
    started: float
    epochs: tuple[int, ...]
    summary: Mapping[str, object]
    ended: bool


def find_logs(runs: Path) -> list[Path]:
    """Return all logs below a competition's runs. Links such as `latest-run` are skipped."""
    folders = [folder for folder in runs.glob("*") if folder.name not in NO_RUNS]
    kinds = ("offline-run", "run")
    paths = [path for folder in folders for kind in kinds for path in folder.glob(f"**/wandb/{kind}-*/run-*.wandb")]
    return sorted(path for path in paths if not path.parent.is_symlink())


def read_log(path: Path) -> RunLog | None:
    """Read a log; None if it ends before it names its run.

    Raises:
        GatemaskError: The log is damaged.
    """
    digest = sha256(path)
    run: Any = None
    ended = False
    epochs: list[int] = []
    summary: dict[str, object] = {}
    for record in _parse_records(path):
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
    own_values = {name: value for name, value in summary.items() if not name.startswith("_")}
    return RunLog(path, digest, run.run_id, run.project, run.entity, started, tuple(epochs), own_values, ended)


def is_growing(path: Path) -> bool:
    """Return whether the session that writes an unclosed log seems to be running still."""
    return time.time() - path.stat().st_mtime < QUIET_S or _is_open(path)


def write_remaining(log: RunLog, uploaded: Set[int], superseded: Set[int], folder: Path) -> Path:
    """Write a log without the rows of some epochs, and return the file.

    A record that was cut off is left out. Pictures and other files are linked, not copied.

    Args:
        log: Log to write.
        uploaded: Epochs that W&B has. What was measured of the machine until then is left out too.
        superseded: Epochs that a later session trained again.
        folder: Target folder, in which a folder of the session is made.
    """
    target = folder / log.path.parent.name
    target.mkdir(parents=True)
    for entry in log.path.parent.iterdir():
        if entry.is_dir():
            (target / entry.name).symlink_to(entry.resolve(), target_is_directory=True)
    records = list(_parse_records(log.path))
    epoch_of = {
        index: _values(record.history.item).get("epoch")
        for index, record in enumerate(records)
        if record.WhichOneof("record_type") == "history"
    }
    last_uploaded = max((index for index, epoch in epoch_of.items() if epoch in uploaded), default=-1)
    dropped = uploaded | superseded
    kept = (
        record.SerializeToString()
        for index, record in enumerate(records)
        if epoch_of.get(index) not in dropped
        and not (index < last_uploaded and record.WhichOneof("record_type") == "stats")
    )
    path = target / log.path.name
    path.write_bytes(join_records(kept))
    return path


def _parse_records(path: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for data in split_records(path):
        try:
            yield Record.FromString(data)
        except DecodeError as error:
            raise _damaged(path, str(error)) from None


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Return the values of a row or summary by name. Nested values, such as W&B's own, are left out."""
    values = {}
    for item in items:
        path = list(item.nested_key) or [item.key]
        kind = item.WhichOneof("value") if hasattr(item, "number") else None
        if len(path) == 1:  # clients before 0.31 have value_json alone
            is_plain = kind in ("boolean", "integer", "number", "text")
            values[path[0]] = getattr(item, kind) if is_plain and kind else json.loads(item.value_json or "null")
    return values


def split_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a log, up to a last one that was cut off.

    Raises:
        GatemaskError: The log is damaged.
    """
    data = path.read_bytes()
    if data[: len(HEADER)] != HEADER[: len(data)]:
        raise _damaged(path, "it does not begin with the header of a W&B log")
    position = len(HEADER)
    pieces: list[bytes] = []
    while position + PIECE_HEADER <= len(data):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < PIECE_HEADER:
            position += left_in_block
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        start = position + PIECE_HEADER
        piece = data[start : start + length]
        if kind not in (COMPLETE, FIRST, MIDDLE, LAST) or PIECE_HEADER + length > left_in_block:
            raise _damaged(path, f"no record begins at byte {position}")
        if len(piece) < length:
            return  # cut off
        if zlib.crc32(bytes([kind]) + piece) != int.from_bytes(data[position : position + 4], "little"):
            raise _damaged(path, f"the checksum at byte {position} does not match")
        if (kind in (COMPLETE, FIRST)) != (not pieces):
            raise _damaged(path, f"the record at byte {position} has no beginning or no end")
        pieces.append(piece)
        if kind in (COMPLETE, LAST):
            yield b"".join(pieces)
            pieces = []
        position = start + length


def join_records(records: Iterable[bytes]) -> bytes:
    """Return a log of the given records."""
    log = bytearray(HEADER)
    for record in records:
        start, is_first = 0, True
        while is_first or start < len(record):
            left_in_block = BLOCK - len(log) % BLOCK
            if left_in_block < PIECE_HEADER:
                log += bytes(left_in_block)
                left_in_block = BLOCK
            piece = record[start : start + left_in_block - PIECE_HEADER]
            start += len(piece)
            is_last = start == len(record)
            kind = bytes([KINDS[is_first, is_last]])
            log += zlib.crc32(kind + piece).to_bytes(4, "little") + len(piece).to_bytes(2, "little") + kind + piece
            is_first = False
    return bytes(log)


def _is_open(path: Path) -> bool:
    """Return whether one of our processes has the file open; False on systems without /proc."""
    target = str(path.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == target:  # noqa: PTH115 - Path.readlink is much slower over thousands of links
                return True
        except OSError:
            continue
    return False


def _damaged(path: Path, reason: str) -> GatemaskError:
    return GatemaskError(
        "A W&B log is damaged.",
        where=path,
        received=reason,
        do="Fetch it again, or delete its folder; the run's metrics.jsonl holds the same numbers.",
    )
