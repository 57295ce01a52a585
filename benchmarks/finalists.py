"""Does `gatemask finalists` choose well? Simulated competitions with known private scores.

The world has another origin than the bootstrap of gatemask. Lesions have a contrast and a size, and patients differ in
both; networks of one family see an image in the same way; the test set has another prevalence and other contrasts. Some
submissions are the luckiest of many variants on the public leaderboard, others on the local folds. Each submission has
a local score of each image, one public and one private score; only the last is hidden from the choice.

The rows compare the private score of the better finalist with that of other ways to choose, averaged over 200
competitions. Each has 20 private parts of its own size, because a single one says little about a choice. `ratio` is the
chosen pair's mean score over the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from timing import Row

from gatemask.finalists.choose import Choice, choose, simple_pairs
from gatemask.finalists.posterior import Prior
from gatemask.finalists.simulation import PartSizes, expected_best, simulate

COMPETITIONS = 200
DRAWS = 1000
LOCAL_PATIENTS, TEST_PATIENTS = 500, 700
SUBMISSIONS = 10
PUBLIC = 0.3
PRIVATE_PARTS = 20
VARIANTS = 25  # tried for each submission that is tuned on the leaderboard, or on the local folds


@dataclass(frozen=True)
class World:
    """A simulated competition.

    Args:
        local: Score per submission and training image, float (submissions, n).
        positive: Whether a training image has a mask, bool (n,).
        patients: Patient of each training image, text (n,).
        public: Public scores, float (submissions,).
        private: Private scores in each private part, float (parts, submissions).
        sizes: Numbers of test images per training image.
    """

    local: np.ndarray
    positive: np.ndarray
    patients: np.ndarray
    public: np.ndarray
    private: np.ndarray
    sizes: PartSizes


@dataclass(frozen=True)
class Images:
    """Images of some patients.

    Args:
        patient: Number of the patient, int (n,).
        positive: Whether there is a lesion, bool (n,).
        contrast: Contrast of the lesion, or of what resembles one, float (n,).
        size: Logarithm of its size, float (n,).
    """

    patient: np.ndarray
    positive: np.ndarray
    contrast: np.ndarray
    size: np.ndarray


def draw_images(rng: np.random.Generator, patients: int, prevalence: float, shift: float) -> Images:
    """Draw the images of some patients.

    Args:
        rng: Source of randomness.
        patients: Number of patients, who have one to four images each.
        prevalence: Share of positive images.
        shift: Change of all contrasts, as by another scanner.
    """
    patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    ill = rng.beta(4 * prevalence, 4 * (1 - prevalence), patients)[patient]
    count = len(patient)
    contrast = shift + 0.7 * rng.standard_normal(patients)[patient] + 0.7 * rng.standard_normal(count)
    return Images(patient, rng.random(count) < ill, contrast, rng.gumbel(0, 0.8, count))


@dataclass(frozen=True)
class Networks:
    """What distinguishes the submissions; each array is float (submissions,), families int.

    Args:
        family: Submissions of one family err on the same images.
        sharpness: Quality of outlines.
        caution: How much contrast it takes to predict a mask.
        transfer: Change of caution on the test set.
    """

    family: np.ndarray
    sharpness: np.ndarray
    caution: np.ndarray
    transfer: np.ndarray


def draw_networks(rng: np.random.Generator) -> Networks:
    family = rng.integers(0, 3, SUBMISSIONS)
    return Networks(
        family,
        0.1 * rng.standard_normal(3)[family] + 0.05 * rng.standard_normal(SUBMISSIONS),
        -0.2 + 0.08 * rng.standard_normal(SUBMISSIONS),
        0.06 * rng.standard_normal(3)[family],
    )


def score_images(rng: np.random.Generator, images: Images, networks: Networks, on_test: bool) -> np.ndarray:
    """Return the Dice per submission and image, float (submissions, n)."""
    count = len(images.patient)
    of_family = rng.standard_normal((3, count))[networks.family]
    seen = images.contrast + 0.6 * of_family + 0.4 * rng.standard_normal((SUBMISSIONS, count))
    caution = networks.caution + (networks.transfer if on_test else 0.0)
    found = seen > caution[:, None] - np.where(images.positive, 1.0, -1.3)
    outline = 1.1 + networks.sharpness[:, None] + 0.5 * images.size + 0.4 * seen
    dice = 1 / (1 + np.exp(-outline - 0.3 * rng.standard_normal(outline.shape)))
    return np.where(images.positive, found * dice, ~found)


def luckiest(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Return the scores (n,) of the best of many variants of a submission, which only seems to be better.

    A variant changes a few masks at random, as a moved threshold does; on average, it is neither better nor worse. So
    nothing changes on other images.

    Args:
        rng: Source of randomness.
        scores: Score of each image.
    """
    shape = (VARIANTS, len(scores))
    moved = np.clip(scores + rng.normal(0, 0.45, shape), 0, 1)
    variants = np.where(rng.random(shape) < 0.06, moved, scores)
    variants += scores.mean() - variants.mean()  # most scores are 1, and can only fall
    best: np.ndarray = variants[variants.mean(axis=1).argmax()]
    return best


