"""Encoders of keras.applications: features, steps and files, on TensorFlow here and on JAX in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import ENCODERS, Model

pytestmark = pytest.mark.trains

sys.path.insert(0, str(Path(__file__).parent))
quiet.tensorflow()
keras = pytest.importorskip("keras")

import encoder_steps  # noqa: E402
import steps  # noqa: E402

from gatemask.builders import applications, models  # noqa: E402

HERE = Path(__file__).parent
APPLICATIONS = [name for name, encoder in ENCODERS.items() if encoder.family.package == "keras"]
# The smallest of each family: with few blocks in the fast tests, whole in those of make test-all.
SMALLEST = ["efficientnetv2b0", "convnext_tiny", "resnet50v2"]

# By hand from the papers, for images of 64 pixels. Stride 2: the stem's; EfficientNetV2-B0 has stages of 16, 32, 48,
# 96, 112 and 192 filters (Tan 2021, table 4, scaled by 1.0), which end at strides 2, 4, 8, 16, 16 and 32; its last
# convolution has 1280. ConvNeXt-T has 96, 192, 384 and 768 (Liu 2022, section 3.1), ResNet-50 64 in its first
# convolution, then 256, 512, 1024 and 2048 (He 2015, table 1).
CHANNELS = {
    "efficientnetv2b0": {2: 16, 4: 32, 8: 48, 16: 112, 32: 1280},
    "convnext_tiny": {4: 96, 8: 192, 16: 384, 32: 768},
    "resnet50v2": {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048},
}
# The layers that output these features: the last ones of their strides.
SOURCES = {
    "efficientnetv2b0": {
        2: "block1a_project_activation",
        4: "block2b_add",
        8: "block3b_add",
        16: "block5e_add",
        32: "top_activation",
    },
    "convnext_tiny": {
        4: "convnext_tiny_add_2",
        8: "convnext_tiny_add_5",
        16: "convnext_tiny_add_14",
        32: "convnext_tiny_layernorm",
    },
    "resnet50v2": {
        2: "conv1_conv",
        4: "conv2_block3_preact_relu",
        8: "conv3_block4_preact_relu",
        16: "conv4_block6_preact_relu",
        32: "post_relu",
    },
}


@pytest.mark.parametrize("name", SMALLEST)
def test_features_come_from_the_last_layers_of_their_strides(name: str) -> None:
    model, features = applications.build_application(name, (64, 64, 3))
    assert {stride: x.shape[1:] for stride, x in features.items()} == {
        stride: (64 // stride, 64 // stride, channels) for stride, channels in CHANNELS[name].items()
    }
    assert tuple(sorted(features)) == ENCODERS[name].family.strides
    sources = {stride: model.get_layer(layer).output for stride, layer in SOURCES[name].items()}
    assert all(features[stride] is source for stride, source in sources.items())
    assert model.count_params() == ENCODERS[name].parameters


@pytest.mark.parametrize("name", SMALLEST)
def test_unet_joins_the_features_of_each_stride(name: str) -> None:
    config = Model(name="unet", encoder=name, filters=[16, 16, 8, 8, 4])
    with encoder_steps.small_encoders():
        network = models.build_network(config, 64, 3, seed=None)
    encoded = network.model.get_layer("encoder")._inbound_nodes[-1].output_tensors
    joined = {
        layer.name: layer.input[1] for layer in network.model.layers if isinstance(layer, keras.layers.Concatenate)
    }
    # The last of five stages, and the fourth behind a ConvNeXt, only enlarge.
    strides = [stride for stride in (16, 8, 4, 2) if stride in CHANNELS[name]]
    assert list(joined) == [f"decoder_stage{i}_concat" for i in range(len(strides))]
    assert all(a is b for a, b in zip(joined.values(), encoded[:-1], strict=True))
    assert [x.shape[1:] for x in joined.values()] == [
        (64 // stride, 64 // stride, CHANNELS[name][stride]) for stride in strides
    ]
    assert network.model.output_shape == (None, 64, 64, 1)


@pytest.mark.parametrize("architecture", ["unetpp", "fpn", "linknet"])
def test_every_decoder_takes_an_encoder_without_features_at_half_size(architecture: str) -> None:
    with encoder_steps.small_encoders():
        network = models.build_network(Model(name=architecture, encoder="convnext_tiny"), 32, 3, seed=None)
    assert network.model.output_shape == (None, 32, 32, 1)


@pytest.mark.parametrize("name", ["efficientnetv2b0", "efficientnetv2s", "convnext_tiny", "resnet50v2"])
def test_images_are_normalized_as_in_keras_applications(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    if name in applications.LAST_BLOCKS:
        expected = keras.applications.resnet_v2.preprocess_input(images.astype(np.float32))
    else:
        with encoder_steps.small_encoders(), keras.StatelessScope(initialize_variables=False):
            build = getattr(keras.applications, applications.CLASSES[name])
            whole = build(weights=None, include_top=False, input_shape=(32, 32, 3))
        expected = images
        for layer in whole.layers[1:]:
            if not isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
                break
            expected = type(layer).from_config(layer.get_config())(expected)
        assert expected is not images
    layer = models.Normalize(ENCODERS[name].family.normalization)
    assert np.asarray(layer(images)) == pytest.approx(np.asarray(expected), abs=1e-4)


# --- both backends ---------------------------------------------------------------------------------------


def prepare(folder: Path, name: str, small: bool) -> Any:
    """Build a network on TensorFlow, and write its weights and predictions."""
    network = encoder_steps.build(name, 0, small)
    steps.perturb_statistics(network.model)
    network.model.save_weights(folder / f"{name}.weights.h5")
    np.save(folder / f"{name}.npy", encoder_steps.outputs(network.model))
    return network


def start_jax(folder: Path, names: list[str], small: bool) -> subprocess.Popen[str]:
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    command = [sys.executable, str(HERE / "encoder_steps.py"), str(folder), *(["--small"] if small else []), *names]
    env = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def check(folder: Path, name: str, network: Any, small: bool) -> None:
    """Load the file into a network of another seed: it predicts the same. Then train for two steps."""
    expected = np.load(folder / f"{name}.npy")
    assert expected.std() > 0.001
    other = encoder_steps.build(name, 2, small)
    assert np.abs(encoder_steps.outputs(other.model) - expected).max() > 1e-3
    other.model.load_weights(folder / f"{name}.weights.h5")
    assert (encoder_steps.outputs(other.model) == expected).all()
    check_step(encoder_steps.step(name, network))


def check_step(facts: dict[str, Any]) -> None:
    assert all(math.isfinite(loss) for loss in facts["losses"])
    assert facts["losses"][0] != facts["losses"][1]
    assert facts["traces"] == 1, "traced once over two fits"
    # Only kernels before a ReLU that is dead for this batch may stay unchanged.
    assert len(facts["unchanged"]) <= 3, facts["unchanged"]


def check_jax(process: subprocess.Popen[str], folder: Path, name: str) -> None:
    _, errors = process.communicate(timeout=570) if process.returncode is None else ("", "")
    assert process.returncode == 0, errors[-3000:]
    facts = json.loads((folder / f"{name}.json").read_text())
    assert facts["difference"] < 1e-4
    check_step(facts)


def test_networks_train_and_round_trip_and_agree_on_both_backends(tmp_path: Path) -> None:
    networks = {name: prepare(tmp_path, name, small=True) for name in SMALLEST}
    process = start_jax(tmp_path, ["convnext_tiny"], small=True)  # the slow test does so with all networks
    try:
        for name, network in networks.items():
            check(tmp_path, name, network, small=True)
        check_jax(process, tmp_path, "convnext_tiny")
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_whole_networks_train_and_round_trip_and_agree_on_both_backends(tmp_path: Path, name: str) -> None:
    network = prepare(tmp_path, name, small=False)
    process = start_jax(tmp_path, [name], small=False)
    try:
        check(tmp_path, name, network, small=False)
        check_jax(process, tmp_path, name)
    finally:
        process.kill()
        keras.backend.clear_session()
