"""The plan: counts that are worked out by hand, and hours that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gatemask.config import Experiment, load_competition
from gatemask.cost import plan
from gatemask.project import Project
from tests.conftest import gatemask


def layer(kind: str, kernel: tuple[int, ...], source: tuple[int, ...] = ()) -> object:
    built = type(kind, (), {})()
    built.kernel = np.zeros(kernel)
    built.input = SimpleNamespace(shape=(None, *source))
    return built


@pytest.mark.parametrize(
    ("one", "made", "expected"),
    [
        (layer("Conv2D", (3, 3, 8, 16)), 10 * 10 * 16, 10 * 10 * 16 * 72),
        (layer("DepthwiseConv2D", (5, 5, 8, 1)), 10 * 10 * 8, 10 * 10 * 8 * 25),
        (layer("Conv2DTranspose", (4, 4, 16, 8), (5, 5, 8)), 10 * 10 * 16, 5 * 5 * 4 * 4 * 16 * 8),
        (layer("Dense", (64, 2)), 2, 128),
        (SimpleNamespace(), 99, 0),
    ],
)
def test_multiplications(one: object, made: int, expected: int) -> None:
    assert plan._multiplications(one, made) == expected


def experiment(**changes: object) -> Experiment:
    settings = {
        "name": "planned",
        "task": "mask",
        "model": {"name": "unet", "encoder": "resnet18", "filters": [16, 16, 8, 8, 8]},
        "input": {"size": 64},
        "loss": {"bce": 1},
        "epochs": 10,
        "sampling": {"positives": [0.8, 0.4]},
        "batch": {"per_device": 4},
    }
    return Experiment.model_validate({**settings, **changes})


def test_images_and_steps_are_those_of_the_sampling(phantom_records: Path) -> None:
    import pandas as pd

    project = Project(phantom_records, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    found = plan.plan(project, comp, experiment())
    frame = pd.read_csv(project.folds).merge(pd.read_csv(project.data / "manifest.csv")[["image_id", "label"]])
    positives = int(frame["label"][frame["fold"] != 0].sum())
    assert found["images_first_epoch"] == int(positives / 0.8)
    assert found["images_last_epoch"] == int(positives / 0.4)
    assert found["folds"] == 2
    tpu = found["sessions"][0]
    assert (tpu["session"], tpu["batch"]) == ("TPU v5e-8", "4 x 8")
    assert tpu["hours_all_folds"] == pytest.approx(2 * tpu["hours_a_fold"])
    # ResNet-18's 11.2 million, and a small decoder.
    assert 11.2e6 < found["parameters"] < 11.7e6


def test_larger_batches_need_more_memory_and_half_precision_less(phantom_records: Path) -> None:
    facts = {"flops": 1e9, "outputs": 1e7, "held": 1e7}
    device = plan.Device("one", 2, 16, 100, 800, None)
    small, large = (plan._session(device, experiment(batch={"per_device": n}), facts, {})["gigabytes"] for n in (4, 8))
    half = plan._session(device, experiment(runtime={"precision": "bfloat16"}), facts, {})["gigabytes"]
    assert small == pytest.approx(0.04 + 0.16)
    assert large == pytest.approx(0.04 + 0.32)
    assert half == pytest.approx(0.04 + 0.08)


@pytest.mark.integration
def test_before_folds_are_made_it_says_what_is_missing(make_root, capsys) -> None:
    root = make_root("plan")
    done = gatemask("plan", "phantom/gate_b0", "--quick", "--json", root=root)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert "gatemask folds make phantom" in found["note"]
    assert "hours_a_fold" not in found["sessions"][0]
    plan.show(found)
    assert "parameters" in capsys.readouterr().err
