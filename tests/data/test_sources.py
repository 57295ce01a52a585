"""Images of several files, and slices with their neighbors: found by name, read by one function."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image

from gatemask.config import Competition
from gatemask.data import readers, sources, stored
from gatemask.data.channel_files import report_split_stacks
from gatemask.data.image_files import ImageFile, find_images
from gatemask.data.phantom import as_dicom
from gatemask.data.scan import scan_images
from gatemask.data.sources import read_source
from gatemask.errors import GatemaskError
from tests.data.test_manifest import competition

SIZE = (12, 16)


def configured(images: Any, channels: int, id: str | None = None, **changes: Any) -> Competition:
    train = images if isinstance(images, dict) and "images" in images else {"images": images}
    return competition(
        **{
            "image": {"size": list(SIZE), "channels": channels, **changes.pop("image", {})},
            "train": {**train, **({"id": id} if id else {})},
            "groups": {"duplicates": "ignore"},
            "records": {"size": 32, "format": "png"},
            **changes,
        }
    )


def write(path: Path, level: int, channels: int = 1, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, channels), level, np.uint8)
    pixels[0, 0] = range(channels)  # blue, green, red for OpenCV
    cv2.imwrite(str(path), pixels)


def found(raw: Path, comp: Competition) -> dict[str, ImageFile]:
    return {file.image_id: file for file in find_images(raw, comp).train}


def levels(file: ImageFile, comp: Competition) -> list[int]:
    """Return the level of each channel in the middle of an image."""
    return read_source(file.source, comp.image)[6, 8].tolist()


def problems(raw: Path, comp: Competition) -> dict[str, str]:
    images, faults = scan_images(find_images(raw, comp), comp)
    assert all(image.size == SIZE for image in images)
    return dict(faults)


# --- several files -----------------------------------------------------------------------------------------

PARTS = {"red": "red/{id}.png", "color": {"files": "color/{id}_[ab].tif", "channels": 3}, "blue": "blue/x_{id}.png"}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Return a raw folder with images 1, 2 and 10 of five channels in three files."""
    for number in (1, 2, 10):
        write(tmp_path / f"red/c{number}.png", number)
        write(tmp_path / f"color/c{number}_{'ab'[number % 2]}.tif", 100 + number, 3)
        write(tmp_path / f"blue/x_c{number}.png", 200 + number)
    return tmp_path


def test_channels_come_from_all_files_in_their_order(cells: Path) -> None:
    comp = configured(PARTS, 5)
    files = found(cells, comp)
    assert {name: levels(file, comp) for name, file in files.items()} == {
        f"c{number}": [number, 100 + number, 100 + number, 100 + number, 200 + number] for number in (1, 2, 10)
    }
    image = read_source(files["c2"].source, comp.image)
    assert (image.shape, image.dtype) == ((*SIZE, 5), np.uint8)
    assert image[0, 0].tolist() == [0, 2, 1, 0, 0], "colors are red, green, blue"
    assert files["c10"].name == "red/c10.png", "the first file names the image"
    source = files["c10"].source
    assert pickle.loads(pickle.dumps(source)) == source
    assert len(find_images(cells, comp).paths) == 9
    assert problems(cells, comp) == {}


def test_an_image_without_one_of_its_files_is_left_out_and_the_file_named(cells: Path) -> None:
    comp = configured(PARTS, 5)
    (cells / "color/c10_a.tif").unlink()
    (cells / "blue/x_c1.png").unlink()
    assert problems(cells, comp) == {
        "red/c1.png": "An image needs exactly one file for each of its channels. Found no file of blue/x_c1.png.",
        "red/c10.png": "An image needs exactly one file for each of its channels. Found no file of color/c10_[ab].tif.",
    }
    with pytest.raises(GatemaskError, match=r"exactly one file[\s\S]*red/c1.png[\s\S]*blue/x_c1.png"):
        read_source(found(cells, comp)["c1"].source, comp.image)


def test_files_of_different_sizes_damaged_and_doubled_files_are_named(cells: Path) -> None:
    comp = configured(PARTS, 5)
    write(cells / "blue/x_c1.png", 5, size=(12, 15))
    (cells / "blue/x_c2.png").write_bytes(b"damaged")
    write(cells / "color/c10_b.tif", 1, 3)
    found_problems = problems(cells, comp)
    assert found_problems["red/c1.png"].startswith(
        "The files of an image differ in size. Found 12 x 15 in x_c1.png, not 12 x 16, as in c1.png."
    )
    assert "x_c2.png" in found_problems["red/c2.png"]
    assert "2 files of color/c10_[ab].tif: color/c10_a.tif, color/c10_b.tif" in found_problems["red/c10.png"]


