"""A killed training resumes with the same weights to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask import quiet

quiet.tensorflow()
keras = pytest.importorskip("keras")

from gatemask.errors import GatemaskError  # noqa: E402
from gatemask.hdf5 import DamagedFileError, verify_hash  # noqa: E402
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
    built.compile(optimizer, "binary_crossentropy", jit_compile=False)
    return built


def train_epoch(trained: keras.Model) -> None:
    trained.fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def weights(trained: keras.Model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in trained.get_weights()])


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss": 1 / (epoch + 1), "auc": 0.5}


def progress_at(epoch: int, step: int = 0, best: tuple[int, ...] = (), run: str = "r") -> Progress:
    return Progress(batch=8, epoch=epoch, step=step, rows=tuple(map(row, range(epoch))), best=best, run=run)


def save(folder: Path, trained: keras.Model, epochs: int, keep: int = 1) -> None:
    """Save the states of some epochs; each is better than those before."""
    for number in range(epochs):
        state.save_best_weights(folder, trained.weights, number, row(number))
        best = tuple(range(number, max(-1, number - keep), -1))
        state.save_state(folder, trained, progress_at(number + 1, best=best))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
    bests = [(0,), (1, 0), (1, 2), (3, 1)]
    for number, best in enumerate(bests):
        if number in best:
            state.save_best_weights(tmp_path, trained.weights, number, row(number))
        state.save_state(tmp_path, trained, progress_at(number + 1, best=best))
    assert names(tmp_path) == ["at-0003-00000.h5", "at-0004-00000.h5", "best-0001.h5", "best-0002.h5", "best-0003.h5"]


def test_a_state_in_the_middle_of_an_epoch_is_newer_than_its_beginning(tmp_path: Path) -> None:
    trained = model()
    state.save_state(tmp_path, trained, progress_at(1))
    state.save_state(tmp_path, trained, progress_at(1, step=20))
    assert state.load_state(tmp_path)[1].step == 20


def test_a_damaged_state_is_reported_and_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, model(), 3, keep=2)
    (tmp_path / "at-0003-00000.h5").write_bytes(b"cut short")
    assert state.load_state(tmp_path)[1] == progress_at(2, best=(1, 0))
    assert names(tmp_path) == ["at-0002-00000.h5", "best-0000.h5", "best-0001.h5", "unreadable-at-0003-00000.h5"]
    assert "at-0003-00000.h5 cannot be read" in capsys.readouterr().err


def test_after_two_damaged_states_new_ones_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The damaged states have later names than the first new ones."""
    trained = model()
    save(tmp_path, trained, 3)
    for path in tmp_path.glob("at-*.h5"):
        damage(path)
    assert state.load_state(tmp_path) is None
    assert capsys.readouterr().err.count("cannot be read") == 2
    save(tmp_path, trained, 1)
    assert state.load_state(tmp_path)[1] == progress_at(1, best=(0,))


def test_a_new_state_is_never_deleted_for_a_later_name(tmp_path: Path) -> None:
    trained = model()
    for name in ("at-0007-00000.h5", "at-0008-00000.h5"):
        (tmp_path / name).write_bytes(b"?")
    save(tmp_path, trained, 2)
    assert {"at-0001-00000.h5", "at-0002-00000.h5", "best-0001.h5"} <= set(names(tmp_path))


def test_best_weights_are_kept_while_the_state_before_cannot_be_read(tmp_path: Path) -> None:
    trained = model()
    save(tmp_path, trained, 2, keep=2)
    (tmp_path / "at-0002-00000.h5").write_bytes(b"cut short")
    state.save_state(tmp_path, trained, progress_at(3, best=(0,)))
    assert {"best-0000.h5", "best-0001.h5"} <= set(names(tmp_path))


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_lost_best_weights_are_reported_and_no_longer_chosen(tmp_path: Path, how: str, capsys) -> None:
    save(tmp_path, model(), 3, keep=3)
    path = tmp_path / "best-0001.h5"
    damage(path) if how == "damaged" else path.unlink()
    assert state.load_state(tmp_path)[1].best == (2, 0)
    assert "best-0001.h5" in capsys.readouterr().err
    assert (tmp_path / "unreadable-best-0001.h5").exists() == (how == "damaged")
    with pytest.raises(GatemaskError, match="epoch 2 cannot be read"):
        state.average_best_weights(tmp_path, [0, 1])


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    tiny = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    tiny.compile("sgd", "mse")
    path = tmp_path / "at-0001-00000.h5"
    state.save_state(tmp_path, tiny, progress_at(1))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(0, 520, 8), *rng.integers(0, len(content), 100).tolist()}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(DamagedFileError):
            verify_hash(path, required=True)
    path.write_bytes(content[:-1])
    assert state.load_state(tmp_path) is None


def test_a_state_of_another_run_is_rejected(tmp_path: Path) -> None:
    trained = model()
    state.save_state(tmp_path, trained, progress_at(1, run="here"))
    assert state.load_state(tmp_path, "here")
    with pytest.raises(GatemaskError, match="belongs to another run"):
        state.load_state(tmp_path, "elsewhere")
    assert names(tmp_path) == ["at-0001-00000.h5"]


def test_a_state_holds_the_rows_of_many_epochs(tmp_path: Path) -> None:
    """HDF5 attributes end at 64 KB."""
    state.save_state(tmp_path, model(), progress_at(2000))
    loaded = state.load_state(tmp_path)[1]
    assert loaded == progress_at(2000)
    assert loaded.scores("auc") == (0.5,) * 2000


def test_kept_weights_are_copied(tmp_path: Path) -> None:
    save(tmp_path / "state", model(), 3, keep=3)
    for epochs in ([0, 1], [2, 1]):
        state.copy_weights(tmp_path / "state", tmp_path / "kept", epochs)
        assert state.kept_epochs(tmp_path / "kept") == sorted(epochs)
        assert state.read_best_rows(tmp_path / "kept", epochs) == {epoch: row(epoch) for epoch in epochs}


def test_without_a_state_nothing_is_loaded(tmp_path: Path) -> None:
    assert state.load_state(tmp_path) is None


@pytest.mark.integration
def test_the_best_epochs_are_averaged(tmp_path: Path) -> None:
    trained = model()
    saved = []
    for number in range(3):
        train_epoch(trained)
        saved.append([np.array(w) for w in trained.weights])
        state.save_best_weights(tmp_path, trained.weights, number, row(number))
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
