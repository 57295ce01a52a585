"""Every format of submissions: what is written looks like the sample, and other readers find the same masks in it."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gatemask.config import Competition
from gatemask.data.mask_sizes import MaskSizes
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.submission.check import check_submission
from tests.data.test_manifest import competition

SIZES = {"a": (4, 6), "b": (5, 3), "c": (2, 2)}
FILES = {name: f"test/{name}.png" for name in SIZES}
CLASSES = ["cat", "wildcat", "3"]


def comp_of(submission: dict[str, Any], classes: list[str] | None = None, **more: Any) -> Competition:
    image = {"size": "mixed", "channels": 1}
    return competition(image=image, classes=classes or CLASSES, submission=submission, **more)


def masks_of(classes: int = 3) -> dict[tuple[str, int], np.ndarray]:
    """Return a mask of each image and class, disjoint; image b has none of class 1, image c none at all."""
    rng = np.random.default_rng(0)
    numbers = {name: rng.integers(0, classes + 1, size) for name, size in SIZES.items()}
    return {
        (name, index): (numbers[name] == index + 1) & (name != "c") & ((name, index) != ("b", 1))
        for name in SIZES
        for index in range(classes)
    }


def encoded(comp: Competition, masks: dict[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], list[str]]:
    dialect = SubmissionFormat.of(comp).dialect
    return {key: [rle.encode(mask, dialect)] for key, mask in masks.items() if mask.any()}


def plain_decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of an absolute, 1-based, column-major encoding."""
    flat = np.zeros(size[0] * size[1], bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(size[1], size[0]).T


def sizes() -> MaskSizes:
    return MaskSizes(None, SIZES)


def check(path: Path, comp: Competition, table: SubmissionTable) -> Any:
    return check_submission(path, comp, table, sizes())


# --- names of rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joined", "name", "renamed"),
    [
        ("{id}_{class}", "a_wildcat", "new_wildcat"),
        ("{class}/{id}.png", "wildcat/a.png", "wildcat/new.png"),
        ("x-{id}.jpg_{class} (mask)", "x-a.jpg_wildcat (mask)", "x-new.jpg_wildcat (mask)"),
        ("{class}_{id}", "wildcat_a", "wildcat_new"),
    ],
)
def test_id_and_class_are_joined_in_any_order_and_text(joined: str, name: str, renamed: str, tmp_path: Path) -> None:
    comp = comp_of({"joined": joined})
    layout = SubmissionFormat.of(comp)
    row = layout.parse_row({"ImageId": name}, "here")
    assert (row.image_id, row.class_index) == ("a", 1), "of two classes that fit, the longer one"
    assert layout.rename_row(row, "new").name == renamed
    table, masks = table_of(layout, SIZES), masks_of()
    path = table.write(tmp_path / "submission.csv", encoded(comp, masks))
    assert check(path, comp, table).rows == 9
    rows = {line["ImageId"]: line["EncodedPixels"] for line in csv.DictReader(path.open())}
    for (image_id, index), mask in masks.items():
        name = joined.replace("{id}", image_id).replace("{class}", CLASSES[index])
        assert (plain_decode(rows[name], SIZES[image_id]) == mask).all()


def test_a_name_without_a_class_is_rejected() -> None:
    layout = SubmissionFormat.of(comp_of({"joined": "{class}/{id}"}))
    with pytest.raises(GatemaskError, match=r"Unknown class[\s\S]*dog/a[\s\S]*cat/\{id\}"):
        layout.parse_row({"ImageId": "dog/a"}, "here")


# --- the style of the sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ['"ImageId","EncodedPixels"', '"a",""', '"b",""', '"c",""'],
        ['"ImageId","EncodedPixels"', '"a",', '"b",', '"c",'],
        ["EncodedPixels;ImageId", ";b", ";c", ";a"],
        ["ImageId\tEncodedPixels", "a\t", "c\t", "b\t"],
        ["ImageId,EncodedPixels,", "a,,", "b,,", "c,,"],
        ["ImageId,EncodedPixels", "a,,", "b,,", "c,,"],
        ["ImageId,EncodedPixels", 'a,""', 'c,""', 'b,""'],
    ],
    ids=["all quoted", "ids quoted", "semicolons", "tabs", "nameless column", "trailing commas", "masks quoted"],
)
def test_the_file_looks_like_the_sample(tmp_path: Path, lines: list[str]) -> None:
    comp = comp_of({"sample": "sample.csv"}, ["cat"])
    (tmp_path / "sample.csv").write_text("\n".join(lines) + "\n")
    table = read_sample(SubmissionFormat.of(comp), tmp_path / "sample.csv")
    assert table.write(tmp_path / "empty.csv", {}).read_text() == (tmp_path / "sample.csv").read_text()
    masks = masks_of(1)
    path = table.write(tmp_path / "submission.csv", encoded(comp, masks))
    summary = check(path, comp, table)
    assert (summary.rows, summary.empty, summary.in_order) == (3, 1, True)
    delimiter = next(mark for mark in "\t;," if mark in lines[0])
    for line in csv.DictReader(path.open(), delimiter=delimiter):
        mask = masks[line["ImageId"], 0]
        assert (plain_decode(line["EncodedPixels"], mask.shape) == mask).all()


