"""What a plan says about memory, before a training is pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.builders.step_memory import StepValues
from gatemask.config import Experiment, load_competition
from gatemask.cost import memory
from gatemask.cost.devices import Device, ForwardPass
from gatemask.cost.memory import NetworkSize, plan_batch
from gatemask.project import Project

SIZE = NetworkSize(parameters=10**7, values=StepValues(4 * 10**7, 10**8), work=ForwardPass(10**9, 10**8))
TPU, GPU = Device("TPU v5e-8", 8, 16, 100, 800), Device("2 x T4", 2, 15, 100, 800)


def experiment(**changes: Any) -> Experiment:
    settings = {
        "name": "planned",
        "task": "gate",
        "model": {"name": "gate", "encoder": "resnet18"},
        "input": {"size": 64},
        "loss": {"bce": 1},
        "epochs": 1,
    }
    return Experiment.model_validate({**settings, **changes})


@pytest.mark.parametrize(
    ("device", "precision", "images", "expected"),
    [
        # 0.16 GB and 0.248 GB per image of 14.4 GB
        (TPU, "float32", None, "auto: 32 x 8"),
        (TPU, "bfloat16", None, "auto: 64 x 8"),
        # 0.4 GB per image of 13.5 GB
        (GPU, "float32", None, "auto: 32 x 2"),
        (GPU, "float16", None, "auto: 64 x 2"),
        # eight updates per epoch
        (TPU, "bfloat16", 1000, "auto: 8 x 8"),
        (GPU, "float32", 10, "auto: 1 x 2"),
    ],
)
def test_the_batch_is_predicted(device: Device, precision: str, images: int | None, expected: str) -> None:
    exp = experiment(batch={"per_device": "auto"}, runtime={"precision": precision})
    batch = plan_batch(device, exp, SIZE, images)
    assert str(batch) == expected
    assert batch.fits
    assert batch.note(device.name) == f"{device.name}: the batch will be about {expected.removeprefix('auto: ')}"


def test_a_fixed_batch_that_will_not_fit_is_named_with_one_that_would() -> None:
    batch = plan_batch(GPU, experiment(batch={"per_device": 48}), SIZE, 10_000)
    note = "2 x T4: batch.per_device: 48 will probably not fit: 19.4 GB of 13.5 GB per device; 32 would"
    assert (batch.fits, batch.note("2 x T4")) == (False, note)
    smaller = plan_batch(GPU, experiment(batch={"per_device": 32}), SIZE, 10_000)
    assert (smaller.fits, smaller.note("2 x T4")) == (True, None)
    on_jax = plan_batch(GPU, experiment(batch={"per_device": 48}, runtime={"backend": "jax"}), SIZE, 10_000)
    assert on_jax.fits, "XLA holds fewer values"


def test_a_push_reads_the_size_that_the_plan_counted(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    project = Project(tmp_path, "phantom")
    comp = load_competition(Path(request.config.rootpath) / "experiments/phantom")
    exp = experiment()
    assert memory.read_network_size(project, comp, exp) is None
    memory.keep_network_size(project, comp, exp, SIZE)
    assert memory.read_network_size(project, comp, exp) == SIZE
    larger = experiment(input={"size": 96})
    assert memory.read_network_size(project, comp, larger) is None, "counted for another structure"
    (project.runs / "planned/network.json").write_text("{")
    assert memory.read_network_size(project, comp, exp) is None
