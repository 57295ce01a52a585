"""Encoder weights are found, downloaded from a local server, rejected if damaged or unfit, and loaded."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gatemask import quiet
from gatemask.builders import encoder_weights
from gatemask.config import ENCODERS, Model, PublishedWeights
from gatemask.errors import GatemaskError

sys.path.insert(0, str(Path(__file__).parent))
quiet.tensorflow()
keras = pytest.importorskip("keras")

import legacy  # noqa: E402

from gatemask.builders import applications, bridge, models  # noqa: E402
from tests.conftest import slow  # noqa: E402

HERE = Path(__file__).parent
CONTENT = b"as if these were weights"


def config(encoder: str = "resnet18", weights: str = "none", name: str = "gate", **options: Any) -> Model:
    return Model(name=name, encoder=encoder, weights=weights, **options)


# --- finding ---------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its own home folder, Kaggle inputs and published files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GATEMASK_WEIGHTS", raising=False)
    monkeypatch.setattr(encoder_weights, "KAGGLE_INPUT", tmp_path / "kaggle")
    digest = hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(
        ENCODERS["resnet18"].weights, "imagenet", PublishedWeights("r.h5", "http://127.0.0.1:9/", digest)
    )
    return tmp_path / "project"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_folders_are_searched_in_order(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        put(tmp_path / "kaggle" / "some-dataset" / "deep" / "r.h5"),
        put(tmp_path / "home" / ".keras" / "models" / "r.h5"),
        put(project / "data" / "weights" / "r.h5"),
        put(tmp_path / "two" / "r.h5"),
        put(tmp_path / "one" / "r.h5"),
    ]
    monkeypatch.setenv("GATEMASK_WEIGHTS", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    for expected in reversed(places):
        assert encoder_weights.find_weights_file(config(weights="imagenet"), project) == expected
        expected.unlink()


def test_none_and_a_run_name_no_file(project: Path) -> None:
    assert encoder_weights.find_weights_file(config(), project) is None
    assert encoder_weights.find_weights_file(config(weights="run:other"), project) is None
    assert encoder_weights.find_weights_file(config(weights="imagenet"), project, download=False) is None


def test_a_damaged_file_is_rejected(project: Path) -> None:
    path = put(project / "data" / "weights" / "r.h5", CONTENT[:-1])
    with pytest.raises(GatemaskError, match="damaged") as caught:
        encoder_weights.find_weights_file(config(weights="imagenet"), project)
    assert str(path) in str(caught.value)


def test_a_failed_download_lists_the_searched_folders(project: Path, tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="cannot be downloaded") as caught:
        encoder_weights.find_weights_file(config(weights="imagenet"), project)
    for part in (
        "http://127.0.0.1:9/r.h5",
        str(project / "data" / "weights"),
        "home/.keras/models",
        "attach a dataset",
    ):
        assert part in str(caught.value)
    assert list(project.rglob("*.h5")) == []


def test_a_path_may_be_relative_to_the_project_and_must_exist(project: Path) -> None:
    path = put(project / "mine.h5")
    assert encoder_weights.find_weights_file(config(weights=str(path)), project) == path
    assert encoder_weights.find_weights_file(config(weights="mine.h5"), project) == path
    with pytest.raises(GatemaskError, match="weights file does not exist"):
        encoder_weights.find_weights_file(config(weights="other.h5"), project)


@pytest.mark.integration
def test_finding_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gatemask.builders import encoder_weights;"
        "from gatemask.config import Model;"
        "assert encoder_weights.find_weights_file(Model(name='gate', encoder='resnet18'), Path('.')) is None;"
        "assert not {'keras', 'tensorflow', 'jax', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a folder that contains r.h5."""
    put(tmp_path / "served" / "r.h5")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"), **kwargs)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_verified_download_is_kept(project: Path, server: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    digest = hashlib.new(kind, CONTENT).hexdigest()
    monkeypatch.setitem(ENCODERS["resnet18"].weights, "imagenet", PublishedWeights("r.h5", server, digest))
    path = encoder_weights.find_weights_file(config(weights="imagenet"), project)
    assert path == project / "data" / "weights" / "r.h5"
    assert path.read_bytes() == CONTENT
    monkeypatch.setitem(
        ENCODERS["resnet18"].weights, "imagenet", PublishedWeights("r.h5", "http://127.0.0.1:9/", digest)
    )
    assert encoder_weights.find_weights_file(config(weights="imagenet"), project) == path, (
        "the second time without a network"
    )


def test_a_download_of_wrong_hash_is_not_kept(project: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS["resnet18"].weights, "imagenet", PublishedWeights("r.h5", server, "0" * 64))
    with pytest.raises(GatemaskError, match="not the published file"):
        encoder_weights.find_weights_file(config(weights="imagenet"), project)
    assert [path for path in project.rglob("*") if path.is_file()] == []


