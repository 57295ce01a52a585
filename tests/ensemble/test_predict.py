"""Gate-first prediction: nothing but a skip, and a bad image never ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.ensemble import predict
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.masks import rule as rules

SUBMISSION = {
    "id": "ImageId",
    "mask": "EncodedPixels",
    "sample": "sample.csv",
    "rle": {"offsets": "absolute", "base": 1, "order": "column", "empty": "-1"},
}
RULE = {"gate": 0.5, "upper": 0.7, "lower": 0.4, "min_area": 10}


class Stand:
    """In place of a network: a gate that sees the mean brightness, a map that is the image."""

    def __init__(self, task: str, factor: float) -> None:
        self.task, self.factor, self.seen = task, factor, 0

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        scaled = images.astype(np.float32) / 255 * self.factor
        return scaled.mean(axis=(1, 2)) if self.task == "gate" else scaled


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "test").mkdir()
    for number in range(40):
        image = rng.integers(0, 256, (64, 64)).astype(np.uint8) // (1 if number % 4 == 0 else 3)
        cv2.imwrite(str(tmp_path / f"test/i{number:02d}.png"), cv2.GaussianBlur(image, (0, 0), 3) * 1.0)
    ids = "\n".join(f"i{n:02d},-1" for n in range(40))
    (tmp_path / "sample.csv").write_text("\ufeffImageId, EncodedPixels\r\n" + ids + "\r\n", newline="")
    chosen = {
        "competition": {
            "name": "t",
            "image": {"size": [64, 64], "channels": 1, "window": "full"},
            "test_images": "test/*.png",
            "classes": ["x"],
            "submission": SUBMISSION,
        },
        "rule": RULE,
        "gate": [member("g0"), member("g1")],
        "mask": [member("m0"), member("m1", size=32)],
    }
    from gatemask.files import write_yaml

    write_yaml(tmp_path / "ensemble.yaml", chosen)
    return tmp_path


def member(name: str, size: int = 64, **more: Any) -> dict:
    model = {"name": "unet", "encoder": "efficientnetb0"}
    return {"name": name, "size": size, "records": 64, "tta": [], "model": model, **more}


FACTORS = {"g0": 1.1, "g1": 0.95, "m0": 1.2, "m1": 0.9}


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stand]:
    made = {name: Stand("gate" if name[0] == "g" else "mask", factor) for name, factor in FACTORS.items()}
    monkeypatch.setattr(predict, "_models", lambda members, channels, classes: ((m, made[m.name]) for m in members))
    return made


@pytest.mark.parametrize("weights", [None, {"g0": 0.15, "g1": 0.05, "m0": 0.2, "m1": 0.7}])
def test_the_result_is_that_of_running_everything(
    competition: Path, stands: dict[str, Stand], weights: dict[str, float] | None
) -> None:
    share = weights or dict.fromkeys(FACTORS, 1.0)
    if weights:
        weigh(competition, weights)
    result = predict.submit(competition / "ensemble.yaml", competition, competition, competition / "out.csv")
    rows = dict(line.split(",") for line in (competition / "out.csv").read_text().splitlines()[1:])
    passed = 0
    for image_id, text in rows.items():
        image = cv2.imread(str(competition / f"test/{image_id}.png"), cv2.IMREAD_GRAYSCALE)[:, :, None]
        gates = [round(float(image.mean() / 255 * FACTORS[g]), 6) for g in ("g0", "g1")]
        gate = np.average(gates, weights=[share["g0"], share["g1"]])
        small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)[:, :, None]
        maps = [
            np.floor(one / np.float32(255) * np.float32(f) * 255 + 0.5).astype(np.uint8)
            for one, f in ((image, FACTORS["m0"]), (small, FACTORS["m1"]))
        ]
        mask = rules.apply(rules.Rule(**RULE), gate, rules.average_maps(maps, [share["m0"], share["m1"]])[:, :, 0])
        flavour = predict.Rle(**SUBMISSION["rle"])
        assert (rle.decode(text, (64, 64), flavour) != mask).sum() <= 2
        passed += gate >= 0.5
    assert result["passed"] == passed
    assert 0 < passed < 40
    assert stands["m0"].seen < stands["g0"].seen, "masks are predicted only for images that pass"


def test_equal_weights_change_nothing_to_the_bit(
    competition: Path, stands: dict[str, Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    apply = rules.apply
    monkeypatch.setattr(rules, "apply", lambda rule, gate, full: seen.append(gate) or apply(rule, gate, full))
    rows = []
    for weight in (None, 0.2, 1 / 3):
        if weight:
            weigh(competition, dict.fromkeys(FACTORS, weight))
        predict.submit(competition / "ensemble.yaml", competition, competition, competition / "out.csv")
        rows.append((competition / "out.csv").read_text())
    assert rows[0] == rows[1] == rows[2]
    third = len(seen) // 3
    assert third > 0
    assert seen[:third] == seen[third : 2 * third] == seen[2 * third :]


def weigh(competition: Path, weights: dict[str, float]) -> None:
    """Give the members of ensemble.yaml their weights."""
    from gatemask.files import read_yaml, write_yaml

    chosen = read_yaml(competition / "ensemble.yaml")
    for one in [*chosen["gate"], *chosen["mask"]]:
        one["weight"] = weights[one["name"]]
    write_yaml(competition / "ensemble.yaml", chosen)


class Left(Stand):
    """Sees nothing in the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        found = super().predict_on_batch(images)
        found[:, :, found.shape[2] // 2 :] = 0
        return found


def test_views_count_by_their_weights(competition: Path, stands: dict[str, Stand]) -> None:
    from gatemask.files import read_yaml, write_yaml

    stands["m0"] = Left("mask", 1.2)
    chosen, texts = read_yaml(competition / "ensemble.yaml"), {}
    for name, more in {
        "plain": {},
        "plain of two": {"tta": [{"hflip": True}], "view_weights": [1.0, 0.0]},
        "mirrored": {"tta": [{"hflip": True}], "view_weights": [0.0, 1.0]},
        "both": {"tta": [{"hflip": True}]},
    }.items():
        chosen["mask"] = [member("m0", **more)]
        write_yaml(competition / "ensemble.yaml", chosen)
        predict.submit(competition / "ensemble.yaml", competition, competition, competition / "out.csv")
        rows = (line.split(",")[1] for line in (competition / "out.csv").read_text().splitlines()[1:])
        flavour = predict.Rle(**SUBMISSION["rle"])
        texts[name] = np.array([rle.decode(text, (64, 64), flavour) for text in rows])
    assert (texts["plain"] == texts["plain of two"]).all()
    assert texts["plain"][:, :, :32].any() and not texts["plain"][:, :, 32:].any()
    assert texts["mirrored"][:, :, 32:].any() and not texts["mirrored"][:, :, :32].any()
    assert (texts["both"] != texts["plain"]).any()


def test_missing_and_damaged_images_get_an_empty_mask(competition: Path, stands: dict[str, Stand]) -> None:
    (competition / "test/i00.png").write_bytes(b"damaged")
    (competition / "test/i04.png").unlink()
    (competition / "test/extra.png").write_bytes((competition / "test/i08.png").read_bytes())
    result = predict.submit(competition / "ensemble.yaml", competition, competition, competition / "out.csv")
    lines = (competition / "out.csv").read_text().splitlines()
    assert result["unreadable"] == ["i00", "i04"]
    assert len(lines) == 41
    assert {"i00,-1", "i04,-1"} <= set(lines)


def test_the_test_images_are_found_at_any_depth(competition: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "input/datasets/me/set"
    dataset.mkdir(parents=True)
    (dataset / "ensemble.yaml").write_bytes((competition / "ensemble.yaml").read_bytes())
    with pytest.raises(GatemaskError, match="No test images"):
        predict.find_competition(tmp_path / "input", dataset)
    for depth in ("input/comp", "input/competitions/comp"):
        folder = tmp_path / depth
        (folder / "test").mkdir(parents=True)
        (folder / "sample.csv").write_text("ImageId,EncodedPixels\n")
        assert predict.find_competition(tmp_path / "input", dataset) == folder
        (folder / "sample.csv").unlink()
