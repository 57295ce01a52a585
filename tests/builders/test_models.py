"""Structure, shapes, steps and weights files of networks, on TensorFlow here and on JAX in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gatemask import quiet
from gatemask.config import ENCODERS, Architecture, Encoder, Model, Normalization
from gatemask.errors import GatemaskError

pytestmark = pytest.mark.trains

sys.path.insert(0, str(Path(__file__).parent))
quiet.tensorflow()
keras = pytest.importorskip("keras")

import steps  # noqa: E402

from gatemask.builders import bridge, models  # noqa: E402
from tests.conftest import slow  # noqa: E402

HERE = Path(__file__).parent
PACKAGED = [name for name, encoder in ENCODERS.items() if encoder.family.package == "segmentation-models"]


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["small", "whole"])
def small(request: pytest.FixtureRequest) -> bool:
    """Whether the encoders are small."""
    return bool(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small: bool) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def built(folder: Path, small: bool) -> dict[str, models.Network]:
    """One network per architecture, with its weights and outputs in files."""
    networks = {name: steps.build(name, 0, small) for name in steps.ENCODERS}
    for name, network in networks.items():
        steps.perturb_statistics(network.model)
        network.model.save_weights(folder / f"{name}.weights.h5")
        np.save(folder / f"{name}.npy", steps.outputs(name, network.model))
    return networks


@pytest.fixture(scope="module")
def jax(built: dict[str, models.Network], folder: Path, small: bool) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Results of the same networks on JAX, in a process that runs next to the tests that do not use them."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    command = [sys.executable, str(HERE / "steps.py"), str(folder), *(["--small"] if small else [])]
    env = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    def facts(name: str) -> dict[str, Any]:
        _, errors = process.communicate(timeout=600) if process.returncode is None else ("", "")
        assert process.returncode == 0, errors[-3000:]
        return json.loads((folder / f"{name}.json").read_text())

    yield facts
    process.kill()


def test_every_architecture_of_the_schema_is_tested() -> None:
    assert set(steps.ENCODERS) == set(get_args(Architecture))


@pytest.mark.parametrize("name", steps.ENCODERS)
def test_networks_map_uint8_images_to_float32_probabilities(built, jax, name: str) -> None:
    network = built[name]
    out = steps.outputs(name, network.model)
    classes = steps.CLASSES.get(name, 1)
    assert out.shape == ((4, classes) if name == "gate" else (4, 32, 32, classes))
    assert out.dtype == np.float32
    assert ((out >= 0) & (out <= 1)).all()
    assert out.std() > 0
    more = {
        "unet": ["gate"],
        "unetpp": ["deep1", "deep2", "deep3"],
        "segformer": ["deep4", "deep8", "deep16", "deep32"],
    }
    assert list(network.heads) == ["main", *more.get(name, [])]
    for head, tensor in network.heads.items():
        assert tensor.dtype == "float32"
        assert tensor.shape == ((None, 1) if head == "gate" else network.model.output_shape)


@pytest.mark.parametrize("name", [name if name in steps.SMALL_STEPS else slow(name) for name in steps.ENCODERS])
def test_a_step_updates_every_weight_and_is_traced_once_on_static_shapes(built, jax, small: bool, name: str) -> None:
    network = steps.build(name, 0, small)
    _check(name, steps.step(name, network))


@pytest.mark.parametrize("name", steps.ENCODERS)
def test_a_weights_file_restores_all_weights(built, tmp_path, small: bool, name: str) -> None:
    before, after = steps.round_trip(name, built[name], tmp_path / "w.weights.h5", small)
    assert before > 20
    assert after == 0


@pytest.mark.parametrize("name", steps.ENCODERS)
def test_jax_and_tensorflow_agree(built, jax, small: bool, name: str) -> None:
    facts = jax(name)
    assert facts["drawn"] == steps.drawn(built[name].model, 5)
    assert facts["difference"] < 1e-4
    assert facts["scores"] == pytest.approx(steps.scores(name, steps.outputs(name, built[name].model)), abs=1e-5)
    before, after = facts["round_trip"]
    assert (before > 20, after) == (True, 0)
    if not small or name in steps.SMALL_STEPS:
        _check(name, facts)


def _check(name: str, facts: dict[str, Any]) -> None:
    assert all(math.isfinite(loss) for loss in facts["losses"])
    assert facts["losses"][0] != facts["losses"][1]
    assert len(facts["shapes"]) == 1, "traced once over two fits"
    truth = {"gate": [4, 2], "linknet": [4, 32, 32, 3]}.get(name, [4, 32, 32, 1])
    special = {"unet": [truth, [4, 1]], "unetpp": [truth] * 4, "linknet": [[4, 32, 32, 2]], "segformer": [truth] * 5}
    heads = special.get(name, [truth])
    assert facts["shapes"][0] == [truth, [], *heads]
    # Only kernels before a ReLU that is dead for this batch may stay unchanged.
    assert len(facts["unchanged"]) <= 3, facts["unchanged"]
    assert bool(facts["averages"]) == (name == "unet")
    if facts["averages"]:
        assert max(facts["averages"]) > 0, "fit did not replace the weights by their averages"


def test_every_batchnorm_has_the_configured_momentum() -> None:
    config = Model(name="gate", encoder="efficientnetb0", batchnorm_momentum=0.9)
    layers = list(bridge.flat_layers(models.build_network(config, 32, 1, seed=None).model))
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 49
    assert {layer.momentum for layer in norms} == {0.9}
    assert not any(isinstance(value, bridge.DeferredInitializer) for layer in layers for value in vars(layer).values())


@pytest.mark.parametrize("encoder", PACKAGED)
def test_images_are_normalized_as_in_the_package_of_the_encoder(encoder: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    preprocess = bridge.encoder_factory().get_preprocessing(encoder)
    expected = preprocess(images.astype(np.float32), **bridge.KERAS_MODULES)
    layer = models.Normalize(ENCODERS[encoder].family.normalization)
    assert np.asarray(layer(images)) == pytest.approx(np.asarray(expected), abs=1e-4)


def test_one_channel_is_repeated_and_more_channels_get_their_own_encoder() -> None:
    config = Model(name="gate", encoder="vgg16")
    assert models.build_network(config, 32, 1, seed=None).encoder.input_shape == (None, 32, 32, 3)
    assert models.build_network(config, 32, 5, seed=None).encoder.input_shape == (None, 32, 32, 5)
    for mode in get_args(Normalization):
        assert models.Normalize(mode)(np.zeros((1, 2, 2, 5), np.uint8)).shape == (1, 2, 2, 5)


def test_inceptions_reject_small_images() -> None:
    with pytest.raises(GatemaskError, match="96 pixels a side or more, not 64 x 64"):
        models.build_network(Model(name="gate", encoder="inceptionv3"), 64, 3)


def test_probabilities_stay_float32_in_lower_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = models.build_network(Model(name="unet", encoder="resnet18", gate_head=True), 32, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {head.dtype for head in network.heads.values()} == {"float32"}
    assert network.model.get_layer("mask").compute_dtype == "bfloat16"
    assert network.model.get_layer("normalize").compute_dtype == "float32"


# --- U-Net++ ---------------------------------------------------------------------------------------------

FILTERS = [32, 24, 16, 8, 4]
# Features of resnet18 at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input size.
CHANNELS = [64, 64, 128, 256, 512]


def decoder_parameters(block: str, deep: bool) -> int:
    """Number of parameters of the decoder: kernels, BatchNorms (4 per channel), and heads with bias."""

    def convolutions(inside: int, filters: int) -> int:
        first = 9 * inside * filters + 4 * filters
        return first if block == "transpose" else first + 9 * filters * filters + 4 * filters

    def enlarged(below: int, filters: int) -> tuple[int, int]:
        """Number of channels after enlarging, and of parameters."""
        return (filters, 16 * below * filters + 4 * filters) if block == "transpose" else (below, 0)

    total = 0
    for i in range(4):
        width = FILTERS[3 - i]
        for j in range(1, 5 - i):
            below = CHANNELS[i + 1] if j == 1 else FILTERS[2 - i]
            channels, cost = enlarged(below, width)
            total += cost + convolutions(channels + CHANNELS[i] + (j - 1) * width, width)
    channels, cost = enlarged(FILTERS[3], FILTERS[4])
    return total + (4 if deep else 1) * (cost + convolutions(channels, FILTERS[4]) + 9 * FILTERS[4] + 1)


@pytest.mark.parametrize("block", ["transpose", "upsampling"])
@pytest.mark.parametrize("deep", [False, True])
def test_unetpp_has_the_published_structure(block: str, deep: bool) -> None:
    config = Model(name="unetpp", encoder="resnet18", filters=FILTERS, block=block, deep_supervision=deep)
    network = models.build_network(config, 64, 3, seed=None)
    nodes = {la.name[:6]: la for la in network.model.layers if la.name.endswith("_concat")}
    assert set(nodes) == {f"node{i}{j}" for j in range(1, 5) for i in range(5 - j)}, "ten nodes"
    ends = {name: _end(network.model, name, block) for name in nodes}
    skips = dict(enumerate([*reversed(network.model.get_layer("encoder").output[:4])]))
    assert [x.shape[-1] for x in skips.values()] == CHANNELS[:4]
    encoded = network.model.get_layer("encoder")._inbound_nodes[-1].output_tensors
    for name, layer in nodes.items():
        level, column = int(name[4]), int(name[5])
        first, *earlier = layer.input
        assert {tuple(x.shape[1:3]) for x in layer.input} == {(32 >> level, 32 >> level)}
        assert len(earlier) == column, f"{name} joins all {column} earlier nodes"
        assert earlier[0] is encoded[3 - level], "the encoder's own features"
        assert all(x is ends[f"node{level}{k}"] for k, x in enumerate(earlier[1:], 1))
        below = encoded[4 if level == 3 else 2 - level] if column == 1 else ends[f"node{level + 1}{column - 1}"]
        assert network.model.get_layer(f"{name}_up").input is below
        assert first.shape[-1] == (FILTERS[3 - level] if block == "transpose" else below.shape[-1])
    assert network.model.count_params() - network.packaged_encoder.count_params() == decoder_parameters(block, deep)


def _end(model: Any, node: str, block: str) -> Any:
    return model.get_layer(f"{node}_{'a' if block == 'transpose' else 'b'}_relu").output


def test_deep_supervision_predicts_the_mean_of_the_heads(built) -> None:
    network = built["unetpp"]
    all_heads = keras.Model(network.model.input, list(network.heads.values()))
    outputs = all_heads.predict_on_batch(steps.batch("unetpp")[0])
    assert steps.outputs("unetpp", network.model) == pytest.approx(np.mean(outputs, axis=0), abs=1e-6)
    assert np.std(outputs, axis=0).max() > 0


# --- initial weights -------------------------------------------------------------------------------------


def test_weights_depend_on_the_seed_alone() -> None:
    model = models.build_network(Model(name="gate", encoder="mobilenetv2"), 32, 3).model
    first, again, other = (models.draw_initial_weights(model, seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    for variable, value in zip(model.variables, first, strict=True):
        assert value.shape == tuple(variable.shape)
        assert value.dtype == keras.backend.standardize_dtype(variable.dtype)
    models.assign_variables(model, first)
    assert all((np.asarray(v) == value).all() for v, value in zip(model.variables, first, strict=True))


INITIALIZERS = [
    keras.initializers.GlorotUniform(),
    keras.initializers.HeNormal(),
    keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
    keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal"),
    keras.initializers.VarianceScaling(1 / 3, "fan_out", "uniform"),
    keras.initializers.RandomNormal(0.5, 0.1),
    keras.initializers.RandomUniform(-0.3, 0.1),
    keras.initializers.TruncatedNormal(0.2, 0.05),
    keras.initializers.Constant(0.7),
    keras.initializers.Ones(),
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
def test_values_are_distributed_as_those_of_keras(initializer: Any, kind: str) -> None:
    key = "kernel_initializer" if kind == "Conv2D" else "depthwise_initializer"
    given: dict[str, Any] = {key: initializer} | ({"filters": 96} if kind == "Conv2D" else {"depth_multiplier": 60})
    model = keras.Sequential([keras.Input((8, 8, 40)), getattr(keras.layers, kind)(kernel_size=3, **given)])
    drawn, expected = models.draw_initial_weights(model, 0)[0], np.asarray(initializer(model.variables[0].shape))
    deviation = float(expected.std())
    assert float(drawn.mean()) == pytest.approx(float(expected.mean()), abs=0.03 * deviation + 1e-6)
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.03, abs=1e-6)
    # The extremes of uniform and truncated distributions are fixed; those of a normal one vary a little.
    assert float(np.abs(drawn).max()) == pytest.approx(float(np.abs(expected).max()), rel=0.35)


# --- all encoders ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("encoder", get_args(Encoder))
def test_every_encoder_builds_with_a_decoder(encoder: str) -> None:
    size = max(64, ENCODERS[encoder].family.smallest)
    network = models.build_network(Model(name="unet", encoder=encoder, filters=[16, 16, 8, 8, 4]), size, 3)
    sides = [x.shape[1] for x in network.encoder.outputs]
    has_half = 2 in ENCODERS[encoder].family.strides
    assert sides == [size // 16, size // 8, size // 4, *([size // 2] if has_half else []), size // 32]
    assert not [la for la in network.encoder.layers if isinstance(la, keras.layers.Lambda)]
    out = np.asarray(network.model(np.zeros((1, size, size, 3), np.uint8)))
    assert np.isfinite(out).all()
    keras.backend.clear_session()
