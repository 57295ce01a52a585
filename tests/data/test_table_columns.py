"""Columns of foreign tables are found by their contents; what cannot be told apart is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.config import Rle, RleLabels
from gatemask.data.ids import DEFAULT
from gatemask.data.image_files import ImageFile
from gatemask.data.label_report import inspect_labels, mask_areas, parse_where, print_label_report
from gatemask.data.label_table import Known
from gatemask.data.labels import read_labels
from gatemask.data.parsed_labels import Wanted
from gatemask.data.table_columns import find_group_column, find_id_column, find_positives_column, joined_classes
from gatemask.data.tables import Table
from gatemask.errors import GatemaskError
from gatemask.masks import rle

IDS = [f"i{number:02d}" for number in range(12)]


def table(**columns: list[str]) -> Table:
    header = [name.replace("__", " ").strip() for name in columns]
    rows = [list(cells) for cells in zip(*columns.values(), strict=True)]
    return Table(Path("t.csv"), header, rows, list(range(2, 2 + len(rows))))


def numbers(first: int = 0, count: int = 12) -> list[str]:
    return [str(first + number) for number in range(count)]


def masks(seed: int = 0, shape: tuple[int, int] = (16, 16)) -> list[np.ndarray]:
    """Return a disc for two of three images, and nothing for the others."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return [
        (((y - 5 - (n + seed) % 6) ** 2 + (x - 8) ** 2) <= 9) if n % 3 else np.zeros(shape, bool) for n in range(12)
    ]


def texts(seed: int = 0, empty: str = "") -> list[str]:
    return [rle.encode(mask, Rle(empty=empty)) for mask in masks(seed)]


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"": numbers(), "ImageId": IDS}, "ImageId"),
        ({"Unnamed: 0": numbers(), "image": IDS}, "image"),
        ({"index": numbers(1), "name": IDS}, "name"),
        ({"id": numbers(), "file": IDS}, "file"),
        ({"area": ["1.5", "2.25"] * 6, "scan": IDS}, "scan"),
        ({"patient_id": ["p1", "p2", "p3"] * 4, "image_id": IDS}, "image_id"),
        ({"class": ["a", "b"] * 6, "ImageId": IDS}, "ImageId"),
        ({"site": ["x"] * 12, "whatever": IDS}, "whatever"),
        ({"id": IDS, "filename": [f"train/{name}.png" for name in IDS]}, "filename"),
        ({"ImageId": [name for name in IDS[:4] for _ in range(3)], "instance": numbers()}, "ImageId"),
        ({"id": numbers()}, "id"),
        ({"image": numbers(1)}, "image"),
        ({"": numbers(), "scan": numbers(1)}, "scan"),
        ({"width": ["640", "480"] * 6, "id": [str(100 - n) for n in range(12)]}, "id"),
    ],
)
def test_the_id_column_is_found_wherever_it_is(columns: dict[str, list[str]], chosen: str) -> None:
    for order in (list(columns), list(columns)[::-1]):
        choice = find_id_column(table(**{name: columns[name] for name in order}), (), "--id")
        assert choice.column == chosen
        assert set(choice.ignored) == set(columns) - {chosen}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"Kaggle_ID": IDS, "NIH_ID": [f"n{name}" for name in IDS]}, "Several columns.*Kaggle_ID.*NIH_ID"),
        ({"a": IDS, "b": IDS[::-1]}, "Several columns"),
        ({"": numbers(), "fold": ["0", "1"] * 6}, "no column of image ids"),
        ({"score": ["0.5", "0.25"] * 6}, "no column of image ids"),
    ],
)
def test_two_columns_that_fit_are_a_question(columns: dict[str, list[str]], words: str) -> None:
    with pytest.raises(GatemaskError, match=f"(?s){words}.*--id COLUMN"):
        find_id_column(table(**columns), ("fold",), "--id COLUMN")


def test_numbers_without_a_header_are_ids_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("".join(f"{n + 1},{text}\n" for n, text in enumerate(texts())))
    report = inspect_labels(tmp_path / "t.csv", size=(16, 16))
    assert (report.header, report.columns.id, report.images) == (False, 0, 12)


def test_the_images_decide_between_two_columns() -> None:
    both = table(Kaggle_ID=IDS, NIH_ID=[f"n{name}" for name in IDS])
    assert find_id_column(both, (), "--id", known=["n" + IDS[3], "other"]).column == "NIH_ID"
    assert find_id_column(both, (), "--id", known=IDS).column == "Kaggle_ID"


