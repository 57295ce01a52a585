"""The plan counts by hand-checked rules, and derives hours from the counts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gatemask.builders.step_memory import StepValues
from gatemask.config import Experiment, load_competition
from gatemask.cost.devices import Device, ForwardPass, seconds_per_image
from gatemask.cost.network import count_multiplications
from gatemask.cost.plan import (
    STEP_PASSES,
    ImageCounts,
    NetworkSize,
    advised_settings,
    plan_experiment,
    plan_session,
    print_plan,
)
from gatemask.project import Project
from gatemask.results.cost import ExperimentPlan, SessionPlan
from tests.conftest import ROOT, gatemask

WAYS = ("sequence", "parallel")


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


T4S = Device("2 x T4", 2, 15, 8.1, 320, 30, "NvidiaTeslaT4", 8, separable=True)


@pytest.mark.parametrize("folds", [4, 5])
def test_hours_of_both_ways_to_train_folds(folds: int) -> None:
    """Side by side, a fold has one device and no gradients to exchange, and an odd last fold leaves one idle."""
    size = NetworkSize(parameters=10**7, values=StepValues(10**7, 10**6), work=ForwardPass(10**10, 10**6))
    images = ImageCounts(folds, 4000, 1200, 4000, 4000)
    planned = {way: plan_session(T4S, experiment(runtime={"folds": way}), size, images) for way in WAYS}
    sequence, parallel = planned["sequence"], planned["parallel"]
    alone_s = (4000 + 1200 / STEP_PASSES) * seconds_per_image(T4S, size.work, "float32", STEP_PASSES)
    assert parallel.minutes_an_epoch == pytest.approx(alone_s / 60)
    assert sequence.minutes_an_epoch == pytest.approx((alone_s / 2 + 500 * 10**7 * 4 / 8e9) / 60)
    assert (sequence.batch, sequence.steps) == ("4 x 2", 500)
    assert (parallel.batch, parallel.steps) == ("4 x 1", 1000)
    for plan in (sequence, parallel):
        assert plan.hours_all_folds == pytest.approx(folds * sequence.hours_a_fold)
        assert plan.hours_side_by_side == pytest.approx(-(-folds // 2) * parallel.hours_a_fold)
    one = Device("TPU", 8, 16, 197, 819, 20, "TpuV5E8", 200)
    assert plan_session(one, experiment(runtime={"folds": "parallel"}), size, images).hours_side_by_side is None


def session(sequence_h: float, parallel_h: float) -> SessionPlan:
    fields = {"session": "2 x T4", "machine": "NvidiaTeslaT4", "batch": "4 x 2", "gigabytes": 1, "memory": "1 of 15"}
    return SessionPlan.model_validate({**fields, "hours_all_folds": sequence_h, "hours_side_by_side": parallel_h})


@pytest.mark.parametrize(
    ("runtime", "hours", "advice"),
    [
        (
            {},
            (2.0, 1.0),
            "runtime.folds: parallel would train all folds in 1.00 h instead of 2.00 h, with the batch of one",
        ),
        ({}, (2.0, 1.95), None),
        ({}, (1.0, 2.0), None),
        ({"folds": "parallel"}, (2.0, 1.0), None),
        (
            {"folds": "parallel"},
            (1.0, 2.0),
            "runtime.folds: sequence would train all folds in 1.00 h instead of 2.00 h",
        ),
        ({"accelerator": "tpu"}, (2.0, 1.0), None),
        ({"precision": "bfloat16"}, (1.0, 1.0), "2 x T4 has no bfloat16"),
        ({"precision": "float16"}, (1.0, 1.0), None),
        ({"precision": "bfloat16", "accelerator": "tpu"}, (1.0, 1.0), None),
    ],
)
def test_advice(runtime: dict[str, str], hours: tuple[float, float], advice: str | None) -> None:
    comp = load_competition(ROOT / "experiments/phantom", overrides=["kaggle.accelerator=NvidiaTeslaT4"])
    given = advised_settings(comp, experiment(runtime=runtime), [session(*hours)])
    assert advice in given if advice else given is None


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
