"""`data prepare` reports orientation, unused levels, transparency and doubtful masks; image and mask are read alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.ImageOps import exif_transpose

from gatemask.config import Competition
from gatemask.data import readers
from gatemask.data.manifest import prepare
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.project import Project

SIZE = (40, 56)
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]]


def mask(number: int) -> np.ndarray:
    return (ROWS - 10 - number) ** 2 + (COLUMNS - 12 - 3 * number) ** 2 <= 49


def picture(number: int) -> np.ndarray:
    return np.where(mask(number), 200, 50).astype(np.uint8)


def competition(**changes: Any) -> Competition:
    settings: dict[str, Any] = {
        "name": "c",
        "title": "t",
        "raw": "raw",
        "image": {"size": SIZE},
        "train": {"images": "images/*"},
        "labels": {"format": "png", "masks": "masks/{id}.png"},
        "groups": {"duplicates": "ignore"},
        "submission": {"rle": {"offsets": "absolute", "base": 1, "order": "column", "empty": ""}},
        "folds": {"k": 2, "holdout": True},
    }
    return Competition.model_validate({**settings, **changes})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with four images and masks."""
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(picture(number)).save(tmp_path / f"raw/images/i{number}.png")
        Image.fromarray(mask(number)).save(tmp_path / f"raw/masks/i{number}.png")
    return Project(tmp_path, "c")


def rewrite(project: Project, folder: str, write: Callable[[int, Path], object]) -> None:
    """Replace all images or masks."""
    for number in range(4):
        write(number, project.root / f"raw/{folder}/i{number}.png")


def masks(project: Project) -> list[np.ndarray]:
    found = Masks(project.data / "masks.csv", SIZE)
    return [found[f"i{number}"][:, :, 0] for number in range(4)]


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_ordinary_files_are_not_commented_on(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(project, competition())
    assert capsys.readouterr().err == ""
    assert all((found == mask(number)).all() for number, found in enumerate(masks(project)))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pixels_are_used_as_stored_or_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "x"
    if kind == "TIFF":
        tifffile.imwrite(path, picture(1), extratags=[(274, "H", 1, orientation, True)])
    else:
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
        Image.fromarray(picture(1)).save(path, kind, exif=oriented(orientation), **options)
    stored, facts = readers.inspect_image(path, 1)
    assert facts.orientation == orientation
    assert ((stored[:, :, 0] > 125) == mask(1)).all()
    upright = readers.read_image(path, 1, upright=True)[:, :, 0]
    Image.fromarray(picture(1)).save(tmp_path / "reference.png", exif=oriented(orientation))
    with Image.open(tmp_path / "reference.png") as image:
        expected = np.asarray(exif_transpose(image))
    assert upright.shape == expected.shape
    assert ((upright > 125) == (expected > 125)).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "group4"])
