"""The contact sheet shows real records, plain first, with the labels that training uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Experiment
from gatemask.data.example import Example
from gatemask.input.layout import ONE_CLASS, Layout
from gatemask.plots.augmentation import draw_contact_sheet
from gatemask.report import augment as report
from gatemask.report.augment import VERSIONS, augmented_versions
from tests.conftest import gatemask


@pytest.fixture(scope="module")
def root(make_root: Callable[[str], Path]) -> Path:
    return make_root("augment")


@pytest.mark.integration
def test_sheets_of_phantoms_but_not_without_records(root: Path) -> None:
    done = gatemask("augment", "show", "phantom/unet_b0", "--quick", root=root)
    assert done.returncode == 1
    assert "no finished records" in done.stderr
    assert "gatemask records make phantom" in done.stderr
    for command in (["data", "phantom"], ["data", "prepare"], ["records", "make"]):
        assert gatemask(*command, "phantom", "--quick", root=root).returncode == 0
    for name, steps in (("unet_b0", "hflip, elastic"), ("gate_r18", "turn, mixup, cutmix")):
        arguments = ["--quick", "--json", "--images", 4, "--set", f"augment=[{steps}]"]
        done = gatemask("augment", "show", f"phantom/{name}", *arguments, root=root)
        assert done.returncode == 0, done.stderr
        sheet = json.loads(done.stdout)
        assert (sheet["images"], sheet["positives"]) == (4, 2)
        assert sheet["picture"] == str(root / "runs/phantom-quick" / name / "augment.png")
        picture = cv2.imread(sheet["picture"])
        assert picture.shape[1] > picture.shape[0] > 300


def test_the_first_column_is_plain_and_the_others_are_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30] = 255
    data = [cv2.imencode(".png", array)[1].tobytes() for array in (image, mask)]
    examples = [Example(f"i{n}", *data, 1 - n % 2) for n in range(4)]
    exp = Experiment.model_validate(
        {
            "name": "e",
            "task": "gate",
            "model": {"name": "gate", "encoder": "efficientnetb0"},
            "input": {"size": 64},
            "loss": {"bce": 1},
            "epochs": 1,
            "augment": [{"affine": {"rotate": 20}}, {"mixup": {"p": 1}}],
        }
    )
    plain, *others = augmented_versions(examples, exp, ONE_CLASS)
    assert len(others) == VERSIONS
    assert (plain.images[:, :, :, 0] == image).all()
    assert plain.labels[:, 0].tolist() == [1, 0, 1, 0]
    assert plain.masks is not None
    assert plain.masks[0].sum() == 400
    assert not plain.masks[1].any(), "of an image without a label, no mask is shown"
    assert all((batch.images != plain.images).any() for batch in others)
    assert all((a == b).all() for a, b in zip(others[0], augmented_versions(examples, exp, ONE_CLASS)[1], strict=True))
    assert any(0 < value < 1 for batch in others for value in batch.labels[:, 0])


def test_several_classes_channels_and_tiles_are_drawn() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4 * 32, 64)).astype(np.uint8)
    mask = np.zeros((2, 32, 64), np.uint8)
    mask[0, 5:20, 5:20], mask[1, 10:30, 40:60] = 255, 255
    data = [cv2.imencode(".png", array)[1].tobytes() for array in (image, mask.reshape(64, 64))]
    tiles = [Example("a", *data, 0, (0, 0)), Example("a", *data, 3, (0, 40)), Example("b", *data, 0, (0, 0))]
    examples = report._one_each(tiles)
    assert [example.origin for example in examples] == [(0, 40), (0, 0)], "of a tiled image, a tile that shows a class"
    model = {"name": "unet", "encoder": "resnet18"}
    given = {"name": "e", "task": "mask", "input": {"size": [32, 64]}, "loss": {"bce": 1}, "epochs": 1}
    exp = Experiment.model_validate({**given, "model": model, "augment": ["hflip"]})
    layout = Layout(channels=4, classes=2)
    rows = report._tiles(examples, exp, augmented_versions(examples, exp, layout), layout)
    assert rows[0][0].caption == "a\nmask 225 400 px"
    figure = draw_contact_sheet(rows)
    plain = figure.axes[0]
    assert (np.asarray(plain.images[0].get_array()) == image[64:96]).all(), "the third of four channels"
    assert len(plain.collections) == 2, "one outline per class"
