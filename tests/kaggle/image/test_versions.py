"""Weights and states cross between our versions of the packages and those of Kaggle's images, both ways.

The environments are .venv and .venv-kaggle; `make test-kaggle` makes the second. As a script, in one of them:

    python -m tests.kaggle.image.test_versions write FOLDER         trains a step, writes weights, predictions, a state
    python -m tests.kaggle.image.test_versions read FOLDER NOTES    reads them into networks of another seed, notes it
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
HOME, KAGGLE = ".venv", ".venv-kaggle"
NAMES = ["gate", "unet"]  # efficientnetb0, and resnet18 with a gate's head: of tests/builders/steps.py, 32 px
Place = tuple[str, str]  # an environment and Keras's backend

# From where, to where, and why this happens.
WAYS: list[tuple[Place, Place]] = [
    ((HOME, "tensorflow"), (KAGGLE, "tensorflow")),  # trained at home, submitted from a GPU kernel
    ((KAGGLE, "tensorflow"), (HOME, "tensorflow")),  # trained on Kaggle's GPU, tuned at home
    ((KAGGLE, "jax"), (HOME, "tensorflow")),  # trained on Kaggle's TPU, tuned at home
    ((HOME, "tensorflow"), (KAGGLE, "jax")),  # gone on with on a TPU
]


def python(environment: str) -> Path:
    return ROOT / environment / "bin" / "python"


pytestmark = [
    pytest.mark.integration,
    *(
        pytest.mark.skipif(not (ROOT / name / "bin" / "python").exists(), reason=f"no {name}: run make test-kaggle")
        for name in (HOME, KAGGLE)
    ),
]


def started(place: Place, *arguments: object) -> subprocess.Popen[str]:
    environment, backend = place
    # Without optimising: what matters is what arrives, not how fast.
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


def finished(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Place, Path]:
    """The folder that each place wrote."""
    folders = {start: tmp_path_factory.mktemp("-".join(start).strip(".")) for start, _ in WAYS}
    for process in [started(place, "write", folder) for place, folder in folders.items()]:
        finished(process)
    return folders


@pytest.fixture(scope="module")
def crossed(written: dict[Place, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Place, Place], Any]:
    """What arrived, for each way."""
    folder = tmp_path_factory.mktemp("notes")
    notes = {way: folder / f"{number}.json" for number, way in enumerate(WAYS)}
    for process in [started(way[1], "read", written[way[0]], note) for way, note in notes.items()]:
        finished(process)
    return {way: json.loads(note.read_text()) for way, note in notes.items()}


def named(way: tuple[Place, Place]) -> str:
    return " to ".join(" ".join(place) for place in way)


def test_the_environments_are_really_two(written: dict[Place, Path]) -> None:
    versions = {place: json.loads((folder / "versions.json").read_text()) for place, folder in written.items()}
    assert {(name, found["keras"]) for (name, _), found in versions.items()} == {(HOME, "3.15.1"), (KAGGLE, "3.13.2")}
    assert {(name, found["h5py"]) for (name, _), found in versions.items()} == {(HOME, "3.14.0"), (KAGGLE, "3.16.0")}
    assert {place: found["backend"] for place, found in versions.items()} == {place: place[1] for place in versions}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS, ids=named)
def test_weights_arrive_bit_for_bit_and_predict_the_same(crossed: Any, way: tuple[Place, Place], name: str) -> None:
    found = crossed[way][name]
    assert found["different_before"] > 0.5 * found["weights"]
    assert found["different"] == 0
    assert found["spread"] > 1e-4  # not the same for every image
    assert found["apart"] <= (1e-6 if way[0][1] == way[1][1] else 0.01 * found["spread"])


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_a_training_goes_on_from_the_state_of_other_versions(crossed: Any, way: tuple[Place, Place]) -> None:
    found = crossed[way]["state"]
    assert found["progress"] == 1
    assert found["different_before"] > 0
    assert found["different"] == 0
    assert found["next_loss"] == pytest.approx(found["their_next_loss"], rel=1e-3)


# --- in the other process -----------------------------------------------------------------------------------------


def trainable(network: Any) -> Any:
    """The U-Net as training compiles it, moving averages and all."""
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


def liven(model: Any) -> None:
    """Untrained, so deep a network lets its images die away, and says the same of each; so its signals are raised."""
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
            liven(network.model)
        model = trainable(network) if name == "unet" else None
        if model is not None:
            one_step(model)
        write_with(folder / name / "best.weights.h5", network.model.save_weights)
        np.save(folder / f"{name}.npy", steps.outputs(name, network.model))
        np.savez(folder / f"{name}.npz", *map(np.asarray, network.model.weights))
        if model is not None:
            state.save_state(folder / "state", model, state.Progress(batch=steps.BATCH, epoch=1, scores=(0.5,)))
            (folder / "next.json").write_text(json.dumps(one_step(model)))
    versions = {"keras": keras.__version__, "h5py": h5py.__version__, "backend": keras.backend.backend()}
    (folder / "versions.json").write_text(json.dumps(versions))


def read(folder: Path, notes: Path) -> None:
    from gatemask.training import state
    from tests.builders import steps

    found: dict[str, Any] = {}
    for name in NAMES:
        network = steps.build(name, seed=2)
        theirs = [value for _, value in sorted(np.load(folder / f"{name}.npz").items(), key=lambda i: int(i[0][4:]))]
        before = different(network.model.weights, theirs)
        network.model.load_weights(folder / name / "best.weights.h5")
        outputs, expected = steps.outputs(name, network.model), np.load(folder / f"{name}.npy")
        found[name] = {
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
    found["state"] = {
        "progress": progress.epoch,
        "different_before": before,
        "different": sum(different(after[group], arrays[group]) for group in arrays),
        "next_loss": one_step(model),
        "their_next_loss": json.loads((folder / "next.json").read_text()),
    }
    notes.write_text(json.dumps(found))


def different(some: Any, others: Any) -> int:
    """How many arrays differ in any bit, or in their shapes."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(some, others, strict=True)]
    return sum(int(a.shape != b.shape or bool((a != b).any())) for a, b in pairs)


if __name__ == "__main__":
    from gatemask import quiet

    quiet.tensorflow()
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
