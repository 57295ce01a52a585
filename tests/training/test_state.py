"""A killed training resumes with the same weights to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask import quiet

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.training import state  # noqa: E402
from gatemask.training.state import Progress  # noqa: E402

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = (X.sum(axis=1, keepdims=True) > 0).astype(np.float32)


def model(seed: int = 0, **options: object) -> keras.Model:
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
    optimizer = keras.optimizers.Nadam(0.05, **options)
    optimizer.build(built.trainable_variables)
    built.compile(optimizer, "binary_crossentropy")
    return built


def train_epoch(trained: keras.Model) -> None:
    trained.fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def weights(trained: keras.Model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in trained.get_weights()])


def progress_at(epoch: int, step: int = 0, best: tuple[tuple[float, int], ...] = ()) -> Progress:
    return Progress(batch=8, epoch=epoch, step=step, scores=(0.5,) * epoch, best=best)


@pytest.mark.integration
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    uninterrupted = model()
    for _ in range(4):
        train_epoch(uninterrupted)
    first = model()
    train_epoch(first)
    train_epoch(first)
    state.save_state(tmp_path, first, progress_at(2))
    second = model(seed=7)
    arrays, progress = state.load_state(tmp_path)
    assert progress == progress_at(2)
    state.restore(second, arrays)
    train_epoch(second)
    train_epoch(second)
    assert (weights(second) == weights(uninterrupted)).all()


def test_two_states_are_kept_with_the_best_weights_they_list(tmp_path: Path) -> None:
    trained = model()
    bests = [((0.1, 0),), ((0.3, 1), (0.1, 0)), ((0.3, 1), (0.2, 2)), ((0.4, 3), (0.3, 1))]
    for number, best in enumerate(bests):
        if number in {e for _, e in best}:
            state.save_best_weights(tmp_path, trained.weights, number)
        state.save_state(tmp_path, trained, progress_at(number + 1, best=best))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["at-0003-00000.h5", "at-0004-00000.h5", "best-0001.h5", "best-0002.h5", "best-0003.h5"]


def test_a_state_in_the_middle_of_an_epoch_is_newer_than_its_beginning(tmp_path: Path) -> None:
    trained = model()
    state.save_state(tmp_path, trained, progress_at(1))
    state.save_state(tmp_path, trained, progress_at(1, step=20))
    assert state.load_state(tmp_path)[1].step == 20


def test_a_damaged_state_is_skipped_and_its_best_weights_are_removed(tmp_path: Path) -> None:
    trained = model()
    for number in range(3):
        state.save_best_weights(tmp_path, trained.weights, number)
        state.save_state(tmp_path, trained, progress_at(number + 1, best=((0.5, number), (0.4, max(0, number - 1)))))
    (tmp_path / "at-0003-00000.h5").write_bytes(b"cut short")
    assert state.load_state(tmp_path)[1].epoch == 2
    assert not (tmp_path / "best-0002.h5").exists()
    assert state.average_best_weights(tmp_path, [1])


def test_without_a_state_nothing_is_loaded(tmp_path: Path) -> None:
    assert state.load_state(tmp_path) is None


@pytest.mark.integration
def test_the_best_epochs_are_averaged(tmp_path: Path) -> None:
    trained = model()
    saved = []
    for number in range(3):
        train_epoch(trained)
        saved.append([np.array(w) for w in trained.weights])
        state.save_best_weights(tmp_path, trained.weights, number)
    mean = state.average_best_weights(tmp_path, [0, 2])
    for got, first, last in zip(mean, saved[0], saved[2], strict=True):
        assert got.dtype == first.dtype
        assert got == pytest.approx((first.astype(float) + last) / 2, abs=1e-7)
    assert all((a == b).all() for a, b in zip(state.average_best_weights(tmp_path, [1]), saved[1], strict=True))


def test_moving_averages_replace_the_weights_only_inside_the_block(tmp_path: Path) -> None:
    trained = model(use_ema=True, ema_momentum=0.5)
    trained.optimizer.finalize_variable_values = lambda _: None  # as builders.optimizers does
    by_hand = None
    for _ in range(3):
        trained.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
        now = np.array(trained.trainable_variables[0])
        by_hand = now if by_hand is None else 0.5 * by_hand + 0.5 * now
    before = weights(trained)
    with state.averaged(trained):
        assert np.array(trained.trainable_variables[0]) == pytest.approx(by_hand, abs=1e-6)
        assert (weights(trained) != before).any()
    assert (weights(trained) == before).all()
