"""Images, masks beside them and test images: what one glob matches is told apart, or rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from gatemask.config import Competition
from gatemask.data.manifest import prepare, read_test_images
from gatemask.data.split import read_manifest
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.project import Project
from tests.data.test_manifest import competition

SIZE = (16, 16)
PNG = {"format": "png", "masks": "masks/{id}.png"}


def configured(**changes: Any) -> Competition:
    settings = {"image": {"size": list(SIZE), "channels": 1}, "groups": {"duplicates": "ignore"}, "folds": {"k": 2}}
    return competition(**{**settings, "test": {"images": "test/*.png"}, "labels": PNG, **changes})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with two test images and an empty raw folder otherwise."""
    for number in (1, 2):
        image(tmp_path / f"raw/test/t{number}.png")
    return Project(tmp_path, "tiles")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(SIZE, sum(path.as_posix().encode()) % 256, np.uint8))


def mask(path: Path, number: int) -> None:
    """Write a mask with pixel `number` and none else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(SIZE, np.uint8)
    pixels.ravel()[number] = 255
    cv2.imwrite(str(path), pixels)


def pixels_of(project: Project) -> dict[str, list[int]]:
    """Return the pixels of each training image's mask."""
    masks = Masks(project.data / "masks.csv", SIZE)
    return {name: np.flatnonzero(masks[name]).tolist() for name in read_manifest(project, "train")["image_id"]}


def problems(project: Project) -> dict[str, str]:
    return dict(pd.read_csv(project.data / "problems.csv").itertuples(index=False))


# --- ids from paths ---------------------------------------------------------------------------------------------------

CASES = [(case, number) for case in (1, 2, 3) for number in (1, 2, 3)]


@pytest.fixture
def cases(project: Project) -> Project:
    """Write nine images with three names in three folders, with masks and a table that names paths."""
    rows = ["ImageId,EncodedPixels"]
    for case, number in CASES:
        image(project.root / f"raw/images/case{case}/s{number}.png")
        mask(project.root / f"raw/masks/case{case}/s{number}.png", 10 * case + number)
        rows.append(f"case{case}/s{number},{10 * case + number} 1")
    (project.root / "raw/train.csv").write_text("\n".join(rows) + "\n")
    return project


PIXELS = {f"case{case}_s{number}": [10 * case + number] for case, number in CASES}
TABLE = {"format": "rle", "file": "train.csv", "rle": {"base": 0, "order": "row"}}


@pytest.mark.parametrize("labels", [TABLE, PNG, {"format": "png", "masks": "masks/*/{id}.png"}])
def test_files_of_one_id_are_rejected(cases: Project, labels: dict[str, Any]) -> None:
    with pytest.raises(GatemaskError, match=r"Several files have one id[\s\S]*3 such ids, the first s1[\s\S]*\{case\}"):
        prepare(cases, configured(train={"images": "images/*/*.png"}, labels=labels))
    assert not (cases.data / "manifest.csv").exists()


@pytest.mark.parametrize(
    "train",
    [
        {"images": "images/{case}/{slice}.png", "id": "{case}_{slice}"},
        {"images": "images/{case}/*.png", "id": "{case}_{stem}"},
        {"images": "images/**/*.png", "id": r"(case\d+)/(s\d+)"},
    ],
)
def test_ids_may_include_the_folder(cases: Project, train: dict[str, str]) -> None:
    test = {"images": "test/*.png", "id": "{stem}"}
    prepare(cases, configured(train=train, test=test, labels=TABLE))
    assert pixels_of(cases) == PIXELS
    assert problems(cases) == {}
    if "{case}" in train["images"]:
        masks = "masks/{case}/{slice}.png" if "{slice}" in train["images"] else "masks/{case}/{stem}.png"
        prepare(cases, configured(train=train, test=test, labels={"format": "png", "masks": masks}))
        assert pixels_of(cases) == PIXELS


