"""The kernel on images of any size, in tiles, with several classes, channels and formats; scored with numpy alone."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from gatemask.files import write_yaml
from gatemask.inference import networks
from gatemask.inference.budget import Budget, TimeSpent
from gatemask.results.ensemble import ShippedMember
from tests.inference.fake_networks import FakeNetwork, KaggleFolders, member

SIZES = [(60, 90), (90, 60), (64, 64), (33, 41)]
RULE = {"gate": 0.0, "upper": 0.5, "lower": 0.5, "min_area": 0}
PLAIN = {"id": "ImageId", "mask": "EncodedPixels"}


def make(
    tmp_path: Path,
    images: dict[str, np.ndarray],
    masks: list[dict[str, Any]],
    gates: list[dict[str, Any]] | None = None,
    rule: Any = None,
    **facts: Any,
) -> KaggleFolders:
    """Write a competition of the given images without a sample, and an ensemble."""
    folders = KaggleFolders(tmp_path / "kaggle")
    for name, pixels in images.items():
        assert cv2.imwrite(str(folders.test / f"{name}.png"), pixels)
    competition = {
        "name": "t",
        "image": {"size": "mixed", "channels": 1},
        "test_images": "test/*",
        "classes": ["x"],
        "submission": PLAIN,
        **facts,
    }
    for part in [*masks, *(gates or [])]:
        (folders.dataset / f"{part['name']}.weights.h5").write_bytes(b"w")
    ensemble = {"competition": competition, "rule": rule or RULE, "gate": gates or [], "mask": masks}
    write_yaml(folders.dataset / "ensemble.yaml", ensemble)
    folders.write_sums()
    return folders


def use(monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]) -> None:
    """Replace the loading of members by fake networks."""
    monkeypatch.setattr(
        networks, "load_members", lambda members, *_: {member.name: fakes[member.name] for member in members}
    )
    monkeypatch.setattr(networks, "accelerator", lambda: "cpu")


def decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of an absolute, 1-based, column-major encoding."""
    flat = np.zeros(size[0] * size[1], bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(size[1], size[0]).T


def rows(folders: KaggleFolders) -> list[dict[str, str]]:
    return list(csv.DictReader(folders.submission.open()))


def box_image(size: tuple[int, int]) -> np.ndarray:
    """Return an image with a bright box around its middle, a third as high and wide."""
    image = np.zeros(size, np.uint8)
    image[size[0] // 3 : 2 * size[0] // 3, size[1] // 3 : 2 * size[1] // 3] = 255
    return image


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize(("records", "inputs"), [(128, 64), ([96, 128], [96, 128])], ids=["square", "oblong"])
@pytest.mark.parametrize("scoring", [None, [50, 70]], ids=["own size", "scoring size"])
def test_masks_have_the_size_at_which_they_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: str, records: Any, inputs: Any, scoring: Any
) -> None:
    images = {f"i{number}": box_image(size) for number, size in enumerate(SIZES)}
    picture = {"size": "mixed", "channels": 1, "fit": fit, **({"scoring_size": scoring} if scoring else {})}
    shape = [records, records] if isinstance(records, int) else records
    members = [member("m0", size=inputs, records=records), member("m1", size=64, records=records)]
    folders = make(tmp_path, images, members, image=picture, records=shape)
    shapes: set[tuple[int, ...]] = set()

    class Seen(FakeNetwork):
        def predict_on_batch(self, batch: np.ndarray) -> np.ndarray:
            shapes.add(batch.shape[1:3])
            return super().predict_on_batch(batch)

    use(monkeypatch, {"m0": Seen("mask", 1.0), "m1": Seen("mask", 1.0)})
    report = folders.predict()
    assert report.odd_sizes == 0 and report.degraded == []
    assert shapes == {(64, 64), (64, 64) if inputs == 64 else (96, 128)}
    for row in rows(folders):
        image = images[row["ImageId"]]
        if scoring:
            image = cv2.resize(image, scoring[::-1], interpolation=cv2.INTER_LINEAR)
        assert iou(decode(row["EncodedPixels"], image.shape), image >= 128) > 0.85


def test_an_unreadable_image_of_mixed_sizes_has_an_empty_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make(tmp_path, {"a": box_image((40, 30))}, [member("m0")])
    (folders.test / "b.png").write_bytes(b"no image")
    use(monkeypatch, {"m0": FakeNetwork("mask", 1.0)})
    report = folders.predict()
    assert list(report.unreadable) == ["b"]
    assert {row["ImageId"]: bool(row["EncodedPixels"]) for row in rows(folders)} == {"a": True, "b": False}


# --- several files per image ----------------------------------------------------------------------------------------


class ChannelNetwork(FakeNetwork):
    """A mask network that predicts one channel of its input."""

    def __init__(self, channel: int) -> None:
        super().__init__("mask", 1.0)
        self.channel = channel

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        return super().predict_on_batch(images)[..., self.channel : self.channel + 1]


@pytest.mark.parametrize("channel", [0, 1, 3])
def test_channels_come_from_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: int) -> None:
    facts = {
        "image": {"size": [64, 64], "channels": 4},
        "test_images": "test/{id}_red.png",
        "sources": [{"files": "test/{id}_red.png"}, {"files": "test/{id}_rgb.png", "channels": 3}],
    }
    planes = [np.roll(box_image((64, 64)), 5 * place, axis=1) for place in range(4)]
    colors = np.stack(planes[:0:-1], axis=2)  # OpenCV writes blue first
    images = {"a_red": planes[0], "a_rgb": colors, "b_red": planes[0]}
    folders = make(tmp_path, images, [member("m0")], **facts)
    use(monkeypatch, {"m0": ChannelNetwork(channel)})
    report = folders.predict()
    assert list(report.unreadable) == ["b"], "one of its files is missing"
    by_id = {row["ImageId"]: row["EncodedPixels"] for row in rows(folders)}
    assert (decode(by_id["a"], (64, 64)) == (planes[channel] > 0)).all() and by_id["b"] == ""


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_neighboring_slices_are_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: int) -> None:
    facts = {
        "image": {"size": [64, 64], "channels": 3},
        "test_images": "test/{case}/{slice}.png",
        "test_id": "{case}_{slice}",
        "stack": {"by": "slice", "around": 1},
    }
    planes = [np.roll(box_image((64, 64)), 5 * place, axis=1) for place in range(3)]
    folders = make(tmp_path, {}, [member("m0")], **facts)
    for case in ("c1", "c2"):
        (folders.test / case).mkdir()
        for number, plane in zip((8, 9, 10), planes if case == "c1" else planes[::-1], strict=True):
            cv2.imwrite(str(folders.test / case / f"{number}.png"), plane)
    use(monkeypatch, {"m0": ChannelNetwork(channel)})
    folders.predict()
    by_id = {row["ImageId"]: row["EncodedPixels"] for row in rows(folders)}
    for place, number in enumerate((8, 9, 10)):
        seen = min(max(place + channel - 1, 0), 2)
        assert (decode(by_id[f"c1_{number}"], (64, 64)) == (planes[seen] > 0)).all()
        assert (decode(by_id[f"c2_{number}"], (64, 64)) == (planes[2 - seen] > 0)).all()


