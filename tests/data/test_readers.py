"""Images as they lie on disk, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image

from gatemask.data import readers
from gatemask.data.phantom import as_dicom
from gatemask.errors import GatemaskError
from tests.conftest import SHARED, needs_siim

GREY = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48).astype(np.uint8)


def test_pictures_of_8_and_16_bits_in_grey_and_colour(tmp_path: Path) -> None:
    colour = np.dstack([GREY, GREY.T.reshape(64, 48), 255 - GREY])
    Image.fromarray(colour).save(tmp_path / "c.png")
    assert (readers.read_image(tmp_path / "c.png", 3) == colour).all(), "channels are red, green, blue"
    cv2.imwrite(str(tmp_path / "deep.tif"), GREY.astype(np.uint16) * 257)
    assert (readers.read_image(tmp_path / "deep.tif", 1)[:, :, 0] == GREY).all()
    assert readers.read_image(tmp_path / "deep.tif", 3).shape == (64, 48, 3)


def test_dicom_of_12_bits_and_inverted(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(as_dicom(GREY, "1.2.3", 1, inverted=False))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    deep = (GREY.astype(np.uint16) * 16).clip(0, 4095)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PixelData = deep.tobytes()
    dataset["PixelData"].VR = "OW"
    for kind, expected in (("MONOCHROME2", deep), ("MONOCHROME1", 4095 - deep)):
        dataset.PhotometricInterpretation = kind
        dataset.save_as(tmp_path / f"{kind}.dcm")
        read = readers.read_image(tmp_path / f"{kind}.dcm", 1)[:, :, 0]
        assert np.abs(read - expected * (255 / 4095)).max() <= 0.51


@needs_siim
def test_real_dicoms_read_as_their_jpeg_decodes() -> None:
    for path in (SHARED / "siim/dicom").glob("*.dcm"):
        expected = pydicom.dcmread(path).pixel_array
        assert (readers.read_image(path, 1)[:, :, 0] == expected).all()
        assert expected.shape == (1024, 1024)


@pytest.mark.parametrize("name", ["cut.dcm", "empty.dcm", "text.png", "empty.png"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    whole = as_dicom(GREY, "1.2.3", 1, inverted=False)
    content = {"cut.dcm": whole[: len(whole) // 2], "text.png": b"not a picture"}.get(name, b"")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GatemaskError, match=name):
        readers.read_image(tmp_path / name, 1)


def test_apple_double_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "._a.png").write_bytes(b"x")
    assert [p.name for p in readers.list_images(tmp_path, "*.png")] == ["a.png"]


def test_masks_of_instance_numbers_and_with_transparency(tmp_path: Path) -> None:
    instances = np.zeros((8, 8), np.uint16)
    instances[2:4, 2:4], instances[5:7, 5:7] = 1, 200
    cv2.imwrite(str(tmp_path / "m.png"), instances)
    assert readers.read_mask(tmp_path / "m.png").sum() == 8
    opaque = np.dstack([instances.astype(np.uint8)] * 3 + [np.full((8, 8), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "rgba.png"), opaque)
    assert readers.read_mask(tmp_path / "rgba.png").sum() == 8


def test_colour_where_grey_is_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(as_dicom(GREY, "1.2.3", 1, inverted=False))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
    dataset.PixelData = np.dstack([GREY] * 3).tobytes()
    dataset.save_as(tmp_path / "rgb.dcm")
    with pytest.raises(GatemaskError, match="another kind"):
        readers.read_image(tmp_path / "rgb.dcm", 1)


def test_a_mask_keeps_its_area_when_it_shrinks() -> None:
    mask = np.zeros((256, 256), bool)
    mask[40:120, 64:160] = True
    small = readers.resize_mask(mask, 64)
    assert small.sum() == 20 * 24
    assert set(np.unique(small)) == {0, 1}