# --- loading ---------------------------------------------------------------------------------------------

APPLICATIONS = [name for name in ENCODERS if legacy.is_application(name)]
LEGACY = [
    "efficientnetb0",
    "efficientnetv2b0",
    "convnext_tiny",
    "resnet50v2",
]  # make test-all loads those of all encoders


@pytest.fixture(scope="module")
def legacies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with <encoder>.h5 of legacy Keras, and the features of `legacy.images` of each."""
    folder = tmp_path_factory.mktemp("legacy")
    subprocess.run([sys.executable, str(HERE / "legacy.py"), str(folder), *LEGACY], check=True, capture_output=True)
    return folder


def check_legacy(folder: Path, encoder: str) -> None:
    """Load a legacy file into a network, and compare the encoder's features with those of legacy Keras."""
    side = legacy.side(encoder)
    network = models.build_network(config(encoder), side, 3, seed=None)
    encoder_weights.load_encoder_weights(network, config(encoder), folder / f"{encoder}.h5")
    images = legacy.images(encoder)
    if legacy.is_application(encoder):
        images = models.Normalize(ENCODERS[encoder].family.normalization)(images)
    out = np.asarray(network.packaged_encoder(images, training=False))
    expected = np.load(folder / f"{encoder}.npy")
    assert np.abs(expected).max() > 0.001
    assert out == pytest.approx(expected, abs=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.integration
@pytest.mark.parametrize("encoder", LEGACY)
def test_legacy_files_give_the_same_encoder(legacies: Path, encoder: str) -> None:
    check_legacy(legacies, encoder)


@pytest.mark.integration
def test_a_file_of_another_encoder_is_rejected_by_name(legacies: Path) -> None:
    network = models.build_network(config(), 32, 3)
    before = [np.asarray(w) for w in network.model.weights]
    with pytest.raises(GatemaskError, match="weights of efficientnetb0") as caught:
        encoder_weights.load_encoder_weights(network, config(), legacies / "efficientnetb0.h5")
    assert "resnet18" in str(caught.value)
    assert all((a == np.asarray(b)).all() for a, b in zip(before, network.model.weights, strict=True))


def test_a_file_without_weights_is_rejected(tmp_path: Path) -> None:
    network = models.build_network(config(), 32, 3, seed=None)
    with pytest.raises(GatemaskError, match="do not fit the encoder"):
        encoder_weights.load_encoder_weights(network, config(), put(tmp_path / "x.h5", b"not weights"))


def encoders_equal(first: models.Network, second: models.Network) -> bool:
    pairs = zip(first.encoder.weights, second.encoder.weights, strict=True)
    return all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)


@pytest.mark.integration
def test_our_own_files_of_an_encoder_and_of_a_whole_network_load(tmp_path: Path) -> None:
    source = models.build_network(config(name="unet"), 32, 3, seed=1)
    source.encoder.save_weights(tmp_path / "alone.weights.h5")
    source.model.save_weights(tmp_path / "whole.weights.h5")
    for file in ("alone", "whole"):
        network = models.build_network(config(), 64, 3, seed=2)
        assert not encoders_equal(network, source)
        encoder_weights.load_encoder_weights(network, config(), tmp_path / f"{file}.weights.h5")
        assert encoders_equal(network, source)


@pytest.mark.integration
def test_a_run_continues_at_another_size_and_provides_its_encoder(tmp_path: Path) -> None:
    source = models.build_network(config(name="unet", gate_head=True), 32, 3, seed=1)
    path = tmp_path / "best.weights.h5"
    source.model.save_weights(path)
    larger = models.build_network(config(name="unet"), 64, 3, seed=2)
    assert encoder_weights.load_run_weights(larger, path).startswith("the whole network")
    for mine, theirs in zip(larger.model.weights, source.model.weights, strict=True):
        assert (np.asarray(mine) == np.asarray(theirs)).all()
    other = models.build_network(config(name="linknet"), 64, 3, seed=2)
    head = np.asarray(other.model.get_layer("mask").kernel)
    assert encoder_weights.load_run_weights(other, path).startswith("the encoder")
    assert encoders_equal(other, source)
    assert (np.asarray(other.model.get_layer("mask").kernel) == head).all()
    with pytest.raises(GatemaskError, match="weights of resnet18"):
        encoder_weights.load_run_weights(models.build_network(config("mobilenetv2"), 32, 3, seed=None), path)


