"""PNG, JPEG, GIF and WebP files: pixels as stored, and files that hold more or less than one picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gatemask.data import readers
from gatemask.errors import GatemaskError

ROWS, COLUMNS = np.mgrid[:40, :56]
COLOR = np.dstack([COLUMNS * 4, ROWS * 6, ROWS + COLUMNS]).astype(np.uint8)
GRAY = COLOR[:, :, 0].copy()
ALPHA = (ROWS * 5).astype(np.uint8)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_leaves_the_colors_of_a_png_alone(tmp_path: Path, depth: int) -> None:
    factor = np.uint16(257) if depth == 16 else np.uint8(1)
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.dstack([COLOR[:, :, ::-1], ALPHA]) * factor)
    assert (readers.read_image(path, 3) == COLOR).all()
    pixels, facts = readers.inspect_image(path, 1)
    assert np.abs(pixels[:, :, 0] - cv2.cvtColor(COLOR, cv2.COLOR_RGB2GRAY).astype(int)).max() <= 1
    assert facts.transparent
    cv2.imwrite(str(path), np.dstack([COLOR[:, :, ::-1], np.full_like(ALPHA, 255)]) * factor)
    assert not readers.inspect_image(path, 3)[1].transparent


def test_gray_with_transparency_and_a_transparent_color(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.dstack([GRAY, ALPHA])).save(path)
    assert (readers.read_image(path, 1)[:, :, 0] == GRAY).all()
    Image.fromarray(COLOR).save(path, transparency=(0, 0, 0))
    assert (readers.read_image(path, 3) == COLOR).all()


def test_icons_and_other_files_of_several_pictures_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(COLOR).save(path, "ICO", sizes=[(16, 16), (32, 32)])
    with pytest.raises(GatemaskError, match="unknown kind"):
        readers.read_image(path, 3)


def test_palettes_and_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    indexed = Image.fromarray(COLOR).quantize(100)
    for name in ("x.png", "x.gif", "x.bmp"):
        indexed.save(tmp_path / name)
        assert (readers.read_image(tmp_path / name, 3) == np.asarray(indexed.convert("RGB"))).all()
    Image.fromarray(GRAY > 90).save(path)
    assert (readers.read_image(path, 1)[:, :, 0] == np.uint8(255) * (GRAY > 90)).all()


def test_formats_without_loss(tmp_path: Path) -> None:
    for name, options in (("x.webp", {"lossless": True}), ("x.bmp", {}), ("x.ppm", {}), ("x.jp2", {})):
        Image.fromarray(COLOR).save(tmp_path / name, **options)
        assert (readers.read_image(tmp_path / name, 3) == COLOR).all(), name
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path / "x.pgm")
    assert (readers.read_image(tmp_path / "x.pgm", 1)[:, :, 0] == GRAY).all()


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    for kind in ("png", "tiff", "bmp"):
        Image.fromarray(COLOR).save(tmp_path / "scan.jpg", kind)
        assert (readers.read_image(tmp_path / "scan.jpg", 3) == COLOR).all()


def test_jpeg_of_four_inks(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOR).convert("CMYK").save(path, quality=100)
    assert np.abs(readers.read_image(path, 3).astype(int) - COLOR).mean() < 1
    content = path.read_bytes()
    at = content.index(b"\xff\xee")
    (length,) = struct.unpack(">H", content[at + 2 : at + 4])
    path.write_bytes(content[:at] + content[at + 2 + length :])
    with pytest.raises(GatemaskError, match="without Adobe's marker"):
        readers.read_image(path, 3)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_animations_are_rejected(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.roll(COLOR, 5 * number, axis=0)) for number in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(GatemaskError, match=r"several frames[\s\S]*received: 3"):
        readers.read_image(tmp_path / name, 3)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.gif", "x.webp"])
def test_files_cut_short_are_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    for length in (3, 9, 30, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:length])
        with pytest.raises(GatemaskError, match=f"cannot be read[\\s\\S]*{name}"):
            readers.read_image(path, 3)
    path.write_bytes(content + b"trailing bytes are harmless")
    assert readers.read_image(path, 3).shape == noise.shape


def test_a_picture_that_differs_from_its_header_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(GRAY).save(path)
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.zeros((7, 7), np.uint8))
    with pytest.raises(GatemaskError, match=r"differs from the header[\s\S]*\(7, 7\)[\s\S]*\(40, 56\)"):
        readers.read_image(path, 1)


def test_twelve_bit_jpeg_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(GRAY).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(content)
    with pytest.raises(GatemaskError, match="12 bits in 1 channels"):
        readers.read_image(path, 1)


def test_an_apng_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(GRAY).save(path)
    content = path.read_bytes()
    body = b"acTL" + struct.pack(">II", 1, 0)
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:33] + chunk + content[33:])
    assert (readers.read_image(path, 1)[:, :, 0] == GRAY).all()
