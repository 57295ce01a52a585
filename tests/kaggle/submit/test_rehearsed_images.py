"""The images of a rehearsal are those of the sample submission, or training images where the test set is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition
from gatemask.data.manifest import prepare
from gatemask.errors import GatemaskError
from gatemask.files import write_json
from gatemask.kaggle.submit import hidden_files, rehearse
from gatemask.kaggle.submit.rehearsed_images import choose_images
from gatemask.loop import _check_submission
from gatemask.project import Project
from gatemask.results.submission import InferenceReport, RehearsalResult
from tests.data.test_manifest import competition

SAMPLE = {"sample": "sample.csv"}
TEST = {"images": "test/*.png"}


def image(path: Path, side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (side, side)).astype(np.uint8))


def project_of(root: Path, rows: list[str], **changes: Any) -> tuple[Project, Competition]:
    """Write 8 training images, and the sample submission; test images are up to the test."""
    settings: dict[str, Any] = {
        "image": {"size": [32, 32], "channels": 1},
        "train": {"images": "train/*.png"},
        "test": TEST,
        "groups": {"duplicates": "ignore"},
        "folds": {"k": 2},
        "labels": {"format": "rle", "file": "train.csv"},
        "submission": SAMPLE,
    }
    comp = competition(**{**settings, **changes})
    raw = root / "raw"
    for number in range(8):
        image(raw / f"train/a{number}.png")
    (raw / "train.csv").write_text(
        "ImageId,EncodedPixels\n" + "".join(f"a{n},{'5 3' if n % 2 else ''}\n" for n in range(8))
    )
    (raw / "sample.csv").write_text("ImageId,EncodedPixels\n" + "".join(f"{row},\n" for row in rows))
    return Project(root, "tiles"), comp


def test_damaged_images_and_images_of_another_size_are_rehearsed_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, comp = project_of(tmp_path, [f"t{number}" for number in range(5)])
    for number in range(4):
        image(tmp_path / f"raw/test/t{number}.png", side=48 if number == 3 else 32)
    (tmp_path / "raw/test/t4.png").write_bytes(b"no image")
    result = prepare(project, comp)
    assert (result.test_images, result.test_images_left_out) == (3, 2)
    assert "2 of 5 test images are left out, such as t3, t4" in capsys.readouterr().err
    chosen = choose_images(project, comp, 300)
    assert set(chosen.paths) == {"t0", "t1", "t2", "t3", "t4"}
    assert (chosen.needed, chosen.complete, chosen.missing) == (5, True, [])


def test_fewer_images_are_counted_against_the_sample(tmp_path: Path) -> None:
    project, comp = project_of(tmp_path, [f"t{number}" for number in range(6)])
    for number in range(6):
        image(tmp_path / f"raw/test/t{number}.png")
    image(tmp_path / "raw/test/not-listed.png")
    prepare(project, comp)
    chosen = choose_images(project, comp, 4)
    assert (len(chosen.paths), chosen.needed, chosen.complete) == (4, 6, False)
    assert "not-listed" not in choose_images(project, comp, 300).paths


def test_images_that_the_pattern_misses_are_an_error(tmp_path: Path) -> None:
    project, comp = project_of(tmp_path, [f"t{number}" for number in range(6)])
    for number in range(6):
        image(tmp_path / f"raw/test/t{number}.{'png' if number < 4 else 'tif'}")
    prepare(project, comp)
    with pytest.raises(GatemaskError, match=r"(?s)no file.*2 of 6 images, such as t4, t5.*test/\*\.png.*--images"):
        choose_images(project, comp, 300)
    chosen = choose_images(project, comp, 3)
    assert (chosen.missing, chosen.complete) == (["t4", "t5"], False)


def hidden(tmp_path: Path, pattern: str, rows: list[str]) -> tuple[Project, Competition]:
    project, comp = project_of(
        tmp_path, rows, test={"images": pattern, **({"id": "{case}_{slice}"} if "{" in pattern else {})}
    )
    prepare(project, comp)
    write_json(project.dist / "dataset/dataset-metadata.json", {"id": "me/set"})
    return project, comp


@pytest.mark.parametrize("pattern", ["test/*.png", "stage_2/**/*.png", "test/{case}/{slice}.png"])
@pytest.mark.parametrize("rows", [[], ["dummy"]])
def test_training_images_stand_in_for_a_hidden_test_set(tmp_path: Path, pattern: str, rows: list[str]) -> None:
    project, comp = hidden(tmp_path, pattern, rows)
    chosen = choose_images(project, comp, 4)
    assert (len(chosen.paths), chosen.needed, chosen.stand_ins, chosen.complete) == (4, len(rows), True, True)
    assert {number % 2 for number in (int(name[1]) for name in chosen.paths)} == {0, 1}, "with and without a mask"
    rehearsal = rehearse._Rehearsal(project, comp, tmp_path / "rehearsal")
    visible = rehearsal.mount(chosen)
    assert len(visible) == 4 + hidden_files.REPEATED
    assert set(visible.values()) == set(chosen.paths)
    listed = (rehearsal.competition / "sample.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[0] for line in listed) == sorted(visible)
    files = list(rehearsal.competition.rglob("*.png"))
    assert len(files) == len(visible)
    assert all(path.relative_to(rehearsal.competition).parts[0] == pattern.split("/")[0] for path in files)
    # What the saved version writes for the visible test set.
    rehearsal.kernel_submission.write_text("ImageId,EncodedPixels\n" + "".join(f"{name},1 2\n" for name in visible))
    table = rehearse.table_of(rehearse.SubmissionFormat.of(comp), rows)
    written = rehearsal._translate_back(tmp_path / "submission.csv", visible, table, True)
    assert written.read_text() == "ImageId,EncodedPixels\n" + "".join(f"{name},\n" for name in rows)


def result(**changes: Any) -> RehearsalResult:
    fields: dict[str, Any] = dict.fromkeys(RehearsalResult.model_fields, 0)
    fields |= {"isolation": "", "versions_of_the_image": False, "packages_hidden": [], "device": "", "precision": ""}
    fields |= {
        "unreadable": [],
        "metric": "mean_dice",
        "on_training_images": False,
        "current": False,
        "submission_score": None,
        "as_trained": [],
    }
    return RehearsalResult(**{**fields, "submission": "", **changes})


def test_the_end_of_the_loop_checks_the_submission_or_says_how_to_complete_it(tmp_path: Path) -> None:
    project, comp = project_of(tmp_path, [f"t{number}" for number in range(4)])
    for number in range(4):
        image(tmp_path / f"raw/test/t{number}.png")
    prepare(project, comp)
    file = tmp_path / "submission.csv"
    file.write_text("ImageId,EncodedPixels\n" + "".join(f"t{number},1 2\n" for number in range(4)))
    notes = _check_submission(project, comp, result(images=4, needed_images=4, submission=str(file)))
    assert any(note.startswith("submission.rle follows labels.rle") for note in notes)
    part = _check_submission(project, comp, result(images=3, needed_images=4, submission=str(file)))
    assert "3 of 4 images. For a complete one, run gatemask rehearse with --images 4" in part[0]
    file.write_text("ImageId,EncodedPixels\nt0,1 2\n")
    with pytest.raises(GatemaskError, match="3 missing"):
        _check_submission(project, comp, result(images=4, needed_images=4, submission=str(file)))


def test_a_header_only_submission_for_a_hidden_test_set_is_valid(tmp_path: Path) -> None:
    project, comp = hidden(tmp_path, "test/*.png", [])
    file = tmp_path / "submission.csv"
    file.write_text("ImageId,EncodedPixels\n")
    notes = _check_submission(project, comp, result(images=4, on_training_images=True, submission=str(file)))
    assert "test set is hidden" in notes[0]
    assert any("header only" in note for note in notes)


def test_masks_for_images_of_another_size_fail_the_rehearsal() -> None:
    comp = competition(image={"size": [32, 32], "channels": 1})
    report = InferenceReport(degraded=[], submission=None, package=None)
    rehearse._require_one_size(report, comp)
    with pytest.raises(GatemaskError, match=r"(?s)another size.*2 such images.*32 x 32"):
        rehearse._require_one_size(report.model_copy(update={"odd_sizes": 2}), comp)


def test_images_that_only_the_kernel_cannot_read_fail_the_rehearsal(tmp_path: Path) -> None:
    project, comp = project_of(tmp_path, ["t0", "t1"])
    image(tmp_path / "raw/test/t0.png")
    (tmp_path / "raw/test/t1.png").write_bytes(b"damaged")
    prepare(project, comp)
    rehearsal = rehearse._Rehearsal(project, comp, tmp_path / "rehearsal")
    visible = {"hidden0": "t0", "hidden1": "t1"}
    report = InferenceReport(degraded=[], unreadable={"hidden1": "The file is damaged."}, submission=None, package=None)
    rehearsal._require_readable(report, visible)
    report = report.model_copy(update={"unreadable": {"hidden0": "No installed decoder can read a DICOM file."}})
    with pytest.raises(GatemaskError, match=r"cannot read test images that can be read here[\s\S]*t0: No inst"):
        rehearsal._require_readable(report, visible)
