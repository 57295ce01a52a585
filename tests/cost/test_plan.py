"""The plan counts by hand-checked rules, and derives hours from the counts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gatemask.builders.step_memory import StepValues
from gatemask.config import Experiment, load_competition
from gatemask.cost.devices import Device, ForwardPass
from gatemask.cost.network import count_multiplications
from gatemask.cost.plan import NetworkSize, plan_experiment, plan_session, print_plan
from gatemask.project import Project
from gatemask.results.cost import ExperimentPlan
from tests.conftest import gatemask


def layer(kind: str, kernel: tuple[int, ...], source: tuple[int, ...] = ()) -> object:
    built = type(kind, (), {})()
    built.kernel = np.zeros(kernel)
    built.input = SimpleNamespace(shape=(None, *source))
    return built


@pytest.mark.parametrize(
    ("counted", "outputs", "expected"),
    [
        (layer("Conv2D", (3, 3, 8, 16)), 10 * 10 * 16, 10 * 10 * 16 * 72),
        (layer("DepthwiseConv2D", (5, 5, 8, 1)), 10 * 10 * 8, 10 * 10 * 8 * 25),
        (layer("Conv2DTranspose", (4, 4, 16, 8), (5, 5, 8)), 10 * 10 * 16, 5 * 5 * 4 * 4 * 16 * 8),
        (layer("Dense", (64, 2)), 2, 128),
        (SimpleNamespace(), 99, 0),
    ],
)
def test_multiplications(counted: object, outputs: int, expected: int) -> None:
    assert count_multiplications(counted, outputs) == expected


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
    plan = plan_experiment(project, comp, experiment())
    frame = pd.read_csv(project.folds).merge(pd.read_csv(project.data / "manifest.csv")[["image_id", "label"]])
    positives = int(frame["label"][frame["fold"] != 0].sum())
    assert plan.images_first_epoch == int(positives / 0.8)
    assert plan.images_last_epoch == int(positives / 0.4)
    assert plan.folds == 2
    tpu = plan.sessions[0]
    assert (tpu.session, tpu.batch) == ("TPU v5e-8", "4 x 8")
    assert tpu.hours_all_folds == pytest.approx(2 * tpu.hours_a_fold)
    # ResNet-18 has 11.2 million parameters; the decoder is small.
    assert 11.2e6 < plan.parameters < 11.7e6


def test_larger_batches_need_more_memory_and_half_precision_less() -> None:
    size = NetworkSize(parameters=10**7, values=StepValues(10**7, 10**7), work=ForwardPass(10**9, 10**7))
    device = Device("device", 2, 16, 100, 800)

    def gigabytes(**changes: object) -> float:
        return plan_session(device, experiment(**changes), size, None).gigabytes

    assert gigabytes(batch={"per_device": 4}) == pytest.approx(0.04 + 0.16)
    assert gigabytes(batch={"per_device": 8}) == pytest.approx(0.04 + 0.32)
    assert gigabytes(runtime={"precision": "bfloat16"}) == pytest.approx(0.04 + 0.08)


@pytest.mark.integration
def test_before_folds_exist_the_plan_says_what_is_missing(make_root, capsys) -> None:
    root = make_root("plan")
    done = gatemask("plan", "phantom/gate_r18", "--quick", "--json", root=root)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout)
    assert "gatemask folds make phantom" in printed["note"]
    assert "hours_a_fold" not in printed["sessions"][0]
    print_plan(ExperimentPlan.model_validate(printed))
    assert "parameters" in capsys.readouterr().err