# --- tiles --------------------------------------------------------------------------------------------------------

TILES = {"size": 64, "overlap": 16, "scale": 1.0}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [(150, 200), (64, 64), (40, 300)], ids=str)
def test_tiles_are_blended_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], count: int
) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, size).astype(np.uint8), (0, 0), 3)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    members = [member(f"m{number}") for number in range(count)]
    folders = make(tmp_path, {"a": image}, members, tiles=TILES)
    use(monkeypatch, {f"m{number}": FakeNetwork("mask", 1.0) for number in range(count)})
    report = folders.predict()
    assert report.degraded == []
    (row,) = rows(folders)
    assert (decode(row["EncodedPixels"], size) == (image >= 128)).all()


def test_tiles_of_reduced_images_give_masks_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = box_image((300, 400))
    folders = make(tmp_path, {"a": image}, [member("m0")], tiles={**TILES, "scale": 0.5})
    fake = FakeNetwork("mask", 1.0)
    use(monkeypatch, {"m0": fake})
    folders.predict()
    assert fake.predicted == 3 * 4, "tiles of 150 x 200 pixels"
    assert iou(decode(rows(folders)[0]["EncodedPixels"], (300, 400)), image > 0) > 0.95


def test_the_gate_of_a_large_image_is_the_maximum_of_its_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bright = np.full((200, 200), 10, np.uint8)
    bright[130:190, 130:190] = 250
    images = {"a": bright, "b": np.full((200, 200), 10, np.uint8)}
    gates = [member("g0"), member("g1")]
    folders = make(tmp_path, images, [member("m0")], gates, {**RULE, "gate": 0.6}, tiles=TILES)
    fakes = {"g0": FakeNetwork("gate", 1.0), "g1": FakeNetwork("gate", 0.9), "m0": FakeNetwork("mask", 1.0)}
    use(monkeypatch, fakes)
    report = folders.predict()
    assert bright.mean() / 255 < 0.6, "the image as a whole is dark"
    assert report.passed == 1
    assert fakes["g0"].predicted == 2 * 16 and fakes["m0"].predicted == 16, "masks see the tiles of one image only"
    by_id = {row["ImageId"]: row["EncodedPixels"] for row in rows(folders)}
    assert by_id["b"] == ""
    assert (decode(by_id["a"], (200, 200)) == (bright > 128)).all()


