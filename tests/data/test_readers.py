"""Images of many formats are read, and damaged ones are named."""

from __future__ import annotations

from contextlib import suppress
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

GRAY = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48).astype(np.uint8)


def test_images_of_8_and_16_bits_in_gray_and_color(tmp_path: Path) -> None:
    color = np.dstack([GRAY, GRAY.T.reshape(64, 48), 255 - GRAY])
    Image.fromarray(color).save(tmp_path / "c.png")
    assert (readers.read_image(tmp_path / "c.png", 3) == color).all(), "channels are red, green, blue"
    cv2.imwrite(str(tmp_path / "deep.tif"), GRAY.astype(np.uint16) * 257)
    assert (readers.read_image(tmp_path / "deep.tif", 1)[:, :, 0] == GRAY).all()
    assert readers.read_image(tmp_path / "deep.tif", 3).shape == (64, 48, 3)


def test_dicom_of_12_bits_and_inverted(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(as_dicom(GRAY, "1.2.3", 1, inverted=False))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    deep = (GRAY.astype(np.uint16) * 16).clip(0, 4095)
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
def test_real_dicoms_read_bit_for_bit_as_pillow_decodes_their_jpeg() -> None:
    from io import BytesIO

    from pydicom.encaps import get_frame

    paths = sorted((SHARED / "siim/dicom").glob("*.dcm"))
    assert len(paths) == 6
    for path in paths:
        frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
        expected = np.asarray(Image.open(BytesIO(frame)))
        read = readers.read_image(path, 1)[:, :, 0]
        assert (read == expected).all()
        assert (read == pydicom.dcmread(path).pixel_array).all()
        assert read.shape == (1024, 1024)


@needs_siim
def test_masks_laid_over_the_real_dicoms_land_on_the_lung(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Masks are on one side of the spine, inside the chest. runs/artefacts/siim-masks.png shows them."""
    from gatemask.config import Rle, RleLabels
    from gatemask.data.labels import read_labels
    from gatemask.masks import rle

    dialect = Rle(offsets="relative", base=0, empty="-1")
    labels = RleLabels(format="rle", file="stage_2_train.csv", rle=dialect)
    masks = read_labels(labels, SHARED / "siim", [], (1024, 1024)).masks
    pictures = []
    for path in sorted((SHARED / "siim/dicom").glob("*.dcm")):
        image, texts = readers.read_image(path, 1), [one.rle for one in masks[path.stem]]
        mask = rle.decode("".join(texts), (1024, 1024))
        pictures.append(overlaid(image, mask))
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert rows.min() > 60 and rows.max() < 964 and columns.min() > 30 and columns.max() < 994
            assert (columns < 512).mean() > 0.9 or (columns >= 512).mean() > 0.9
    assert len(pictures) == 6
    target = request.config.rootpath / "runs" / "artefacts" / "siim-masks.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(target), np.vstack([np.hstack(pictures[:3]), np.hstack(pictures[3:])]))


def overlaid(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with the outline of its mask in orange, at half size."""
    picture = np.repeat(image, 3, axis=2)
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)) > 0
    picture[outline] = (0, 159, 230)
    return cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA)


def dicom(folder: Path, pixels: np.ndarray, bits: int, **tags: object) -> Path:
    """Write an uncompressed DICOM file and return its path."""
    path = folder / "made.dcm"
    path.write_bytes(as_dicom(GRAY, "1.2.3", 1, inverted=False))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def read(path: Path, window: readers.Window = "full") -> np.ndarray:
    return readers.read_image(path, 1, window)[:, :, 0]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_all_depths_fill_the_range(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    pixels = np.array([[0, top // 2, top]], np.uint8 if bits == 8 else np.uint16)
    assert read(dicom(tmp_path, pixels, bits)).tolist() == [[0, 127, 255]]
    inverted = dicom(tmp_path, pixels, bits, PhotometricInterpretation="MONOCHROME1")
    assert read(inverted).tolist() == [[255, 128, 0]]


def test_signed_pixels_and_rescaling(tmp_path: Path) -> None:
    pixels = np.array([[-2048, 0, 2047]], np.int16)
    assert read(dicom(tmp_path, pixels, 12)).tolist() == [[0, 128, 255]]
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -100}
    assert read(dicom(tmp_path, pixels, 12, **rescaled)).tolist() == [[0, 128, 255]]
    assert read(dicom(tmp_path, pixels, 12, RescaleSlope=-1, RescaleIntercept=0)).tolist() == [[255, 127, 0]]
    # A lung window on Hounsfield units: -1350 to 150.
    hounsfield = np.array([[-2000, -1350, -600, 150, 900]], np.int16)
    assert read(dicom(tmp_path, hounsfield, 16), (-600, 1500)).tolist() == [[0, 0, 128, 255, 255]]
    stored = (hounsfield + 1024).astype(np.int16)
    shifted = dicom(tmp_path, stored, 16, RescaleSlope=1, RescaleIntercept=-1024)
    assert read(shifted, (-600, 1500)).tolist() == [[0, 0, 128, 255, 255]]


def test_the_window_and_lookup_table_of_the_file(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 1500, 2000, 4095]], np.uint16)
    windowed = dicom(tmp_path, pixels, 12, WindowCenter=1500, WindowWidth=1000)
    shown = read(windowed, "file").astype(int)
    assert shown[0, [0, 1, 3, 4]].tolist() == [0, 0, 255, 255]
    assert abs(shown[0, 2] - 128) <= 1
    assert (read(windowed) == read(dicom(tmp_path, pixels, 12))).all(), "only applied on request"
    assert (read(dicom(tmp_path, pixels, 12), "file") == read(dicom(tmp_path, pixels, 12))).all(), "the file has none"
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], [0, 65535, 32768, 0]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    looked_up = dicom(tmp_path, np.array([[0, 1, 2, 3]], np.uint16), 12, VOILUTSequence=[table])
    assert read(looked_up, "file").tolist() == [[0, 255, 128, 0]]


