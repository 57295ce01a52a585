"""The submission check: one test for each way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.data.labels import Masks
from gatemask.errors import GatemaskError
from gatemask.kaggle.check import check, score
from tests.data.test_manifest import competition

COMP = competition(image={"size": [4, 4], "channels": 1})
IDS = ["a", "b"]


def write(folder: Path, *rows: str, header: str = "ImageId,EncodedPixels") -> Path:
    path = folder / "submission.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_good_one_is_counted(tmp_path: Path) -> None:
    assert check(write(tmp_path, "a,1 4", "b,"), COMP, IDS) == {"rows": 2, "empty": 1, "empty_share": 0.5}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,1 4"], "1 missing"),
        (["a,1 4", "b,", "c,"], "1 unknown"),
        (["a,1 4", "a,1 4", "b,"], "more than once"),
        (["a,1 4", "b,15 3"], "row 3, image b"),
        (["a,1 4 5", "b,"], "odd count"),
        (["a,1 4,9", "b,"], "number of columns"),
        (["a", "b,"], "number of columns"),
    ],
)
def test_a_bad_one_is_refused(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(GatemaskError, match=words):
        check(write(tmp_path, *rows), COMP, IDS)


def test_header_and_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="header"):
        check(write(tmp_path, "a,", header="id,rle"), COMP, IDS)
    with pytest.raises(GatemaskError, match="no submission"):
        check(tmp_path / "nothing.csv", COMP, IDS)


def test_the_score_is_read_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("image_id,class,rle\na,x,0 2\n")
    path = write(tmp_path, "a,1 4", "b,")
    assert score(path, COMP, Masks(tmp_path / "truth.csv", (4, 4))) == pytest.approx((2 * 2 / 6 + 1) / 2)