@pytest.mark.integration
@pytest.mark.parametrize("encoder", ["resnet18", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_a_file_for_three_channels_is_inflated_for_more(tmp_path: Path, encoder: str) -> None:
    three = models.build_network(config(encoder), 32, 3, seed=1)
    three.encoder.save_weights(tmp_path / "w.weights.h5")
    networks = {n: models.build_network(config(encoder), 32, n, seed=2) for n in (4, 6)}
    for n, network in networks.items():
        loaded = encoder_weights.load_encoder_weights(network, config(encoder), tmp_path / "w.weights.h5", channels=n)
        assert f"inflated to {n}" in loaded
    for inflated, original in zip(networks[4].encoder.weights, three.encoder.weights, strict=True):
        expected = np.asarray(original)
        if inflated.shape != original.shape:
            axis = 2 if len(inflated.shape) == 4 else 0
            expected = np.concatenate([expected, np.take(expected, [0], axis)], axis) * (0.75 if axis == 2 else 1)
        np.testing.assert_allclose(np.asarray(inflated), expected, rtol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    out, expected = networks[6].packaged_encoder(np.concatenate([image, image], -1)), three.packaged_encoder(image)
    np.testing.assert_allclose(np.asarray(out), np.asarray(expected), atol=1e-3 * float(np.max(expected)))


@pytest.mark.integration
def test_a_file_of_four_channels_needs_no_inflation(tmp_path: Path) -> None:
    four, again = (models.build_network(config(), 32, 4, seed=seed) for seed in (1, 2))
    four.encoder.save_weights(tmp_path / "four.weights.h5")
    assert "inflated" not in encoder_weights.load_encoder_weights(
        again, config(), tmp_path / "four.weights.h5", channels=4
    )
    assert encoders_equal(again, four)


def test_inflation_repeats_the_channels_cyclically() -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)
    assert encoder_weights.inflate_channels(kernel, (1, 1, 5, 2))[0, 0] == pytest.approx(
        kernel[0, 0, [0, 1, 2, 0, 1]] * 0.6
    )
    assert encoder_weights.inflate_channels(np.array([1.0, 2, 3]), (4,)).tolist() == [1, 2, 3, 1]


# --- the table of published files ------------------------------------------------------------------------


def test_every_encoder_has_published_weights_and_a_count() -> None:
    counts = [encoder.parameters for encoder in ENCODERS.values()]
    assert len(set(counts)) == len(counts), "counts tell files apart"
    assert {name for name, encoder in ENCODERS.items() if "noisy-student" in encoder.weights} == {
        name for name in ENCODERS if name.startswith("efficientnetb")
    }


class FileRequested(Exception):  # noqa: N818 (not an error: it carries the request)
    pass


def check_published(encoder: str) -> None:
    """Compare a published file with the one its package requests, and the number of parameters."""
    counts = []

    def model(*args: Any, **kwargs: Any) -> Any:
        built = keras.Model(*args, **kwargs)
        counts.append(built.count_params())
        return built

    def get_file(name: str, url: str, **kwargs: Any) -> None:
        raise FileRequested(name, url, kwargs.get("file_hash") or kwargs.get("md5_hash"))

    modules = {
        **bridge.KERAS_MODULES,
        "models": SimpleNamespace(Model=model),
        "utils": SimpleNamespace(get_file=get_file),
    }
    with pytest.raises(FileRequested) as request:
        bridge.encoder_factory().get_backbone(
            encoder, input_shape=(224, 224, 3), weights="imagenet", include_top=False, **modules
        )
    mine = ENCODERS[encoder].weights["imagenet"]
    assert request.value.args == (mine.file, mine.url, mine.hash)
    assert counts == [ENCODERS[encoder].parameters]
    keras.backend.clear_session()


@pytest.mark.integration
@pytest.mark.parametrize("encoder", ["efficientnetb0", "resnet18", "mobilenetv2", "vgg16"])
def test_the_table_names_the_files_that_the_packages_request(encoder: str) -> None:
    check_published(encoder)


@pytest.mark.integration
@pytest.mark.parametrize("encoder", [name if name in LEGACY else slow(name) for name in APPLICATIONS])
def test_the_table_names_the_files_that_keras_requests(monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    from keras.src.utils import file_utils

    def get_file(name: str, url: str, file_hash: str, **_: Any) -> None:
        raise FileRequested(name, url, file_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    build = getattr(keras.applications, applications.CLASSES[encoder])
    with pytest.raises(FileRequested) as request, keras.StatelessScope(initialize_variables=False):
        build(include_top=False, input_shape=(32, 32, 3))
    mine = ENCODERS[encoder].weights["imagenet"]
    assert request.value.args == (mine.file, mine.url, mine.hash)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_table_is_correct_and_legacy_files_load_for_every_encoder(tmp_path: Path, encoder: str) -> None:
    if not legacy.is_application(encoder):
        check_published(encoder)
    else:
        assert applications.build_application(encoder, (32, 32, 3))[0].count_params() == ENCODERS[encoder].parameters
    command = [sys.executable, str(HERE / "legacy.py"), str(tmp_path), encoder]
    subprocess.run(command, check=True, capture_output=True)
    check_legacy(tmp_path, encoder)
    keras.backend.clear_session()
