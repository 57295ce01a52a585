"""The submission check: one test for each way in which a file can be wrong, or odd."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition
from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.submission import check as checks
from gatemask.submission import file_format as layout
from gatemask.submission.check import check, score
from tests.conftest import ROOT, gatemask
from tests.data.test_manifest import competition

COMP = competition(image={"size": [4, 4], "channels": 1})
TWO = {"classes": ["x", "y"]}
COLUMN = competition(
    image={"size": [4, 4], "channels": 1}, **TWO, submission={"class_column": "Class", "overlap": False}
)
JOINED = competition(image={"size": [4, 4], "channels": 1}, **TWO, submission={"joined": "{id}_{class}"})


def expected(comp: Competition = COMP) -> list[layout.Row]:
    return layout.of_images(["a", "b"], comp.submission.model_dump(), comp.classes)


def write(folder: Path, *rows: str, header: str = "ImageId,EncodedPixels", name: str = "submission.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_good_one_is_counted(tmp_path: Path) -> None:
    found = check(write(tmp_path, "a,1 4", "b,"), COMP, expected())
    assert found == {"rows": 2, "images": 2, "empty": 1, "empty_share": 0.5, "in_order": True, "megabytes": 0.0}
    assert not check(write(tmp_path, "b,", "a,1 4"), COMP, expected())["in_order"]


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
def test_a_bad_one_is_refused(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(GatemaskError, match=words) as refused:
        check(write(tmp_path, *rows), COMP, expected())
    assert "submission.csv" in str(refused.value)


def test_header_and_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="header"):
        check(write(tmp_path, "a,", header="id,rle"), COMP, expected())
    with pytest.raises(GatemaskError, match="no submission"):
        check(tmp_path / "nothing.csv", COMP, expected())
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(GatemaskError, match="an empty file"):
        check(tmp_path / "empty.csv", COMP, expected())
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GatemaskError, match="no table"):
        check(tmp_path / "binary.csv", COMP, expected())


def test_a_blank_is_no_empty_mask_where_something_stands_for_one(tmp_path: Path) -> None:
    rle = {"rle": {"empty": "-1"}}
    comp = competition(image={"size": [4, 4], "channels": 1}, submission=rle)
    assert check(write(tmp_path, "a,-1", "b,1 2"), comp, expected(comp))["empty"] == 1
    with pytest.raises(GatemaskError, match="blank"):
        check(write(tmp_path, "a,", "b,1 2"), comp, expected(comp))


def test_a_mask_of_a_megabyte_of_text(tmp_path: Path) -> None:
    comp = competition(image={"size": [1024, 1024], "channels": 1})
    text = " ".join(f"{start} 1" for start in range(1, 1024 * 1024, 4))
    assert len(text) > 1_000_000
    path = write(tmp_path, f"a,{text}", "b,")
    assert check(path, comp, expected(comp))["empty"] == 1
    submission = {**comp.submission.model_dump(), "sample": path.name}
    assert len(layout.of_sample(path, submission, comp.classes)[1]) == 2


def test_a_sample_with_a_column_that_nobody_fills(tmp_path: Path) -> None:
    path = write(tmp_path, "a,7,", header="ImageId,height,EncodedPixels")
    with pytest.raises(GatemaskError, match="nobody fills") as told:
        layout.of_sample(path, COMP.submission.model_dump(), COMP.classes)
    assert "height" in str(told.value)


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
    classes, submission = ["bowel", "large_bowel", "c1"], {"id": "id", "joined": "{id}_{class}"}
    row = layout.row({"id": name}, submission, classes, "here")
    assert (row.image_id, classes[row.class_index]) == (image_id, class_name)
    assert layout.renamed(row, "new", submission, classes).name == renamed


def test_classes_in_a_column(tmp_path: Path) -> None:
    header = "ImageId,Class,EncodedPixels"
    good = ["a,x,1 4", "a,y,5 4", "b,x,", "b,y,1 2"]
    found = check(write(tmp_path, *good, header=header), COLUMN, expected(COLUMN))
    assert (found["rows"], found["images"], found["empty"]) == (4, 2, 1)
    with pytest.raises(GatemaskError, match="overlap") as refused:
        check(write(tmp_path, "a,x,1 4", "a,y,3 4", "b,x,", "b,y,", header=header), COLUMN, expected(COLUMN))
    assert "2 pixels of two classes" in str(refused.value)
    with pytest.raises(GatemaskError, match="of no class"):
        check(write(tmp_path, "a,z,", header=header), COLUMN, expected(COLUMN))
    with pytest.raises(GatemaskError, match=r"a \(class y\)"):
        check(write(tmp_path, "a,x,", "b,x,", "b,y,", header=header), COLUMN, expected(COLUMN))


def test_classes_in_the_id(tmp_path: Path) -> None:
    good = ["a_x,1 4", "a_y,3 4", "b_x,", "b_y,"]
    assert check(write(tmp_path, *good), JOINED, expected(JOINED))["rows"] == 4, "these may overlap"
    with pytest.raises(GatemaskError, match="of no class"):
        check(write(tmp_path, "a,"), JOINED, expected(JOINED))


def test_the_score_is_read_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("image_id,class,rle\na,x,0 2\n")
    path = write(tmp_path, "a,1 4", "b,")
    assert score(path, COMP, Masks(tmp_path / "truth.csv", (4, 4))) == pytest.approx((2 * 2 / 6 + 1) / 2)


def test_what_is_odd_is_noted(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"in_order": True, "megabytes": 1.0, "empty": 7, "rows": 10, "empty_share": 0.7}
    assert checks._notes(usual, 0.75) == []
    assert "another order" in checks._notes({**usual, "in_order": False}, 0.75)[0]
    assert "large: 120 MB" in checks._notes({**usual, "megabytes": 120.0}, 0.75)[0]
    assert checks._notes({**usual, "empty": 10, "empty_share": 1.0}, 0.75) == ["Every mask is empty."]
    assert "30.0% of the rows have a mask, in training 10.0%" in checks._notes(usual, 0.9)[0]


def test_the_difference_to_an_earlier_one(tmp_path: Path) -> None:
    now = write(tmp_path, "a,1 4", "b,", "c,1 2 5 2")
    before = write(tmp_path, "a,", "b,1 1", "c,1 4", name="before.csv")
    found = checks._difference(now, before, COMP)
    assert found == {"against": str(before), "changed": 3, "emptied": 1, "filled": 1, "agreement": round(0.5 / 3, 6)}
    same = checks._difference(now, write(tmp_path, "c,1 2 5 2", "a,1 4", "b,", name="same.csv"), COMP)
    assert (same["changed"], same["agreement"]) == (0, 1.0)
    with pytest.raises(GatemaskError, match="of other rows"):
        checks._difference(now, write(tmp_path, "a,", "b,", name="short.csv"), COMP)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The shipped phantoms' project, with a sample submission of three images in place of the raw files."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    raw = tmp_path / "data/phantom/raw"
    (raw / "test").mkdir(parents=True)
    (raw / "sample_submission.csv").write_text("ImageId,EncodedPixels\n" + "".join(f"i{n},-1\n" for n in range(3)))
    return tmp_path


def test_the_command(root: Path) -> None:
    folder = root / "runs/phantom/rehearsal"
    folder.mkdir(parents=True)
    path = write(folder, "i0,0 5 10 5", "i1,-1", "i2,-1")
    earlier = write(root, "i0,0 5", "i1,-1", "i2,-1", name="earlier.csv")
    done = gatemask("submission", "check", path, "--against", earlier, "--json", root=root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["empty"], found["difference"]["changed"]) == (3, 2, 1)
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