def test_files_that_belong_to_no_image_are_reported(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(cells / "blue/x_c99.png", 0)
    assert len(found(cells, configured(PARTS, 5))) == 3
    assert "1 files of blue/x_{id}.png belong to no image, such as blue/x_c99.png." in capsys.readouterr().err


def test_further_files_may_match_the_first_pattern(tmp_path: Path) -> None:
    """Sentinel-like: one folder per image, names that extend the name of the first file."""
    for name, level in (("a", 1), ("b", 2)):
        write(tmp_path / f"i/{name}.png", level)
        write(tmp_path / f"i/{name}_nir.png", level + 10)
    comp = configured({"visible": "i/{id}.png", "infrared": "i/{id}_nir.png"}, 2)
    files = found(tmp_path, comp)
    assert {name: levels(file, comp) for name, file in files.items()} == {"a": [1, 11], "b": [2, 12]}


def test_ids_of_several_files_may_need_their_folder(tmp_path: Path) -> None:
    for case in ("p1", "p2"):
        for number in (1, 2):
            for kind, level in (("t1", 0), ("flair", 100)):
                write(tmp_path / f"{case}/{kind}/{number}.png", level + 10 * number + int(case[1]))
    comp = configured({"t1": "{case}/t1/{n}.png", "flair": "{case}/flair/{n}.png"}, 2, "{case}_{n}")
    files = found(tmp_path, comp)
    assert {name: levels(file, comp) for name, file in files.items()} == {
        "p1_1": [11, 111],
        "p1_2": [21, 121],
        "p2_1": [12, 112],
        "p2_2": [22, 122],
    }


# --- stacks ------------------------------------------------------------------------------------------------


def stacked(around: int = 1, step: int = 1, **changes: Any) -> Competition:
    stack = {"by": "slice", "around": around, "step": step}
    images = {"images": "{case}/day{day}/s_{slice}.png", "stack": stack}
    return configured(images, 2 * around + 1, "{case}_{day}_{slice}", **changes)


def write_volume(raw: Path, case: str, numbers: list[int], start: int = 0) -> None:
    for number in numbers:
        write(raw / f"{case}/day1/s_{number}.png", start + number)


def test_neighbors_are_channels_and_the_ends_repeat(tmp_path: Path) -> None:
    write_volume(tmp_path, "a", [8, 9, 10, 11, 100])
    write_volume(tmp_path, "b", [1, 2], 50)
    comp = stacked(2)
    files = found(tmp_path, comp)
    assert levels(files["a_1_10"], comp) == [8, 9, 10, 11, 100], "numbers are sorted as numbers"
    assert levels(files["a_1_8"], comp) == [8, 8, 8, 9, 10]
    assert levels(files["b_1_2"], comp) == [51, 51, 52, 52, 52], "no slice of another volume"
    source = files["a_1_10"].source
    assert [path.name for path in source.own_files] == ["s_10.png"]
    assert pickle.loads(pickle.dumps(source)) == source
    comp = stacked(1, step=2)
    assert levels(found(tmp_path, comp)["a_1_10"], comp) == [8, 10, 100]


def test_each_slice_is_decoded_once_unless_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    inspect = sources.inspect_image

    def count(path: Path, *settings: Any) -> Any:
        decoded.append(path.name)
        return inspect(path, *settings)

    monkeypatch.setattr(sources, "inspect_image", count)
    write_volume(tmp_path, "a", [1, 2, 3, 4])
    comp = stacked(2)
    files = found(tmp_path, comp)
    for file in files.values():
        levels(file, comp)
    assert sorted(decoded) == ["s_1.png", "s_2.png", "s_3.png", "s_4.png"]
    write(tmp_path / "a/day1/s_3.png", 99)
    os.utime(tmp_path / "a/day1/s_3.png", ns=(0, 1))
    assert levels(files["a_1_1"], comp) == [1, 1, 1, 2, 99]


def test_single_slices_and_steps_beyond_the_ends_repeat(tmp_path: Path) -> None:
    write_volume(tmp_path, "a", [7])
    comp = stacked(3, step=5)
    assert levels(found(tmp_path, comp)["a_1_7"], comp) == [7] * 7


def test_missing_slices_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path, "a", [1, 2, 4, 5])
    write_volume(tmp_path, "b", [10, 20, 30])
    comp = stacked()
    assert levels(found(tmp_path, comp)["a_1_2"], comp) == [1, 2, 4]
    assert "skipped 1 times" in (message := capsys.readouterr().err)
    assert "a/day1/s_2.png is followed by s_4.png" in message


def test_a_damaged_or_lost_neighbor_is_named(tmp_path: Path) -> None:
    write_volume(tmp_path, "a", [1, 2, 3, 4])
    comp = stacked()
    (tmp_path / "a/day1/s_3.png").write_bytes(b"damaged")
    complaints = problems(tmp_path, comp)
    assert sorted(complaints) == ["a/day1/s_2.png", "a/day1/s_3.png", "a/day1/s_4.png"]
    assert "s_3.png" in complaints["a/day1/s_2.png"]
    files = found(tmp_path, comp)
    (tmp_path / "a/day1/s_3.png").unlink()
    with pytest.raises(GatemaskError, match=r"does not exist[\s\S]*s_3.png[\s\S]*a_1_2"):
        read_source(files["a_1_2"].source, comp.image)
    write(tmp_path / "a/day1/s_3.png", 3, size=(9, 16))
    assert "9 x 16 in s_3.png, not 12 x 16, as in s_2.png" in problems(tmp_path, comp)["a/day1/s_2.png"]


