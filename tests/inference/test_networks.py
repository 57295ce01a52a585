"""Members of one structure share a graph but keep their own weights, on TensorFlow and JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import Experiment, Model
from gatemask.errors import GatemaskError
from gatemask.inference import networks
from gatemask.results.ensemble import ShippedMember
from tests import tiny
from tests.conftest import run_python
from tests.without_tensorflow import REFUSE, REQUIRE_UNUSED

pytestmark = pytest.mark.integration

SIZE = 32


def members_of(name: str, folds: int, **options: Any) -> list[ShippedMember]:
    config = Model(name=name, encoder="mobilenet", weights="none", **options).model_dump(mode="json")
    task = "gate" if name == "gate" else "mask"
    run = {"experiment": name, "task": task, "size": SIZE, "records": SIZE, "model": config}
    return [ShippedMember.model_validate({"name": f"{name}{fold}", "fold": fold, **run}) for fold in range(folds)]


class SavedNetworks(NamedTuple):
    """Weights of two gates and two mask networks.

    Args:
        folder: Folder of the weights.
        images: A batch.
        predictions: Prediction of each model for the batch, by member.
    """

    folder: Path
    images: np.ndarray
    predictions: dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def tiny_encoders() -> Iterator[None]:
    quiet.tensorflow()
    with pytest.MonkeyPatch.context() as patched:
        tiny.install(patched.setattr)
        yield


@pytest.fixture(scope="module")
def saved(tiny_encoders: None, tmp_path_factory: pytest.TempPathFactory) -> SavedNetworks:
    from gatemask.builders import models

    folder = tmp_path_factory.mktemp("weights")
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1)).astype(np.uint8)
    predictions: dict[str, np.ndarray] = {}
    for name in ("gate", "unet"):
        for member in members_of(name, 2):
            model = models.build_network(member.model, SIZE, 1, 1, seed=len(predictions)).model
            rng = np.random.default_rng(len(predictions))
            for variable in model.trainable_variables:  # a gate's last layer starts at zero
                variable.assign(np.asarray(variable) + 0.05 * rng.standard_normal(variable.shape))
            model.save_weights(networks.weights_path(folder, member))
            predictions[member.name] = np.asarray(model.predict_on_batch(images))
    return SavedNetworks(folder, images, predictions)


def test_members_share_a_graph_and_keep_their_weights(saved: SavedNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.builders import models

    folder, images, predictions = saved
    built: list[str] = []
    build = models.build_network
    monkeypatch.setattr(
        models, "build_network", lambda config, *more, **also: built.append(config.name) or build(config, *more, **also)
    )
    for name in ("gate", "unet"):
        loaded = networks.load_members(members_of(name, 2), folder, 1, 1, batch=4)
        for member in (f"{name}0", f"{name}1"):
            values = loaded[member].predict_on_batch(images)
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, predictions[member], atol=1e-5)
        assert np.abs(predictions[f"{name}0"] - predictions[f"{name}1"]).max() > 1e-3, "the members differ"
    assert built == ["gate", "unet"], "once per structure"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"attention": "scse", "output_stride": 2, "deep_supervision": True}),
        ("unetpp", {"attention": "scse", "output_stride": 4, "deep_supervision": True}),
        ("fpn", {"output_stride": 4}),
        ("linknet", {"output_stride": 2, "deep_supervision": True}),
        ("upernet", {"width": 8, "deep_supervision": True}),
        ("segformer", {"width": 8, "deep_supervision": True, "gate_head": True}),
        ("deeplabv3plus", {"width": 8, "deep_supervision": True, "dropout": 0.1}),
    ],
)
def test_members_of_every_structure_predict_as_trained(
    saved: SavedNetworks, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    from gatemask.builders import models

    (member,) = members_of(name, 1, **options)
    model = models.build_network(member.model, SIZE, 1, 1, seed=1).model
    model.save_weights(networks.weights_path(tmp_path, member))
    loaded = networks.load_members([member], tmp_path, 1, 1, batch=5)[member.name]
    expected = np.asarray(model(saved.images))
    np.testing.assert_allclose(loaded.predict_on_batch(saved.images), expected, atol=1e-5)
    assert expected.std() > 0


def test_members_trained_on_crops_predict_whole_inputs(tiny_encoders: None, tmp_path: Path) -> None:
    """At once or by tiles, exactly as the training's own prediction model does."""
    from gatemask.builders import models

    images = np.random.default_rng(0).integers(0, 256, (5, 32, 64, 1)).astype(np.uint8)
    member = members_of("unet", 1)[0].model_copy(update={"size": (32, 64)})
    comp: Any = SimpleNamespace(classes=["a"], outputs=1, exclusive=False, image=SimpleNamespace(channels=1))
    for predict, tile in (("full", None), ("tiles", 32)):
        exp = Experiment.model_validate(
            {
                "name": "e",
                "task": "mask",
                "model": member.model.model_dump(),
                "input": {"size": [32, 64], "crop": 32, "predict": predict},
                "loss": {"bce": 1},
                "epochs": 1,
            }
        )
        network = models.network_for(exp, comp, seed=1)
        rng = np.random.default_rng(1)
        for variable in network.model.trainable_variables:
            variable.assign(np.asarray(variable) + 0.05 * rng.standard_normal(variable.shape))
        predictor = models.predictor_for(exp, comp, network)
        models.copy_weights(network, predictor)
        expected = np.asarray(predictor.predict_on_batch(images))
        network.model.save_weights(networks.weights_path(tmp_path, member))
        shipped = member.model_copy(update={"tile": tile})
        loaded = networks.load_members([shipped], tmp_path, 1, 1, batch=5)[member.name]
        predicted = loaded.predict_on_batch(images)
        assert predicted.shape == (5, 32, 64, 1)
        np.testing.assert_allclose(predicted, expected, atol=1e-6)
        assert predicted.std() > 0.01