def test_a_sample_with_a_name_but_no_rows_tells_the_quoting(tmp_path: Path) -> None:
    comp = comp_of({"sample": "sample.csv"}, ["cat"])
    (tmp_path / "sample.csv").write_text('"ImageId","EncodedPixels"\n')
    table = read_sample(SubmissionFormat.of(comp), tmp_path / "sample.csv").for_images({"a": "test/a.png"})
    assert table.write(tmp_path / "out.csv", {}).read_text() == '"ImageId","EncodedPixels"\n"a",""\n'


def test_names_follow_the_sample_for_other_images(tmp_path: Path) -> None:
    comp = comp_of({"sample": "sample.csv", "joined": "{id}_{class}"})
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\nb.png_cat,\n")
    table = read_sample(SubmissionFormat.of(comp), tmp_path / "sample.csv").for_images({"a": "test/a.png"})
    assert [row.name for row in table.rows] == ["a.png_cat", "a.png_wildcat", "a.png_3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ImageId,EncodedPixels,\na,,5\n", "a column without a name"),
        ("ImageId,EncodedPixels\na,1 2,5\n", "more cells"),
        ("ImageId,ImageId,EncodedPixels\n", "column twice"),
        ("ImageId\na\n", "lacks a column"),
    ],
)
def test_samples_that_are_not_understood_are_rejected(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sample.csv").write_text(text)
    with pytest.raises(GatemaskError, match=words):
        read_sample(SubmissionFormat.of(comp_of({}, ["cat"])), tmp_path / "sample.csv")


# --- wide tables --------------------------------------------------------------------------------------------------


def test_wide_tables_have_one_row_per_image(tmp_path: Path) -> None:
    columns = {"wildcat": "w", "cat": "c", "3": "three"}
    comp = comp_of({"columns": columns, "sample": "sample.csv", "rle": {"empty": "-1"}})
    (tmp_path / "sample.csv").write_text("three,ImageId,w,c\n" + "".join(f"-1,{name},-1,-1\n" for name in "cab"))
    table = read_sample(SubmissionFormat.of(comp), tmp_path / "sample.csv")
    masks = masks_of()
    path = table.write(tmp_path / "submission.csv", encoded(comp, masks))
    assert check(path, comp, table).rows == 9
    lines = list(csv.DictReader(path.open()))
    assert [line["ImageId"] for line in lines] == ["c", "a", "b"]
    assert list(lines[0]) == ["three", "ImageId", "w", "c"]
    for line in lines:
        for index, label in enumerate(CLASSES):
            text, mask = line[columns[label]], masks[line["ImageId"], index]
            assert (plain_decode("" if text == "-1" else text, mask.shape) == mask).all()
    (tmp_path / "short.csv").write_text("three,ImageId,w,c\n-1,c,-1,-1\n-1,a,-1,-1\n")
    with pytest.raises(GatemaskError, match="3 missing, 0 unknown"):
        check(tmp_path / "short.csv", comp, table)
    (tmp_path / "narrow.csv").write_text("ImageId,w,c\n")
    with pytest.raises(GatemaskError, match="header differs"):
        check(tmp_path / "narrow.csv", comp, table)


# --- objects ------------------------------------------------------------------------------------------------------

LABEL = np.array([[1, 1, 0, 2, 2, 0], [1, 1, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]], np.int32)


def object_table(tmp_path: Path, rows: list[str], comp: Competition, header: str = "ImageId,EncodedPixels") -> Any:
    (tmp_path / "sample.csv").write_text("\n".join([header, *rows]) + "\n")
    return read_sample(SubmissionFormat.of(comp), tmp_path / "sample.csv").with_unlisted(FILES)


@pytest.mark.parametrize(
    ("listed", "written"),
    [
        (["c,1 1", "a,1 1", "b,1 1"], ["c", "a", "a", "a", "b"]),
        (["c,"], ["c", "a", "a", "a"]),
        ([], ["a", "a", "a"]),
        (["a,1 1", "a,2 2", "b,"], ["a", "a", "a", "b"]),
    ],
    ids=["all images", "one without objects", "none", "examples of objects"],
)
def test_each_object_has_a_row(tmp_path: Path, listed: list[str], written: list[str]) -> None:
    comp = comp_of({"rows": "object", "sample": "sample.csv"}, ["cat"])
    table = object_table(tmp_path, listed, comp)
    path = table.write(tmp_path / "submission.csv", {("a", 0): rle.encode_objects(LABEL, comp.submission.rle)})
    lines = list(csv.DictReader(path.open()))
    assert [line["ImageId"] for line in lines] == written
    objects = [plain_decode(line["EncodedPixels"], (4, 6)) for line in lines if line["ImageId"] == "a"]
    assert (sum(number * mask for number, mask in enumerate(objects, start=1)) == LABEL).all()
    assert all(line["EncodedPixels"] == "" for line in lines if line["ImageId"] != "a")
    summary = check(path, comp, table)
    assert (summary.rows, summary.empty, summary.in_order) == (len(written), len(written) - 3, True)


@pytest.mark.parametrize("all_classes", [True, False])
def test_objects_of_several_classes(tmp_path: Path, all_classes: bool) -> None:
    comp = comp_of({"rows": "object", "class_column": "Class", "sample": "sample.csv"})
    listed = [f"{name},,{label}" for name in "ac" for label in (CLASSES if all_classes else CLASSES[:1])]
    table = object_table(tmp_path, listed, comp, "ImageId,EncodedPixels,Class")
    path = table.write(tmp_path / "submission.csv", {("a", 1): ["1 2", "5 1"], ("b", 2): ["1 1"]})
    lines = [tuple(line.values()) for line in csv.DictReader(path.open())]
    of_a = [("a", "1 2", "wildcat"), ("a", "5 1", "wildcat")]
    if all_classes:
        of_a = [("a", "", "cat"), *of_a, ("a", "", "3")]
    of_c = [("c", "", label) for label in (CLASSES if all_classes else CLASSES[:1])]
    assert lines == [*of_a, *of_c, ("b", "1 1", "3")]
    assert check(path, comp, table).images == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,1 3", "a,3 1", "b,", "c,"], r"Objects of one class overlap[\s\S]*1 pixels"),
        (["a,1 3", "a,", "b,", "c,"], "without an object beside others"),
        (["a,1 3", "b,"], "1 missing, 0 unknown, such as c"),
        (["a,1 3", "b,", "c,", "d,1 1"], "0 missing, 1 unknown, such as d"),
        (["a,24 1", "b,16 1", "c,"], "row 3, image b"),
        (["a,24 1", "b,15 1", "c,5 1"], "row 4, image c"),
    ],
    ids=["overlap", "empty and not", "missing", "unknown", "beyond image b", "beyond image c"],
)
def test_wrong_rows_of_objects_are_rejected(tmp_path: Path, rows: list[str], words: str) -> None:
    comp = comp_of({"rows": "object", "sample": "sample.csv"}, ["cat"])
    table = object_table(tmp_path, ["a,", "b,", "c,"], comp)
    path = tmp_path / "submission.csv"
    path.write_text("\n".join(["ImageId,EncodedPixels", *rows]) + "\n")
    with pytest.raises(GatemaskError, match=words):
        check(path, comp, table)


