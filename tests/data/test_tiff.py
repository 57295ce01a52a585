"""TIFF files of every layout give the pixels that were written, and files that cannot be understood are rejected."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from gatemask.data import readers
from gatemask.errors import GatemaskError

ROWS, COLUMNS = np.mgrid[:70, :90]
COLOR = np.dstack([COLUMNS * 2 + 3, ROWS * 3, ROWS + COLUMNS]).astype(np.uint8)
GRAY = COLOR[:, :, 0].copy()
COLOR16, GRAY16 = COLOR.astype(np.uint16) * 257, GRAY.astype(np.uint16) * 257
ALPHA = (ROWS * 2 + 20).astype(np.uint8)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(pixels: np.ndarray, **options: Any) -> Path:
        tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
        return tmp_path / "x.tif"

    return write_file


def read_gray(path: Path) -> np.ndarray:
    return readers.read_image(path, 1)[:, :, 0]


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (32, 48)}], ids=["strip", "strips", "tiles"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "packing", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}], ids=["plain", "zlib", "diff"]
)
def test_every_layout(write: Write, layout: dict[str, Any], order: str, packing: dict[str, Any]) -> None:
    options = {**layout, **packing, "byteorder": order}
    for gray in (GRAY, GRAY16):
        assert (read_gray(write(gray, photometric="minisblack", **options)) == GRAY).all()
    for color in (COLOR, COLOR16):
        assert (readers.read_image(write(color, photometric="rgb", **options), 3) == COLOR).all()
    planes = COLOR16.transpose(2, 0, 1).copy()
    separate = write(planes, photometric="rgb", planarconfig="separate", **options)
    assert (readers.read_image(separate, 3) == COLOR).all()


@pytest.mark.parametrize("predictor", [1, 2])
def test_lzw_of_8_and_16_bits(tmp_path: Path, predictor: int) -> None:
    path = str(tmp_path / "x.tif")
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    options += [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 9]
    for color in (COLOR, COLOR16):
        cv2.imwrite(path, color[:, :, ::-1], options)
        assert tifffile.TiffFile(path).pages[0].tags["Compression"].value == 5
        assert (readers.read_image(Path(path), 3) == COLOR).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate", "tiff_adobe_deflate"])
def test_files_of_other_writers(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x.tif"
    for pixels, expected in ((COLOR, COLOR), (GRAY, GRAY), (GRAY16, GRAY), (np.dstack([COLOR, ALPHA]), COLOR)):
        Image.fromarray(pixels).save(path, compression=compression)
        read = readers.read_image(path, 3 if expected.ndim == 3 else 1)
        assert (read.reshape(expected.shape) == expected).all()
    Image.fromarray(GRAY > 90).save(path, compression=compression)
    assert (read_gray(path) == np.uint8(255) * (GRAY > 90)).all()
    indexed = Image.fromarray(COLOR).quantize(64)
    indexed.save(path, compression=compression)
    assert (readers.read_image(path, 3) == np.asarray(indexed.convert("RGB"))).all()


def test_jpeg_and_fax_compression(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(COLOR).save(path, compression="jpeg", quality=95)
    assert np.abs(readers.read_image(path, 3).astype(int) - COLOR).mean() < 2
    for compression in ("group3", "group4"):
        Image.fromarray(GRAY > 90).save(path, compression=compression)
        assert (read_gray(path) == np.uint8(255) * (GRAY > 90)).all()


def test_white_is_zero(write: Write) -> None:
    assert (read_gray(write(255 - GRAY, photometric="miniswhite")) == GRAY).all()
    assert (read_gray(write(65535 - GRAY16, photometric="miniswhite")) == GRAY).all()
    assert (read_gray(write(GRAY > 90, photometric="miniswhite")) == np.uint8(255) * (GRAY <= 90)).all()


def test_alpha_leaves_the_colors_alone(write: Write) -> None:
    for alpha in (ALPHA, np.zeros_like(ALPHA)):
        path = write(np.dstack([COLOR, alpha]), photometric="rgb", extrasamples=["unassalpha"])
        assert (readers.read_image(path, 3) == COLOR).all()
    premultiplied = np.dstack([(COLOR * (ALPHA[:, :, None] / 255)).round().astype(np.uint8), ALPHA])
    path = write(premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(readers.read_image(path, 3).astype(int) - COLOR).max() <= 6


def test_palette_ink_and_signed_numbers(write: Write) -> None:
    ramp = np.stack([np.arange(256)[::-1] * 257, np.arange(256) * 257, np.arange(256) // 2 * 257]).astype(np.uint16)
    read = readers.read_image(write(GRAY, photometric="palette", colormap=ramp), 3)
    assert (read == np.dstack([255 - GRAY, GRAY, GRAY // 2])).all()
    ink = np.dstack([255 - COLOR, np.zeros_like(GRAY)])
    assert (readers.read_image(write(ink, photometric="separated"), 3) == COLOR).all()
    signed = (GRAY16.astype(np.int32) - 32768).astype(np.int16)
    assert (read_gray(write(signed)) == GRAY).all()
    assert (read_gray(write(GRAY16.astype(np.uint32) * 65537)) == GRAY).all()


def test_floating_point_needs_a_window_and_numbers(write: Write) -> None:
    path = write((GRAY / 255).astype(np.float32))
    with pytest.raises(GatemaskError, match=r"needs a window[\s\S]*from 0\.01\d* to 0\.7[\s\S]*image\.window"):
        readers.read_image(path, 1)
    assert (readers.read_image(path, 1, (0.5, 1))[:, :, 0] == GRAY).all()
    broken = GRAY.astype(np.float32)
    broken[3, 3] = np.nan
    with pytest.raises(GatemaskError, match=r"not numbers[\s\S]*1 NaN"):
        readers.read_image(write(broken), 1, (128, 256))


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (COLOR.transpose(2, 0, 1), {"photometric": "minisblack"}),
        (COLOR.transpose(2, 0, 1), {"imagej": True}),
        (COLOR.transpose(2, 0, 1), {"photometric": "minisblack", "truncate": True}),
        (np.zeros((16, 32, 32), np.uint8), {"volumetric": True, "tile": (16, 16, 16), "photometric": "minisblack"}),
    ],
    ids=["pages", "imagej stack", "one page for all", "volume"],
)
def test_several_pages_are_rejected(write: Write, pixels: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(GatemaskError, match=f"several frames or pages[\\s\\S]*received: {len(pixels)}"):
        readers.read_image(write(pixels.copy(), **options), 3)


def test_previews_are_no_pages(tmp_path: Path) -> None:
    for preview_first in (False, True):
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            pages = [(COLOR, {}), (COLOR[::2, ::2], {"subfiletype": 1})]
            for pixels, options in reversed(pages) if preview_first else pages:
                file.write(pixels, photometric="rgb", **options)
        assert (readers.read_image(tmp_path / "x.tif", 3) == COLOR).all()


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (COLOR, {"photometric": "minisblack", "planarconfig": "contig"}),
        (np.dstack([COLOR, COLOR[:, :, :2]]), {"photometric": "rgb"}),
        (COLOR, {"photometric": "cielab"}),
        (GRAY.astype(np.complex64), {}),
    ],
    ids=["gray bands", "more bands", "lab", "complex"],
)
def test_unknown_kinds_are_rejected(write: Write, pixels: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(GatemaskError, match="Unsupported kind of TIFF"):
        readers.read_image(write(pixels, **options), 3)


@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}, {"tile": (32, 32)}])
def test_files_cut_short_are_rejected(write: Write, packing: dict[str, Any]) -> None:
    path = write(COLOR16, photometric="rgb", **packing)
    content = path.read_bytes()
    for length in (5, 10, 200, len(content) // 2, len(content) - 50):
        path.write_bytes(content[:length])
        with pytest.raises(GatemaskError, match=r"cannot be read[\s\S]*x\.tif"):
            readers.read_image(path, 3)


def test_a_missing_strip_is_not_black(write: Write) -> None:
    path = write(GRAY, photometric="minisblack", rowsperstrip=35)
    with tifffile.TiffFile(path, mode="r+b") as file:
        offset = file.pages[0].tags["StripOffsets"].valueoffset
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack("<I", 0)
    path.write_bytes(content)
    with pytest.raises(GatemaskError, match="cannot be read"):
        readers.read_image(path, 1)


def test_damaged_lzw_never_returns_other_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    cv2.imwrite(str(path), GRAY, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    content = bytearray(path.read_bytes())
    content[12:40] = bytes([255]) * 28
    path.write_bytes(content)
    with pytest.raises(GatemaskError, match="LZW data"):
        readers.read_image(path, 1)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="the package is installed")
def test_a_compression_that_needs_a_package_names_it(write: Write) -> None:
    path = write(GRAY, photometric="minisblack", compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["Compression"].valueoffset
    content[at : at + 2] = struct.pack("<H", 34887)  # LERC
    path.write_bytes(content)
    with pytest.raises(GatemaskError, match=r"needs another package[\s\S]*LERC[\s\S]*pip install imagecodecs"):
        readers.read_image(path, 1)
