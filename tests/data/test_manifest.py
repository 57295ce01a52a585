"""The manifest: every raw file looked at once, bad ones reported together, nothing silently wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gatemask.config.schema import Competition
from gatemask.data.labels import Masks
from gatemask.data.manifest import prepare, raw_folder, read_manifest
from gatemask.errors import GatemaskError
from gatemask.project import Project
from tests.conftest import write_tiles


def competition(**changes: Any) -> Competition:
    return Competition.model_validate(
        {
            "name": "tiles",
            "title": "t",
            "raw": "raw",
            "image": {"size": [128, 128], "channels": 3},
            "train": {"images": "images/*.png"},
            "labels": {"format": "png", "masks": "masks/{id}.png"},
            "groups": {"file": "labels.csv", "id": "id", "column": "group_image"},
            "folds": {"k": 3, "holdout": True},
            **changes,
        }
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    write_tiles(tmp_path / "raw", 24)
    return Project(tmp_path, "tiles")


def test_a_row_for_every_image_and_the_masks_beside(project: Project) -> None:
    result = prepare(project, competition())
    frame = read_manifest(project)
    table = pd.read_csv(project.root / "raw/labels.csv")
    assert result["images"] == len(frame) == 24
    assert frame["mask_area"].tolist() == table["mask_area"].tolist()
    assert frame["group"].tolist() == table["group_image"].tolist()
    assert Masks(project.data / "masks.csv", (128, 128))["tile001"].sum() == table["mask_area"][1]
    assert prepare(project, competition())["current"]


def test_a_changed_mask_makes_it_work_again(project: Project) -> None:
    prepare(project, competition())
    (project.root / "raw/masks/tile001.png").write_bytes((project.root / "raw/masks/tile002.png").read_bytes())
    assert "current" not in prepare(project, competition())


def test_bad_files_are_left_out_and_listed_together(project: Project) -> None:
    raw = project.root / "raw"
    (raw / "images/tile003.png").write_bytes(b"damaged")
    (raw / "masks/tile004.png").unlink()
    (raw / "images/._tile005.png").write_bytes(b"junk")
    result = prepare(project, competition())
    problems = pd.read_csv(project.data / "problems.csv")
    assert (result["images"], result["problems"]) == (22, 2)
    assert problems["file"].tolist() == ["images/tile003.png", "images/tile004.png"]
    with pytest.raises(GatemaskError, match="cannot be used"):
        prepare(project, competition(metric="mean_dice", classes=["x"]), strict=True)


def test_rows_of_one_image_are_united_wherever_they_stand(project: Project) -> None:
    lines = ["ImageId, EncodedPixels", "tile000, 1 5", "tile001, ", "tile000, 4 5"]
    lines += [f"tile{n:03d}," for n in range(2, 24)]
    (project.root / "raw/rle.csv").write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:]]).encode())
    prepare(project, competition(labels={"format": "rle", "file": "rle.csv", "rle": {"base": 1}}))
    frame = read_manifest(project).set_index("image_id")
    assert frame.loc["tile000", "mask_area"] == 8
    assert frame["label"].sum() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"images": "nowhere/*.png"}}, ["No image was found", "nowhere"]),
        ({"raw": "elsewhere"}, ["raw files are not there", "--data"]),
        ({"labels": {"format": "rle", "file": "none.csv"}}, ["no such table", "none.csv"]),
        ({"labels": {"format": "rle", "file": "labels.csv"}}, ["lacks the column 'ImageId'", "labels.csv"]),
        ({"groups": {"dicom": "PatientID"}}, ["No training image is left"]),
        ({"groups": {"regex": "("}}, ["no regular expression"]),
        ({"train": {"images": "/absolute/*.png"}}, ["absolute"]),
        ({"groups": {"file": "labels.csv", "id": "id", "column": "grp"}}, ["lacks the column 'grp'"]),
        ({"image": {"size": [64, 64], "channels": 3}}, ["mask has the wrong size|No training image"]),
    ],
)
def test_what_is_wrong_with_the_files_is_said(project: Project, change: dict[str, Any], words: list[str]) -> None:
    for word in words:
        with pytest.raises(GatemaskError, match=word):
            prepare(project, competition(**change))
    assert not (project.data / "manifest.json").exists()


def test_moved_raw_files_are_found_again_and_missing_ones_never_pass_for_current(project: Project) -> None:
    prepare(project, competition())
    (project.root / "raw").rename(project.root / "elsewhere")
    assert prepare(project, competition())["current"], "the manifest stands without its raw files"
    with pytest.raises(GatemaskError, match="not there"):
        prepare(project, competition(image={"size": [128, 128], "channels": 1}))
    with pytest.raises(GatemaskError, match="not there"):
        prepare(project, competition(), data=project.root / "nowhere")
    prepare(project, competition(), data=project.root / "elsewhere")
    assert raw_folder(project, competition()) == project.root / "elsewhere"


def test_ids_and_groups_that_look_like_nothing_stay_what_they_are(project: Project) -> None:
    raw = project.root / "raw"
    for kind in ("images", "masks"):
        (raw / kind / "tile000.png").rename(raw / kind / "NA.png")
    table = (raw / "labels.csv").read_text()
    (raw / "labels.csv").write_text(table.replace("tile000,picture0", "NA,null"))
    prepare(project, competition())
    frame = read_manifest(project).set_index("image_id")
    assert frame.loc["NA", "group"] == "null"
    (raw / "labels.csv").write_text(table.replace("tile000,picture0", "NA,"))
    assert prepare(project, competition())["problems"] == 1


def test_groups_by_pattern_and_prefix(project: Project) -> None:
    prepare(project, competition(groups={"regex": r"tile(\d)"}))
    assert set(read_manifest(project)["group"]) == {"0"}
    prepare(project, competition(groups={"file": "labels.csv", "id": "id", "column": "group_image", "prefix": 8}))
    assert set(read_manifest(project)["group"]) == {f"picture{n}" for n in range(10)}
