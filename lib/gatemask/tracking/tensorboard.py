"""Write TensorBoard's event files: a second view of a run that needs no account and no network.

    tensorboard --logdir runs/<comp>

The format is small, so no package is needed: records of TFRecord files that hold `Event` protocol buffers. Each epoch
is appended. A resumed training first compares the file with its own rows and, where they differ, writes it again, so
no epoch appears twice.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data.tfrecord import field, frame, frames, varint
from gatemask.errors import GatemaskError
from gatemask.files import write_bytes
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.tracking.examples import FoldExamples, has_raw_images, outlined
from gatemask.tracking.run_folder import read_metrics

NAME = "tensorboard/events.out.tfevents.gatemask"  # in the folder of a run; TensorBoard looks for "tfevents"
DOUBLE, INTEGER, FLOAT = 1, 0, 5  # wire types of protocol buffers

Row = Mapping[str, float]


class EventFile:
    """Event file of a training.

    Args:
        folder: Folder of the run.
        enabled: Whether to write it at all.
        rows: Epochs that are finished: those of the state that the training resumes from.
    """

    def __init__(self, folder: Path, enabled: bool, rows: Sequence[Row]) -> None:
        self._path, self._enabled = folder / NAME, enabled
        if enabled and _steps(self._path) != [int(row["epoch"]) for row in rows]:
            self._guarded(lambda: write_bytes(self._path, _contents(rows)))

    def append(self, row: Row) -> None:
        """Add an epoch. A viewer that follows the file shows it within seconds."""
        if self._enabled:
            self._guarded(lambda: _append(self._path, _epoch(row, time.time())))

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (OSError, GatemaskError) as error:  # the training matters more
            say(f"{self._path}: {error}; TensorBoard's file is no longer written.")
            self._enabled = False


def write_finished(project: Project, comp: Competition, exp: Experiment, folder: Path) -> None:
    """Write the event file of a finished fold again, with outlines on some of its validation images.

    Args:
        project: Project of the run.
        comp: Its competition.
        exp: Its experiment.
        folder: Its folder.
    """
    try:
        rows = read_metrics(folder / "metrics.jsonl")
        pictures = _pictures(project, comp, exp, folder)
        write_bytes(folder / NAME, _contents(rows, pictures))
    except (OSError, GatemaskError) as error:
        say(f"{folder / NAME} was not completed: {' '.join(str(error).split())}")


def _pictures(project: Project, comp: Competition, exp: Experiment, folder: Path) -> dict[str, bytes]:
    """Return PNGs by tag; none without raw images."""
    if not exp.tracking.images or not has_raw_images(project, comp):
        return {}
    examples = FoldExamples(project, comp, FoldResult.load(folder / "result.json"))
    return {f"overlays/{one.kind} {one.image_id}": outlined(one) for one in examples.overlays(exp.tracking.images)}


def _contents(rows: Sequence[Row], pictures: Mapping[str, bytes] | None = None) -> bytes:
    """Return a whole file: its version, the epochs, and pictures at the last epoch. Times are counted back from now."""
    ends = np.cumsum([row.get("seconds", 0.0) for row in rows])
    begin = time.time() - (float(ends[-1]) if len(ends) else 0.0)
    parts = [_event(begin, version=b"brain.Event:2")]
    parts += [_epoch(row, begin + float(end)) for row, end in zip(rows, ends, strict=True)]
    if pictures and rows:
        values = [_image(tag, png) for tag, png in pictures.items()]
        parts.append(_event(time.time(), int(rows[-1]["epoch"]), values))
    return b"".join(parts)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _epoch(row: Row, at: float) -> bytes:
    names = [name for name in row if name != "epoch"]
    return _event(at, int(row["epoch"]), [_scalar(name, row[name]) for name in names])


# --- protocol buffers --------------------------------------------------------------------------------------


def _event(at: float, step: int = 0, values: Iterable[bytes] = (), version: bytes = b"") -> bytes:
    """Return an `Event` in its frame: wall time, step, and either the version of the format or a summary."""
    data = varint(1 << 3 | DOUBLE) + struct.pack("<d", at) + varint(2 << 3 | INTEGER) + varint(step)
    data += field(3, version) if version else field(5, b"".join(field(1, value) for value in values))
    return frame(data)


def _scalar(tag: str, number: float) -> bytes:
    return field(1, tag.encode()) + varint(2 << 3 | FLOAT) + struct.pack("<f", number)


def _image(tag: str, png: bytes) -> bytes:
    width, height = struct.unpack(">II", png[16:24])
    sides = b"".join(varint(number << 3 | INTEGER) + varint(n) for number, n in ((1, height), (2, width), (3, 3)))
    return field(1, tag.encode()) + field(4, sides + field(4, png))


def _steps(path: Path) -> list[int] | None:
    """Return the steps of a file's epochs; None if it is missing, cut short, or ends with pictures."""
    try:
        content = path.read_bytes()
        events = [content[span.start : span.stop] for span in frames(content, checksums=True)]
    except (OSError, ValueError):
        return None
    return [_step(event) for event in events[1:]] if events else None


def _step(event: bytes) -> int:
    """Return the second field of an event of ours, after nine bytes of time and one of the field's number."""
    step = shift = 0
    for byte in event[10:]:
        step |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return step