def test_folders_named_as_the_ids(project: Project) -> None:
    for number in range(4):
        image(project.root / f"raw/train/p{number}/image.png")
        mask(project.root / f"raw/train/p{number}/mask.png", number)
    labels = {"format": "png", "masks": "train/{id}/mask.png"}
    prepare(project, configured(train={"images": "train/{id}/image.png"}, labels=labels))
    assert pixels_of(project) == {f"p{number}": [number] for number in range(4)}
    with pytest.raises(GatemaskError, match="Several files have one id"):
        prepare(project, configured(train={"images": "train/*/image.png"}, labels=labels))


def test_test_images_of_one_id_are_rejected_before_there_is_a_manifest_too(cases: Project) -> None:
    comp = configured(test={"images": "images/*/*.png"})
    with pytest.raises(GatemaskError, match="Several files have one id"):
        read_test_images(cases, comp)
    rule = {"images": "images/{case}/{slice}.png", "id": "{case}_{slice}"}
    assert set(read_test_images(cases, configured(test=rule))["image_id"]) == set(PIXELS)


# --- what is no training image ----------------------------------------------------------------------------------------


@pytest.fixture
def flat(project: Project) -> Project:
    """Write four images and a table with a mask for three of them."""
    rows = ["ImageId,EncodedPixels"]
    for number in range(4):
        image(project.root / f"raw/images/i{number}.png")
        rows += [f"i{number}.png,{number} 1"] if number else []
    (project.root / "raw/train.csv").write_text("\n".join(rows) + "\n")
    return project


EMPTY = {**TABLE, "missing": "empty"}


def test_files_that_both_globs_match_are_test_images(flat: Project, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(flat, configured(train={"images": "*/*.png"}, labels=EMPTY))
    assert pixels_of(flat) == {"i0": [], "i1": [1], "i2": [2], "i3": [3]}
    assert read_manifest(flat, "test")["image_id"].tolist() == ["t1", "t2"]
    assert "2 files match train.images and test.images" in capsys.readouterr().err
    with pytest.raises(GatemaskError, match=r"Every file that train\.images matches is a test image"):
        prepare(flat, configured(train={"images": "test/*.png"}, labels=EMPTY))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("images/i1_mask.png", "probably masks"),
        ("images/i1-seg-0.png", "probably masks"),
        ("images/Masks/x.png", "probably masks"),
        ("stage1_test/x.png", "probably test images, since their folder"),
        ("images/t1.png", "probably test images, since the test set"),
        ("images/listed.png", "probably test images, since the test set"),
    ],
)
def test_files_that_would_become_empty_training_images_are_rejected(flat: Project, file: str, words: str) -> None:
    image(flat.root / "raw" / file)
    (flat.root / "raw/sample.csv").write_text("ImageId,EncodedPixels\nt1,\nt2,\nlisted,\n")
    comp = configured(
        train={"images": "*[!t]/**/*.png" if "stage1" not in file else "*/*.png"},
        test={"images": "test/*.png"},
        labels=EMPTY,
        submission={"sample": "sample.csv"},
    )
    with pytest.raises(GatemaskError, match=f"{words}[\\s\\S]*{file}"):
        prepare(flat, comp)
    with (flat.root / "raw/train.csv").open("a") as table:
        table.write(f"{Path(file).name},\n")
    assert prepare(flat, comp).images == 5, "a row makes it a training image"


# --- masks beside images, and masks of other images ------------------------------------------------------------------


