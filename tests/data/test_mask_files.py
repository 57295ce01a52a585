"""Which pixels of a mask file are mask: half of the range, unless the file has one value; doubts are rejected."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gatemask.data import readers
from gatemask.errors import GatemaskError

SIDE = 96
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(radius: float, center: tuple[int, int] = (48, 48)) -> np.ndarray:
    return (ROWS - center[0]) ** 2 + (COLUMNS - center[1]) ** 2 <= radius**2


MASK = disc(20)
WHITE = MASK.astype(np.uint8) * 255


def save(folder: Path, pixels: np.ndarray | Image.Image, name: str = "m.png", **options: int) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("radius", [4, 12, 40])
def test_jpeg_masks_keep_their_area(tmp_path: Path, quality: int, radius: int) -> None:
    white = disc(radius).astype(np.uint8) * 255
    path = save(tmp_path, white, "m.jpg", quality=quality)
    mask, facts = readers.inspect_mask(path)
    assert (mask == (np.asarray(Image.open(path)) > 127)).all()
    assert facts.kind == "soft" and 0 < facts.between < 0.2
    assert np.count_nonzero(mask != disc(radius)) <= 0.05 * disc(radius).sum()
    as_png = save(tmp_path, np.asarray(Image.open(path)))
    assert (readers.read_mask(as_png) == mask).all()


@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_soft_edges_are_cut_in_the_middle(tmp_path: Path, sigma: int) -> None:
    soft = cv2.GaussianBlur(WHITE, (0, 0), sigma)
    assert (readers.read_mask(save(tmp_path, soft)) == (soft > 127)).all()
    deep = cv2.GaussianBlur(MASK.astype(np.uint16) * 65535, (0, 0), sigma)
    assert (readers.read_mask(save(tmp_path, deep)) == (deep > 32767)).all()


@pytest.mark.parametrize("value", [1, 2, 100, 200, 255])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_one_value_above_zero_is_the_mask(tmp_path: Path, value: int, depth: type) -> None:
    assert (readers.read_mask(save(tmp_path, MASK.astype(depth) * depth(value))) == MASK).all()


def test_one_bit_and_one_color(tmp_path: Path) -> None:
    assert (readers.read_mask(save(tmp_path, Image.fromarray(MASK))) == MASK).all()
    red = np.dstack([WHITE, WHITE * 0, WHITE * 0])
    assert (readers.read_mask(save(tmp_path, red)) == MASK).all()
    jpeg = readers.read_mask(save(tmp_path, red, "m.jpg", quality=90))
    assert np.count_nonzero(jpeg != MASK) < 0.1 * MASK.sum()


def test_palettes_whose_numbers_and_colors_agree(tmp_path: Path) -> None:
    indexed = Image.fromarray(MASK.astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 128, 0, 0])
    assert (readers.read_mask(save(tmp_path, indexed)) == MASK).all()


def test_masks_in_gif_files(tmp_path: Path) -> None:
    for image in (Image.fromarray(MASK), Image.fromarray(WHITE)):
        assert (readers.read_mask(save(tmp_path, image, "m.gif")) == MASK).all()


def test_numbers_of_objects_in_16_bits(tmp_path: Path) -> None:
    numbers = disc(8, (20, 20)).astype(np.uint16) + 300 * disc(8, (70, 70)).astype(np.uint16)
    mask, facts = readers.inspect_mask(save(tmp_path, numbers))
    assert (mask == (numbers > 0)).all() and facts.kind == "numbers"


def test_a_threshold_settles_every_doubt(tmp_path: Path) -> None:
    classes = MASK.astype(np.uint8) + disc(10)
    assert (readers.read_mask(save(tmp_path, classes), 0) == MASK).all()
    assert (readers.read_mask(save(tmp_path, classes), 1) == disc(10)).all()


def _palette(entries: np.ndarray, colors: list[int]) -> Image.Image:
    image = Image.fromarray(entries, "P")
    image.putpalette(colors)
    return image


CLASSES = MASK.astype(np.uint8) + disc(10)
RING = disc(23) & ~MASK
DOUBTFUL = {
    "classes": CLASSES,
    "classes and void": np.where(RING, 255, CLASSES).astype(np.uint8),
    "one class and void": np.where(RING, 255, MASK).astype(np.uint8),
    "thin void": np.where(cv2.dilate(WHITE, np.ones((3, 3))) > WHITE, 255, MASK).astype(np.uint8),
    "trimap": np.where(disc(10), 255, MASK * 128).astype(np.uint8),
    "trimap without zero": np.where(MASK, 1, 2).astype(np.uint8) + (RING & True),
    "objects in 8 bits": MASK.astype(np.uint8) * 40 + disc(9, (12, 12)).astype(np.uint8) * 200,
    "two colors": np.dstack([WHITE, disc(6, (10, 10)) * np.uint8(255), WHITE * 0]),
    "red on white": np.dstack([np.full_like(WHITE, 255), 255 - WHITE, 255 - WHITE]),
    "mask in the transparency": np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), WHITE]),
    "black, mask in the transparency": np.dstack([np.zeros((SIDE, SIDE, 3), np.uint8), WHITE]),
    "white palette entry 0": _palette(MASK.astype(np.uint8), [255, 255, 255, 0, 0, 0]),
    "palette with void": _palette(np.where(RING, 2, MASK).astype(np.uint8), [0, 0, 0, 128, 0, 0, 224, 224, 192]),
    "16 bits of 8": cv2.GaussianBlur(MASK.astype(np.uint16) * 255, (0, 0), 2),
}


@pytest.mark.parametrize("name", list(DOUBTFUL))
def test_doubtful_masks_are_rejected(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, DOUBTFUL[name])
    with pytest.raises(GatemaskError, match=r"not clear which pixels[\s\S]*m\.png[\s\S]*labels\.threshold"):
        readers.read_mask(path)


def test_transparency_that_agrees_or_never_varies_is_ignored(tmp_path: Path) -> None:
    color = np.dstack([WHITE] * 3)
    for alpha in (WHITE, np.full_like(WHITE, 255), np.zeros_like(WHITE)):
        assert (readers.read_mask(save(tmp_path, np.dstack([color, alpha]))) == MASK).all()


def test_floating_point_masks(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "m.tif"
    for scale in (1, 255):
        soft = cv2.GaussianBlur(MASK.astype(np.float32), (0, 0), 2) * scale
        tifffile.imwrite(path, soft)
        assert (readers.read_mask(path) == (soft > scale / 2)).all()
    tifffile.imwrite(path, np.where(MASK, np.nan, 0).astype(np.float32))
    with pytest.raises(GatemaskError, match="not numbers"):
        readers.read_mask(path)
