"""The search for the largest batch that fits, on simulated memory, and the record of what it found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatemask.builders.step_memory import StepMemory
from gatemask.config import Competition, Experiment, load_competition
from gatemask.errors import GatemaskError, OutOfMemoryError
from gatemask.project import Project
from gatemask.results.training import FoundBatch, TriedBatch
from gatemask.training import batch_size
from gatemask.training.differences import differences
from gatemask.training.fold_inputs import TrainingInputs, fingerprints
from gatemask.training.found_batch import batch_path, write_found_batch
from gatemask.training.runtime import Devices
from gatemask.training.trainer import CompiledModelsCache, Trainer

PREDICTED = StepMemory(fixed=100, per_image=10)


class Device:
    """Memory of a device: a step needs `fixed` and `per_image` bytes, and fails, or ends the process, above `limit`.

    Args:
        fixed: Bytes for any number of images.
        per_image: Bytes per image.
        limit: Bytes of the device.
        deadly: Whether running out of memory ends the process. Default: False.
    """

    def __init__(self, fixed: float, per_image: float, limit: float, deadly: bool = False) -> None:
        self.fixed, self.per_image, self.limit, self.deadly = fixed, per_image, limit, deadly

    def needed(self, images: int) -> float:
        size = self.fixed + images * self.per_image
        if size <= self.limit:
            return size
        assert not self.deadly, f"a step of {images} images ended the process"
        return math.inf


@pytest.mark.parametrize(
    ("fixed", "per_image", "expected", "trials"),
    [
        (100, 10, 64, 1),  # as predicted: 740 of 1,000 bytes, and 1,380 for twice as many
        (100, 5, 128, 2),  # half of what was predicted
        (100, 1, 256, 3),  # far less: up to the most
        (100, 30, 16, 3),  # more: 64 and 32 fail
        (900, 90, 1, 7),  # one image fits
        (0, 14.1, 64, 1),
    ],
)
def test_the_largest_batch_that_fits_is_found(fixed: float, per_image: float, expected: int, trials: int) -> None:
    device = Device(fixed, per_image, limit=1000)
    best, tried = batch_size.search(device.needed, PREDICTED, 1000, most=256)
    assert best == expected
    assert len(tried) == trials, tried
    assert best == 256 or math.isinf(device.needed(2 * best))


@pytest.mark.parametrize("per_image", [0.5, 3, 7, 10, 20, 40, 80, 160])
def test_a_compiler_that_tells_the_size_of_what_does_not_fit_saves_trials(per_image: float) -> None:
    """JAX's compiler does not fail: the size of a step that is too large says how many images to try next."""
    best, tried = batch_size.search(lambda images: 100 + images * per_image, PREDICTED, 1000, most=256)
    assert best == max(n for n in (2**k for k in range(9)) if 100 + n * per_image <= 1000)
    assert len(tried) <= 3, tried


@pytest.mark.parametrize("per_image", [0.5, 3, 7, 10, 20, 40])
def test_where_failing_is_deadly_no_step_runs_out_of_memory(per_image: float) -> None:
    device = Device(100, per_image, limit=1000, deadly=True)
    best, tried = batch_size.search(device.needed, PREDICTED, 1000, most=256, must_not_fail=True)
    fitting = max(n for n in (2**k for k in range(9)) if 100 + n * per_image <= 1000)
    assert best == fitting, tried


def test_one_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError, match="does not suffice for a step of one image"):
        batch_size.search(Device(2000, 1, 1000).needed, PREDICTED, 1000, most=4)
    deadly = Device(2000, 1, 1000, deadly=True)
    with pytest.raises(OutOfMemoryError, match=r"2e\+03|2e-06"):
        batch_size.search(deadly.needed, StepMemory(2000, 1), 1000, most=4, must_not_fail=True)


@pytest.mark.parametrize(
    ("images", "parts", "most"), [(10**6, 1, 256), (10**6, 8, 256), (1000, 1, 64), (1000, 16, 4), (3, 1, 1)]
)
def test_an_epoch_keeps_some_updates(images: int, parts: int, most: int) -> None:
    assert batch_size.largest_power_of_two(images, parts) == most


# --- the record --------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds/phantom.csv").write_text("image_id,fold\na,0\nb,1\n")
    return Project(tmp_path, "phantom")


@pytest.fixture
def comp(request: pytest.FixtureRequest) -> Competition:
    return load_competition(Path(request.config.rootpath) / "experiments/phantom")


def experiment(**changes: Any) -> Experiment:
    settings = {
        "name": "auto",
        "task": "gate",
        "model": {"name": "gate", "encoder": "mobilenet"},
        "input": {"size": 32},
        "loss": {"bce": 1},
        "epochs": 1,
        "batch": {"per_device": "auto"},
    }
    return Experiment.model_validate({**settings, **changes})


