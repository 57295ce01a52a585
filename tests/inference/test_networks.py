"""Networks of one structure share a graph and nothing else; the same on TensorFlow and JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Model
from gatemask.errors import GatemaskError
from gatemask.inference import networks

SIZE = 32


def listed(name: str, folds: int) -> list[dict[str, Any]]:
    config = Model(name=name, encoder="mobilenet", weights="none").model_dump(mode="json")
    return [{"name": f"{name}{k}", "size": SIZE, "records": SIZE, "tta": [], "model": config} for k in range(folds)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """A folder of weights, a batch, and what each model says of it by itself."""
    from gatemask.builders import models

    folder = tmp_path_factory.mktemp("weights")
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1)).astype(np.uint8)
    said = {}
    for name in ("gate", "unet"):
        for member in networks.members(listed(name, 2), folder):
            model = models.build_network(member.config, SIZE, 1, 1, seed=len(said)).predict
            rng = np.random.default_rng(len(said))
            for variable in model.trainable_variables:  # a gate's last layer begins as zeros
                variable.assign(np.asarray(variable) + 0.05 * rng.standard_normal(variable.shape))
            model.save_weights(member.weights)
            said[member.name] = np.asarray(model.predict_on_batch(images))
    return folder, images, said


def test_members_share_a_graph_and_keep_their_weights(
    saved: tuple[Path, np.ndarray, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatemask.builders import models

    folder, images, said = saved
    built: list[str] = []
    build = models.build_network
    monkeypatch.setattr(
        models, "build_network", lambda config, *more, **also: built.append(config.name) or build(config, *more, **also)
    )
    for name in ("gate", "unet"):
        loaded = networks.load(networks.members(listed(name, 2), folder), 1, 1, batch=4)
        for member in (f"{name}0", f"{name}1"):
            found = loaded[member].predict_on_batch(images)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, said[member], atol=1e-5)
        assert np.abs(said[f"{name}0"] - said[f"{name}1"]).max() > 1e-3, "or the test could not tell them apart"
    assert built == ["gate", "unet"], "once a structure"


@pytest.mark.integration
def test_the_same_on_jax(saved: tuple[Path, np.ndarray, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, images, said = saved
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "listed.json").write_text(json.dumps(listed("unet", 2)))
    code = (
        "import sys, json, numpy as np; from pathlib import Path; from gatemask.inference import networks\n"
        "at, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "loaded = networks.load(networks.members(json.loads(open(at / 'listed.json').read()), folder), 1, 1, batch=4)\n"
        "np.savez(at / 'said.npz', **{k: v.predict_on_batch(np.load(at / 'images.npy')) for k, v in loaded.items()})\n"
        "print(networks.accelerator())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(folder)]
    done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "cpu"
    with np.load(tmp_path / "said.npz") as found:
        for name in ("unet0", "unet1"):
            np.testing.assert_allclose(found[name], said[name], atol=1e-4)


@pytest.mark.integration
def test_members_are_dealt_over_the_devices(
    saved: tuple[Path, np.ndarray, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Two logical devices of the CPU stand for the two GPUs of a session; each member keeps to its own."""
    folder, images, said = saved
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "listed.json").write_text(json.dumps(listed("unet", 2)))
    code = (
        "import sys, json, numpy as np, tensorflow as tf; from pathlib import Path\n"
        "cpu, = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from gatemask.inference import networks, predict; from gatemask.inference.budget import Budget\n"
        "from gatemask.inference.images import Image\n"
        "at, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "members = networks.members(json.loads(open(at / 'listed.json').read()), folder)\n"
        "loaded = networks.load(members, 1, 1)\n"
        "print(*[loaded[one.name].device for one in members])\n"
        "both = predict.Ensemble([], members, loaded, [], (32, 32))\n"
        "part = [Image(str(n), {32: image}) for n, image in enumerate(np.load(at / 'images.npy'))]\n"
        "said = predict._predicted(both, members, part, Budget(None, 0.0))\n"
        "np.savez(at / 'said.npz', **{member.name: one for member, one in said})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.split()[-2:]
    assert first.endswith("CPU:0") and second.endswith("CPU:1")
    with np.load(tmp_path / "said.npz") as found:
        for name in ("unet0", "unet1"):
            np.testing.assert_allclose(found[name], said[name], atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_near_and_leaves_the_policy_alone(
    saved: tuple[Path, np.ndarray, dict[str, np.ndarray]], precision: str
) -> None:
    import keras

    folder, images, said = saved
    loaded = networks.load(networks.members(listed("unet", 1), folder), 1, 1, precision)
    assert keras.config.dtype_policy().name == "float32"
    found = loaded["unet0"].predict_on_batch(images)
    assert found.dtype == np.float32
    far = np.abs(found - said["unet0"]).max()
    assert 0 < far < 0.1, "other numbers, but not far away"


def test_weights_that_do_not_fit_are_told(
    saved: tuple[Path, np.ndarray, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    folder = saved[0]
    members = networks.members(listed("unet", 2), tmp_path)
    members[0].weights.write_bytes((folder / "gate0.weights.h5").read_bytes())
    members[1].weights.write_bytes((folder / "unet1.weights.h5").read_bytes())
    with pytest.raises(GatemaskError, match="cannot be loaded") as told:
        networks.load(members, 1, 1)
    assert "unet0.weights.h5" in str(told.value)
    failed: list[str] = []
    loaded = networks.load(members, 1, 1, failed=lambda member, why: failed.append(f"{member.name}: {why}"))
    assert list(loaded) == ["unet1"]
    assert len(failed) == 1 and failed[0].startswith("unet0: ")


@pytest.mark.parametrize(
    ("wanted", "device", "meant"),
    [
        ("auto", "gpu", "float16"),
        ("auto", "tpu", "bfloat16"),
        ("auto", "cpu", "float32"),
        ("float16", "gpu", "float16"),
        ("bfloat16", "gpu", "float32"),
        ("float16", "cpu", "float32"),
        ("float32", "gpu", "float32"),
    ],
)
def test_half_the_bits_only_where_they_help(wanted: str, device: str, meant: str) -> None:
    assert networks.precision_for(wanted, device) == meant


@pytest.mark.parametrize(
    ("device", "size", "step"),
    [("cpu", 64, 16), ("cpu", 512, 4), ("cpu", 1024, 1), ("gpu", 256, 64), ("gpu", 544, 8), ("gpu", 1024, 4)],
)
def test_steps_are_as_large_as_the_device_allows(
    monkeypatch: pytest.MonkeyPatch, device: str, size: int, step: int
) -> None:
    monkeypatch.setattr(networks, "accelerator", lambda: device)
    assert networks.batch_for(size) == step
    assert networks.batch_for(size, 10) == 10
