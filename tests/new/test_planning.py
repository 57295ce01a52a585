"""Sizes, tiles, batches and epochs follow from images, objects and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gatemask.new.images import ImageFacts, Size
from gatemask.new.masks import LabelFacts, MaskStats
from gatemask.new.planning import input_side, plan_experiment, plan_folds, plan_frames


def images(size: Size, count: int = 1000) -> ImageFacts:
    return ImageFacts(count, "PNG", {f"{n}.png": size for n in range(min(count, 10))}, 3, 8, "full", False)


def objects(side: float, size: Size) -> LabelFacts:
    share = side / (size[0] * size[1]) ** 0.5
    stats = MaskStats(10, 10, sides=[side] * 4, shares=[share] * 4, objects=[4])
    return LabelFacts({}, [], False, 10, 1.0, stats)


@pytest.mark.parametrize(
    ("size", "side", "tiles"),
    [
        ((512, 512), 4, None),  # never larger than the image
        ((2048, 2048), 200, None),  # a fifth of it is enough
        ((2048, 2048), 14, {"size": 512, "overlap": 64}),
        ((10_000, 10_000), 30, {"size": 512, "overlap": 64, "scale": 0.5}),
        ((10_000, 10_000), 60, {"size": 512, "overlap": 64, "scale": 0.25}),
        ((10_000, 10_000), 2000, None),
    ],
)
def test_tiles_where_whole_images_would_hide_small_objects(size: Size, side: float, tiles: object) -> None:
    assert plan_frames(images(size), objects(side, size)).tiles == tiles


def test_larger_plans_see_more() -> None:
    facts, labels = images((1024, 1024)), objects(40, (1024, 1024))
    sides = [input_side(plan, facts, labels) for plan in ("quick", "good", "strong")]
    assert sides == [128, 384, 512]
    assert input_side("good", facts, objects(20, (1024, 1024))) == 640  # 12 px of an object of 20 px


def test_small_images_are_enlarged_for_the_strong_plan_only() -> None:
    facts, labels = images((101, 101)), objects(30, (101, 101))
    assert [input_side(plan, facts, labels) for plan in ("quick", "good", "strong")] == [64, 128, 256]


@pytest.mark.parametrize("plan", ["good", "strong"])
def test_the_batch_fits_into_memory(plan: str) -> None:
    size = (1024, 1024)
    facts, labels = images(size), objects(20, size)
    frames = plan_frames(facts, labels)
    large = plan_experiment(plan, "mask", facts, labels, frames, 3)
    small = plan_experiment(plan, "mask", images((128, 128)), objects(20, (128, 128)), frames, 3)
    assert 1 <= large.batch < small.batch == 16
    assert plan_experiment(plan, "gate", facts, labels, frames, 3).batch >= large.batch


@pytest.mark.parametrize("count", [24, 200, 1000, 20_000, 500_000])
def test_quick_experiments_take_minutes(count: int) -> None:
    """Passes of all folds, validation included, cost at most about as much as two cores do in 12 minutes."""
    size = (128, 128)
    facts, labels = images(size, count), objects(12, size)
    plan = plan_experiment("quick", "mask", facts, labels, plan_frames(facts, labels), 3)
    assert isinstance(plan.input, int)
    pixels = plan.epochs * (plan.epoch or count * 2 // 3) * plan.input**2
    assert 3 * pixels * 2.8e-6 <= 720
    assert plan.epochs >= 4


def test_images_of_other_shapes_are_padded() -> None:
    facts, labels = images((100, 100)), objects(20, (100, 100))
    mixed = replace(facts, sizes={"a": (100, 100), "b": (100, 180), "c": (160, 100)})
    assert plan_frames(facts, labels).fit == "stretch"
    assert plan_frames(mixed, labels).fit == "pad"


def test_oblong_images_have_oblong_records() -> None:
    records = plan_frames(images((256, 1600)), objects(60, (256, 1600))).records
    assert isinstance(records, tuple)
    assert all(side % 32 == 0 for side in records)
    assert 5 < records[1] / records[0] < 8


@pytest.mark.parametrize(("count", "groups", "folds"), [(1000, None, 3), (100, None, 4), (1000, 4, 2), (9, None, 2)])
def test_folds(count: int, groups: int | None, folds: int) -> None:
    assert plan_folds(count, groups) == folds
