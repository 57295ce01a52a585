"""Layouts of published data sets, beyond the generated competitions that run through the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Competition, Phantom
from gatemask.data.phantom import make_phantoms
from gatemask.yaml12 import parse_yaml
from tests.competitions import Mask, blob, draw, encode, picture, save, seeded, write_csv
from tests.new.conftest import found

New = Callable[[str, list[str]], Path]


def objects_in_folders(raw: Path) -> None:
    """A folder per image, with one file per object and names without order; mixed sizes."""
    rng = seeded("folders")
    for number in range(12):
        size = 90 + number % 3 * 10, 100
        objects = [blob(rng, size, (5, 9)) for _ in range(5)]
        folder = raw / "stage1" / f"{rng.integers(16**12):012x}"
        save(folder / "images" / f"{folder.name}.png", picture(rng, size, objects, [(200, 200, 200)] * 5))
        for mask in objects:
            save(folder / "masks" / f"{rng.integers(16**12):012x}.png", _bytes(mask))


def numbered_objects(raw: Path) -> None:
    """Masks of 16 bits whose values number the objects."""
    rng = seeded("numbers")
    for number in range(14):
        labels = np.zeros((96, 96), np.uint16)
        for _ in range(3 + number):
            one = np.zeros((96, 96), np.uint8)
            cv2.circle(one, [int(value) for value in rng.integers(8, 88, 2)], 5, 1, -1)
            if not labels[one > 0].any():
                labels[one > 0] = labels.max() + 1
        save(raw / "img" / f"c{number:02d}.tif", picture(rng, (96, 96), [labels > 0], [(200, 200, 200)])[:, :, 0])
        save(raw / "lab" / f"c{number:02d}.tif", labels)


def scans_of_days(raw: Path) -> None:
    """Slices of 12 of 16 bits whose names hold more than the id; a class column; rows; a sample without rows."""
    rng = seeded("days")
    rows = []
    for case in range(6):
        for day in range(2):
            texture = cv2.resize(rng.integers(10, 120, (12, 12)).astype(np.uint8), (90, 80))
            folder = raw / "train" / f"case{case}" / f"case{case}_day{day}" / "scans"
            for number in range(1, 6):
                mask = np.zeros((80, 90), np.uint8)
                cv2.circle(mask, (40 + 5 * day, 40), 16 - abs(number - 3) * 3, 1, -1)
                image = np.where(mask > 0, 220, texture).astype(np.uint16) * 16
                save(folder / f"slice_{number:04d}_80_90_1.50_1.50.png", image)
                image_id = f"case{case}_day{day}_slice_{number:04d}"
                rows.append([image_id, "bowel", encode(mask > 0, order="row")])
                rows.append([image_id, "stomach", encode(mask > 0, order="row") if number > 2 else ""])
    write_csv(raw / "train.csv", ["id", "class", "segmentation"], rows)
    write_csv(raw / "sample.csv", ["id", "class", "predicted"], [])


def cells_in_a_dish(raw: Path) -> None:
    """One row per object with properties of the image, in row order; the sample has one blank row."""
    rng = seeded("dish")
    rows = []
    for number in range(16):
        objects = [blob(rng, (104, 140), (4, 8)) for _ in range(6)]
        image_id = f"{rng.integers(16**12):012x}"
        save(raw / "train" / f"{image_id}.png", picture(rng, (104, 140), objects, [(200, 200, 200)] * 6)[:, :, 0])
        kind = ["cort", "astro"][number % 2]
        rows += [[image_id, encode(mask, order="row"), "140", "104", kind, f"{image_id}[{kind}]"] for mask in objects]
    write_csv(raw / "train.csv", ["id", "annotation", "width", "height", "cell_type", "sample_id"], rows)
    write_csv(raw / "sample.csv", ["id", "predicted"], [["7ae19de7bc2a", ""]])


def masks_beside_images(raw: Path) -> None:
    """Images and masks of one patient in one folder."""
    rng = seeded("beside")
    for number in range(16):
        image, masks = draw(rng, (96, 96), ["object"], 0.7)
        folder = raw / "all" / f"P_{number // 4:02d}"
        save(folder / f"P_{number // 4:02d}_{number}.tif", image)
        save(folder / f"P_{number // 4:02d}_{number}_mask.tif", _bytes(masks["object"]))


def suffixes_of_classes(raw: Path) -> None:
    """A file for each class that an image has, oblong images."""
    rng = seeded("suffixes")
    for number in range(14):
        image, masks = draw(rng, (96, 160), ["HE", "MA"], 0.6)
        save(raw / "images" / f"D_{number:02d}.jpg", image)
        for name, mask in masks.items():
            if mask.any():
                save(raw / "masks" / f"D_{number:02d}_{name}.tif", _bytes(mask))


def squares_with_other_columns(raw: Path) -> None:
    """A table with sizes and properties, from 0, and images in many sizes."""
    rng = seeded("squares")
    rows = []
    for number in range(14):
        side = int(rng.integers(70, 140))
        image, masks = draw(rng, (side, side), ["object"], 1.0)
        save(raw / "images" / f"{100 + number * 37}.tiff", image)
        organ = ["kidney", "lung"][number % 2]
        text = encode(masks["object"], base=0) or "0 1"
        rows.append([str(100 + number * 37), organ, "M" if number % 3 else "F", str(side), text])
    write_csv(raw / "train.csv", ["id", "organ", "sex", "img_height", "rle"], rows)


def folders_of_channels(raw: Path) -> None:
    """Two files of one name in folders called like the channels."""
    rng = seeded("bands")
    for number in range(14):
        image, masks = draw(rng, (96, 96), ["object"], 0.7)
        for channel, name in enumerate(("vh", "vv")):
            save(raw / "train" / name / f"site{number:02d}.png", image[:, :, channel])
            save(raw / "test" / name / f"other{number:02d}.png", image[:, :, channel])
        save(raw / "label" / f"site{number:02d}.png", masks["object"].astype(np.uint8))


def dicom(raw: Path) -> None:
    """DICOM files, relative offsets, -1 for empty masks, patients in tags."""
    make_phantoms(raw, Phantom(images=30, test_images=6, size=128, positives=0.5))


def _bytes(mask: Mask) -> Mask:
    return mask.astype(np.uint8) * 255


@pytest.mark.parametrize(
    ("layout", "options", "expected"),
    [
        (
            objects_in_folders,
            {"images": "stage1/*/images/*.png", "labels": "stage1/*/masks/*.png"},
            {"labels.masks": "{id}/masks/*.png", "submission.rows": "object", "image.size": "mixed"},
        ),
        (numbered_objects, {"images": "img", "labels": "lab"}, {"labels.numbered": True, "image.channels": 1}),
        (
            scans_of_days,
            {"images": "train", "labels": "train.csv", "sample": "sample.csv"},
            {
                "train.images": "train/*/{case}/scans/slice_{number}_*_*_*_*.png",
                "train.id": "{case}_slice_{number}",
                "train.stack.by": "number",
                "image.window": {"percentiles": (0.5, 99.5)},
                "labels.rle.order": "row",
                "labels.class_column": "class",
                "submission.mask": "predicted",
                "submission.class_column": "class",
                "groups.regex": "^([^_]+)_",
            },
        ),
        (
            cells_in_a_dish,
            {"images": "train", "labels": "train.csv", "sample": "sample.csv"},
            {
                "labels.id": "id",
                "labels.mask": "annotation",
                "labels.rle.order": "row",
                "classes": ["object"],
                "submission.id": "id",
                "submission.mask": "predicted",
                "submission.rows": "object",
                "metric": "object_precision",
            },
        ),
        (masks_beside_images, {"images": "all"}, {"train.images": "*/*.tif", "labels.masks": "P_*/{id}_mask.tif"}),
        (
            suffixes_of_classes,
            {"images": "images", "labels": "masks"},
            {"labels.masks": "masks/{id}_{class}.tif", "labels.missing": "empty", "classes": ["HE", "MA"]},
        ),
        (
            squares_with_other_columns,
            {"images": "images"},
            {"labels.mask": "rle", "labels.id": "id", "labels.rle.base": 0, "image.fit": "stretch"},
        ),
        (
            folders_of_channels,
            {"images": "train", "labels": "label", "test": "test"},
            {
                "train.images": {"vh": "train/vh/{id}.png", "vv": "train/vv/{id}.png"},
                "test.images": {"vh": "test/vh/{id}.png", "vv": "test/vv/{id}.png"},
            },
        ),
        (
            dicom,
            {"images": "train", "labels": "train-rle.csv", "test": "test", "sample": "sample_submission.csv"},
            {
                "groups.dicom": "PatientID",
                "groups.duplicates": "exact",
                "labels.rle": {"offsets": "relative", "base": 0, "order": "column", "empty": "-1"},
            },
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_other_layouts(
    layout: Callable[[Path], None], options: dict[str, str], expected: dict[str, object], tmp_path: Path, new: New
) -> None:
    layout(tmp_path / "raw")
    words = [word for name, path in options.items() for word in (f"--{name}", str(tmp_path / "raw" / path))]
    folder = new("other", [*words, "--yes"])
    values = parse_yaml((folder / "competition.yaml").read_text(encoding="utf-8"), folder).value
    assert isinstance(values, dict)
    comp = Competition.model_validate({"name": "other", **values})
    assert {key: found(comp, key) for key in expected} == expected
