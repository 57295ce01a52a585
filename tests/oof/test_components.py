"""Look-ups in lists of components equal the results of dropping components from the maps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
from gatemask.masks.rule import Rule, level, probability
from gatemask.oof.components import COLUMNS, Components, count_components
from gatemask.oof.tables import count_maps, score
from tests.tuning.masks_in_memory import Truths

pytestmark = pytest.mark.integration  # takes seconds


class Reader(dict[str, np.ndarray]):
    """Maps by image id in memory."""

    @property
    def classes(self) -> int:
        return next(iter(self.values())).shape[2]


LEVELS = (20, 60, 90, 128, 160, 200)
SIDE = 48


class Problem:
    """Blobs of smooth noise, their truth, and their tables and components.

    Args:
        seed: Seed of the random generator.
        classes: Number of classes.
        images: Number of images.
        weights: Weight of each member. Default: one member.
    """

    def __init__(self, seed: int, classes: int, images: int = 12, weights: list[float] | None = None):
        rng = np.random.default_rng(seed)
        ids = [f"i{n:02d}" for n in range(images)]
        members = [blobs(rng, images, classes) for _ in weights or [1.0]]
        self.readers = [Reader(zip(ids, maps, strict=True)) for maps in members]
        self.maps = np.stack([rules.average_maps([maps[n] for maps in members], weights) for n in range(images)])
        truths = {i: blobs(rng, 1, 1)[0] > (150 if n % 3 else 255) for n, i in enumerate(ids)}
        self.truths = Truths({i: np.repeat(truth, classes, axis=2) for i, truth in truths.items()})
        self.gate = dict(zip(ids, rng.random(images).tolist(), strict=True))
        self.fold_of = {i: n % 3 for n, i in enumerate(ids)}
        self.weights = weights
        source = (self.fold_of, self.readers, self.truths, "")
        self.tables = count_maps(*source, self.gate.__getitem__, weights)
        self.components = count_components(*source, self.tables, LEVELS, weights)

    def naive(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros((2, *self.components.truth.shape))
        for n, (i, truth) in enumerate(self.truths.items()):
            for c in range(self.maps.shape[3]):
                mask = rules.apply_rule(rule, self.gate[i], self.maps[n, :, :, c])
                counts[:, n, c] = (mask & truth[:, :, c]).sum(), mask.sum()
        return counts[0], counts[1]


def blobs(rng: np.random.Generator, images: int, classes: int) -> np.ndarray:
    """Return blobs from coarse to speckled, uint8 (images, SIDE, SIDE, classes)."""
    maps = np.zeros((images, SIDE, SIDE, classes), np.uint8)
    for n in range(images):
        for c in range(classes):
            noise = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), float(rng.choice([0.5, 1, 2, 5])))
            maps[n, :, :, c] = np.clip(rng.uniform(40, 130) + 60 * noise / noise.std(), 0, 255)
    return maps


def random_rule(rng: np.random.Generator) -> Rule:
    lower = int(rng.choice(LEVELS))
    return Rule(
        gate=float(rng.choice([0.0, rng.random()])),
        upper=probability(int(rng.integers(lower, 256))),
        lower=probability(lower),
        min_area=int(rng.choice([0, 1, 20, 200])),
        min_component=int(rng.choice([0, 1, 2, 9, 60, 400])),
        hysteresis=bool(rng.integers(2)),
    )


@pytest.mark.parametrize(("seed", "classes", "weights"), [(0, 1, None), (1, 3, None), (2, 2, [1.0, 3.0, 0.5])])
def test_counts_equal_those_of_the_maps(seed: int, classes: int, weights: list[float] | None) -> None:
    problem = Problem(seed, classes, weights=weights)
    rng = np.random.default_rng(seed)
    for _ in range(200):
        rule = random_rule(rng)
        for ours, naive in zip(problem.components.counts(rule), problem.naive(rule), strict=True):
            assert ours.dtype == float
            assert (ours == naive).all(), rule


def test_a_subset_has_the_counts_of_its_images() -> None:
    problem, rng = Problem(3, 2), np.random.default_rng(3)
    for chosen in (problem.components.folds == 1, np.zeros(12, bool), np.ones(12, bool), rng.random(12) < 0.5):
        some = problem.components.subset(chosen)
        assert len(some) == len(some.truth) == len(some.folds) == len(some.gate) == chosen.sum()
        again = some.subset(np.arange(len(some)) % 2 == 0)
        for _ in range(20):
            rule = random_rule(rng)
            for part, half, complete in zip(
                some.counts(rule), again.counts(rule), problem.components.counts(rule), strict=True
            ):
                assert (part == complete[chosen]).all()
                assert (half == complete[chosen][::2]).all()


def test_components_are_restored_from_disk_in_few_bytes(tmp_path: Path) -> None:
    problem = Problem(4, 2)
    loaded = Components.load(problem.components.save(tmp_path / "components.npz"))
    assert loaded.levels == LEVELS
    for name, dtype in COLUMNS.items():
        for number in LEVELS:
            assert getattr(loaded, name)[number].dtype == getattr(problem.components, name)[number].dtype == dtype
    rng = np.random.default_rng(4)
    for rule in (random_rule(rng) for _ in range(20)):
        assert score(loaded, rule) == score(problem.components, rule)


def test_maps_without_any_component(tmp_path: Path) -> None:
    ids, blank = ["a", "b"], np.zeros((2, 8, 8, 1), np.uint8)
    reader = Reader(zip(ids, blank, strict=True))
    truth = Truths(dict.fromkeys(ids, np.zeros((8, 8, 1), bool)))
    tables = count_maps(dict.fromkeys(ids, 0), [reader], truth, "")
    components = count_components(dict.fromkeys(ids, 0), [reader], truth, "", tables, LEVELS)
    assert score(Components.load(components.save(tmp_path / "c.npz")), Rule(0, 0.6, probability(60), 0, 5, True)) == 1.0


def test_an_unlisted_level_is_rejected_with_the_listed_ones() -> None:
    components = Problem(5, 1, images=3).components
    unlisted = Rule(0.5, 0.5, probability(61), 0, min_component=3)
    with pytest.raises(GatemaskError, match="not listed") as caught:
        components.counts(unlisted)
    assert "level 61" in str(caught.value)
    assert "20, 60, 90" in str(caught.value)
    plain = Rule(0.5, 0.5, probability(61), 0)
    assert level(plain.lower) not in LEVELS
    assert (components.counts(plain)[1] == components.tables.counts(plain)[1]).all(), "tables hold every level"


def test_tables_of_other_images_are_rejected() -> None:
    problem = Problem(6, 1, images=4)
    fewer = problem.tables.subset(np.arange(4) > 0)
    with pytest.raises(GatemaskError, match="different images"):
        count_components(problem.fold_of, problem.readers, problem.truths, "", fewer, LEVELS)
