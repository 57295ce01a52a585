"""Weights and states are exchanged between our package versions and those of Kaggle's images, both ways.

The environments are .venv and .venv-kaggle; `make test-kaggle` creates the second. As a script, in one of them:

    python -m tests.kaggle.image.test_versions write FOLDER         train a step; write weights, predictions, a state
    python -m tests.kaggle.image.test_versions read FOLDER NOTES    read them into networks of another seed; take notes
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCAL, KAGGLE = ".venv", ".venv-kaggle"
NAMES = ["gate", "unet"]  # efficientnetb0, and resnet18 with a gate's head: of tests/builders/steps.py, 32 px
Place = tuple[str, str]  # environment and Keras backend

# Writer, reader, and the use of this pair.
PAIRS: list[tuple[Place, Place]] = [
    ((LOCAL, "tensorflow"), (KAGGLE, "tensorflow")),  # trained locally, submitted from a GPU kernel
    ((KAGGLE, "tensorflow"), (LOCAL, "tensorflow")),  # trained on Kaggle's GPU, tuned locally
    ((KAGGLE, "jax"), (LOCAL, "tensorflow")),  # trained on Kaggle's TPU, tuned locally
    ((LOCAL, "tensorflow"), (KAGGLE, "jax")),  # continued on a TPU
]


def python(environment: str) -> Path:
    return ROOT / environment / "bin" / "python"


pytestmark = [
    pytest.mark.integration,
    *(
        pytest.mark.skipif(not (ROOT / name / "bin" / "python").exists(), reason=f"no {name}: run make test-kaggle")
        for name in (LOCAL, KAGGLE)
    ),
]


def start(place: Place, *arguments: object) -> subprocess.Popen[str]:
    environment, backend = place
    # Without optimization, since speed does not matter here.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [str(python(environment)), "-m", "tests.kaggle.image.test_versions", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **quiet, "KERAS_BACKEND": backend, "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Place, Path]:
    """Folder that each place wrote, by place."""
    folders = {writer: tmp_path_factory.mktemp("-".join(writer).strip(".")) for writer, _ in PAIRS}
    for process in [start(place, "write", folder) for place, folder in folders.items()]:
        finish(process)
    return folders


@pytest.fixture(scope="module")
def exchanged(written: dict[Place, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Place, Place], Any]:
    """Notes of each reader, by pair."""
    folder = tmp_path_factory.mktemp("notes")
    notes = {pair: folder / f"{number}.json" for number, pair in enumerate(PAIRS)}
    for process in [start(pair[1], "read", written[pair[0]], note) for pair, note in notes.items()]:
        finish(process)
    return {pair: json.loads(note.read_text()) for pair, note in notes.items()}


def pair_name(pair: tuple[Place, Place]) -> str:
    return " to ".join(" ".join(place) for place in pair)


def test_environments_have_different_versions(written: dict[Place, Path]) -> None:
    versions = {place: json.loads((folder / "versions.json").read_text()) for place, folder in written.items()}
    assert {(name, version["keras"]) for (name, _), version in versions.items()} == {
        (LOCAL, "3.15.1"),
        (KAGGLE, "3.13.2"),
    }
    assert {(name, version["h5py"]) for (name, _), version in versions.items()} == {
        (LOCAL, "3.14.0"),
        (KAGGLE, "3.16.0"),
    }
    assert {place: version["backend"] for place, version in versions.items()} == {place: place[1] for place in versions}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pair", PAIRS, ids=pair_name)
def test_weights_are_read_exactly_and_predict_the_same(exchanged: Any, pair: tuple[Place, Place], name: str) -> None:
    notes = exchanged[pair][name]
    assert notes["different_before"] > 0.5 * notes["weights"]
    assert notes["different"] == 0
    assert notes["spread"] > 1e-4  # predictions differ between images
    assert notes["apart"] <= (1e-6 if pair[0][1] == pair[1][1] else 0.01 * notes["spread"])


@pytest.mark.parametrize("pair", PAIRS, ids=pair_name)
def test_training_continues_from_the_state_of_other_versions(exchanged: Any, pair: tuple[Place, Place]) -> None:
    notes = exchanged[pair]["state"]
    assert notes["progress"] == 1
    assert notes["different_before"] > 0
    assert notes["different"] == 0
    assert notes["next_loss"] == pytest.approx(notes["their_next_loss"], rel=1e-3)


# --- in the other process -----------------------------------------------------------------------------------------


def trainable(network: Any) -> Any:
    """Return the U-Net as training compiles it, moving averages included."""
    from gatemask.builders import optimizers, step
    from tests.builders import steps

    exp = steps.experiment("unet")
    model = step.training_model(network, exp)
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    return model


def one_step(model: Any) -> float:
    from tests.builders import steps

    images, truth, weights = steps.batch("unet")
    fitted = model.fit(images, truth, sample_weight=weights, batch_size=steps.BATCH, verbose=0)
    return float(fitted.history["loss"][0])


def amplify(model: Any) -> None:
    """Raise the signals of an untrained network, which is so deep that its predictions hardly depend on the image."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(rng.uniform(0.4, 0.8, weight.shape).astype(np.float32))


