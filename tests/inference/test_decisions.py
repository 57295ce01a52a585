"""Gate-first prediction gives the same masks as running every member on every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.data import sources as sources_module
from gatemask.errors import GatemaskError
from gatemask.inference import runner
from gatemask.inference.runner import find_competition
from gatemask.masks import rle
from gatemask.masks import rule as rules
from tests.inference.fake_networks import (
    COUNT,
    DIALECT,
    FACTORS,
    RULE,
    SIDE,
    FakeNetwork,
    KaggleFolders,
    make_kaggle_folders,
    member,
    use_fake_networks,
)


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolders:
    return make_kaggle_folders(tmp_path / "kaggle")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    return use_fake_networks(monkeypatch)


@pytest.mark.parametrize("weights", [None, {"g0": 0.15, "g1": 0.05, "m0": 0.2, "m1": 0.7}])
def test_masks_equal_those_of_all_members_on_all_images(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], weights: dict[str, float] | None
) -> None:
    share = weights or dict.fromkeys(FACTORS, 1.0)
    if weights:
        set_weights(kaggle, weights)
    report = kaggle.predict()
    passed = masked = 0
    for image_id, predicted in kaggle.masks().items():
        image = cv2.imread(str(kaggle.test / f"{image_id}.png"), cv2.IMREAD_GRAYSCALE)[:, :, None]
        gates = [round(float(image.mean() / 255 * FACTORS[name]), 6) for name in ("g0", "g1")]
        gate = np.average(gates, weights=[share["g0"], share["g1"]])
        small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)[:, :, None]
        maps = [
            np.floor(pixels / np.float32(255) * np.float32(factor) * 255 + 0.5).astype(np.uint8)
            for pixels, factor in ((image, FACTORS["m0"]), (small, FACTORS["m1"]))
        ]
        mask = rules.apply_rule(rules.Rule(**RULE), gate, rules.average_maps(maps, [share["m0"], share["m1"]])[:, :, 0])
        assert (predicted != mask).sum() <= 2
        passed += gate >= 0.4
        masked += mask.any()
    assert report.passed == passed
    assert 0 < masked <= passed < COUNT
    assert fakes["m0"].predicted < fakes["g0"].predicted, "masks are predicted only for images that pass"
    assert fakes["g0"].predicted == fakes["g1"].predicted == COUNT, "gates predict each image once"
    assert json.loads((kaggle.working / "inference.json").read_text()) == report.as_dict()
    assert report.degraded == [] and report.unreadable == {}
    assert not (kaggle.working / ".room").exists()


def test_each_image_is_decoded_once(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    read = sources_module.inspect_image
    monkeypatch.setattr(sources_module, "inspect_image", lambda path, *more: decoded.append(path) or read(path, *more))
    kaggle.predict()
    assert sorted(decoded) == sorted(kaggle.test.iterdir())


def test_equal_weights_of_any_size_give_identical_results(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[float] = []
    apply = runner.decide
    monkeypatch.setattr(runner, "decide", lambda of, gate, *more: gates.append(gate) or apply(of, gate, *more))
    submissions = []
    for weight in (None, 0.2, 1 / 3):
        if weight:
            set_weights(kaggle, dict.fromkeys(FACTORS, weight))
        kaggle.predict()
        submissions.append(kaggle.submission.read_text())
    assert submissions[0] == submissions[1] == submissions[2]
    third = len(gates) // 3
    assert third > 0
    assert sorted(gates[:third]) == sorted(gates[third : 2 * third]) == sorted(gates[2 * third :])


def set_weights(kaggle: KaggleFolders, weights: dict[str, float]) -> None:
    """Set the weights of the members in ensemble.yaml."""
    kaggle.change(
        gate=[member(name, weight=weights[name]) for name in ("g0", "g1")],
        mask=[member("m0", weight=weights["m0"]), member("m1", size=32, weight=weights["m1"])],
    )


class LeftHalfNetwork(FakeNetwork):
    """A mask network that predicts zeros in the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        maps = super().predict_on_batch(images)
        maps[:, :, maps.shape[2] // 2 :] = 0
        return maps


def test_views_count_by_their_weights(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    fakes["m0"] = LeftHalfNetwork("mask", 1.2)
    masks = {}
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "plain of two": {"tta": [{"hflip": True}], "view_weights": [1.0, 0.0]},
        "mirrored": {"tta": [{"hflip": True}], "view_weights": [0.0, 1.0]},
        "both": {"tta": [{"hflip": True}]},
    }
    for name, more in settings.items():
        kaggle.change(mask=[member("m0", **more)])
        kaggle.predict()
        masks[name] = np.array(list(kaggle.masks().values()))
    assert (masks["plain"] == masks["plain of two"]).all()
    assert masks["plain"][:, :, :32].any() and not masks["plain"][:, :, 32:].any()
    assert masks["mirrored"][:, :, 32:].any() and not masks["mirrored"][:, :, :32].any()
    assert (masks["both"] != masks["plain"]).any()


def test_the_test_images_are_found_at_any_depth(kaggle: KaggleFolders) -> None:
    mounted, facts = kaggle.root / "input", kaggle.ensemble.competition
    assert find_competition(mounted, kaggle.dataset, facts) == kaggle.competition
    (mounted / "competitions/t").rename(mounted / "t")
    assert find_competition(mounted, kaggle.dataset, facts) == mounted / "t"
    (mounted / "t/sample.csv").unlink()
    assert find_competition(mounted, kaggle.dataset, facts) == mounted / "t", "recognized by its images"
    for path in (mounted / "t/test").iterdir():
        path.unlink()
    with pytest.raises(GatemaskError, match="No test images"):
        find_competition(mounted, kaggle.dataset, facts)


class TwoClassNetwork(FakeNetwork):
    """A mask network of two classes: the image, and the mirrored image, a little weaker."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        maps = super().predict_on_batch(images)
        return np.concatenate([maps, maps[:, :, ::-1] * 0.9], axis=3)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("naming", [{"class_column": "Class"}, {"joined": "{id}.dcm_{class}"}])
def test_each_class_has_its_own_row_and_rule(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], naming: dict[str, str], overlap: bool
) -> None:
    fakes["m0"] = TwoClassNetwork("mask", 1.2)
    classes = ["fish", "sugar"]
    pairs = [(f"i{number:02d}", label) for number in range(COUNT) for label in classes]
    if "joined" in naming:
        header, rows = "ImageId,EncodedPixels", [f"{image_id}.dcm_{label},-1" for image_id, label in pairs]
    else:
        header, rows = "EncodedPixels,Class,ImageId", [f"-1,{label},{image_id}" for image_id, label in pairs]
    (kaggle.competition / "sample.csv").write_text("\n".join([header, *rows]) + "\n")
    columns = {"sample": "sample.csv", "id": "ImageId", "mask": "EncodedPixels", "rle": DIALECT.model_dump()}
    kaggle.change(
        competition={"classes": classes, "exclusive": not overlap, "submission": {**columns, **naming}},
        rule=[RULE, {**RULE, "lower": 0.45, "upper": 0.5}],
        mask=[member("m0")],
    )
    report = kaggle.predict()
    lines = kaggle.submission.read_text().splitlines()
    assert lines[0] == header
    cells = [[cell for cell in line.split(",") if " " not in cell and cell != "-1"] for line in lines[1:]]
    assert cells == [[cell for cell in row.split(",") if cell != "-1"] for row in rows]
    assert (report.rows, report.images) == (2 * COUNT, COUNT)
    expected = two_class_masks(kaggle.image(0), overlap)
    for index, line in enumerate(line for line in lines[1:] if "i00" in line):
        encoded = next(cell for cell in line.split(",") if " " in cell)  # both classes have a mask
        assert (rle.decode(encoded, (SIDE, SIDE), DIALECT) != expected[:, :, index]).sum() <= 2
    assert (expected.all(axis=2).any()) == overlap


def two_class_masks(path: Path, overlap: bool) -> np.ndarray:
    """Return the masks of an image under `TwoClassNetwork`, bool (height, width, 2)."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[:, :, None]
    maps = np.concatenate([image, image[:, ::-1]], axis=2) / np.float32(255) * np.float32(1.2) * [1.0, 0.9]
    maps = np.floor(maps * 255 + 0.5).astype(np.uint8)
    masks = np.stack([maps[:, :, 0] >= rules.level(0.5), maps[:, :, 1] >= rules.level(0.45)], axis=2)
    if not overlap:
        second_is_stronger = maps[:, :, 1].astype(int) > maps[:, :, 0]
        both = masks.all(axis=2)
        masks[both & second_is_stronger, 0] = False
        masks[both & ~second_is_stronger, 1] = False
    return masks
