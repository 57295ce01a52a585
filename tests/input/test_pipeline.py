"""Epochs have the requested share of positives, repeat by seed, and leave no threads behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Literal

import cv2
import numpy as np
import pytest

from gatemask.config import Experiment, Sampling
from gatemask.data.example import Example
from gatemask.errors import GatemaskError
from gatemask.input import feeding, pipeline, threads
from gatemask.input.decoding import Decoder, MemoryCache, shared_decoder
from gatemask.input.keras_input import original_errors
from gatemask.input.layout import ONE_CLASS
from gatemask.input.pipeline import epoch_order, evaluation_batches, evaluation_dataset, training_batches
from gatemask.input.sampling import ExtraPart, offered_images, sample_epoch
from gatemask.masks.frame import resize
from gatemask.parallel import available_memory

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
        assert len(set(chosen)) == count, "nothing is repeated before everything was drawn"


def test_a_share_that_cannot_be_met_is_rejected() -> None:
    with pytest.raises(GatemaskError, match="cannot be met"):
        sample_epoch(np.zeros(9, int), Sampling(positives=0.5), 0, 1, np.random.default_rng(0))


@pytest.mark.parametrize("weight", [0.2, 0.4, 1.0, 2.5])
def test_each_image_of_a_source_is_drawn_by_its_weight(weight: float) -> None:
    extra = [ExtraPart(20, 30, weight), ExtraPart(30, 100, 1.0)]
    epochs = [offered_images(100, extra, epoch, 7) for epoch in range(20)]
    for offered in epochs:
        assert sorted(offered[:20]) == list(range(20)), "images of the competition are offered once"
        assert len(offered) == 90 + round(10 * weight)
    drawn = np.bincount(np.concatenate(epochs), minlength=100)
    assert set(drawn[20:30].tolist()) == {round(20 * weight)}
    assert set(drawn[30:].tolist()) == {20}
    assert not np.array_equal(epochs[0], offered_images(100, extra, 0, 8)), "folds draw differently"


def test_without_sources_an_epoch_is_what_it_was() -> None:
    records = examples(30)
    order = epoch_order(records, experiment("gate"), 8, 2, 5)
    labels = np.array([example.label for example in records])
    expected = sample_epoch(labels, experiment("gate").sampling, 2, experiment("gate").epochs, rng=rng_of(5, 2))
    np.testing.assert_array_equal(order, expected[:24])
    extra = [ExtraPart(20, 30, 0.5)]
    shown = [epoch_order(records, experiment("gate"), 5, epoch, 5, extra) for epoch in (0, 1)]
    assert [sorted(order[order < 20].tolist()) for order in shown] == [list(range(20))] * 2
    assert sorted(np.concatenate([order[order >= 20] for order in shown]).tolist()) == list(range(20, 30))


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


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
            "runtime": {"workers": 0},
            **more,
        }
    )


MIXING_MASKS = ["hflip", {"mixup": {"p": 0.3}}, {"cutmix": {"p": 0.5}}, {"copy_paste": {"p": 0.9, "hflip": 0.5}}]
Batches = list[tuple[np.ndarray, ...]]


def epoch_batches(
    exp: Experiment, records: list[Example], batch_size: int = 4, epoch: int = 0, seed: int = 5, leg: tuple = ()
) -> Batches:
    order = epoch_order(records, exp, batch_size, epoch, seed)
    dataset = training_batches(records, exp, ONE_CLASS, order, batch_size, epoch, seed, *leg)
    return [tuple(map(np.array, batch)) for batch in dataset]


def equal(first: Batches, second: Batches) -> bool:
    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    return all((a == b).all() for a, b in pairs)


MIXING = ["hflip", {"affine": {"rotate": 9}}, {"mixup": {"p": 0.5}}, {"cutmix": {"p": 0.5}}]


@pytest.mark.parametrize(
    ("task", "steps"), [("mask", ["hflip", "affine", "zoom_to_mask"]), ("mask", MIXING_MASKS), ("gate", MIXING)]
)
def test_batches_have_static_shapes_and_repeat_by_seed_and_epoch(
    task: str, steps: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 3)
    exp, records = experiment(task, augment=steps), examples(30)
    batches = epoch_batches(exp, records)
    targets = ((4, 1), np.float32) if task == "gate" else ((4, 32, 32, 1), np.uint8)
    assert [(images.shape, images.dtype) for images, _ in batches] == [((4, 32, 32, 1), np.uint8)] * 7
    assert {(target.shape, target.dtype.type) for _, target in batches} == {targets}
    assert equal(batches, epoch_batches(exp, records))
    monkeypatch.setattr(threads, "cores", lambda: 1)
    assert equal(batches, epoch_batches(exp, records))
    assert not equal(batches, epoch_batches(exp, records, epoch=1))
    assert not equal(batches, epoch_batches(exp, records, seed=6))


@pytest.mark.parametrize("task", ["gate", "mask"])
def test_partners_come_from_the_training_images_of_the_fold(task: str) -> None:
    """Each image has a gray of its own; validation images, with masks, lie next to those of the training."""
    images = {number: np.full((64, 64), 20 + number, np.uint8) for number in range(40)}
    mask = square()[1]
    records = [
        Example(f"i{number}", *(cv2.imencode(".png", array)[1].tobytes() for array in (image, mask)), 1)
        for number, image in images.items()
    ]
    steps = [{"cutmix": {"p": 0.5}}, {"copy_paste": {"p": 1.0}}]
    exp, training = experiment(task, augment=steps), records[::2]
    seen: set[int] = set()
    mixed: list[bool] = []
    for epoch in range(3):
        for shown, _ in epoch_batches(exp, training, epoch=epoch):
            seen |= set(np.unique(shown).tolist())
            mixed += [len(np.unique(image)) > 1 for image in shown]
    assert seen == {20 + number for number in range(0, 40, 2)}
    assert np.mean(mixed) > 0.7


def test_soft_masks_are_those_of_training_batches_alone() -> None:
    exp, records = experiment("mask", augment=["hflip", {"mixup": {"p": 1.0}}]), examples(16)
    levels = {level for _, masks in epoch_batches(exp, records) for level in np.unique(masks).tolist()}
    assert len(levels) > 2
    assert max(levels) > 100
    evaluated = [masks for _, masks, _ in evaluation_batches(records, exp, ONE_CLASS, 4)]
    assert {level for masks in evaluated for level in np.unique(masks).tolist()} == {0, 1}


def test_the_legs_of_an_epoch_add_up_to_the_epoch() -> None:
    exp, records = experiment("gate", augment=MIXING), examples(30)
    legs = [epoch_batches(exp, records, leg=leg) for leg in ((0, 3), (3, 4), (4, None))]
    assert equal(epoch_batches(exp, records), [batch for leg in legs for batch in leg])
    order = epoch_order(records, exp, 4, 0, 5)
    dataset = training_batches(records, exp, ONE_CLASS, order, 4, 0, 5, 2, 5)
    assert int(dataset.cardinality()) == 3
    assert all(spec.shape.is_fully_defined() for spec in dataset.element_spec)


def test_the_cache_changes_no_batch() -> None:
    exp, records = experiment("mask"), examples(12)
    batches = epoch_batches(exp, records)
    decoder = shared_decoder(ONE_CLASS, (32, 32))
    cache = decoder.cache
    assert isinstance(cache, MemoryCache)
    assert cache.used > 0
    assert equal(batches, epoch_batches(exp, records))
    cache.clear()
    cache.limit = 0
    assert equal(batches, epoch_batches(exp, records))
    assert cache.used == 0
    assert shared_decoder(ONE_CLASS, (64, 64)) is not decoder, "another size, another decoder"


def test_the_cache_stays_below_its_limit() -> None:
    cache = MemoryCache(3 * 64 * 64)
    decoder = Decoder(ONE_CLASS, (64, 64), cache)
    records = [record._replace(image=record.image + b"%d" % n) for n, record in enumerate(examples(9))]
    for record in [*records, *records]:
        assert decoder.decode(record, with_mask=False).image.shape == (64, 64, 1)
    assert 0 < cache.used <= cache.limit


def test_copies_of_an_image_keep_their_own_masks() -> None:
    record = examples(1)[0]
    copy = record._replace(mask=cv2.imencode(".png", square()[1].T)[1].tobytes())
    decoder = Decoder(ONE_CLASS, (64, 64), MemoryCache(1e9))
    first, second = (decoder.decode(example, with_mask=True).mask for example in (record, copy))
    assert first is not None
    assert second is not None
    assert np.array_equal(second[0], first[0].T)
    assert decoder.decode(record, with_mask=False).mask is None


def test_masks_of_empty_images_are_not_decoded() -> None:
    records = [record._replace(mask=record.mask if record.label else b"not a picture") for record in examples(8)]
    targets = np.concatenate([target for _, target in epoch_batches(experiment("mask"), records)])
    assert targets.any((1, 2, 3)).sum() == 2


def test_fewer_images_than_a_batch_are_repeated() -> None:
    batches = epoch_batches(experiment("gate"), examples(3), batch_size=8)
    assert [target.shape for _, target in batches] == [(8, 1)]


def test_an_epoch_consists_of_whole_batches() -> None:
    assert len(epoch_order(examples(30), experiment("gate"), 8, 0, 0)) == 24
    with pytest.raises(GatemaskError, match="nothing to train on"):
        epoch_order([], experiment("gate"), 8, 0, 0)


def test_evaluation_shows_each_image_once_and_pads_with_weight_0() -> None:
    batches = list(evaluation_batches(examples(10), experiment("gate"), ONE_CLASS, 4))
    assert [images.shape[0] for images, _, _ in batches] == [4, 4, 4]
    weights = np.concatenate([weights for _, _, weights in batches])
    assert weights.tolist() == [1] * 10 + [0, 0]
    targets = np.concatenate([targets for _, targets, _ in batches])[:, 0]
    assert targets.dtype == np.float32
    assert targets[weights > 0].tolist() == [e.label for e in examples(10)]


def test_evaluation_only_resizes() -> None:
    image, mask = square()
    for images, targets, _ in evaluation_dataset(examples(4), experiment("mask"), ONE_CLASS, 4):
        assert (np.array(images)[0] == resize(image, (32, 32))).all()
        assert (np.array(targets)[0, :, :, 0] == (resize(mask[..., None], (32, 32))[..., 0] >= 128)).all()
        assert not np.array(targets)[1].any()


@pytest.mark.parametrize("task", ["gate", "mask"])
def test_a_damaged_record_names_its_image(task: str) -> None:
    records = examples(12)
    records[4] = records[4]._replace(**{"gate": {"image": b"x"}, "mask": {"mask": b"x"}}[task])
    exp = experiment(task)
    with pytest.raises(GatemaskError, match="i4") as caught:
        list(evaluation_batches(records, exp, ONE_CLASS, 4))
    assert "records check" in str(caught.value)
    with pytest.raises(GatemaskError, match="i4"), original_errors():
        epoch_batches(exp, records)
    with pytest.raises(ValueError, match="unrelated"), original_errors():
        raise ValueError("unrelated")


def input_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gatemask-input")]


@pytest.mark.integration
def test_a_finished_epoch_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[weakref.ref] = []
    record_source = pipeline.record_source

    def watched(*arguments: object, **options: object) -> pipeline.RecordSource:
        source = record_source(*arguments, **options)
        sources.append(weakref.ref(source))
        return source

    monkeypatch.setattr(pipeline, "record_source", watched)
    for epoch in range(3):
        epoch_batches(experiment("mask"), examples(12), epoch=epoch)
    gc.collect()
    assert [source() for source in sources] == [None] * 3


@pytest.mark.integration
def test_threads_end_with_their_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    exp, records = experiment("mask"), examples(40)
    order, opencv_threads = epoch_order(records, exp, 4, 0, 0), cv2.getNumThreads()
    monkeypatch.setattr(threads, "cores", lambda: 3)
    for epoch in range(30):
        # Every tenth epoch is left in the middle, as after a failure or at the time limit.
        for _ in training_batches(records, exp, ONE_CLASS, order, 4, epoch, 0, 0, 3).take(1 if epoch % 10 == 0 else 3):
            pass
    for _ in evaluation_dataset(records, exp, ONE_CLASS, 4).take(2):
        pass
    batches = evaluation_batches(records, exp, ONE_CLASS, 4)
    next(batches)
    assert len(input_threads()) <= 2 * 3
    batches.close()
    gc.collect()
    deadline = time.monotonic() + 600
    while input_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert input_threads() == []
    assert cv2.getNumThreads() == opencv_threads


def test_available_memory_is_a_number_of_bytes() -> None:
    assert 0 <= available_memory() < 2**50


@pytest.mark.parametrize(
    ("workers", "cores", "images", "processes"),
    [
        ("auto", 1, 9000, 0),
        ("auto", 2, 9000, 0),
        ("auto", 8, 9000, 8),
        ("auto", 8, 900, 0),
        (0, 8, 9000, 0),
        (3, 1, 9, 3),
    ],
)
def test_threads_or_processes(
    workers: Literal["auto"] | int, cores: int, images: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "cores", lambda: cores)
    assert feeding.worker_processes(workers, images) == processes