def test_compressed_tiff_is_used_as_stored_too(tmp_path: Path, compression: str) -> None:
    image = Image.fromarray(mask(1) if compression == "group4" else picture(1))
    image.save(tmp_path / "x.tif", compression=compression, tiffinfo={274: 6})
    pixels, facts = readers.inspect_image(tmp_path / "x.tif", 1)
    assert facts.orientation == 6
    assert ((pixels[:, :, 0] > 125) == mask(1)).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_image_and_mask_are_in_one_frame(
    project: Project, orientation: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(project, "images", lambda n, path: Image.fromarray(picture(n)).save(path, exif=oriented(orientation)))
    assert prepare(project, competition()).problems == 0
    assert "4 of 4 images carry an orientation" in (said := capsys.readouterr().err)
    assert "image.orientation: upright" in said
    for number, found in enumerate(masks(project)):
        image = readers.read_image(project.root / f"raw/images/i{number}.png", 1)[:, :, 0]
        assert ((image > 125) == found).all()


def test_upright_images_with_upright_masks(project: Project) -> None:
    def on_its_side(number: int, path: Path) -> None:
        Image.fromarray(np.rot90(picture(number))).save(path, exif=oriented(6))

    rewrite(project, "images", on_its_side)
    with pytest.raises(GatemaskError, match=r"image\.orientation: upright would turn to"):
        prepare(project, competition())
    assert prepare(project, competition(image={"size": SIZE, "orientation": "upright"})).problems == 0
    for number, found in enumerate(masks(project)):
        image = readers.read_image(project.root / f"raw/images/i{number}.png", 1, upright=True)[:, :, 0]
        assert ((image > 125) == found).all()


def test_levels_that_leave_most_of_the_range_unused_are_reported(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(project, "images", lambda n, path: cv2.imwrite(str(path), picture(n).astype(np.uint16) * 16))
    prepare(project, competition())
    said = capsys.readouterr().err
    assert "could hold values from 0 to 65535, but most use only 800 to 3200" in said
    assert "image.window: [2048, 4096]" in said
    prepare(project, competition(image={"size": SIZE, "window": (2048, 4096)}))
    assert capsys.readouterr().err == ""


def test_transparent_images_are_reported(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(project, "images", lambda n, path: Image.fromarray(np.dstack([picture(n), picture(n)])).save(path))
    prepare(project, competition())
    assert "4 of 4 images have transparent pixels" in capsys.readouterr().err


def test_values_between_are_reported_with_their_share(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    def soft(number: int, path: Path) -> None:
        blurred = cv2.GaussianBlur(mask(number).astype(np.uint8) * 255, (0, 0), 1)
        cv2.imwrite(str(path), blurred)

    rewrite(project, "masks", soft)
    prepare(project, competition())
    said = capsys.readouterr().err
    assert "4 of 4 masks hold values between 0 and 255" in said and "%" in said and "labels.threshold" in said
    assert all(np.count_nonzero(found != mask(number)) < 12 for number, found in enumerate(masks(project)))


def write_values(*values: int) -> Callable[[int, Path], object]:
    """Return a function that writes masks of another value in each file."""
    return lambda n, path: cv2.imwrite(str(path), mask(n).astype(np.uint8) * values[n % len(values)])


def test_masks_of_different_values_are_rejected(project: Project) -> None:
    rewrite(project, "masks", write_values(1, 2))
    with pytest.raises(GatemaskError, match=r"different values[\s\S]*received: 1, but 2 in i\d\.png"):
        prepare(project, competition())
    labels = {"format": "png", "masks": "masks/{id}.png", "threshold": 0}
    assert prepare(project, competition(labels=labels)).positives == 4


def test_masks_of_different_colors_are_rejected(project: Project) -> None:
    def color(number: int, path: Path) -> None:
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[mask(number), number % 2] = 255
        Image.fromarray(pixels).save(path)

    rewrite(project, "masks", color)
    with pytest.raises(GatemaskError, match="different colors"):
        prepare(project, competition())


def test_one_doubtful_mask_stops_the_stage(project: Project) -> None:
    classes = mask(2).astype(np.uint8) + (ROWS > 14)
    Image.fromarray(classes).save(project.root / "raw/masks/i2.png")
    with pytest.raises(GatemaskError, match=r"pixels of 1 of 4 files are mask[\s\S]*i2\.png[\s\S]*values 0, 1, 2"):
        prepare(project, competition())
    assert not (project.data / "manifest.json").exists()


def test_inverted_masks_are_reported_and_can_be_inverted(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(project, "masks", lambda n, path: Image.fromarray(~mask(n)).save(path))
    prepare(project, competition())
    assert "In 4 of 4 masks, most of the outermost pixels are mask" in (said := capsys.readouterr().err)
    assert "labels.invert: true" in said
    prepare(project, competition(labels={"format": "png", "masks": "masks/{id}.png", "invert": True}))
    assert all((found == mask(number)).all() for number, found in enumerate(masks(project)))
    assert capsys.readouterr().err == ""


def test_faint_masks_count_as_empty_if_others_are_white(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    faint = cv2.GaussianBlur((mask(0) & (ROWS < 5)).astype(np.uint8) * 255, (0, 0), 4)
    assert 0 < faint.max() < 127
    cv2.imwrite(str(project.root / "raw/masks/i0.png"), faint)
    assert prepare(project, competition()).positives == 3
    assert "1 of 4 masks hold only values up to" in capsys.readouterr().err
    rewrite(project, "masks", lambda n, path: cv2.imwrite(str(path), faint))
    with pytest.raises(GatemaskError, match="lower half of their range"):
        prepare(project, competition())
