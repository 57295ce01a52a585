"""DICOM files in every usual transfer syntax, with and without suffix and marker."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from gatemask.data import readers
from gatemask.data.phantom import as_dicom
from gatemask.errors import GatemaskError

ROWS, COLUMNS = np.mgrid[:64, :48]
PIXELS = {
    "8": (COLUMNS * 4 + ROWS).astype(np.uint8),
    "12": (COLUMNS * 60 + ROWS).astype(np.uint16),
    "16": (COLUMNS * 1000 + ROWS).astype(np.uint16),
    "signed": (COLUMNS * 1000 + ROWS - 20000).astype(np.int16),
}


def write(path: Path, pixels: np.ndarray, bits: int) -> Path:
    """Write an uncompressed DICOM file."""
    dataset = pydicom.dcmread(BytesIO(as_dicom(np.zeros(pixels.shape, np.uint8), "1.2.3", 1, inverted=False)))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path)
    return path


def compress(path: Path, syntax: str) -> Path:
    """Write a file again in a transfer syntax of GDCM's names."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    compressed = path.with_name("compressed.dcm")
    writer.SetFileName(str(compressed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return compressed


@pytest.mark.parametrize("kind", list(PIXELS))
@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
def test_lossless_transfer_syntaxes_decode_exactly(tmp_path: Path, syntax: str, kind: str) -> None:
    bits = 16 if kind == "signed" else int(kind)
    plain = write(tmp_path / "plain.dcm", PIXELS[kind], bits)
    compressed = compress(plain, syntax)
    assert pydicom.dcmread(compressed).file_meta.TransferSyntaxUID.is_encapsulated
    low, high = (-32768, 32767) if kind == "signed" else (0, (1 << bits) - 1)
    expected = (PIXELS[kind].astype(float) - low) * 255 / (high - low)
    for path in (plain, compressed):
        assert np.abs(readers.read_image(path, 1)[:, :, 0] - expected).max() <= 0.51


@pytest.mark.parametrize("form", ["marker", "no preamble", "bare explicit", "bare implicit"])
def test_files_without_suffix(tmp_path: Path, form: str) -> None:
    plain = write(tmp_path / "plain.dcm", PIXELS["12"], 12)
    content = plain.read_bytes()
    if form == "no preamble":
        content = content[132:]
    elif form.startswith("bare"):
        dataset = pydicom.Dataset({element.tag: element for element in pydicom.dcmread(plain)})
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=form == "bare implicit", little_endian=True)
        content = buffer.getvalue()
    path = tmp_path / "1.2.840.10008.5"
    path.write_bytes(content)
    assert (readers.read_image(path, 1) == readers.read_image(plain, 1)).all()
    assert readers.read_tags(path, ["PatientID"]) == ["phantom0001"]


@pytest.mark.parametrize(
    ("syntax", "advice"),
    [
        ("1.2.840.10008.1.2.4.201", "pip install pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.100", "uncompressed transfer syntax"),
    ],
)
def test_a_missing_decoder_is_named(tmp_path: Path, syntax: str, advice: str) -> None:
    path = write(tmp_path / "x.dcm", PIXELS["8"], 8)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([b"abcd"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    with pytest.raises(GatemaskError, match=rf"No installed decoder[\s\S]*{syntax}[\s\S]*{advice}"):
        readers.read_image(path, 1)


def test_lossless_jpeg_without_its_decoder_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.data import dicom

    path = compress(write(tmp_path / "x.dcm", PIXELS["12"], 12), "JPEGLosslessProcess14_1")
    monkeypatch.setattr(dicom, "DECODERS", ("pydicom", "pillow"))  # those of Kaggle's image
    with pytest.raises(GatemaskError, match=r"No installed decoder[\s\S]*JPEG Lossless[\s\S]*pip install python-gdcm"):
        readers.read_image(path, 1)


def test_a_file_without_pixels_and_unusual_bits_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", PIXELS["12"], 12)
    dataset = pydicom.dcmread(path)
    dataset.HighBit = 15
    dataset.save_as(path)
    with pytest.raises(GatemaskError, match=r"unusual bits[\s\S]*HighBit 15[\s\S]*HighBit 11"):
        readers.read_image(path, 1)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(GatemaskError, match="no picture"):
        readers.read_image(path, 1)


def test_pixels_outside_of_the_declared_bits_are_not_clipped_silently(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", np.array([[0, 2048, 5000]], np.uint16), 12)
    with pytest.raises(GatemaskError, match=r"outside of its range[\s\S]*0 to 5000 in 12 bits[\s\S]*image\.window"):
        readers.read_image(path, 1)
    assert readers.read_image(path, 1, (2500, 5000)).tolist() == [[[0], [104], [255]]]
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 5000)
    dataset.save_as(path)
    assert readers.read_image(path, 1).tolist() == [[[0], [128], [255]]], "padding"


def test_unused_bits_may_hold_an_overlay_or_no_sign(tmp_path: Path) -> None:
    pixels = np.array([[0, 2048, 4095]], np.uint16)
    path = write(tmp_path / "x.dcm", pixels | 0x8000, 12)
    dataset = pydicom.dcmread(path)
    dataset.add_new((0x6000, 0x0102), "US", 15)
    dataset.save_as(path)
    assert readers.read_image(path, 1).tolist() == [[[0], [128], [255]]]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    for stored in (signed, signed & 0x0FFF):  # with the sign in all bits, or only in those stored
        assert readers.read_image(write(path, stored, 12), 1).tolist() == [[[0], [128], [255]]]


def test_facts_are_in_the_units_of_a_window(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", np.array([[0, 1024, 2048]], np.int16), 16)
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.save_as(path)
    facts = readers.inspect_image(path, 1)[1]
    assert (facts.lowest, facts.highest, facts.limits) == (-1024, 1024, (-33792, 31743))
