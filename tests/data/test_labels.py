"""Labels in tables and in mask files, united by image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import PngLabels, Rle, RleLabels
from gatemask.data.annotations import Annotations
from gatemask.data.ids import DEFAULT
from gatemask.data.image_files import ImageFile
from gatemask.data.labels import read_labels
from gatemask.errors import GatemaskError
from gatemask.masks import rle

SIZE = (8, 8)
DIALECT = Rle(base=0, empty="-1")


def table(folder: Path, lines: list[str], **settings: object) -> RleLabels:
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return RleLabels.model_validate({"format": "rle", "file": "t.csv", "rle": DIALECT.model_dump(), **settings})


def images(folder: Path, *ids: str) -> list[ImageFile]:
    """Return stand-ins for images; labels are matched by id, so the files need not exist."""
    return [ImageFile(folder / f"images/{name}.png", f"images/{name}.png", name, DEFAULT) for name in ids]


def areas(masks: Annotations) -> dict[str, int]:
    return {name: sum(int(rle.decode(one.rle, SIZE).sum()) for one in several) for name, several in masks.items()}


def test_rows_of_one_image_are_united_even_where_they_overlap(tmp_path: Path) -> None:
    lines = ["ImageId, EncodedPixels", "a, 0 4", "b, -1", "a, 2 4", "a, 0 4", "c, 63 1"]
    parsed = read_labels(table(tmp_path, lines), tmp_path, [], SIZE)
    assert areas(parsed.masks) == {"a": 6, "b": 0, "c": 1}
    assert parsed.problems == []


def test_a_table_without_a_header(tmp_path: Path) -> None:
    labels = table(tmp_path, ["a,0 4", "b,-1"], id=0, mask=1)
    assert areas(read_labels(labels, tmp_path, [], SIZE).masks) == {"a": 4, "b": 0}


def test_images_without_a_row_are_empty_if_the_yaml_says_so(tmp_path: Path) -> None:
    lines = ["ImageId,EncodedPixels", "a,0 4"]
    assert areas(read_labels(table(tmp_path, lines), tmp_path, images(tmp_path, "a", "b"), SIZE).masks) == {"a": 4}
    parsed = read_labels(table(tmp_path, lines, missing="empty"), tmp_path, images(tmp_path, "a", "b"), SIZE)
    assert areas(parsed.masks) == {"a": 4, "b": 0}


def test_one_malformed_row_affects_only_its_image(tmp_path: Path) -> None:
    lines = ["ImageId,EncodedPixels", *(f"i{n},0 4" for n in range(30)), "i7,5", ",0 1"]
    parsed = read_labels(table(tmp_path, lines, missing="empty"), tmp_path, images(tmp_path, "i7", "i8"), SIZE)
    assert len(parsed.masks) == 29
    assert [(name, place) for name, place, _ in parsed.problems] == [("i7", "t.csv, row 32"), ("", "t.csv, row 33")]
    assert "odd count" in parsed.problems[0][2]


def test_many_malformed_rows_mean_a_wrong_dialect(tmp_path: Path) -> None:
    lines = ["ImageId,EncodedPixels", *(f"i{n},60 4 2 3" for n in range(30))]
    with pytest.raises(GatemaskError, match=r"30 of 30[\s\S]*row 2, image i0[\s\S]*gatemask data labels"):
        read_labels(table(tmp_path, lines, rle={"offsets": "relative", "base": 0}), tmp_path, [], SIZE)


def test_an_image_both_empty_and_masked_is_rejected(tmp_path: Path) -> None:
    lines = ["ImageId,EncodedPixels", "a,0 4", "b,-1", "a,-1"]
    with pytest.raises(GatemaskError, match=r"both empty and masked[\s\S]*rows 2 and 4, image a"):
        read_labels(table(tmp_path, lines), tmp_path, [], SIZE)


@pytest.fixture
def instances(tmp_path: Path) -> PngLabels:
    """Write mask files: two objects for image a, none for b, one for c[1], whose name a glob would misread."""
    for name, boxes in {"a": [(0, 3), (2, 5)], "c[1]": [(4, 6)]}.items():
        folder = tmp_path / "masks" / name
        folder.mkdir(parents=True)
        for number, (low, high) in enumerate(boxes):
            mask = np.zeros(SIZE, np.uint8)
            mask[low:high, low:high] = 255
            cv2.imwrite(str(folder / f"{number}.png"), mask)
    (tmp_path / "masks/a/._0.png").write_bytes(b"junk")
    return PngLabels(format="png", masks="masks/{id}/*.png")


def test_mask_files_of_single_objects_are_united(instances: PngLabels, tmp_path: Path) -> None:
    ids = images(tmp_path, "a", "b", "c[1]")
    assert areas(read_labels(instances, tmp_path, ids, SIZE).masks) == {"a": 17, "c[1]": 4}
    empty = instances.model_copy(update={"missing": "empty"})
    assert areas(read_labels(empty, tmp_path, ids, SIZE).masks) == {"a": 17, "b": 0, "c[1]": 4}


@pytest.mark.parametrize("fault", ["damaged", "another size"])
def test_a_bad_mask_file_affects_only_its_image(instances: PngLabels, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "masks/a/1.png"
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:30])
    else:
        cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    parsed = read_labels(instances, tmp_path, images(tmp_path, "a", "c[1]"), SIZE)
    assert areas(parsed.masks) == {"c[1]": 4}
    ((name, place, complaint),) = parsed.problems
    assert (name, place) == ("a", "masks/a/1.png")
    assert ("cannot be read" if fault == "damaged" else "wrong size. Found (4, 4), not (8, 8)") in complaint
