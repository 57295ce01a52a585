"""A training that was killed goes on as if it had not been: the same weights to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask import quiet

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.training import state  # noqa: E402

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = (X.sum(axis=1, keepdims=True) > 0).astype(np.float32)


def model(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dropout(0.3),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    optimizer = keras.optimizers.Nadam(0.05)
    optimizer.build(built.trainable_variables)
    built.compile(optimizer, "binary_crossentropy")
    return built


def epoch(one: keras.Model) -> None:
    one.fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def test_going_on_from_a_file_equals_never_having_stopped(tmp_path: Path) -> None:
    whole = model()
    for number in range(4):
        epoch(whole)
        if number == 1:
            state.save(tmp_path, whole, number, {"best": 0.5, "best_epoch": 1})
            kept = whole.get_weights()
    other = model(seed=9)
    assert state.load(tmp_path, other) == (2, {"best": 0.5, "best_epoch": 1})
    epoch(other)
    epoch(other)
    for one, two in zip(whole.get_weights(), other.get_weights(), strict=True):
        assert (one == two).all()

    state.load_best(tmp_path, other, 1)
    assert all((one == two).all() for one, two in zip(kept, other.get_weights(), strict=True))


def test_the_last_two_are_kept_with_their_bests(tmp_path: Path) -> None:
    one = model()
    for number, best in enumerate((0, 1, 2, 2, 4)):
        state.save(tmp_path, one, number, {"best_epoch": best})
    names = ["best-0002.h5", "best-0004.h5", "epoch-0003.h5", "epoch-0004.h5"]
    assert [p.name for p in sorted(tmp_path.iterdir())] == names


def test_a_damaged_state_is_passed_over_and_its_best_forgotten(tmp_path: Path) -> None:
    one = model()
    for number in range(3):
        state.save(tmp_path, one, number, {"best_epoch": number})
    (tmp_path / "epoch-0002.h5").write_bytes(b"cut short")
    assert state.load(tmp_path, model(5)) == (2, {"best_epoch": 1})
    assert not (tmp_path / "best-0002.h5").exists()
    state.load_best(tmp_path, one, 1)


def test_without_a_state_it_starts_anew(tmp_path: Path) -> None:
    assert state.load(tmp_path, model()) is None