def test_objects_of_two_classes_may_overlap_unless_they_are_exclusive(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na_cat,1 3\na_wildcat,3 1\n")
    for exclusive in (False, True):
        comp = comp_of({"rows": "object", "joined": "{id}_{class}"}, ["cat", "wildcat"], exclusive=exclusive)
        table = table_of(SubmissionFormat.of(comp), ["a"])
        if exclusive:
            with pytest.raises(GatemaskError, match="two classes overlap"):
                check(tmp_path / "submission.csv", comp, table)
        else:
            assert check(tmp_path / "submission.csv", comp, table).rows == 2


# --- archives -----------------------------------------------------------------------------------------------------


def pixels_in(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {name: np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("archive", "classes", "values"),
    [
        ({}, ["cat"], [255]),
        ({"files": "masks/{id}.png"}, CLASSES, [1, 2, 3]),
        ({"files": "{id}.tif", "format": "tiff", "values": {"cat": 7, "wildcat": 3, "3": 200}}, CLASSES, [7, 3, 200]),
        ({"values": {"cat": 7, "wildcat": 300, "3": 65535}}, CLASSES, [7, 300, 65535]),
    ],
    ids=["one class", "numbers", "tiff with values", "16 bits"],
)
def test_archives_have_a_file_per_image(
    tmp_path: Path, archive: dict[str, Any], classes: list[str], values: list[int]
) -> None:
    comp = comp_of({"archive": archive}, classes, exclusive=len(classes) > 1)
    assert comp.submission.file_name == "submission.zip"
    table, masks = table_of(SubmissionFormat.of(comp), SIZES), masks_of(len(classes))
    path = table.write(tmp_path / "submission.zip", encoded(comp, masks), sizes())
    again = table.write(tmp_path / "again.zip", encoded(comp, masks), sizes())
    assert path.read_bytes() == again.read_bytes()
    found = pixels_in(path)
    for name, size in SIZES.items():
        pixels = found[archive.get("files", "{id}.png").replace("{id}", name)]
        expected = sum(value * masks[name, index].astype(int) for index, value in enumerate(values))
        assert pixels.shape == size and (pixels == expected).all()
    summary = check(path, comp, table)
    assert (summary.rows, summary.images) == (3 * len(classes), 3)
    assert summary.empty == sum(not mask.any() for mask in masks.values())


def test_archives_with_a_file_per_class(tmp_path: Path) -> None:
    comp = comp_of({"archive": {"files": "{class}/{id}.png"}})
    table, masks = table_of(SubmissionFormat.of(comp), SIZES), masks_of()
    masks["a", 0] |= masks["a", 1]
    found = pixels_in(table.write(tmp_path / "submission.zip", encoded(comp, masks), sizes()))
    assert len(found) == 9
    for (name, index), mask in masks.items():
        assert (found[f"{CLASSES[index]}/{name}.png"] == 255 * mask).all()
    sample = read_sample(SubmissionFormat.of(comp), tmp_path / "submission.zip")
    assert list(sample.rows) == list(table.rows)


def zip_of(path: Path, files: dict[str, np.ndarray | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            buffer = io.BytesIO()
            if not isinstance(content, bytes):
                Image.fromarray(content).save(buffer, "png")
            archive.writestr(name, content if isinstance(content, bytes) else buffer.getvalue())
    return path


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.png": np.zeros((6, 4), np.uint8)}, "wrong size"),
        ({"a.png": np.full((4, 6), 9, np.uint8)}, r"value that means no class[\s\S]*9"),
        ({"a.png": np.zeros((4, 6, 3), np.uint8)}, "not a mask"),
        ({"a.png": b"no image"}, "not a mask"),
        ({"a.png": np.zeros((4, 6), np.uint8)}, "4 missing, 0 unknown"),
        ({"d.jpg": np.zeros((4, 6), np.uint8)}, "Unknown class"),
    ],
    ids=["turned", "value", "color", "text", "missing", "name"],
)
def test_wrong_archives_are_rejected(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    comp = comp_of({"archive": {}}, ["cat", "wildcat"], exclusive=True)
    table = table_of(SubmissionFormat.of(comp), SIZES)
    with pytest.raises(GatemaskError, match=words):
        check(zip_of(tmp_path / "submission.zip", files), comp, table)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(GatemaskError, match="not a zip archive"):
        check(tmp_path / "text.zip", comp, table)


# --- settings that contradict each other --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submission", "words"),
    [
        ({"archive": {}}, "exclusive: true"),
        ({"archive": {"files": "mask.png"}}, "must name {id}"),
        ({"archive": {"files": "../{id}.png"}}, "inside the archive"),
        ({"archive": {"values": {"cat": 0, "wildcat": 1, "3": 2}}}, "value 0"),
        ({"archive": {"values": {"cat": 1, "wildcat": 1, "3": 2}}}, "have one value"),
        ({"rows": "object", "columns": {"cat": "c", "wildcat": "w", "3": "t"}}, "'columns' excludes"),
    ],
)
def test_impossible_settings_are_rejected(submission: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        comp_of(submission)


def test_the_size_of_an_image_must_be_known(tmp_path: Path) -> None:
    comp = comp_of({}, ["cat"])
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,1 1\n")
    table = table_of(SubmissionFormat.of(comp), ["a"])
    with pytest.raises(GatemaskError, match=r"size of an image is unknown[\s\S]*image a"):
        check_submission(tmp_path / "submission.csv", comp, table)
    scored = competition(image={"size": "mixed", "scoring_size": [4, 6], "channels": 1}, classes=["cat"], submission={})
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,24 1\n")
    assert check_submission(tmp_path / "submission.csv", scored, table).rows == 1
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,25 1\n")
    with pytest.raises(GatemaskError, match="past the end"):
        check_submission(tmp_path / "submission.csv", scored, table)