def test_groups_and_positives() -> None:
    patients = [f"p{number % 4}" for number in range(12)]
    assert find_group_column(table(x=numbers(), image=IDS, Patient=patients, sex=["f", "m"] * 6), "image") == "Patient"
    assert find_group_column(table(image=IDS, NIH=patients), "image") == "NIH"
    assert find_group_column(table(image=IDS, x=numbers(1)), "image") == "x", "groups may be numbers, too"
    with pytest.raises(GatemaskError, match="column of groups"):
        find_group_column(table(image=IDS, sex=["f", "m"] * 6, age=numbers(20)), "image")
    binary = ["0", "1"] * 6
    both = find_positives_column(table(image=IDS, sex=binary, exist=binary), {"image"})
    assert both is not None
    assert (both.column, list(both.ignored)) == ("exist", ["sex"])
    assert find_positives_column(table(image=IDS, sex=binary, smoker=binary), {"image"}) is None


def written(folder: Path, header: str, rows: list[tuple[str, ...]]) -> Path:
    lines = [header, *(",".join(row) for row in rows)]
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


def test_a_label_table_with_other_columns(tmp_path: Path) -> None:
    rows = [
        (str(n), f"{name}.png", "16 16", "3 4 5 6", text)
        for n, (name, text) in enumerate(zip(IDS, texts(), strict=True))
    ]
    report = inspect_labels(written(tmp_path, ",ImageId,size,box,EncodedPixels", rows), size=(16, 16))
    assert (report.columns.id, report.columns.mask) == ("ImageId", "EncodedPixels")
    assert set(report.ignored) == {"", "size", "box"}
    assert report.positives == 8


def test_one_column_per_class_becomes_columns_or_a_question_where_one_class_is_wanted(tmp_path: Path) -> None:
    rows = list(zip(IDS, texts(), texts(1), [""] * 12, strict=True))
    file = written(tmp_path, "ImageId,Fish,Flower,Gravel", rows)
    report = inspect_labels(file, size=(16, 16))
    assert report.yaml.labels.columns == {"Fish": "Fish", "Flower": "Flower"}
    assert (report.rows, report.positives, report.contradictory) == (12, 8, 0)
    assert report.classes == {"Fish": 8, "Flower": 8}
    with pytest.raises(GatemaskError, match=r"(?s)Several columns.*'Fish' \(8 masks\), 'Flower' \(8 masks\).*--mask"):
        inspect_labels(file, known=Known(size=(16, 16), class_name="lesion"))
    assert inspect_labels(file, known=Known(size=(16, 16), mask="Flower")).columns.mask == "Flower"


def labels_of(file: Path, class_name: str = "", **settings: object) -> dict[str, str]:
    section = RleLabels.model_validate({"format": "rle", "file": file.name, **settings})
    images = [ImageFile(Path(f"{name}.png"), f"{name}.png", name, DEFAULT) for name in IDS]
    masks = read_labels(section, file.parent, images, (16, 16), wanted=Wanted(classes=[class_name])).masks
    return {image_id: "".join(one.rle for one in several) for image_id, several in masks.items()}


def test_rows_of_one_class_are_read_by_its_name_or_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, third = texts(), texts(2)
    rows = [
        (f"{name}.png", c, text)
        for name, a, b in zip(IDS, first, third, strict=True)
        for c, text in (("1", a), ("3", b))
        if text
    ]
    file = written(tmp_path, "ImageId,ClassId,EncodedPixels", rows)
    right = {name: rle.encode(mask) for name, mask in zip(IDS, masks(2), strict=True)}
    assert labels_of(file, "defect3", missing="empty") == right
    assert "8 of 16 rows whose ClassId is 3" in capsys.readouterr().err
    assert labels_of(file, where={"ClassId": 3}, missing="empty") == right
    with pytest.raises(GatemaskError, match=r"(?s)several classes.*ClassId.*2 classes: 1, 3.*where: \{ClassId: 1\}"):
        labels_of(file, "lesion")
    united = labels_of(file, "lesion", where={"ClassId": [1, 3]}, missing="empty")
    assert united["i01"] == rle.encode(masks()[1] | masks(2)[1])
    with pytest.raises(GatemaskError, match=r"(?s)No row of a table has the value '4'.*1, 3"):
        labels_of(file, where={"ClassId": 4})