def test_masks_beside_the_images_are_no_images(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        image(project.root / f"raw/k/p{number}/s{number}.tif")
        mask(project.root / f"raw/k/p{number}/s{number}_mask.tif", number)
    labels = {"format": "png", "masks": "k/*/{id}_mask.tif", "missing": "empty"}
    prepare(project, configured(train={"images": "k/*/*.tif"}, labels=labels))
    assert pixels_of(project) == {f"s{number}": [number] for number in range(3)}
    assert "3 files are masks beside the images" in capsys.readouterr().err
    image(project.root / "raw/k/p0/s0_mask_mask.tif")
    with pytest.raises(GatemaskError, match="cannot be distinguished from masks"):
        prepare(project, configured(train={"images": "k/*/*.tif"}, labels=labels))


def test_masks_of_equal_names_in_another_folder_are_no_images(project: Project) -> None:
    for number in range(3):
        image(project.root / f"raw/train/images/s{number}.png")
        mask(project.root / f"raw/train/masks/s{number}.png", number)
    labels = {"format": "png", "masks": "train/masks/{id}.png"}
    prepare(project, configured(train={"images": "train/*/*.png"}, labels=labels))
    assert pixels_of(project) == {f"s{number}": [number] for number in range(3)}


def test_images_that_the_pattern_of_masks_fits_are_rejected(project: Project) -> None:
    for name in ("img1", "img10"):
        image(project.root / f"raw/all/{name}.png")
        mask(project.root / f"raw/all/{name}_0.png", 1)
    labels = {"format": "png", "masks": "all/{id}*.png"}
    with pytest.raises(GatemaskError, match=r"cannot be distinguished from masks[\s\S]*Narrow labels.masks"):
        prepare(project, configured(train={"images": "all/*.png"}, labels=labels))


def test_an_image_that_fits_as_a_mask_but_has_masks_is_rejected(project: Project) -> None:
    for name in ("a", "a_1"):
        image(project.root / f"raw/images/{name}.png")
        mask(project.root / f"raw/masks/{name}_0.png", 1)
    labels = {"format": "png", "masks": "*/{id}_?.png"}
    with pytest.raises(GatemaskError, match=r"cannot be distinguished from masks[\s\S]*images/a_1.png"):
        prepare(project, configured(train={"images": "images/*.png"}, labels=labels))


@pytest.mark.parametrize(
    "pattern", ["masks/{id}*.png", "masks/{id}_*.png", "masks/{id}[_0-9]*.png", "masks/{id}_?.png"]
)
def test_a_mask_belongs_to_the_longest_id(project: Project, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["img1", "img10", "img11", "a", "a_1"]
    for place, name in enumerate(names):
        image(project.root / f"raw/images/{name}.png")
        for part in (0, 1):
            mask(project.root / f"raw/masks/{name}_{part}.png", 10 * place + part)
    (project.root / "raw/masks/a_1.png").rename(project.root / "raw/masks/a_7.png")
    prepare(project, configured(train={"images": "images/*.png"}, labels={"format": "png", "masks": pattern}))
    assert pixels_of(project) == {name: [10 * place, 10 * place + 1] for place, name in enumerate(names)}
    if pattern == "masks/{id}*.png":
        assert "fit the ids of several images" in capsys.readouterr().err


def test_masks_of_damaged_and_of_test_images_go_to_no_other(project: Project) -> None:
    for name in ("a", "b"):
        image(project.root / f"raw/images/{name}.png")
        mask(project.root / f"raw/masks/{name}_0.png", ord(name) % 16)
    (project.root / "raw/images/a_1.png").write_bytes(b"damaged")
    image(project.root / "raw/test/b_1.png")
    for name in ("a_1_0", "b_1_0"):
        mask(project.root / f"raw/masks/{name}.png", 200)
    labels = {"format": "png", "masks": "masks/{id}_*.png"}
    prepare(project, configured(train={"images": "images/*.png"}, labels=labels))
    assert pixels_of(project) == {"a": [1], "b": [2]}


def test_masks_without_an_image_are_reported(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        image(project.root / f"raw/images/i{number}.{'png' if number < 4 else 'PNG'}")
        mask(project.root / f"raw/masks/i{number}.png", number)
    prepare(project, configured(train={"images": "images/*.png"}))
    assert problems(project) == {f"masks/i{number}.png": "The mask has no image." for number in (4, 5)}
    assert "4 of 6 mask files match, not i4, i5" in capsys.readouterr().err


def test_a_mask_that_fits_two_images_equally_well_is_rejected(project: Project) -> None:
    for name in ("ab", "bc"):
        image(project.root / f"raw/images/{name}.png")
        mask(project.root / f"raw/masks/{name}.png", 1)
    mask(project.root / "raw/masks/abc.png", 1)
    with pytest.raises(GatemaskError, match=r"several images equally well[\s\S]*abc.png[\s\S]*more specific"):
        prepare(project, configured(train={"images": "images/*.png"}, labels={**PNG, "masks": "masks/*{id}*.png"}))


# --- joins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {**PNG, "missing": "empty"}},
        {"labels": PNG},
        {"labels": {"format": "rle", "file": "numbers.csv", "missing": "empty"}},
        {"groups": {"file": "numbers.csv", "id": "ImageId", "column": "group", "optional": True}},
        {"extra": {"file": "numbers.csv", "id": "ImageId", "columns": ["EncodedPixels"]}},
        {"submission": {"sample": "numbers.csv"}, "test": {"images": "hidden/*.png"}},
    ],
    ids=["masks", "masks needed", "table", "groups", "columns", "sample"],
)
def test_lists_that_do_not_match_are_rejected(project: Project, change: dict[str, Any]) -> None:
    rows = ["ImageId,EncodedPixels,group", *(f"{number},1 2,p{number // 3}" for number in range(100, 112))]
    table = ["ImageId,EncodedPixels"]
    for number in range(100, 112):
        for folder in ("images", "hidden"):
            image(project.root / f"raw/{folder}/{number:06d}.png")
        mask(project.root / f"raw/masks/{number:06d}_mask.png", number)
        table.append(f"{number:06d},1 2")
    (project.root / "raw/right.csv").write_text("\n".join(table) + "\n")
    (project.root / "raw/numbers.csv").write_text(
        "\n".join(rows if "submission" not in change else [row.rpartition(",")[0] for row in rows]) + "\n"
    )
    right = {"train": {"images": "images/*.png"}, "labels": {"format": "rle", "file": "right.csv"}}
    with pytest.raises(GatemaskError, match=r"two lists do not match[\s\S]*0 of 12[\s\S]*would match"):
        prepare(project, configured(**{**right, **change}))
    assert not (project.data / "manifest.json").exists()


def test_images_without_a_group_are_reported(flat: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (flat.root / "raw/groups.csv").write_text("image_id,group\ni1,p\ni2,p\n")
    groups = {"file": "groups.csv", "optional": True, "duplicates": "ignore"}
    prepare(flat, configured(train={"images": "images/*.png"}, labels=EMPTY, groups=groups))
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 4 training images match, not i0, i3" in said
    assert "2 of 4 training images have no group, such as i0, i3: each is a group of its own" in said


def test_sources_that_name_no_group_are_rejected(flat: Project) -> None:
    groups = {"regex": "^(patient)", "optional": True, "duplicates": "ignore"}
    with pytest.raises(GatemaskError, match="No training image has a group"):
        prepare(flat, configured(train={"images": "images/*.png"}, labels=EMPTY, groups=groups))


def test_an_image_with_two_values_is_rejected(flat: Project) -> None:
    (flat.root / "raw/extra.csv").write_text("image_id,sex\ni1,F\ni2,M\ni1.png,M\n")
    extra = {"file": "extra.csv", "columns": ["sex"]}
    with pytest.raises(GatemaskError, match=r"two values[\s\S]*row 4, image i1, column sex[\s\S]*F and M"):
        prepare(flat, configured(train={"images": "images/*.png"}, labels=EMPTY, extra=extra))


def test_a_sample_of_a_hidden_test_set_has_no_rows(flat: Project) -> None:
    (flat.root / "raw/sample.csv").write_text("ImageId,EncodedPixels\n")
    comp = configured(train={"images": "images/*.png"}, labels=EMPTY, submission={"sample": "sample.csv"})
    assert prepare(flat, comp).images == 4


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\tb", "a\x1bb"], ids=ascii)
def test_names_with_control_characters_are_rejected(project: Project, name: str) -> None:
    """A carriage return alone would break the manifest, which would be made, but could not be read."""
    image(project.root / f"raw/train/{name}.png")
    with pytest.raises(GatemaskError, match=r"holds a control character[\s\S]*train/a\\"):
        prepare(project, configured(train={"images": "train/*.png"}))


def test_odd_names_are_kept(project: Project) -> None:
    names = ["a%20b", "c,d", 'e"f', "g'h", "=1+1", "-k", "#l", "nan", "01", "1", "a*b", "[c]", "{e}", "\U0001f600", "é"]
    for number, name in enumerate(names):
        image(project.root / f"raw/train/{name}.png")
        mask(project.root / f"raw/masks/{name}.png", number)
    prepare(project, configured(train={"images": "train/*.png"}))
    assert pixels_of(project) == {name: [number] for number, name in enumerate(names)}
