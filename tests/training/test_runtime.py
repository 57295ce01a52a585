"""Devices: looked for in no time, insisted on before anything is imported, and spread over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatemask.config.schema import Runtime
from gatemask.errors import GatemaskError
from gatemask.training import runtime
from tests.conftest import ROOT, gatemask


@pytest.fixture()
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with the device files and packages that a test names."""

    def make(files: set[str] = frozenset(), packages: set[str] = frozenset(), **env: str) -> None:
        for name in ("TPU_NAME", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(runtime, "_any", lambda folder, pattern: f"{folder}/{pattern}" in files)
        monkeypatch.setattr(runtime, "_installed", lambda package: package in packages)

    return make


@pytest.mark.parametrize(
    ("files", "packages", "env", "found", "backend"),
    [
        ({}, {"jax"}, {}, "cpu", "tensorflow"),
        ({"/dev/nvidia[0-9]*"}, {"jax"}, {}, "gpu", "tensorflow"),
        ({"/dev/nvidia[0-9]*"}, {}, {"CUDA_VISIBLE_DEVICES": ""}, "cpu", "tensorflow"),
        ({"/dev/accel*"}, {"libtpu", "jax"}, {}, "tpu", "jax"),
        ({"/dev/vfio/[0-9]*"}, {"libtpu", "jax"}, {}, "tpu", "jax"),
        ({}, {"libtpu", "jax"}, {}, "cpu", "tensorflow"),
        ({}, {}, {"TPU_NAME": "local"}, "tpu", "tensorflow"),
    ],
)
def test_what_a_machine_has_is_seen_by_its_files(machine, files, packages, env, found, backend) -> None:
    machine(set(files), set(packages), **env)
    assert runtime.look() == found
    assert runtime._backend(Runtime(), found) == backend
    assert runtime._backend(Runtime(backend="jax"), found) == "jax"


@pytest.mark.parametrize("wanted", ["tpu", "gpu"])
def test_it_insists(machine, wanted: str) -> None:
    machine()
    with pytest.raises(GatemaskError, match="there is none") as caught:
        runtime.insist(Runtime.model_validate(wanted))
    assert "runtime.accelerator" in str(caught.value)


def test_a_bare_word_is_an_accelerator() -> None:
    assert Runtime.model_validate("tpu").accelerator == "tpu"
    assert Runtime.model_validate("auto") == Runtime()


def test_insisting_fails_before_anything_heavy_is_imported(phantom_records: Path) -> None:
    code = (
        "import sys\nfrom gatemask.cli import main\ncode = 0\ntry: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    arguments = ["train", "phantom/gate_b0", "--quick", "--fold", "0", "--set", "runtime.accelerator=tpu"]
    env = {**os.environ, "GATEMASK_ROOT": str(phantom_records)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "insists on a TPU, and there is none" in done.stderr
    assert not (phantom_records / "runs/phantom-quick/gate_b0/fold0/metrics.jsonl").exists()


def test_fewer_devices_than_asked_for(machine) -> None:
    with pytest.raises(GatemaskError, match="fewer devices"):
        runtime._limited(["one"], Runtime(devices=2))
    assert runtime._limited(["one", "two"], Runtime(devices=1)) == ["one"]


MIRRORED = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1])
)
from gatemask.cli import main
main(["train", "phantom/gate_b0", "--quick", "--fold", "0", "--json", *sys.argv[2:]])
"""


@pytest.mark.slow
def test_two_devices_of_tensorflow_share_a_batch(phantom_records: Path) -> None:
    """MirroredStrategy on two logical CPUs sees every image once and ends where one device does."""
    found = {}
    for count, per_device in ((1, 8), (2, 4)):
        settings = ["model.encoder=resnet18", f"batch.per_device={per_device}", "optimizer.name=sgd", f"seed={count}0"]
        arguments = [part for one in settings[:3] for part in ("--set", one)]
        env = {**os.environ, "GATEMASK_ROOT": str(phantom_records), "WANDB_MODE": "disabled"}
        command = [sys.executable, "-c", MIRRORED, str(count), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = json.loads(done.stdout)["folds"]["0"]
    assert found[2]["batch"] == found[1]["batch"] == 8
    assert ("MirroredStrategy" in done.stderr) and found[2]["validation_images"] == found[1]["validation_images"]
    # Each device has BatchNorm statistics of its own half, so that losses agree roughly only.
    assert found[2]["val_loss"] == pytest.approx(found[1]["val_loss"], rel=0.5)


def test_what_it_found_is_said_and_written(phantom_loop) -> None:
    facts = json.loads((phantom_loop.runs / "gate_b0/fold0/environment.json").read_text())["runtime"]
    assert (facts["backend"], facts["accelerator"], facts["precision"]) == ("tensorflow", "cpu", "float32")
    done = gatemask("train", "phantom/gate_b0", "--quick", "--fold", 9, root=phantom_loop.root)
    assert "no such fold" in done.stderr