def found(exp: Experiment, per_device: int, devices: int = 1) -> FoundBatch:
    tried = (TriedBatch(per_device=2 * per_device, gigabytes=None), TriedBatch(per_device=per_device, gigabytes=1.5))
    return FoundBatch(
        per_device=per_device,
        devices=devices,
        accelerator="tpu",
        backend="jax",
        gigabytes=14.4,
        tried=tried,
        settings=fingerprints(exp)["settings"],
    )


def test_the_record_belongs_to_the_settings_it_was_found_for(project: Project, comp: Competition) -> None:
    exp, other = experiment(), experiment(seed=1)
    record = found(exp, 32, 8)
    write_found_batch(project, exp.name, record)
    assert TrainingInputs(project, comp, exp).found_batch == record
    assert record.images == 256
    assert TrainingInputs(project, comp, other).found_batch is None
    assert TrainingInputs(project, comp, experiment(batch={"per_device": 32})).found_batch is None


def test_a_training_with_another_found_batch_is_another_training(project: Project, comp: Competition) -> None:
    exp = experiment()
    inputs = TrainingInputs(project, comp, exp)
    assert "batch" not in inputs.comparable(0), "before it is found, nothing can be said"
    write_found_batch(project, exp.name, found(exp, 32))
    before = inputs.comparable(0)
    write_found_batch(project, exp.name, found(exp, 16))
    after = inputs.comparable(0)
    assert (before["batch"], after["batch"]) == ("32 x 1", "16 x 1")
    fixed = TrainingInputs(project, comp, experiment(batch={"per_device": 32}))
    assert "batch" not in fixed.comparable(0), "hashes of runs with a fixed batch stay valid"


def test_a_run_with_another_batch_is_named(tmp_path: Path) -> None:
    assert differences(tmp_path, {"batch": "32 x 1"}, {"batch": "16 x 1"}, None) == ["another batch size"]


def test_a_found_batch_is_divided_among_other_devices(project: Project, comp: Competition) -> None:
    """The images per step and the learning rate are those of the devices that found the batch."""
    exp = experiment(batch={"per_device": "auto", "scale_learning_rate": True})
    write_found_batch(project, exp.name, found(exp, 32, 8))
    trainer = on_devices(TrainingInputs(project, comp, exp), 2)
    assert (trainer.batch, trainer.evaluation_batch, trainer.rate_factor) == (256, 64, 8)
    with pytest.raises(GatemaskError, match="a divisor of 256 images") as odd:
        _ = on_devices(TrainingInputs(project, comp, exp), 3).batch
    assert "Set runtime.devices" in str(odd.value)
    fixed = experiment(batch={"per_device": 32, "scale_learning_rate": True})
    trainer = on_devices(TrainingInputs(project, comp, fixed), 2)
    assert (trainer.batch, trainer.evaluation_batch, trainer.rate_factor) == (64, 64, 2)


def test_memory_that_runs_out_in_a_training_says_what_to_do(project: Project, comp: Competition) -> None:
    exp = experiment()
    write_found_batch(project, exp.name, found(exp, 32, 8))
    trainer = on_devices(TrainingInputs(project, comp, exp), 4)
    for error in (
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        type("ResourceExhaustedError", (Exception,), {})(),
    ):
        with pytest.raises(OutOfMemoryError) as explained, batch_size.explained_out_of_memory(trainer):
            raise error
        assert "64 images of 32 px per device, on 4 x gpu" in str(explained.value)
        assert "Train on 8 x tpu" in str(explained.value)
        assert "batch.json to find another" in str(explained.value)
    fixed = on_devices(TrainingInputs(project, comp, experiment(batch={"per_device": 32})), 1)
    with pytest.raises(OutOfMemoryError, match="smaller number, or to auto"), batch_size.explained_out_of_memory(fixed):
        raise RuntimeError("RESOURCE_EXHAUSTED")
    with pytest.raises(RuntimeError, match="other"), batch_size.explained_out_of_memory(fixed):
        raise RuntimeError("other")


def on_devices(inputs: TrainingInputs, count: int) -> Trainer:
    """Return a trainer whose models are not built."""
    devices = Devices("jax", "gpu", [f"gpu:{number}" for number in range(count)], "DataParallel", "float32")
    cache = CompiledModelsCache()
    models: Any = SimpleNamespace(devices=devices)
    cache.get = lambda key, build: models  # type: ignore[method-assign]
    return Trainer(inputs, cache)


def test_a_damaged_record_says_what_to_do(project: Project, comp: Competition) -> None:
    path = batch_path(project, "auto")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"per_device": 32}))
    with pytest.raises(GatemaskError, match="delete it to find the batch again"):
        _ = TrainingInputs(project, comp, experiment()).found_batch
