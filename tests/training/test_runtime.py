"""Devices are detected at once, required before anything is imported, and share each batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from gatemask.config import Experiment, Runtime
from gatemask.errors import GatemaskError
from gatemask.training import runtime
from tests.conftest import gatemask, run_python


@pytest.fixture()
def machine(monkeypatch: pytest.MonkeyPatch):
    """Set up a machine with the given device files and packages."""

    def make(files: set[str] = frozenset(), packages: set[str] = frozenset(), **env: str) -> None:
        for name in ("TPU_NAME", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(runtime, "_any", lambda folder, pattern: f"{folder}/{pattern}" in files)
        monkeypatch.setattr(runtime, "_installed", lambda package: package in packages)

    return make


@pytest.mark.parametrize(
    ("files", "packages", "env", "detected", "backend"),
    [
        ({}, {"jax", "tensorflow"}, {}, "cpu", "tensorflow"),
        ({}, {"jax"}, {}, "cpu", "jax"),
        ({}, {}, {}, "cpu", "tensorflow"),
        ({"/dev/nvidia[0-9]*"}, {"jax", "tensorflow"}, {}, "gpu", "tensorflow"),
        ({"/dev/nvidia[0-9]*"}, {"jax"}, {}, "gpu", "jax"),
        ({"/dev/nvidia[0-9]*"}, {}, {"CUDA_VISIBLE_DEVICES": ""}, "cpu", "tensorflow"),
        ({"/dev/accel*"}, {"libtpu", "jax", "tensorflow"}, {}, "tpu", "jax"),
        ({"/dev/vfio/[0-9]*"}, {"libtpu", "jax", "tensorflow"}, {}, "tpu", "jax"),
        ({}, {"libtpu", "jax", "tensorflow"}, {}, "cpu", "tensorflow"),
        ({}, {}, {"TPU_NAME": "local"}, "tpu", "tensorflow"),
    ],
)
def test_the_accelerator_is_detected_by_device_files(machine, files, packages, env, detected, backend) -> None:
    machine(set(files), set(packages), **env)
    assert runtime.detect_accelerator() == detected
    assert runtime._backend(Runtime(), detected) == backend
    assert runtime._backend(Runtime(backend="jax"), detected) == "jax"


@pytest.mark.parametrize("wanted", ["tpu", "gpu"])
def test_a_missing_accelerator_is_an_error(machine, wanted: str) -> None:
    machine()
    with pytest.raises(GatemaskError, match="this machine has none") as caught:
        runtime.require_accelerator(Runtime.model_validate(wanted))
    assert "runtime.accelerator" in str(caught.value)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_missing_backend_is_an_error(machine, backend: str) -> None:
    machine()
    with pytest.raises(GatemaskError, match="The backend is not installed") as caught:
        runtime.start_keras(Runtime(backend=backend))
    assert f"pip install {backend}" in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "strategy", "fits"),
    [("tensorflow", "MirroredStrategy", False), ("tensorflow", "one device", True), ("jax", "DataParallel", True)],
)
def test_gradients_are_not_accumulated_over_devices_of_tensorflow(backend: str, strategy: str, fits: bool) -> None:
    from gatemask.training.trainer import require_accumulation

    gate = {"name": "gate", "encoder": "efficientnetb0"}
    exp = Experiment.model_validate(
        {"name": "x", "task": "gate", "model": gate, "input": {"size": 64}, "loss": {"bce": 1}, "epochs": 1}
        | {"optimizer": {"accumulate": 4}}
    )
    devices = runtime.Devices(backend, "gpu", ["GPU:0", "GPU:1"], strategy, "float32")
    with nullcontext() if fits else pytest.raises(GatemaskError, match="cannot accumulate") as caught:
        require_accumulation(exp, devices)
    assert fits or "4 batches, on 2 devices" in str(caught.value)


def test_a_bare_word_is_an_accelerator() -> None:
    assert Runtime.model_validate("tpu").accelerator == "tpu"
    assert Runtime.model_validate("auto") == Runtime()


@pytest.mark.integration
def test_the_error_comes_before_anything_heavy_is_imported(phantom_records: Path) -> None:
    code = (
        "import sys\nfrom gatemask.cli import main\ncode = 0\ntry: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    arguments = ["train", "phantom/gate_r18", "--quick", "--fold", "0", "--set", "runtime.accelerator=tpu"]
    env = {**os.environ, "GATEMASK_ROOT": str(phantom_records)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "requires a TPU, and this machine has none" in done.stderr
    assert not (phantom_records / "runs/phantom-quick/gate_r18/fold0/metrics.jsonl").exists()


def test_fewer_devices_than_asked_for(machine) -> None:
    with pytest.raises(GatemaskError, match="fewer devices"):
        runtime._limited(["first"], Runtime(devices=2))
    assert runtime._limited(["first", "second"], Runtime(devices=1)) == ["first"]


def test_the_fullest_device_decides_and_cpus_report_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"GPU:0": 3_000_000_000, "GPU:1": 5_500_000_000}
    monkeypatch.setattr(runtime, "_peak_bytes", lambda backend, name: peaks[name])
    two = runtime.Devices("tensorflow", "gpu", list(peaks), "MirroredStrategy", "float32")
    assert (two.peak_bytes(), two.memory_mb()) == (5_500_000_000, 5500.0)
    cpu = runtime.Devices("tensorflow", "cpu", ["CPU:0"], "one device", "float32")
    assert cpu.peak_bytes() == 0
    assert cpu.memory_mb() > 50, "the memory of the process"


@pytest.mark.parametrize(("peak", "end"), [(5_500_000_000, "100 images/s, 5.5 GB"), (0, "100 images/s")])
def test_the_line_of_an_epoch_shows_the_memory_of_devices(peak: int, end: str, capsys) -> None:
    from gatemask.training.fold_run import FoldRun

    exp = SimpleNamespace(name="unet", epochs=3, monitor="dice")
    models = SimpleNamespace(devices=SimpleNamespace(peak_bytes=lambda: peak))
    run = SimpleNamespace(exp=exp, fold=0, trainer=SimpleNamespace(models=models))
    row = {"epoch": 0, "loss": 0.5, "dice": 0.8, "seconds": 12.0, "images_per_s": 100.0, "input_wait": 0.0}
    FoldRun._say_epoch(run, row)  # type: ignore[arg-type]
    assert capsys.readouterr().err.strip().endswith(end)


MIRRORED = """
import json, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from gatemask.config import Runtime
from gatemask.training import runtime
results = {}
for count in (1, 2):
    devices = runtime.start_keras(Runtime(devices=count))
    import keras
    from gatemask.builders.losses import WeightedLoss
    from gatemask.builders.metrics import MeanLoss
    from gatemask.builders.step import TrainingModel
    with devices.scope():
        x = keras.Input((4,), dtype="uint8")
        out = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")(keras.layers.Rescaling(0.01)(x))
        loss = WeightedLoss({"bce": 1.0})
        model = TrainingModel(x, {"main": out}).set_loss(loss, {"main": 1.0}, 0.2)
        model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
        evaluator = keras.Model(x, out)
        evaluator.compile(None, loss=loss, weighted_metrics=[MeanLoss(loss.call)], jit_compile=False)
    images = np.arange(64, dtype=np.uint8).reshape(16, 4)
    truth = (np.arange(16) % 2).astype(np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((images, truth)).batch(8, drop_remainder=True)
    losses = model.fit(data, verbose=0, shuffle=False).history["loss"]
    weights = np.array([1] * 9 + [0] * 7, np.float32)
    padded = tf.data.Dataset.from_tensor_slices((images, truth, weights)).batch(8)
    scored = evaluator.evaluate(padded, verbose=0, return_dict=True)["val_loss"]
    kernel = np.array(model.trainable_variables[0]).ravel()
    p = 1 / (1 + np.exp(-(images * 0.01) @ kernel - np.array(model.trainable_variables[1])))
    by_hand = -np.mean(np.log(np.where(truth[:9, 0] == 1, p[:9], 1 - p[:9])))
    results[devices.strategy] = [*map(float, kernel), *map(float, losses), scored, float(by_hand)]
print(json.dumps(results))
"""


@pytest.mark.integration
def test_two_devices_of_tensorflow_take_the_step_of_one(tmp_path: Path) -> None:
    """Loss and gradient are the same, and a padded validation averages only its real images."""
    done = run_python("-c", MIRRORED, root=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert set(results) == {"one device", "MirroredStrategy"}
    assert results["MirroredStrategy"] == pytest.approx(results["one device"], rel=1e-5)
    *_, scored, by_hand = results["one device"]
    assert scored == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.integration
def test_the_devices_are_recorded(phantom_loop) -> None:
    facts = json.loads((phantom_loop.runs / "gate_r18/fold0/environment.json").read_text())["runtime"]
    assert (facts["backend"], facts["accelerator"], facts["precision"]) == ("tensorflow", "cpu", "float32")
    done = gatemask("train", "phantom/gate_r18", "--quick", "--fold", 9, root=phantom_loop.root)
    assert "Unknown fold" in done.stderr