class FailingNetwork(FakeNetwork):
    """A network that fails after some batches."""

    def __init__(self, task: str, factor: float, batches: int) -> None:
        super().__init__(task, factor)
        self.left, self.batch = batches, 4

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("broken")
        return super().predict_on_batch(images)


def test_a_member_that_fails_amid_the_tiles_does_not_count_in_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = box_image((150, 200))
    image[image == 0] = 60
    gates = [member("g0"), member("g1")]
    folders = make(tmp_path, {"a": image}, [member("m0"), member("m1")], gates, tiles=TILES)
    good = FakeNetwork("mask", 1.0)
    good.batch = 4
    gate = FakeNetwork("gate", 1.0)
    gate.batch = 4
    fakes = {"m0": FailingNetwork("mask", 4.0, 2), "m1": good, "g0": FailingNetwork("gate", 1.0, 1), "g1": gate}
    use(monkeypatch, fakes)
    report = folders.predict()
    assert [dropped.name for dropped in report.dropped] == ["g0", "m0"]
    assert (decode(rows(folders)[0]["EncodedPixels"], (150, 200)) == (image > 128)).all()


def test_time_that_runs_out_amid_the_tiles_leaves_an_empty_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {name: box_image((150, 200)) for name in "abc"}
    folders = make(tmp_path, images, [member("m0")], tiles=TILES)
    now = [0.0]

    class Slow(FakeNetwork):
        def predict_on_batch(self, batch: np.ndarray) -> np.ndarray:
            now[0] += 3600.0
            return super().predict_on_batch(batch)

    slow = Slow("mask", 1.0)
    slow.batch = 4
    use(monkeypatch, {"m0": slow})
    folders.change(inference={"hours": 4.5, "precision": "float32"})
    report = folders.predict(0.0, lambda: now[0])
    # Three batches per image: the limit, a quarter of an hour before the end, is reached in the second image.
    assert now[0] == 5 * 3600
    assert [bool(row["EncodedPixels"]) for row in rows(folders)] == [True, False, False]
    assert any("Time was up after 1 of 3 images" in line for line in report.degraded)


def test_the_time_of_large_images_is_counted_in_tiles() -> None:
    gate, mask = (ShippedMember.model_validate(member(name)) for name in ("g0", "m0"))
    budget = Budget(1000.0, 0.0, expected_share=0.5, clock=lambda: 0.0)
    budget.spent = {"g0": TimeSpent(100, 1.0), "m0": TimeSpent(100, 5.0)}
    budget.count_gated(20, 200)
    budget.passed = 10
    # Ten tiles per image: 30 images and 300 tiles through the gate, half of them and 2 that wait through the masks.
    assert budget.inputs_per_image == 10
    assert budget.needed_s(30, 2, [gate], [mask]) == pytest.approx(300 * 0.01 + (15 + 2) * 10 * 0.05)


# --- classes ------------------------------------------------------------------------------------------------------


class ClassGate(FakeNetwork):
    """A gate that sees the first class in the upper half, and the second in the lower."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        half = images.shape[1] // 2
        halves = images[:, :half], images[:, half:]
        return np.stack([part.mean(axis=(1, 2, 3)) / 255 for part in halves], axis=1).astype(np.float32)


class ClassMasks(FakeNetwork):
    """A mask network whose second class is weaker."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        maps = super().predict_on_batch(images)
        return np.concatenate([maps, 0.9 * maps], axis=3)


