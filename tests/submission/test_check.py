"""Tests of the submission check: each way in which a file can be invalid or unusual."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gatemask.config import Competition, SubmissionSettings
from gatemask.data.ids import IdRule
from gatemask.data.submission_format import Row, SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.results.submission import SubmissionSummary
from gatemask.submission import check as checks
from gatemask.submission.check import check_submission
from gatemask.submission.scoring import score_submission
from tests.conftest import ROOT, gatemask
from tests.data.test_manifest import competition

COMP = competition(image={"size": [4, 4], "channels": 1})
TWO = {"classes": ["x", "y"]}
COLUMN = competition(image={"size": [4, 4], "channels": 1}, **TWO, exclusive=True, submission={"class_column": "Class"})
JOINED = competition(image={"size": [4, 4], "channels": 1}, **TWO, submission={"joined": "{id}_{class}"})


def expected(comp: Competition = COMP) -> SubmissionTable:
    return table_of(SubmissionFormat.of(comp), ["a", "b"])


def write(folder: Path, *rows: str, header: str = "ImageId,EncodedPixels", name: str = "submission.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_valid_submission_is_summarized(tmp_path: Path) -> None:
    summary = check_submission(write(tmp_path, "a,1 4", "b,"), COMP, expected())
    assert summary.as_dict() == {
        "rows": 2,
        "images": 2,
        "empty": 1,
        "empty_share": 0.5,
        "in_order": True,
        "megabytes": 0.0,
    }
    assert not check_submission(write(tmp_path, "b,", "a,1 4"), COMP, expected()).in_order


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,1 4"], "1 missing"),
        (["a,1 4", "b,", "c,"], "1 unknown"),
        (["a,1 4", "a,1 4", "b,"], "more than once"),
        (["a,1 4", "b,15 3"], "row 3, image b"),
        (["a,1 4", "b,0 3"], "row 3, image b"),
        (["a,3 4 1 4", "b,"], "row 2, image a"),
        (["a,1 4 5", "b,"], "odd count"),
        (["a,1 x", "b,"], "row 2, image a"),
        (["a,1 4,9", "b,"], "number of columns"),
        (["a", "b,"], "number of columns"),
        ([" a,1 4", "b,"], "spaces around"),
    ],
)
def test_an_invalid_submission_is_rejected(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(GatemaskError, match=words) as caught:
        check_submission(write(tmp_path, *rows), COMP, expected())
    assert "submission.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "given", "words"),
    [
        (["007", "010"], ["7", "10"], "Leading zeros were lost"),
        (["a", "b"], ["a.png", "b.png"], "Only an extension differs"),
        (["a", "b"], ["A", "B"], "Only the letter case differs"),
        (["a", "b"], ["test/a", "test/b"], "The ids of the submission have a prefix such as a folder"),
        (["f/a", "f/b"], ["a", "b"], "The ids of the sample have a prefix such as a folder"),
        (["1", "2"], ["1.0", "2.0"], "decimal numbers"),
        (["a", "b"], ["x", "y"], None),
    ],
)
def test_the_repair_of_unknown_ids_is_suggested(
    tmp_path: Path, ids: list[str], given: list[str], words: str | None
) -> None:
    table = table_of(SubmissionFormat.of(COMP), ids)
    with pytest.raises(GatemaskError, match="2 missing, 2 unknown") as caught:
        check_submission(write(tmp_path, *(f"{name}," for name in given)), COMP, table)
    assert f"{given[0]} should be {ids[0]}" in str(caught.value) or words is None
    assert (words or "do:       Do not submit this file") in str(caught.value)


def test_header_and_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="header"):
        check_submission(write(tmp_path, "a,", header="id,rle"), COMP, expected())
    with pytest.raises(GatemaskError, match="submission file is missing"):
        check_submission(tmp_path / "nothing.csv", COMP, expected())
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(GatemaskError, match="an empty file"):
        check_submission(tmp_path / "empty.csv", COMP, expected())
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GatemaskError, match="not a CSV table"):
        check_submission(tmp_path / "binary.csv", COMP, expected())


def test_a_blank_mask_is_rejected_where_empty_masks_have_a_code(tmp_path: Path) -> None:
    rle = {"rle": {"empty": "-1"}}
    comp = competition(image={"size": [4, 4], "channels": 1}, submission=rle)
    assert check_submission(write(tmp_path, "a,-1", "b,1 2"), comp, expected(comp)).empty == 1
    with pytest.raises(GatemaskError, match="blank"):
        check_submission(write(tmp_path, "a,", "b,1 2"), comp, expected(comp))


def test_a_mask_of_one_megabyte_is_read(tmp_path: Path) -> None:
    comp = competition(image={"size": [1024, 1024], "channels": 1})
    text = " ".join(f"{start} 1" for start in range(1, 1024 * 1024, 4))
    assert len(text) > 1_000_000
    path = write(tmp_path, f"a,{text}", "b,")
    assert check_submission(path, comp, expected(comp)).empty == 1
    assert len(read_sample(SubmissionFormat.of(comp), path).rows) == 2


def test_a_sample_with_an_unknown_column_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "a,7,", header="ImageId,height,EncodedPixels")
    with pytest.raises(GatemaskError, match="does not fill") as caught:
        read_sample(SubmissionFormat.of(COMP), path)
    assert "height" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "image_id", "class_name", "renamed"),
    [
        ("im7_bowel", "im7", "bowel", "new_bowel"),
        ("im7_large_bowel", "im7", "large_bowel", "new_large_bowel"),
        ("bowel.png_bowel", "bowel", "bowel", "new.png_bowel"),
        ("1_c1", "1", "c1", "new_c1"),
    ],
)
def test_ids_and_classes_that_contain_one_another(name: str, image_id: str, class_name: str, renamed: str) -> None:
    classes = ["bowel", "large_bowel", "c1"]
    layout = SubmissionFormat(SubmissionSettings(id="id", joined="{id}_{class}"), classes)
    row = layout.parse_row({"id": name}, "here")
    assert (row.image_id, classes[row.class_index]) == (image_id, class_name)
    assert layout.rename_row(row, "new").name == renamed


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("c1_s1", "hidden_s1"),
        ("c1_s1.png", "hidden_s1.png"),
        ("c1/s1", "hidden/s1"),
        ("test\\c1\\s1.PNG", "test/hidden/s1.PNG"),
    ],
)
def test_rows_that_name_paths_are_renamed(name: str, renamed: str) -> None:
    layout = SubmissionFormat(SubmissionSettings(id="id"), ["x"], IdRule("test/{case}/{slice}.png", "{case}_{slice}"))
    row = layout.parse_row({"id": name}, "here")
    assert row.image_id == "c1_s1"
    assert layout.rename_row(row, "hidden_s1", "test/hidden/s1.png") == Row(renamed, "hidden_s1", 0)
    with pytest.raises(GatemaskError, match="cannot be renamed"):
        layout.rename_row(row, "hidden_s1.png", "")


def test_classes_in_a_column(tmp_path: Path) -> None:
    header = "ImageId,Class,EncodedPixels"
    good = ["a,x,1 4", "a,y,5 4", "b,x,", "b,y,1 2"]
    summary = check_submission(write(tmp_path, *good, header=header), COLUMN, expected(COLUMN))
    assert (summary.rows, summary.images, summary.empty) == (4, 2, 1)
    with pytest.raises(GatemaskError, match="overlap") as caught:
        check_submission(write(tmp_path, "a,x,1 4", "a,y,3 4", "b,x,", "b,y,", header=header), COLUMN, expected(COLUMN))
    assert "2 pixels with two classes" in str(caught.value)
    with pytest.raises(GatemaskError, match="Unknown class"):
        check_submission(write(tmp_path, "a,z,", header=header), COLUMN, expected(COLUMN))
    with pytest.raises(GatemaskError, match=r"a \(class y\)"):
        check_submission(write(tmp_path, "a,x,", "b,x,", "b,y,", header=header), COLUMN, expected(COLUMN))


def test_classes_in_the_id(tmp_path: Path) -> None:
    good = ["a_x,1 4", "a_y,3 4", "b_x,", "b_y,"]
    assert check_submission(write(tmp_path, *good), JOINED, expected(JOINED)).rows == 4, "these classes may overlap"
    with pytest.raises(GatemaskError, match="Unknown class"):
        check_submission(write(tmp_path, "a,"), JOINED, expected(JOINED))


def test_the_score_is_computed_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("image_id,class,rle\na,x,0 2\n")
    path = write(tmp_path, "a,1 4", "b,")
    assert score_submission(path, COMP, Masks(tmp_path / "truth.csv", (4, 4))) == pytest.approx((2 * 2 / 6 + 1) / 2)


def notes(train_share: float = 0.75, **changes: float) -> list[str]:
    usual = SubmissionSummary(rows=10, images=10, empty=7, empty_share=0.7, in_order=True, megabytes=1.0)
    return checks._unusual_properties(usual.model_copy(update=changes), train_share)


def test_unusual_properties_are_noted() -> None:
    assert notes() == []
    assert "another order" in notes(in_order=False)[0]
    assert "large: 120 MB" in notes(megabytes=120.0)[0]
    assert notes(empty=10, empty_share=1.0) == ["All masks are empty."]
    assert "30.0% of the rows have a mask, but 10.0% of the training images" in notes(0.9)[0]


def test_the_difference_to_an_earlier_submission(tmp_path: Path) -> None:
    now = write(tmp_path, "a,1 4", "b,", "c,1 2 5 2")
    before = write(tmp_path, "a,", "b,1 1", "c,1 4", name="before.csv")
    difference = checks._compare(now, before, COMP)
    assert difference.as_dict() == {
        "against": str(before),
        "changed": 3,
        "emptied": 1,
        "filled": 1,
        "agreement": round(0.5 / 3, 6),
    }
    same = checks._compare(now, write(tmp_path, "c,1 2 5 2", "a,1 4", "b,", name="same.csv"), COMP)
    assert (same.changed, same.agreement) == (0, 1.0)
    with pytest.raises(GatemaskError, match="has other rows"):
        checks._compare(now, write(tmp_path, "a,", "b,", name="short.csv"), COMP)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project of the shipped phantoms whose raw folder holds only a sample submission of three images."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    raw = tmp_path / "data/phantom/raw"
    (raw / "test").mkdir(parents=True)
    (raw / "sample_submission.csv").write_text("ImageId,EncodedPixels\n" + "".join(f"i{n},-1\n" for n in range(3)))
    return tmp_path


@pytest.mark.integration
def test_the_command_line(root: Path) -> None:
    folder = root / "runs/phantom/rehearsal"
    folder.mkdir(parents=True)
    path = write(folder, "i0,0 5 10 5", "i1,-1", "i2,-1")
    earlier = write(root, "i0,0 5", "i1,-1", "i2,-1", name="earlier.csv")
    done = gatemask("submission", "check", path, "--against", earlier, "--json", root=root)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["empty"], result["difference"]["changed"]) == (3, 2, 1)
    done = gatemask("submission", "check", earlier, root=root)
    assert done.returncode == 1 and "--comp COMP" in done.stderr
    assert "Traceback" not in gatemask("submission", "check", root / "runs", root=root).stderr
    done = gatemask("submission", "check", earlier, "--comp", "phantom", root=root)
    assert done.returncode == 0 and "A valid submission" in done.stderr
    bad = write(root, "i0,0 5", "i1,-1", name="bad.csv")
    done = gatemask("submission", "check", bad, "--comp", "phantom", root=root)
    assert done.returncode == 1
    assert "1 missing, 0 unknown, such as i2" in done.stderr
    assert "Traceback" not in done.stderr