@pytest.mark.parametrize(("groups", "count"), [({1: "a", 2: "a", 3: "b", 4: "b"}, 2), ({1: "a", 2: "a", 3: "a"}, 0)])
def test_volumes_split_by_groups_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: dict[int, str], count: int
) -> None:
    write_volume(tmp_path, "v", [1, 2, 3, 4])
    files = list(found(tmp_path, stacked()).values())
    capsys.readouterr()
    report_split_stacks(files, {f"v_1_{number}": group for number, group in groups.items()})
    message = capsys.readouterr().err
    if count:
        assert f"{count} images have neighbors in other groups, such as v/day1/s_2.png, v/day1/s_3.png" in message
    else:
        assert not message


def test_two_slices_of_one_number_are_named(tmp_path: Path) -> None:
    write_volume(tmp_path, "a", [1, 2, 3])
    write(tmp_path / "a/day1/s_02.png", 9)
    complaints = problems(tmp_path, stacked())
    assert "two slices of the number" in complaints["a/day1/s_2.png"]
    assert "a/day1/s_02.png and a/day1/s_2.png" in complaints["a/day1/s_02.png"]
    assert "a/day1/s_1.png" not in complaints


# --- gray levels -------------------------------------------------------------------------------------------


def test_percentiles_stretch_the_levels_of_each_file(tmp_path: Path) -> None:
    """16 bits keep what 8 bits of the full range would lose."""
    ramp = (20_000 + np.arange(1000)).astype(np.uint16).reshape(20, 50)
    cv2.imwrite(str(tmp_path / "x.png"), ramp)
    window = configured("x", 1, image={"window": {"percentiles": [10, 90]}}).image.window
    image = readers.read_image(tmp_path / "x.png", 1, window)[:, :, 0]
    low, high = np.percentile(ramp, [10, 90])
    expected = ((ramp - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(image - expected).max() <= 0.51
    assert len(np.unique(image)) == 256
    assert len(np.unique(readers.read_image(tmp_path / "x.png", 1))) < 6
    cv2.imwrite(str(tmp_path / "x.png"), np.full((4, 4), 777, np.uint16))
    assert not readers.read_image(tmp_path / "x.png", 1, window).any(), "one level has nothing to show"


@pytest.mark.parametrize("inverted", [False, True])
def test_percentiles_of_dicoms_leave_out_padding_and_keep_inversion(tmp_path: Path, inverted: bool) -> None:
    pixels = np.tile(np.arange(1000, 1064, dtype=np.uint16), (64, 1))
    pixels[:, :20] = 60_000  # around the body
    path = tmp_path / "x.dcm"
    dataset = pydicom.dcmread(BytesIO(as_dicom(np.zeros(pixels.shape, np.uint8), "1.2.3", 1, inverted)))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024
    dataset.add_new("PixelPaddingValue", "US", 60_000)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path)
    window = configured("x", 1, image={"window": {"percentiles": [0, 100]}}).image.window
    image = readers.read_image(path, 1, window)[0, :, 0].astype(int)
    ramp = np.linspace(0, 255, 44)
    assert np.abs(image[20:] - (255 - ramp if inverted else ramp)).max() <= 0.51
    assert (image[:20] == (0 if inverted else 255)).all()


# --- large images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["palette.png", "x.bmp", "lzw.tif", "jpeg.tif"])
def test_no_library_limits_the_size_of_an_image(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would reject twice its limit as a bomb; ours follows from the length of the file."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (50, 1))
    options = {"lzw.tif": {"compression": "tiff_lzw"}, "jpeg.tif": {"compression": "jpeg"}}.get(kind, {})
    picture = Image.fromarray(ramp)
    (picture.convert("P") if kind == "palette.png" else picture).save(tmp_path / kind, **options)
    assert np.abs(readers.read_image(tmp_path / kind, 1)[:, :, 0].astype(int) - ramp).max() <= 3


def test_opencv_is_allowed_more_than_a_billion_pixels() -> None:
    assert int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) > 1 << 36


def test_a_header_that_claims_more_than_its_file_can_hold_is_rejected(tmp_path: Path) -> None:
    """Before memory is taken for it."""
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    data = path.read_bytes()
    start = data.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[start + 12 : start + 17]
    path.write_bytes(data[:start] + header + struct.pack(">I", zlib.crc32(header)) + data[start + 21 :])
    with pytest.raises(GatemaskError, match=r"60000 x 60000 pixels in \d+ bytes"):
        readers.read_image(path, 1)


def test_deep_levels_are_scaled_by_a_table_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1 << 16, (300, 300)).astype(np.uint16)
    for low, high in ((0.0, 4095.0), (317.5, 40_000.25), (-500.0, 70_000.0)):
        parts = [stored.scale(part, low, high) for part in np.array_split(pixels, 4)]
        assert (stored.scale(pixels, low, high) == np.concatenate(parts)).all()