def write(folder: Path) -> None:
    import h5py
    import keras

    from gatemask.files import write_with
    from gatemask.training import state
    from tests.builders import steps

    for name in NAMES:
        network = steps.build(name, seed=1)
        steps.perturb_statistics(network.model)
        if name == "gate":
            amplify(network.model)
        model = trainable(network) if name == "unet" else None
        if model is not None:
            one_step(model)
        write_with(folder / name / "best.weights.h5", network.model.save_weights)
        np.save(folder / f"{name}.npy", steps.outputs(name, network.model))
        np.savez(folder / f"{name}.npz", *map(np.asarray, network.model.weights))
        if model is not None:
            state.save_state(folder / "state", model, state.Progress(batch=steps.BATCH, epoch=1, rows=({"epoch": 0},)))
            (folder / "next.json").write_text(json.dumps(one_step(model)))
    versions = {"keras": keras.__version__, "h5py": h5py.__version__, "backend": keras.backend.backend()}
    (folder / "versions.json").write_text(json.dumps(versions))


def read(folder: Path, notes: Path) -> None:
    from gatemask.training import state
    from tests.builders import steps

    results: dict[str, Any] = {}
    for name in NAMES:
        network = steps.build(name, seed=2)
        theirs = [value for _, value in sorted(np.load(folder / f"{name}.npz").items(), key=lambda i: int(i[0][4:]))]
        before = different(network.model.weights, theirs)
        network.model.load_weights(folder / name / "best.weights.h5")
        outputs, expected = steps.outputs(name, network.model), np.load(folder / f"{name}.npy")
        results[name] = {
            "weights": len(theirs),
            "different_before": before,
            "different": different(network.model.weights, theirs),
            "apart": float(np.abs(outputs - expected).max()),
            "spread": float(expected.std(axis=0).max()),
        }
    loaded = state.load_state(folder / "state")
    assert loaded is not None
    arrays, progress = loaded
    model = trainable(steps.build("unet", seed=3))
    mine = state.snapshot(model)
    before = sum(different(mine[group], arrays[group]) for group in arrays)
    state.restore(model, arrays)
    after = state.snapshot(model)
    results["state"] = {
        "progress": progress.epoch,
        "different_before": before,
        "different": sum(different(after[group], arrays[group]) for group in arrays),
        "next_loss": one_step(model),
        "their_next_loss": json.loads((folder / "next.json").read_text()),
    }
    notes.write_text(json.dumps(results))


def different(some: Any, others: Any) -> int:
    """Return the number of arrays that differ in any bit or in shape."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(some, others, strict=True)]
    return sum(int(a.shape != b.shape or bool((a != b).any())) for a, b in pairs)


if __name__ == "__main__":
    from gatemask import quiet

    quiet.tensorflow()
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
