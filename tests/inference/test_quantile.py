"""A gate that lets a share of the images pass, in the kernel: the gates see all images before any mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.inference.shards import Source, predict_in_shards
from tests.inference.fake_networks import (
    COUNT,
    FACTORS,
    FakeNetwork,
    KaggleFolders,
    make_kaggle_folders,
    use_fake_networks,
)
from tests.pieces.here import Here

SHARE = {"gate": 0.8, "quantile": True}


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolders:
    return make_kaggle_folders(tmp_path / "kaggle")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    return use_fake_networks(monkeypatch)


def ranked(kaggle: KaggleFolders) -> list[tuple[str, float]]:
    """Return ids and gate probabilities, the highest first; of equal ones the first id."""
    found = []
    for path in kaggle.test.glob("*.png"):
        mean = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32).mean() / 255
        found.append((path.stem, float(np.mean([round(float(mean * FACTORS[name]), 6) for name in ("g0", "g1")]))))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def absolute_masks(kaggle: KaggleFolders, cut: float) -> dict[str, str]:
    kaggle.change(rule={"gate": cut, "quantile": False})
    kaggle.predict()
    return kaggle.encoded


@pytest.mark.parametrize("count", [COUNT, 37, 5])
def test_a_share_of_any_number_of_images_passes(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], count: int
) -> None:
    """Like an absolute gate between the last image that passes and the next one; also for another hidden test set."""
    for number in range(count, COUNT):
        kaggle.image(number).unlink()
    kaggle.write_sample([f"i{number:02d}" for number in range(count)])
    kaggle.change(rule=SHARE)
    report = kaggle.predict()
    passed = int(np.floor(0.2 * count + 0.5))
    assert (report.passed, report.degraded) == (passed, [])
    assert fakes["g0"].predicted == count and fakes["m0"].predicted == passed
    order, by_share = ranked(kaggle), kaggle.encoded
    assert by_share == absolute_masks(kaggle, (order[passed - 1][1] + order[passed][1]) / 2)
    assert sum(text != "-1" for text in by_share.values()) > 0


def test_ties_are_decided_by_id(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    bright = cv2.imread(str(kaggle.image(0)), cv2.IMREAD_GRAYSCALE)
    for number in range(COUNT):
        cv2.imwrite(str(kaggle.image(number)), bright if number % 2 else bright // 2)
    kaggle.change(rule=SHARE)
    kaggle.predict()
    masked = [name for name, text in kaggle.encoded.items() if text != "-1"]
    assert masked == [f"i{number:02d}" for number in range(1, 16, 2)]


def test_unreadable_images_do_not_count(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    for number in (0, 4, 1):
        kaggle.image(number).write_bytes(b"no image")
    kaggle.change(rule=SHARE)
    report = kaggle.predict()
    assert report.passed == round(0.2 * (COUNT - 3)) and sorted(report.unreadable) == ["i00", "i01", "i04"]
    assert all(kaggle.encoded[name] == "-1" for name in report.unreadable)


def test_images_pass_where_no_gate_is_left(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    for name in ("g0", "g1"):
        fakes[name].factor = float("nan")
    kaggle.change(rule=SHARE)
    report = kaggle.predict()
    assert report.passed == COUNT and any("predicts NaN" in line for line in report.degraded)


def test_time_that_ends_before_all_gates_leaves_masks_empty(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]
) -> None:
    kaggle.change(rule=SHARE)
    calls = iter(range(10**9))
    report = kaggle.predict(0.0, lambda: 2000.0 * next(calls))
    assert any("before" in line or "after the gates had seen" in line for line in report.degraded)
    assert all(text == "-1" for text in kaggle.encoded.values()) and report.passed == 0


def test_shards_are_rejected(kaggle: KaggleFolders, tmp_path: Path) -> None:
    kaggle.change(rule=SHARE)
    (tmp_path / "shards").mkdir()
    with pytest.raises(GatemaskError, match="a shard sees only its own"):
        predict_in_shards(Source.open(kaggle.dataset, kaggle.competition), tmp_path / "shards", 3, Here())
    assert not list((tmp_path / "shards").iterdir())
