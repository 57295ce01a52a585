"""What an epoch shows: shares as asked for, the same for the same seed, in threads that end."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import cv2
import numpy as np
import pytest

from gatemask.config import Experiment, Runtime, Sampling
from gatemask.data.readers import resize_image
from gatemask.data.records import Example
from gatemask.errors import GatemaskError
from gatemask.input import pipeline
from gatemask.input.decoding import Decoder, available_memory, shared_decoder
from gatemask.input.pipeline import (
    epoch_order,
    evaluation_batches,
    evaluation_dataset,
    original_errors,
    training_batches,
)
from gatemask.input.sampling import sample_epoch

LABELS = np.array([1] * 20 + [0] * 80)


@pytest.mark.parametrize(
    ("sampling", "epoch", "count", "share"),
    [
        (Sampling(), 0, 100, 0.2),
        (Sampling(drop_negatives=0.5), 0, 60, 1 / 3),
        (Sampling(positives=1.0), 0, 20, 1.0),
        (Sampling(positives=0.5), 3, 40, 0.5),
        (Sampling(positives=(0.8, 0.4)), 0, 25, 0.8),
        (Sampling(positives=(0.8, 0.4)), 9, 50, 0.4),
        (Sampling(positives=0.5, epoch=200), 0, 200, 0.5),
        (Sampling(epoch=30), 0, 30, None),
    ],
)
def test_shares_of_positives(sampling: Sampling, epoch: int, count: int, share: float | None) -> None:
    chosen = sample_epoch(LABELS, sampling, epoch, 10, np.random.default_rng(0))
    assert len(chosen) == count
    if share is not None:
        assert LABELS[chosen].mean() == pytest.approx(share, abs=0.02)
    if count <= 100:
        assert len(set(chosen)) == count, "nothing comes twice before everything came once"


def test_a_share_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(GatemaskError, match="cannot be met"):
        sample_epoch(np.zeros(9, int), Sampling(positives=0.5), 0, 1, np.random.default_rng(0))


def square(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((size, size, 1), np.uint8)
    image[8:24, 32:56] = 200
    return image, (image[:, :, 0] > 0).astype(np.uint8) * 255


def examples(count: int) -> list[Example]:
    image, mask = (cv2.imencode(".png", array)[1].tobytes() for array in square())
    return [Example(f"i{n}", image, mask, int(n % 4 == 0)) for n in range(count)]


def experiment(task: str, **more: object) -> Experiment:
    model = {"gate": "gate", "mask": "unet"}[task]
    return Experiment.model_validate(
        {
            "name": "e",
            "task": task,
            "model": {"name": model, "encoder": "efficientnetb0"},
            "input": {"size": 32},
            "loss": {"bce": 1},
            "epochs": 2,
            "augment": ["hflip", "affine"],
            "runtime": {"workers": 3},
            **more,
        }
    )


def epoch(
    exp: Experiment, of: list[Example], batch: int = 4, number: int = 0, seed: int = 5, leg: tuple = ()
) -> list[tuple[np.ndarray, ...]]:
    order = epoch_order(of, exp, batch, number, seed)
    found = training_batches(of, exp, 1, order, batch, number, seed, *leg)
    return [tuple(map(np.array, pair)) for pair in found]


def same(one: list[tuple[np.ndarray, ...]], two: list[tuple[np.ndarray, ...]]) -> bool:
    pairs = [pair for a, b in zip(one, two, strict=True) for pair in zip(a, b, strict=True)]
    return all((x == y).all() for x, y in pairs)


MIXING = ["hflip", {"affine": {"rotate": 9}}, {"mixup": {"p": 0.5}}, {"cutmix": {"p": 0.5}}]


@pytest.mark.parametrize(("task", "steps"), [("mask", ["hflip", "affine", "zoom_to_mask"]), ("gate", MIXING)])
def test_batches_have_static_shapes_and_repeat_by_seed_and_epoch(task: str, steps: list) -> None:
    exp, of = experiment(task, augment=steps), examples(30)
    one = epoch(exp, of)
    targets = ((4, 1), np.float32) if task == "gate" else ((4, 32, 32, 1), np.uint8)
    assert [(images.shape, images.dtype) for images, _ in one] == [((4, 32, 32, 1), np.uint8)] * 7
    assert {(target.shape, target.dtype.type) for _, target in one} == {targets}
    assert same(one, epoch(exp, of))
    assert same(one, epoch(exp.model_copy(update={"runtime": Runtime(workers=1)}), of)), "however many threads"
    assert not same(one, epoch(exp, of, number=1))
    assert not same(one, epoch(exp, of, seed=6))


def test_an_epoch_in_legs_is_the_epoch() -> None:
    exp, of = experiment("gate", augment=MIXING), examples(30)
    whole = epoch(exp, of)
    assert same(whole, epoch(exp, of, leg=(0, 3)) + epoch(exp, of, leg=(3, 4)) + epoch(exp, of, leg=(4, None)))
    order = epoch_order(of, exp, 4, 0, 5)
    dataset = training_batches(of, exp, 1, order, 4, 0, 5, 2, 5)
    assert int(dataset.cardinality()) == 3
    assert all(spec.shape.is_fully_defined() for spec in dataset.element_spec)


def test_what_is_kept_decoded_changes_nothing() -> None:
    exp, of = experiment("mask"), examples(12)
    first = epoch(exp, of)
    kept = shared_decoder(1, 32)
    assert kept.used > 0
    assert same(first, epoch(exp, of))
    kept.forget()
    kept.limit = 0
    assert same(first, epoch(exp, of))
    assert kept.used == 0
    assert shared_decoder(1, 64) is not kept, "another size, another decoder"


def test_what_is_kept_has_a_limit() -> None:
    kept = Decoder(1, 64, limit=3 * 64 * 64)
    of = [one._replace(image=one.image + b"%d" % n) for n, one in enumerate(examples(9))]
    for _ in range(2):
        for one in of:
            assert kept.load(one, False).image.shape == (64, 64, 1)
    assert 0 < kept.used <= kept.limit


def test_copies_of_an_image_keep_masks_of_their_own() -> None:
    one = examples(1)[0]
    other = one._replace(mask=cv2.imencode(".png", square()[1].T)[1].tobytes())
    kept = Decoder(1, 64, limit=1e9)
    first, second = (kept.load(example, True).mask for example in (one, other))
    assert first is not None
    assert second is not None
    assert np.array_equal(second, first.T)
    assert kept.load(one, False).mask is None


def test_masks_of_empty_images_are_not_decoded() -> None:
    of = [one._replace(mask=one.mask if one.label else b"no picture") for one in examples(8)]
    targets = np.concatenate([target for _, target in epoch(experiment("mask"), of)])
    assert targets.any((1, 2, 3)).sum() == 2


def test_fewer_images_than_a_batch_are_repeated() -> None:
    found = epoch(experiment("gate"), examples(3), batch=8)
    assert [target.shape for _, target in found] == [(8, 1)]


def test_an_order_is_of_whole_batches() -> None:
    assert len(epoch_order(examples(30), experiment("gate"), 8, 0, 0)) == 24
    with pytest.raises(GatemaskError, match="nothing to train on"):
        epoch_order([], experiment("gate"), 8, 0, 0)


def test_evaluation_shows_each_image_once_and_pads_with_weight_0() -> None:
    found = list(evaluation_batches(examples(10), experiment("gate"), 1, 4))
    assert [images.shape[0] for images, _, _ in found] == [4, 4, 4]
    weights = np.concatenate([weights for _, _, weights in found])
    assert weights.tolist() == [1] * 10 + [0, 0]
    targets = np.concatenate([targets for _, targets, _ in found])[:, 0]
    assert targets.dtype == np.float32
    assert targets[weights > 0].tolist() == [e.label for e in examples(10)]


def test_evaluation_resizes_and_does_nothing_else() -> None:
    image, mask = square()
    for images, targets, _ in evaluation_dataset(examples(4), experiment("mask"), 1, 4):
        assert (np.array(images)[0] == resize_image(image, 32)).all()
        assert (np.array(targets)[0, :, :, 0] == (resize_image(mask[..., None], 32)[..., 0] >= 128)).all()
        assert not np.array(targets)[1].any()


@pytest.mark.parametrize("task", ["gate", "mask"])
def test_a_damaged_record_names_its_image(task: str) -> None:
    of = examples(12)
    of[4] = of[4]._replace(**{"gate": {"image": b"x"}, "mask": {"mask": b"x"}}[task])
    exp = experiment(task)
    with pytest.raises(GatemaskError, match="i4") as caught:
        list(evaluation_batches(of, exp, 1, 4))
    assert "records check" in str(caught.value)
    with pytest.raises(GatemaskError, match="i4"), original_errors():
        epoch(exp, of)
    with pytest.raises(ValueError, match="mine"), original_errors():
        raise ValueError("mine")


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gatemask-input")]


def test_nothing_is_left_of_an_epoch_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref] = []

    def watched(*arguments: object) -> pipeline.RecordSource:
        made = record_source(*arguments)
        seen.append(weakref.ref(made))
        return made

    record_source = pipeline.record_source
    monkeypatch.setattr(pipeline, "record_source", watched)
    for number in range(3):
        epoch(experiment("mask"), examples(12), number=number)
    gc.collect()
    assert [one() for one in seen] == [None] * 3


def test_threads_end_with_their_epoch() -> None:
    exp, of = experiment("mask"), examples(40)
    order, before = epoch_order(of, exp, 4, 0, 0), cv2.getNumThreads()
    for number in range(30):
        # Now and then somebody leaves in the middle: a failure, or a stop for time.
        for _ in training_batches(of, exp, 1, order, 4, number, 0, 0, 3).take(1 if number % 10 == 0 else 3):
            pass
    for _ in evaluation_dataset(of, exp, 1, 4).take(2):
        pass
    batches = evaluation_batches(of, exp, 1, 4)
    next(batches)
    assert len(readers()) <= 2 * 3
    batches.close()
    gc.collect()
    deadline = time.monotonic() + 20
    while readers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert readers() == []
    assert cv2.getNumThreads() == before


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 0 <= available_memory() < 2**50
