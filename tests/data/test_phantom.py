"""Phantoms form a competition in SIIM's shape: real DICOM, overlapping annotations, scattered rows."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from gatemask.config import Phantom
from gatemask.data import phantom
from gatemask.data.readers import read_image
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.masks import rle

SETTINGS = Phantom(images=60, test_images=12, size=128, seed=3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    phantom.make_phantoms(folder, SETTINGS)
    return folder


def rows(raw: Path, name: str = "train-rle.csv") -> list[dict[str, str]]:
    with (raw / name).open() as file:
        return list(csv.DictReader(file))


def test_counts_and_share_of_positives(raw: Path) -> None:
    assert len(list(raw.glob("train/**/*.dcm"))) == 60
    assert len(list(raw.glob("test/*.dcm"))) == 12
    positive = {row["ImageId"] for row in rows(raw) if row["EncodedPixels"] != "-1"}
    assert len(positive) == round(60 * 0.22)
    assert {row["EncodedPixels"] for row in rows(raw, "sample_submission.csv")} == {"-1"}


def test_some_images_have_overlapping_annotations_in_scattered_rows(raw: Path) -> None:
    table = rows(raw)
    twice = [name for name, n in Counter(row["ImageId"] for row in table).items() if n > 1]
    assert twice
    apart = []
    for name in twice:
        lines = [index for index, row in enumerate(table) if row["ImageId"] == name]
        apart.append(lines[1] - lines[0] > 1)
        first, second = (rle.decode(table[index]["EncodedPixels"], (128, 128), phantom.DIALECT) for index in lines)
        assert (first & second).any()
    assert any(apart)


def test_files_are_jpeg_dicoms_with_patients_and_a_few_inverted(raw: Path) -> None:
    files = [pydicom.dcmread(path) for path in raw.glob("train/**/*.dcm")]
    kinds = Counter(file.PhotometricInterpretation for file in files)
    assert 0 < kinds["MONOCHROME1"] < kinds["MONOCHROME2"]
    assert {file.file_meta.TransferSyntaxUID for file in files} == {pydicom.uid.JPEGBaseline8Bit}
    assert max(Counter(file.PatientID for file in files).values()) > 1
    train = {file.PatientID for file in files}
    assert not train & {pydicom.dcmread(path).PatientID for path in raw.glob("test/*.dcm")}


def test_inverted_files_read_like_the_others_and_lesions_are_bright(raw: Path) -> None:
    masks = {r["ImageId"]: r["EncodedPixels"] for r in rows(raw) if r["EncodedPixels"] != "-1"}
    for path in raw.glob("train/**/*.dcm"):
        image = read_image(path, 1)[:, :, 0]
        assert image.shape == (128, 128)
        assert image[:4, :4].mean() < image[60:68, 60:68].mean(), "the border is dark, the body is not"
        if path.stem in masks:
            lesion = rle.decode(masks[path.stem], (128, 128), phantom.DIALECT)
            assert image[lesion].mean() > image[~lesion].mean()


def test_a_folder_of_other_files_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious.dcm").write_bytes(b"x")
    with pytest.raises(GatemaskError, match="holds other files"):
        phantom.make_phantoms(tmp_path, SETTINGS)
    assert (tmp_path / "precious.dcm").exists()


def test_the_same_seed_draws_the_same_bytes_and_a_second_call_does_nothing(raw: Path, tmp_path: Path) -> None:
    phantom.make_phantoms(tmp_path, SETTINGS)
    names = sorted(p.relative_to(raw) for p in raw.rglob("*.dcm"))
    assert all(sha256(raw / name) == sha256(tmp_path / name) for name in names)
    assert (raw / "train-rle.csv").read_bytes() == (tmp_path / "train-rle.csv").read_bytes()
    assert phantom.make_phantoms(tmp_path, SETTINGS).current
    (tmp_path / "phantom.json").unlink()
    assert not phantom.make_phantoms(tmp_path, SETTINGS).current, "killed before the stamp: drawn again"
    image, _ = phantom.draw_phantom(1, True, 64, 0, np.random.default_rng(0))
    other, _ = phantom.draw_phantom(2, True, 64, 0, np.random.default_rng(0))
    assert (image != other).any()
