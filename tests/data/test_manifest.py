"""The manifest covers every raw file, and bad files are reported together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from gatemask.config import Competition
from gatemask.data.manifest import prepare, require_images
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_folds, read_manifest
from gatemask.data.truth import Masks
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
    assert result.images == len(frame) == 24
    assert frame["mask_area"].tolist() == table["mask_area"].tolist()
    assert frame["group"].tolist() == table["group_image"].tolist()
    assert Masks(project.data / "masks.csv", (128, 128))["tile001"].sum() == table["mask_area"][1]
    assert prepare(project, competition()).current


def test_a_changed_mask_makes_the_manifest_outdated(project: Project) -> None:
    prepare(project, competition())
    (project.root / "raw/masks/tile001.png").write_bytes((project.root / "raw/masks/tile002.png").read_bytes())
    assert not prepare(project, competition()).current


def test_bad_files_are_left_out_and_listed_together(project: Project) -> None:
    raw = project.root / "raw"
    (raw / "images/tile003.png").write_bytes(b"damaged")
    (raw / "masks/tile004.png").unlink()
    (raw / "images/._tile005.png").write_bytes(b"junk")
    result = prepare(project, competition())
    problems = pd.read_csv(project.data / "problems.csv")
    assert (result.images, result.problems) == (22, 2)
    assert problems["file"].tolist() == ["images/tile003.png", "images/tile004.png"]
    with pytest.raises(GatemaskError, match="cannot be used"):
        prepare(project, competition(metric="mean_dice", classes=["x"]), strict=True)


def test_scattered_rows_of_one_image_are_united(project: Project) -> None:
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
        ({"raw": "elsewhere"}, ["raw files do not exist", "--data"]),
        ({"labels": {"format": "rle", "file": "none.csv"}}, ["table does not exist", "none.csv"]),
        ({"labels": {"format": "rle", "file": "labels.csv"}}, ["lacks the column 'ImageId'", "labels.csv"]),
        ({"groups": {"dicom": "PatientID"}}, ["No training image is left"]),
        ({"groups": {"regex": "("}}, ["not a regular expression"]),
        ({"train": {"images": "/absolute/*.png"}}, ["absolute"]),
        ({"groups": {"file": "labels.csv", "id": "id", "column": "grp"}}, ["lacks the column 'grp'"]),
        (
            {"image": {"size": [64, 64], "channels": 3}},
            ["another size than image.size", r"Set image.size: \[128, 128\]"],
        ),
    ],
)
def test_wrong_files_are_rejected(project: Project, change: dict[str, Any], words: list[str]) -> None:
    for word in words:
        with pytest.raises(GatemaskError, match=word):
            prepare(project, competition(**change))
    assert not (project.data / "manifest.json").exists()


def test_moved_raw_files_are_found_and_missing_ones_never_count_as_current(project: Project) -> None:
    prepare(project, competition())
    (project.root / "raw").rename(project.root / "elsewhere")
    assert prepare(project, competition()).current, "the manifest outlives its raw files"
    with pytest.raises(GatemaskError, match="do not exist"):
        prepare(project, competition(image={"size": [128, 128], "channels": 1}))
    with pytest.raises(GatemaskError, match="do not exist"):
        prepare(project, competition(), data=project.root / "nowhere")
    prepare(project, competition(), data=project.root / "elsewhere")
    assert raw_folder(project, competition()) == project.root / "elsewhere"


def test_ids_and_groups_that_look_like_missing_values_are_kept(project: Project) -> None:
    raw = project.root / "raw"
    for kind in ("images", "masks"):
        (raw / kind / "tile000.png").rename(raw / kind / "NA.png")
    table = (raw / "labels.csv").read_text()
    (raw / "labels.csv").write_text(table.replace("tile000,picture0", "NA,null"))
    prepare(project, competition())
    frame = read_manifest(project).set_index("image_id")
    assert frame.loc["NA", "group"] == "null"
    (raw / "labels.csv").write_text(table.replace("tile000,picture0", "NA,"))
    assert prepare(project, competition()).problems == 1


def test_groups_by_pattern_and_prefix(project: Project) -> None:
    prepare(project, competition(groups={"regex": r"tile(\d)"}))
    assert set(read_manifest(project)["group"]) == {"0"}
    prepare(project, competition(groups={"file": "labels.csv", "id": "id", "column": "group_image", "prefix": 8}))
    assert set(read_manifest(project)["group"]) == {f"picture{n}" for n in range(10)}


def read_duplicates(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.data / "duplicates.csv", dtype=str)


def test_copies_share_a_group_within_training_and_with_the_test(project: Project) -> None:
    raw = project.root / "raw"
    (raw / "test").mkdir()
    (raw / "images/tile019.png").write_bytes((raw / "images/tile004.png").read_bytes())
    copy = cv2.imread(str(raw / "images/tile007.png"))
    cv2.imwrite(str(raw / "test/unknown.jpg"), copy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    comp = competition(test={"images": "test/*.jpg"}, folds={"k": 2})
    assert prepare(project, comp).duplicates == 2
    rows = [tuple(row) for row in read_duplicates(project).itertuples(index=False)]
    assert rows == [("tile004", "train", "tile019", "train", "exact"), ("tile007", "train", "unknown", "test", "near")]
    frame = read_manifest(project).set_index("image_id")
    # Each comes from its own source picture; once joined, the tiles of both pictures are one group.
    assert frame.loc[["tile004", "tile005", "tile018", "tile019"], "group"].tolist() == ["picture2"] * 4
    assert frame.loc["unknown", "group"] == frame.loc["tile007", "group"] == "picture3"
    prepare(project, competition(test={"images": "test/*.jpg"}, folds={"k": 2}, groups={"duplicates": "exact"}))
    frame = read_manifest(project).set_index("image_id")
    assert frame.loc["tile019", "group"] == frame.loc["tile004", "group"] == "tile004"
    assert (frame.loc["unknown", "group"], frame.loc["tile005", "group"]) == ("unknown", "tile005")


def test_images_too_alike_do_not_count_as_copies(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    first = cv2.imread(str(project.root / "raw/images/tile001.png"))
    rng = np.random.default_rng(0)
    for path in (project.root / "raw/images").glob("*.png"):
        cv2.imwrite(str(path), first + rng.integers(0, 3, first.shape).astype(np.uint8))
    assert prepare(project, competition(groups={})).duplicates == 0
    assert "too alike" in capsys.readouterr().err
    assert read_manifest(project)["group"].nunique() == 24


def test_without_any_source_each_image_is_its_own_group(project: Project) -> None:
    prepare(project, competition(groups={}))
    frame = read_manifest(project)
    assert (frame["group"] == frame["image_id"]).all()


def test_a_group_table_that_is_optional_may_be_absent_or_short(project: Project) -> None:
    lines = (project.root / "raw/labels.csv").read_text().splitlines()
    (project.root / "raw/labels.csv").write_text("\n".join(lines[:-2]) + "\n")
    settings = {"file": "labels.csv", "id": "id", "column": "group_image"}
    assert prepare(project, competition(groups=settings)).problems == 2
    assert prepare(project, competition(groups={**settings, "optional": True})).problems == 0
    groups = read_manifest(project).set_index("image_id")["group"]
    assert (groups["tile021"], groups["tile022"]) == ("picture10", "tile022")
    (project.root / "raw/labels.csv").unlink()
    assert prepare(project, competition(groups={**settings, "optional": True})).groups == 24


def test_more_columns_from_a_table_to_stratify_by(project: Project) -> None:
    from gatemask.data import folds

    extra = {"file": "labels.csv", "id": "id", "columns": ["positive"]}
    comp = competition(extra=extra, folds={"k": 3, "holdout": True, "stratify": ["positive"]})
    prepare(project, comp)
    assert read_manifest(project)["positive"].tolist() == [str(int(n % 3 > 0)) for n in range(24)]
    folds.make_folds(project, comp)
    strata = read_folds(project)["stratum"]
    assert set(strata.str[-2:]) == {"|0", "|1"}


def test_the_labels_alone_are_enough_for_folds_but_not_for_records(project: Project) -> None:
    from gatemask.data import folds, records

    comp = competition()
    prepare(project, comp)
    complete = read_manifest(project).set_index("image_id")
    folds.make_folds(project, comp)
    split = project.folds.read_bytes()
    project.folds.unlink()
    for path in (project.root / "raw/images").glob("*.png"):
        path.unlink()
    with pytest.raises(GatemaskError, match="--labels-only"):
        prepare(project, comp)
    assert prepare(project, comp, labels_only=True).images == 24
    alone = read_manifest(project).set_index("image_id")
    for column in ("group", "label", "mask_area"):
        assert (alone[column] == complete[column]).all()
    folds.make_folds(project, comp)
    assert project.folds.read_bytes() == split
    with pytest.raises(GatemaskError, match="from the labels alone"):
        records.make_records(project, comp)


def test_all_problems_are_reported_together(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    raw = project.root / "raw"
    (raw / "images/._tile001.png").write_bytes(b"junk")
    (raw / "images/tile002.png").write_bytes((raw / "images/tile002.png").read_bytes()[:200])
    cv2.imwrite(str(raw / "images/tile003.png"), np.zeros((64, 128, 3), np.uint8))
    cv2.imwrite(str(raw / "masks/tile005.png"), np.zeros((64, 64), np.uint8))
    (raw / "images/tile006.png").unlink()
    (raw / "masks/tile007.png").unlink()
    table = (raw / "labels.csv").read_text()
    (raw / "labels.csv").write_text(table.replace("tile009,picture4", "tile009,"))
    result = prepare(project, competition())
    problems = dict(pd.read_csv(project.data / "problems.csv").itertuples(index=False))
    assert result.problems == len(problems) == 6
    for file, words in {
        "images/tile002.png": "cannot be read",
        "images/tile003.png": "wrong size. Found (64, 128), not (128, 128).",
        "masks/tile005.png": "wrong size. Found (64, 64), not (128, 128). (image tile005)",
        "images/tile007.png": "no label",
        "masks/tile006.png": "The mask has no image",
        "images/tile009.png": "no group",
    }.items():
        assert words in problems[file], problems
    assert "6 left out" in capsys.readouterr().err
    with pytest.raises(GatemaskError, match="cannot be used"):
        prepare(project, competition(), strict=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": {"dicom": "PatientIDs"}}, "Unknown DICOM tag 'PatientIDs'[\\s\\S]*Did you mean 'PatientID'"),
        ({"extra": {"file": "labels.csv", "id": "id", "columns": ["sex"]}}, "lacks the column 'sex'"),
        ({"extra": {"dicom": ["PatientSex"]}}, "No training image is left[\\s\\S]*not DICOM"),
        ({"groups": {"regex": "tile"}}, "no parenthesis"),
    ],
)
def test_wrong_settings_are_rejected(project: Project, change: dict[str, Any], words: str) -> None:
    with pytest.raises(GatemaskError, match=words):
        prepare(project, competition(**change))


def test_dicom_tags_become_columns_and_groups(tmp_path: Path) -> None:
    from gatemask.config import Phantom
    from gatemask.data import phantom

    phantom.make_phantoms(tmp_path / "raw", Phantom(images=12, test_images=2, size=64))
    project = Project(tmp_path, "tiles")
    labels = {"format": "rle", "file": "train-rle.csv", "rle": phantom.DIALECT.model_dump()}
    comp = competition(
        image={"size": [64, 64]},
        train={"images": "train/**/*.dcm"},
        labels=labels,
        groups={"dicom": "PatientID", "duplicates": "exact"},
        extra={"dicom": ["PatientSex", "ViewPosition"]},
    )
    assert prepare(project, comp).images == 12
    frame = read_manifest(project)
    assert set(frame["PatientSex"]) <= {"F", "M"}
    assert set(frame["ViewPosition"]) == {"PA"}
    assert frame["group"].str.startswith("phantom").all()


def test_copies_are_joined_though_the_first_of_them_is_left_out(project: Project) -> None:
    raw = project.root / "raw"
    for name in ("tile004", "tile019"):
        (raw / f"images/{name}.png").write_bytes((raw / "images/tile000.png").read_bytes())
    table = (raw / "labels.csv").read_text()
    (raw / "labels.csv").write_text(table.replace("tile000,picture0", "tile000,"))
    prepare(project, competition())
    frame = read_manifest(project).set_index("image_id")
    assert "tile000" not in frame.index
    assert frame.loc["tile004", "group"] == frame.loc["tile019", "group"] == "picture2"
    assert read_duplicates(project)["image_id"].tolist() == ["tile004"]


def test_dark_copies_are_copies(project: Project) -> None:
    rng = np.random.default_rng(0)
    dark = rng.integers(200, 300, (128, 128), np.uint16)  # 0 and 1 of 255
    for name in ("tile001", "tile010"):
        cv2.imwrite(str(project.root / f"raw/images/{name}.png"), dark)
    assert prepare(project, competition(groups={})).duplicates == 1


def test_a_failure_leaves_the_old_tables(project: Project) -> None:
    raw = project.root / "raw"
    (raw / "test").mkdir()
    (raw / "test/x.png").write_bytes((raw / "images/tile003.png").read_bytes())
    (raw / "test.csv").write_text("ImageId,EncodedPixels\nx,1 2\n")
    labels = {"format": "rle", "file": "test.csv"}
    comp = competition(test={"images": "test/*.png", "labels": labels}, folds={"k": 2})
    prepare(project, comp)
    before = {path.name: path.read_bytes() for path in project.data.iterdir() if path.suffix != ".lock"}
    (raw / "masks/tile001.png").write_bytes((raw / "masks/tile002.png").read_bytes())
    (raw / "test.csv").write_text("ImageId,EncodedPixels\nx,1 2\nx,\n")
    with pytest.raises(GatemaskError, match="both empty and masked"):
        prepare(project, comp)
    assert {name: (project.data / name).read_bytes() for name in before} == before


def test_ids_in_tables_may_be_names_of_files(project: Project) -> None:
    raw = project.root / "raw"
    lines = (raw / "labels.csv").read_text().splitlines()
    named = [line.replace(",", ".png,", 1) for line in lines[1:]]
    (raw / "labels.csv").write_text("\n".join([lines[0], *named]) + "\n")
    rows = ["ImageId,EncodedPixels", *(f"images/tile{n:03d}.PNG,{'1 5' if n % 2 else ''}" for n in range(24))]
    (raw / "rle.csv").write_text("\n".join(rows) + "\n")
    result = prepare(project, competition(labels={"format": "rle", "file": "rle.csv"}))
    assert (result.images, result.positives, result.problems, result.groups) == (24, 12, 0, 12)


def test_labels_alone_do_not_reveal_images_without_a_label(project: Project) -> None:
    labels = {"format": "png", "masks": "masks/{id}.png", "missing": "empty"}
    with pytest.raises(GatemaskError, match="--labels-only cannot find"):
        prepare(project, competition(labels=labels), labels_only=True)


def test_masks_must_be_below_the_raw_folder(project: Project) -> None:
    with pytest.raises(GatemaskError, match="absolute"):
        prepare(project, competition(labels={"format": "png", "masks": "/masks/{id}.png"}))
    table = str(project.root / "raw/labels.csv")
    settings = {"file": table, "id": "id", "column": "group_image"}
    assert prepare(project, competition(groups=settings)).groups == 12, "a table has one path, and that may be any"


def copy_project(project: Project, name: str) -> Project:
    shutil.copytree(project.root, project.root.with_name(name))
    return Project(project.root.with_name(name), project.comp)


@pytest.mark.parametrize("raw", ["raw", "../outside/raw", "{data}/raw"])
def test_a_copied_project_reads_its_own_files(project: Project, tmp_path: Path, raw: str) -> None:
    comp = competition(raw=raw)
    inner, text = Project(tmp_path / "inner", "comp"), raw.replace("{data}", "data/comp")
    folder = inner.root / text
    inner.root.mkdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(project.root / "raw", folder)
    prepare(inner, comp)
    assert raw_folder(inner, comp) == folder
    copy = copy_project(inner, "copy")
    assert raw_folder(copy, comp) == copy.root / text
    assert str(inner.root) not in (copy.data / "manifest.json").read_text()


def test_data_inside_the_project_is_remembered_relative_to_it(project: Project) -> None:
    (project.root / "raw").rename(project.root / "elsewhere")
    prepare(project, competition(), data=project.root / "elsewhere")
    copy = copy_project(project, f"{project.root.name}-copy")
    assert raw_folder(copy, competition()) == copy.root / "elsewhere"


def test_data_outside_the_project_is_remembered_as_it_is(project: Project, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "raw"
    (project.root / "raw").rename(outside)
    prepare(project, competition(), data=outside)
    copy = copy_project(project, f"{project.root.name}-copy")
    assert raw_folder(copy, competition()) == outside


def test_a_changed_raw_takes_effect(project: Project) -> None:
    prepare(project, competition(), data=project.root / "raw")
    other = shutil.copytree(project.root / "raw", project.root / "other")
    next((other / "images").glob("*.png")).unlink()
    changed = competition(raw="other")
    assert raw_folder(project, changed) == other
    with pytest.raises(GatemaskError, match="another raw folder than"):
        require_images(project, changed)
    assert not prepare(project, changed).current
    require_images(project, changed)
    assert prepare(project, changed).current
    assert raw_folder(project, competition()) == project.root / "raw", "and back"


def test_reports_are_kept_and_printed_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    raw = project.root / "raw"
    for path in sorted((raw / "masks").iterdir())[:3]:
        cv2.imwrite(str(path), cv2.GaussianBlur(cv2.imread(str(path), 0), (9, 9), 0))
    (raw / "images/tile003.png").rename(raw / "images/tile003.PNG")
    first = prepare(project, competition())
    shown = capsys.readouterr().err
    assert any("masks hold values between 0 and 255" in report for report in first.reports), first.reports
    assert any("match no pattern because of their extension" in report for report in first.reports)
    assert all(report in shown for report in first.reports)
    again = prepare(project, competition())
    shown = capsys.readouterr().err
    assert again.current
    assert again.reports == first.reports
    assert all(shown.count(report) == 1 for report in first.reports)
    raw.rename(project.root / "elsewhere")
    assert prepare(project, competition()).current
    shown = capsys.readouterr().err
    assert all(report in shown for report in first.reports), "without the raw files, too"


def test_an_edited_stamp_of_the_manifest_is_not_believed(project: Project) -> None:
    prepare(project, competition())
    stamp = project.data / "manifest.json"
    stamp.write_text(stamp.read_text().replace('"images": 24', '"images": 25'))
    with pytest.raises(GatemaskError, match=r"edited after gatemask wrote it[\s\S]*manifest.json[\s\S]*Delete"):
        prepare(project, competition())
    stamp.unlink()
    assert prepare(project, competition()).images == 24
