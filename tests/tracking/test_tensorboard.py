"""Event files, read back with TensorFlow's own classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.config import load_competition
from gatemask.data import tfrecord
from gatemask.project import Project
from gatemask.tracking import run_folder
from gatemask.tracking.tensorboard import NAME, EventFile, write_finished
from tests.tracking.finished import experiment, finish_fold, rows

pytestmark = pytest.mark.integration


def events(folder: Path) -> list:
    from tensorflow.core.util.event_pb2 import Event

    content = (folder / NAME).read_bytes()
    spans = tfrecord.frames(content, checksums=True)
    return [Event.FromString(content[span.start : span.stop]) for span in spans]


def scalars(folder: Path) -> list[dict[str, float]]:
    first, *others = events(folder)
    assert first.file_version == "brain.Event:2"
    times = [event.wall_time for event in (first, *others)]
    assert times == sorted(times)
    scalars = [event for event in others if not event.summary.value[0].HasField("image")]
    return [{"epoch": e.step, **{value.tag: value.simple_value for value in e.summary.value}} for e in scalars]


def close(wanted: list[dict[str, float]]) -> list[object]:
    return [pytest.approx(row, rel=1e-6) for row in wanted]


def test_each_epoch_is_written_once(tmp_path: Path) -> None:
    """The third session resumes from an older state, and trains an epoch again."""
    epochs = [{"epoch": e, "loss": 0.5 + e, "seconds": 2.0} for e in range(200)]
    for begin, end in ((0, 150), (150, 152), (151, 200)):
        file = EventFile(tmp_path, True, epochs[:begin])
        for epoch in epochs[begin:end]:
            file.append(epoch)
    assert scalars(tmp_path) == close(epochs)


def test_a_record_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    epochs = rows("mask")
    file = EventFile(tmp_path, True, [])
    for epoch in epochs[:2]:
        file.append(epoch)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-5])
    EventFile(tmp_path, True, epochs[:2]).append(epochs[2])
    assert scalars(tmp_path) == close(epochs)


def test_a_resumed_training_appends_to_a_sound_file(tmp_path: Path) -> None:
    epochs = rows("mask")
    EventFile(tmp_path, True, []).append(epochs[0])
    before = (tmp_path / NAME).read_bytes()
    EventFile(tmp_path, True, epochs[:1]).append(epochs[1])
    assert (tmp_path / NAME).read_bytes().startswith(before)


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    EventFile(tmp_path, False, []).append(rows("mask")[0])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EventFile(tmp_path, True, [])
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    for epoch in rows("mask"):
        file.append(epoch)
    assert capsys.readouterr().err.count("no longer written") == 1


def test_a_finished_fold_shows_images(phantoms: Project) -> None:
    folder, exp = finish_fold(phantoms, "mask"), experiment("mask")
    comp = load_competition(phantoms.experiments, quick=True)
    for _ in range(2):  # predicted again
        write_finished(phantoms, comp, exp, folder)
    assert scalars(folder) == close(run_folder.read_metrics(folder / "metrics.jsonl"))
    images = events(folder)[-1]
    assert images.step == 2 and len(images.summary.value) == 6
    first = images.summary.value[0]
    assert first.tag.startswith("overlays/best ")
    assert (first.image.height, first.image.width) == (256, 256)
    assert first.image.encoded_image_string.startswith(b"\x89PNG")


def test_the_checksum_without_its_package() -> None:
    import google_crc32c

    for data in (b"", b"a", bytes(range(256)) * 3):
        assert tfrecord._crc32c(data) == google_crc32c.value(data)