def draw_world(rng: np.random.Generator, overfit: bool) -> World:
    """Draw a competition.

    Args:
        rng: Source of randomness.
        overfit: Whether three submissions are tuned on the leaderboard and two on the local folds.
    """
    networks = draw_networks(rng)
    images = draw_images(rng, LOCAL_PATIENTS, 0.22, 0.0)
    prevalence, shift = rng.uniform(0.12, 0.4), rng.normal(0, 0.15)

    def test_scores(share: float) -> np.ndarray:
        test = draw_images(rng, round(share * TEST_PATIENTS), prevalence, shift)
        return score_images(rng, test, networks, True)

    local, public = score_images(rng, images, networks, False), test_scores(PUBLIC)
    private = [test_scores(1 - PUBLIC).mean(axis=1) for _ in range(PRIVATE_PARTS)]
    if overfit:
        chosen = rng.permutation(SUBMISSIONS)
        for index in chosen[:3]:
            public[index] = luckiest(rng, public[index])
        for index in chosen[3:5]:
            local[index] = luckiest(rng, local[index])
    count = len(images.patient)
    return World(
        local,
        images.positive,
        images.patient.astype(str),
        public.mean(axis=1),
        np.stack(private),
        PartSizes(public.shape[1] / count, public.shape[1] / count * (1 - PUBLIC) / PUBLIC),
    )


def choose_in(world: World, seed: int) -> Choice:
    """Choose as gatemask does."""
    local = world.local[:, :, None]
    draws = simulate(local, np.ones_like(local), world.positive, world.patients, world.sizes, DRAWS, seed)
    return choose(draws, world.public, Prior.around(float(world.positive.mean())), seed)


def results(overfit: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the better private score in each competition, float (competitions,), by the way to choose.

    "ideal pair" knows the private scores. "covered" is the share of private scores in their 90 % intervals.
    """
    scores: dict[str, list[float]] = {}
    for number in range(COMPETITIONS):
        world = draw_world(np.random.default_rng([seed, number]), overfit)
        choice = choose_in(world, number)
        pairs = {"chosen": choice.best, **simple_pairs(world.local.mean(axis=1), world.public)}
        pairs["ideal pair"] = tuple(choice.pairs[expected_best(world.private, choice.pairs).argmax()].tolist())
        low, high = np.quantile(choice.posterior.private, [0.05, 0.95], axis=0)
        for name, pair in pairs.items():
            scores.setdefault(name, []).append(float(world.private[:, list(pair)].max(axis=1).mean()))
        scores.setdefault("covered", []).append(float(((low <= world.private) & (world.private <= high)).mean()))
    return {name: np.array(values) for name, values in scores.items()}


def rows() -> Iterator[Row]:
    for overfit, label in ((False, "no submission overfit"), (True, "three overfit the leaderboard, two the folds")):
        scores = results(overfit)
        covered = scores.pop("covered").mean()
        chosen = scores.pop("chosen")
        for name, others in scores.items():
            gain = chosen - others
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            ratio, simple = chosen.mean() / others.mean(), name in ("two best local", "two best public")
            yield {
                "name": f"finalists, {COMPETITIONS} competitions, {label}: chosen pair vs {name} (gain "
                f"{gain.mean():+.5f} +- {error:.5f}; {covered:.0%} in 90 % intervals)",
                "ours": f"{chosen.mean():.5f}",
                "reference": f"{others.mean():.5f}",
                "ratio": round(float(ratio), 5),
                "target": 1.0 if simple else None,
                "met": bool(ratio >= 1) if simple else None,
            }