@pytest.mark.parametrize("tiled", [False, True])
def test_each_class_has_its_own_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiled: bool) -> None:
    upper = np.zeros((64, 64), np.uint8)
    upper[:32] = 200
    images = {"a": upper, "b": upper[::-1].copy(), "c": np.full((64, 64), 200, np.uint8), "d": 0 * upper}
    model = {"name": "gate", "encoder": "efficientnetb0", "per_class": True}
    rules = [{**RULE, "gate": 0.5, "lower": 0.3}, {**RULE, "gate": 0.5, "lower": 0.3}]
    gates = [member("g0", model=model), member("g1")]  # one of them knows no classes
    facts: dict[str, Any] = {"classes": ["x", "y"], "submission": {**PLAIN, "joined": "{id}_{class}"}}
    if tiled:
        facts["tiles"] = TILES
    folders = make(tmp_path, images, [member("m0")], gates, rules, **facts)
    use(monkeypatch, {"g0": ClassGate("gate", 1.0), "g1": FakeNetwork("gate", 1.0), "m0": ClassMasks("mask", 1.0)})
    assert folders.predict().passed == 3
    filled = {row["ImageId"]: bool(row["EncodedPixels"]) for row in rows(folders)}
    # Gates of "a": (0.78 + 0.39) / 2 = 0.59 for x, (0 + 0.39) / 2 = 0.2 for y.
    assert filled == {f"{i}_{c}": f"{i}_{c}" in ("a_x", "b_y", "c_x", "c_y") for i in "abcd" for c in "xy"}


# --- formats ------------------------------------------------------------------------------------------------------


def test_each_object_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((64, 64), np.uint8)
    for number, place in enumerate([(5, 5), (5, 40), (40, 20)]):
        image[place[0] : place[0] + 10 + number, place[1] : place[1] + 10] = 255
    image[60, 60] = 255  # smaller than min_component
    images = {"a": image, "b": np.zeros((64, 64), np.uint8)}
    rule = {**RULE, "min_component": 5}
    facts = {"submission": {**PLAIN, "rows": "object"}, "objects": {"touching": "components"}}
    folders = make(tmp_path, images, [member("m0")], rule=rule, **facts)
    use(monkeypatch, {"m0": FakeNetwork("mask", 1.0)})
    folders.predict()
    lines = rows(folders)
    assert [line["ImageId"] for line in lines] == ["a", "a", "a", "b"]
    areas = sorted(decode(line["EncodedPixels"], (64, 64)).sum() for line in lines)
    assert areas == [0, 100, 110, 120]
    image[60, 60] = 0
    assert (sum(decode(line["EncodedPixels"], (64, 64)) for line in lines[:3]) == (image > 0)).all()


@pytest.mark.parametrize("listed", [["a"], []])
def test_only_images_of_the_sample_have_a_row_without_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: list[str]
) -> None:
    images = {"a": np.zeros((64, 64), np.uint8), "b": np.zeros((64, 64), np.uint8), "c": box_image((64, 64))}
    facts = {"submission": {**PLAIN, "rows": "object", "sample": "sample.csv"}, "objects": {}}
    folders = make(tmp_path, images, [member("m0")], **facts)
    (folders.competition / "sample.csv").write_text("ImageId,EncodedPixels\n" + "".join(f"{i},\n" for i in listed))
    use(monkeypatch, {"m0": FakeNetwork("mask", 1.0)})
    report = folders.predict()
    assert report.degraded == []
    assert [row["ImageId"] for row in rows(folders)] == [*listed, "c"]


@pytest.mark.parametrize("broken", [False, True])
def test_masks_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    images = {f"i{number}": box_image(size) for number, size in enumerate(SIZES)}
    folders = make(tmp_path, images, [member("m0", size=128, records=128)], submission={"archive": {}})
    if broken:
        (folders.test / "j.png").write_bytes(b"no image")
    use(monkeypatch, {"m0": FakeNetwork("mask", 1.0)})
    report = folders.predict()
    assert report.rows == len(images) + broken and not folders.submission.exists()
    with zipfile.ZipFile(folders.working / "submission.zip") as archive:
        masks = {name[:-4]: np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()}
    assert set(masks) == set(images) | ({"j"} if broken else set())
    for name, image in images.items():
        assert set(np.unique(masks[name])) == {0, 255}
        assert iou(masks[name] > 0, image > 0) > 0.85


def test_wide_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = {**PLAIN, "columns": {"x": "first", "y": "second"}}
    image = box_image((64, 64))
    image[image > 0] = 135
    folders = make(tmp_path, {"a": image}, [member("m0")], rule=[RULE, RULE], classes=["x", "y"], submission=submission)
    use(monkeypatch, {"m0": ClassMasks("mask", 1.0)})
    folders.predict()
    (row,) = rows(folders)
    assert (decode(row["first"], (64, 64)) == (image > 0)).all() and row["second"] == "", "0.9 * 135 is below 128"
