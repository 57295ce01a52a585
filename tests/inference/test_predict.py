"""Gate-first prediction: nothing but a skip."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.inference import predict
from gatemask.inference.predict import run
from gatemask.masks import rule as rules
from tests.inference.stand_in import COUNT, FACTORS, RULE, SIDE, Place, Stand, member, place, stand_in


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return place(tmp_path / "kaggle")


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stand]:
    return stand_in(monkeypatch)


def predicted(here: Place) -> dict:
    return run(here.dataset, here.competition, here.working)


@pytest.mark.parametrize("weights", [None, {"g0": 0.15, "g1": 0.05, "m0": 0.2, "m1": 0.7}])
def test_the_result_is_that_of_running_everything(
    here: Place, stands: dict[str, Stand], weights: dict[str, float] | None
) -> None:
    share = weights or dict.fromkeys(FACTORS, 1.0)
    if weights:
        weigh(here, weights)
    result = predicted(here)
    passed = masked = 0
    for image_id, found in here.masks().items():
        image = cv2.imread(str(here.test / f"{image_id}.png"), cv2.IMREAD_GRAYSCALE)[:, :, None]
        gates = [round(float(image.mean() / 255 * FACTORS[g]), 6) for g in ("g0", "g1")]
        gate = np.average(gates, weights=[share["g0"], share["g1"]])
        small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)[:, :, None]
        maps = [
            np.floor(one / np.float32(255) * np.float32(f) * 255 + 0.5).astype(np.uint8)
            for one, f in ((image, FACTORS["m0"]), (small, FACTORS["m1"]))
        ]
        mask = rules.apply_rule(rules.Rule(**RULE), gate, rules.average_maps(maps, [share["m0"], share["m1"]])[:, :, 0])
        assert (found != mask).sum() <= 2
        passed += gate >= 0.4
        masked += mask.any()
    assert result["passed"] == passed
    assert 0 < masked <= passed < COUNT
    assert stands["m0"].seen < stands["g0"].seen, "masks are predicted only for images that pass"
    assert stands["g0"].seen == stands["g1"].seen == COUNT, "and gates once for each"
    assert json.loads((here.working / "inference.json").read_text()) == result
    assert result["degraded"] == [] and result["unreadable"] == {}
    assert not (here.working / ".room").exists()


def test_each_image_is_decoded_once(here: Place, stands: dict[str, Stand], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    read = predict.Images._read.__globals__["read_image"]
    monkeypatch.setattr(
        "gatemask.inference.images.read_image", lambda path, *more: decoded.append(path) or read(path, *more)
    )
    predicted(here)
    assert sorted(decoded) == sorted(here.test.iterdir())


def test_equal_weights_change_nothing_to_the_bit(
    here: Place, stands: dict[str, Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    apply = rules.apply_rules
    monkeypatch.setattr(rules, "apply_classes", lambda of, gate, *more: seen.append(gate) or apply(of, gate, *more))
    rows = []
    for weight in (None, 0.2, 1 / 3):
        if weight:
            weigh(here, dict.fromkeys(FACTORS, weight))
        predicted(here)
        rows.append(here.submission.read_text())
    assert rows[0] == rows[1] == rows[2]
    third = len(seen) // 3
    assert third > 0
    assert sorted(seen[:third]) == sorted(seen[third : 2 * third]) == sorted(seen[2 * third :])


def weigh(here: Place, weights: dict[str, float]) -> None:
    """Give the members of ensemble.yaml their weights."""
    here.change(
        gate=[member(name, weight=weights[name]) for name in ("g0", "g1")],
        mask=[member("m0", weight=weights["m0"]), member("m1", size=32, weight=weights["m1"])],
    )


class Left(Stand):
    """Sees nothing in the right half."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        found = super().predict_on_batch(images)
        found[:, :, found.shape[2] // 2 :] = 0
        return found


def test_views_count_by_their_weights(here: Place, stands: dict[str, Stand]) -> None:
    stands["m0"] = Left("mask", 1.2)
    found = {}
    for name, more in {
        "plain": {},
        "plain of two": {"tta": [{"hflip": True}], "view_weights": [1.0, 0.0]},
        "mirrored": {"tta": [{"hflip": True}], "view_weights": [0.0, 1.0]},
        "both": {"tta": [{"hflip": True}]},
    }.items():
        here.change(mask=[member("m0", **more)])
        predicted(here)
        found[name] = np.array(list(here.masks().values()))
    assert (found["plain"] == found["plain of two"]).all()
    assert found["plain"][:, :, :32].any() and not found["plain"][:, :, 32:].any()
    assert found["mirrored"][:, :, 32:].any() and not found["mirrored"][:, :, :32].any()
    assert (found["both"] != found["plain"]).any()


def test_the_test_images_are_found_at_any_depth(here: Place) -> None:
    mounted = here.root / "input"
    assert predict.find_competition(mounted, here.dataset) == here.competition
    (mounted / "competitions/t").rename(mounted / "t")
    assert predict.find_competition(mounted, here.dataset) == mounted / "t"
    (mounted / "t/sample.csv").unlink()
    assert predict.find_competition(mounted, here.dataset) == mounted / "t", "by its images then"
    for path in (mounted / "t/test").iterdir():
        path.unlink()
    with pytest.raises(GatemaskError, match="No test images"):
        predict.find_competition(mounted, here.dataset)


class Two(Stand):
    """Two classes: the image, and the image mirrored and a little weaker."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        found = super().predict_on_batch(images)
        return np.concatenate([found, found[:, :, ::-1] * 0.9], axis=3)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("way", [{"class_column": "Class"}, {"joined": "{id}.dcm_{class}"}])
def test_several_classes_have_a_row_and_a_rule_each(
    here: Place, stands: dict[str, Stand], way: dict[str, str], overlap: bool
) -> None:
    stands["m0"] = Two("mask", 1.2)
    ids = [f"i{n:02d}" for n in range(COUNT)]
    if "joined" in way:
        rows = [f"{one}.dcm_{name},-1" for one in ids for name in ("fish", "sugar")]
        header = "ImageId,EncodedPixels"
    else:
        rows, header = [f"-1,{name},{one}" for one in ids for name in ("fish", "sugar")], "EncodedPixels,Class,ImageId"
    (here.competition / "sample.csv").write_text("\n".join([header, *rows]) + "\n")
    submission = {"sample": "sample.csv", "id": "ImageId", "mask": "EncodedPixels", **way, "overlap": overlap}
    from tests.inference.stand_in import RLE

    here.change(
        competition={"classes": ["fish", "sugar"], "submission": {**submission, "rle": RLE}},
        rule=[RULE, {**RULE, "lower": 0.45, "upper": 0.5}],
        mask=[member("m0")],
    )
    result = predicted(here)
    lines = here.submission.read_text().splitlines()
    assert lines[0] == header
    cells = [[cell for cell in line.split(",") if " " not in cell and cell != "-1"] for line in lines[1:]]
    assert cells == [[cell for cell in row.split(",") if cell != "-1"] for row in rows]
    assert result["rows"] == 2 * COUNT and result["images"] == COUNT
    image = cv2.imread(str(here.image(0)), cv2.IMREAD_GRAYSCALE)[:, :, None]
    full = np.concatenate([image, image[:, ::-1]], axis=2) / np.float32(255) * np.float32(1.2) * [1.0, 0.9]
    full = np.floor(full * 255 + 0.5).astype(np.uint8)
    claims = np.stack([full[:, :, 0] >= rules.level(0.5), full[:, :, 1] >= rules.level(0.45)], axis=2)
    if not overlap:
        stronger = full[:, :, 1].astype(int) > full[:, :, 0]
        both = claims.all(axis=2)
        claims[both & stronger, 0] = False
        claims[both & ~stronger, 1] = False
    from gatemask.masks import rle
    from tests.inference.stand_in import networks_flavour

    texts = [line for line in lines[1:] if "i00" in line]
    for index, line in enumerate(texts):
        text = next(cell for cell in line.split(",") if " " in cell)  # both have a mask
        wrong = rle.decode(text, (SIDE, SIDE), networks_flavour()) != claims[:, :, index]
        assert wrong.sum() <= 2
    assert (claims.all(axis=2).any()) == overlap
