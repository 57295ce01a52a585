"""Files whose extension differs from the pattern in case or spelling are reported, with a pattern that matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.config.path_patterns import as_glob
from gatemask.data.image_files import find_images
from gatemask.data.listing import list_images
from gatemask.data.missed_files import missed_files
from gatemask.errors import GatemaskError
from tests.data.test_manifest import competition

TEST = {"test": {"images": "test/*.jpg"}, "folds": {"k": 3}}
RLE = {"format": "rle", "file": "x"}


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("names", "changes", "key", "pattern", "missed"),
    [
        (["images/a.png", "images/b.PNG"], {}, "train.images", "images/*.[pP][nN][gG]", ["images/b.PNG"]),
        (["images/a.png", "masks/a.Png"], {}, "labels.masks", "masks/{id}.[pP][nN][gG]", ["masks/a.Png"]),
        (["images/a.png", "test/c.jpg", "test/d.JPEG"], TEST, "test.images", "test/*.*", ["test/d.JPEG"]),
        (["images/a.png", "test/c.JPG"], TEST, "test.images", "test/*.[jJ][pP][gG]", ["test/c.JPG"]),
        (
            ["c1/s.dcm", "c2/s.DCM", "c2/s.dicom"],
            {
                "train": {"images": "{case}/{slice}.dcm", "id": "{case}_{slice}"},
                "labels": {"format": "rle", "file": "x"},
            },
            "train.images",
            "{case}/{slice}.*",
            ["c2/s.DCM", "c2/s.dicom"],
        ),
        (
            ["deep/x/a.tif", "deep/b.TIFF"],
            {"train": {"images": "**/*.tif"}, "labels": RLE},
            "train.images",
            "**/*.*",
            ["deep/b.TIFF"],
        ),
    ],
)
def test_missed_files_are_reported(
    tmp_path: Path, names: list[str], changes: dict[str, Any], key: str, pattern: str, missed: list[str]
) -> None:
    touch(tmp_path, *names)
    (sentence,) = missed_files(tmp_path, competition(**changes))
    assert sentence.startswith(f"{len(missed)} files match no pattern because of their extension, such as ")
    assert all(name in sentence for name in missed)
    assert f"{key}: '{pattern}' would match them." in sentence
    found = {path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, as_glob(pattern))}
    assert set(missed) <= found, "the suggested pattern matches them"


def test_other_files_are_not_reported(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/a.txt", "images/a.jpg", "images/.b.PNG", "other/c.PNG", "masks/a.png")
    assert missed_files(tmp_path, competition()) == []
    touch(tmp_path, "images/e.PNG")
    every = competition(train={"images": "images/*"}, labels=RLE)
    assert missed_files(tmp_path, every) == [], "any extension matches"


def test_where_nothing_matches_the_pattern_is_suggested(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.PNG", "images/b.PNG")
    with pytest.raises(GatemaskError, match=r"No image was found[\s\S]*train\.images: 'images/\*\.\[pP\]\[nN\]\[gG\]'"):
        find_images(tmp_path, competition())