def write_members(path: Path, members: list[ShippedMember]) -> None:
    path.write_text(json.dumps([member.model_dump(mode="json") for member in members]))


def test_the_same_on_jax_without_tensorflow(saved: SavedNetworks, tmp_path: Path) -> None:
    folder, images, predictions = saved
    np.save(tmp_path / "images.npy", images)
    write_members(tmp_path / "members.json", members_of("unet", 2))
    code = (
        "import sys, json, numpy as np; from pathlib import Path; from gatemask.inference import networks\n"
        "from gatemask.results.ensemble import ShippedMember\n"
        "work, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "members = [ShippedMember.model_validate(m) for m in json.loads((work / 'members.json').read_text())]\n"
        "loaded, images = networks.load_members(members, folder, 1, 1, batch=4), np.load(work / 'images.npy')\n"
        "np.savez(work / 'predictions.npz', **{k: v.predict_on_batch(images) for k, v in loaded.items()})\n"
        "print(networks.accelerator())\n"
    )
    command = [sys.executable, "-c", REFUSE + tiny.INSTALL + code + REQUIRE_UNUSED, str(tmp_path), str(folder)]
    done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "cpu"
    with np.load(tmp_path / "predictions.npz") as loaded:
        for name in ("unet0", "unet1"):
            np.testing.assert_allclose(loaded[name], predictions[name], atol=1e-4)


def test_members_are_distributed_over_devices(saved: SavedNetworks, tmp_path: Path) -> None:
    """Two logical CPU devices take the place of a session's two GPUs; each member runs on its own."""
    folder, images, predictions = saved
    np.save(tmp_path / "images.npy", images)
    write_members(tmp_path / "members.json", members_of("unet", 2))
    code = (
        "import sys, json, numpy as np, tensorflow as tf; from pathlib import Path\n"
        "cpu, = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from gatemask.inference import members as kept, networks; from gatemask.inference.budget import Budget\n"
        "from gatemask.inference.images import DecodedImage\n"
        "from gatemask.results.ensemble import ShippedMember\n"
        "work, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "members = [ShippedMember.model_validate(m) for m in json.loads((work / 'members.json').read_text())]\n"
        "loaded = networks.load_members(members, folder, 1, 1)\n"
        "print(*[loaded[member.name].device for member in members])\n"
        "ensemble = kept.LoadedEnsemble([], members, loaded, [])\n"
        "images = [DecodedImage(str(n), {(32, 32): image}) for n, image in enumerate(np.load(work / 'images.npy'))]\n"
        "predictions = kept.predict_members(ensemble, members, images, Budget(None, 0.0))\n"
        "np.savez(work / 'predictions.npz', **{member.name: values for member, values in predictions})\n"
    )
    done = run_python("-c", tiny.INSTALL + code, tmp_path, folder, root=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.split()[-2:]
    assert first.endswith("CPU:0") and second.endswith("CPU:1")
    with np.load(tmp_path / "predictions.npz") as loaded:
        for name in ("unet0", "unet1"):
            np.testing.assert_allclose(loaded[name], predictions[name], atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_close_and_keeps_the_global_policy(saved: SavedNetworks, precision: str) -> None:
    import keras

    folder, images, predictions = saved
    loaded = networks.load_members(members_of("unet", 1), folder, 1, 1, precision)
    assert keras.config.dtype_policy().name == "float32"
    values = loaded["unet0"].predict_on_batch(images)
    assert values.dtype == np.float32
    difference = np.abs(values - predictions["unet0"]).max()
    assert 0 < difference < 0.1


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras's, besides the error
def test_weights_that_do_not_fit_are_reported(saved: SavedNetworks, tmp_path: Path) -> None:
    members = members_of("unet", 2)
    for member, source in zip(members, ("gate0", "unet1"), strict=True):
        weights = (saved.folder / f"{source}.weights.h5").read_bytes()
        networks.weights_path(tmp_path, member).write_bytes(weights)
    with pytest.raises(GatemaskError, match="cannot be loaded") as caught:
        networks.load_members(members, tmp_path, 1, 1)
    assert "unet0.weights.h5" in str(caught.value)
    failed: list[str] = []
    loaded = networks.load_members(
        members, tmp_path, 1, 1, on_failure=lambda member, reason: failed.append(f"{member.name}: {reason}")
    )
    assert list(loaded) == ["unet1"]
    assert len(failed) == 1 and failed[0].startswith("unet0: ")


@pytest.mark.parametrize(
    ("setting", "device", "precision"),
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
def test_half_precision_is_used_only_where_it_is_faster(setting: str, device: str, precision: str) -> None:
    assert networks.precision_for(setting, device) == precision


@pytest.mark.parametrize(
    ("device", "size", "batch"),
    [("cpu", 64, 16), ("cpu", 512, 4), ("cpu", 1024, 1), ("gpu", 256, 64), ("gpu", 544, 8), ("gpu", 1024, 4)],
)
def test_batches_are_as_large_as_the_device_allows(
    monkeypatch: pytest.MonkeyPatch, device: str, size: int, batch: int
) -> None:
    monkeypatch.setattr(networks, "accelerator", lambda: device)
    assert networks.batch_for((size, size)) == batch
    assert networks.batch_for((size // 2, 2 * size), 10) == 10