def test_the_report_proposes_the_class_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [("1", texts()), ("3", texts(2))]
    rows = [(f"{name}.png", c, cells[n]) for n, name in enumerate(IDS) for c, cells in both]
    file = written(tmp_path, "ImageId,ClassId,EncodedPixels", rows)
    report = inspect_labels(file, size=(16, 16))
    assert (report.yaml.classes, report.yaml.labels.class_column) == (["1", "3"], "ClassId")
    assert (report.rows, report.images, report.multi_annotated, report.contradictory) == (24, 12, 0, 0)
    assert report.classes == {"1": 8, "3": 8}
    print_label_report(report)
    assert "class_column: ClassId" in capsys.readouterr().err
    with pytest.raises(GatemaskError, match=r"(?s)several classes.*--where COLUMN=VALUE"):
        inspect_labels(file, known=Known(size=(16, 16), class_name="lesion"))
    report = inspect_labels(file, known=Known(size=(16, 16), where=parse_where(["ClassId=3"])))
    assert (report.rows, report.positives, report.yaml.labels.where) == (12, 8, {"ClassId": "3"})
    named = inspect_labels(file, known=Known(size=(16, 16), class_name="defect1"))
    assert (named.rows, named.positives) == (12, 8)
    assert mask_areas(file)["i01.png"] == (masks()[1] | masks(2)[1]).sum(), "areas are those of all classes"
    with pytest.raises(GatemaskError, match="--where needs"):
        parse_where(["ClassId"])


def test_blank_rows_of_other_classes_do_not_contradict(tmp_path: Path) -> None:
    rows = [
        (name, c, text if c == "stomach" else "")
        for name, text in zip(IDS, texts(), strict=True)
        for c in ("bowel", "stomach")
    ]
    file = written(tmp_path, "id,class,segmentation", rows)
    found = labels_of(file, "stomach", id="id", mask="segmentation")
    assert found == {name: rle.encode(mask) for name, mask in zip(IDS, masks(), strict=True)}
    with pytest.raises(GatemaskError, match="several classes"):
        labels_of(file, "lesion", id="id", mask="segmentation")


@pytest.mark.parametrize("extension", [".png", ""])
def test_classes_at_the_end_of_ids(tmp_path: Path, extension: str) -> None:
    rows = [
        (f"{name}{extension}_{c}", text if c == "Fish" else "")
        for name, text in zip(IDS, texts(), strict=True)
        for c in ("Fish", "Sugar")
    ]
    file = written(tmp_path, "Image_Label,EncodedPixels", rows)
    found = labels_of(file, "fish", id="Image_Label")
    assert found == {name: rle.encode(mask) for name, mask in zip(IDS, masks(), strict=True)}
    with pytest.raises(GatemaskError, match=r"(?s)several classes.*2 classes: Fish, Sugar"):
        labels_of(file, "lesion", id="Image_Label")


@pytest.mark.parametrize("template", ["{id}.jpg_{class}", "{class}-{id}.png"])
def test_the_report_proposes_joined_ids(tmp_path: Path, template: str) -> None:
    rows = [
        (template.replace("{id}", name).replace("{class}", c), text if c == "Fish" else "")
        for name, text in zip(IDS, texts(), strict=True)
        for c in ("Fish", "Sugar")
    ]
    report = inspect_labels(written(tmp_path, "Image_Label,EncodedPixels", rows), size=(16, 16))
    assert report.yaml.labels.joined == ("{id}_{class}" if "jpg" in template else "{class}-{id}")
    assert (report.yaml.classes, report.classes) == (["Fish", "Sugar"], {"Fish": 8, "Sugar": 0})
    assert (report.images, report.positives) == (12, 8)


def test_slices_of_a_patient_are_no_classes() -> None:
    assert joined_classes([f"p{n % 4}_{n // 4}" for n in range(12)]) == []
    assert joined_classes(["a_1.png", "a_2.png"]) == []


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("organ", ["lung", "kidney", "colon"] * 4),  # a property of the image
        ("class", ["1" if text else "0" for text in texts()]),  # whether there is a mask
        ("annotator", ["a", "b"] * 6),
    ],
)
def test_columns_that_are_no_classes(tmp_path: Path, column: str, cells: list[str]) -> None:
    file = written(tmp_path, f"ImageId,{column},EncodedPixels", list(zip(IDS, cells, texts(), strict=True)))
    assert len(labels_of(file, "lesion")) == 12
    assert inspect_labels(file, size=(16, 16)).positives == 8
