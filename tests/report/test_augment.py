"""The contact sheet shows real records, plain first, with the labels that training uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Experiment
from gatemask.data.records import Example
from gatemask.input.layout import ONE_CLASS
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