def test_an_inverting_rescale_is_not_inverted_twice(tmp_path: Path) -> None:
    pixels = np.array([[0, 100, 255]], np.uint8)
    inverted = dicom(tmp_path, pixels, 8, RescaleSlope=-1, RescaleIntercept=0)
    assert read(inverted, "file").tolist() == read(inverted).tolist() == [[255, 155, 0]]


def test_palette_colors_are_rejected(tmp_path: Path) -> None:
    path = dicom(tmp_path, GRAY, 8, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(GatemaskError, match=r"Unsupported kind[\s\S]*PALETTE COLOR"):
        readers.read_image(path, 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000(tmp_path: Path, bits: int) -> None:
    from io import BytesIO

    from pydicom.encaps import encapsulate

    pixels = GRAY if bits == 8 else GRAY.astype(np.uint16) * 257
    path = dicom(tmp_path, pixels, bits)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    assert (read(path) == GRAY).all()


def test_a_window_on_images_of_16_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.array([[0, 1000, 1500, 2000, 60000]], np.uint16))
    assert read(tmp_path / "x.png", (1500, 1000)).tolist() == [[0, 0, 128, 255, 255]]


def test_a_dicom_of_several_frames_is_rejected(tmp_path: Path) -> None:
    path = dicom(tmp_path, np.zeros((4, 4), np.uint8), 8)
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames, dataset.PixelData = 2, bytes(32)
    dataset.save_as(path)
    with pytest.raises(GatemaskError, match="several frames"):
        readers.read_image(path, 1)


def test_tags_are_read_and_missing_ones_are_blank(tmp_path: Path) -> None:
    path = dicom(tmp_path, GRAY, 8, PatientSex="F")
    assert readers.read_tags(path, ["PatientSex", "StudyID", "PatientID"]) == ["F", "", "phantom0001"]


@pytest.mark.parametrize("name", ["cut.dcm", "empty.dcm", "text.png", "empty.png"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    complete = as_dicom(GRAY, "1.2.3", 1, inverted=False)
    content = {"cut.dcm": complete[: len(complete) // 2], "text.png": b"not a picture"}.get(name, b"")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GatemaskError, match=name):
        readers.read_image(tmp_path / name, 1)


def test_masks_of_instance_numbers_and_with_transparency(tmp_path: Path) -> None:
    instances = np.zeros((8, 8), np.uint16)
    instances[2:4, 2:4], instances[5:7, 5:7] = 1, 200
    cv2.imwrite(str(tmp_path / "m.png"), instances)
    assert readers.read_mask(tmp_path / "m.png").sum() == 8
    opaque = np.dstack([instances.astype(np.uint8)] * 3 + [np.full((8, 8), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "rgba.png"), opaque)
    assert readers.read_mask(tmp_path / "rgba.png", 0).sum() == 8


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "JPEG2000", "tiff_lzw", "tiff_deflate", "jpeg", "DICOM"]
)
def test_damage_anywhere_raises_nothing_else(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    from io import BytesIO

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)
    buffer = BytesIO()
    if kind.islower() or "_" in kind:
        Image.fromarray(pixels).save(buffer, "TIFF", compression=kind)
    elif kind != "DICOM":
        Image.fromarray(pixels).save(buffer, kind)
    content = buffer.getvalue() or as_dicom(GRAY, "1.2.3", 1, inverted=False)
    path = tmp_path / "x"
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), rng.choice([64, 100_000])), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read_file in (lambda: readers.read_image(path, 3), lambda: readers.read_mask(path)):
            with suppress(GatemaskError):
                assert read_file().size > 0
    capfd.readouterr()  # what decoders print


def test_color_instead_of_gray_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(as_dicom(GRAY, "1.2.3", 1, inverted=False))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
    dataset.PixelData = np.dstack([GRAY] * 3).tobytes()
    dataset.save_as(tmp_path / "rgb.dcm")
    with pytest.raises(GatemaskError, match="wrong number of channels"):
        readers.read_image(tmp_path / "rgb.dcm", 1)
