"""Small problems whose best rule brute force can find, and large ones whose hold-out score can be computed."""

from __future__ import annotations

from itertools import product

import numpy as np

from gatemask.config import Variant
from gatemask.masks.rule import Rule, probability
from gatemask.oof.tables import Tables, count_levels, score


def from_maps(maps: np.ndarray, truths: np.ndarray, gate: np.ndarray, folds: int = 3) -> Tables:
    """Return the tables of uint8 maps and bool truths, both (n, height, width, classes)."""
    n, _, _, classes = maps.shape
    pairs = [
        [
            count_levels(np.ascontiguousarray(maps[i, :, :, c]), np.ascontiguousarray(truths[i, :, :, c]))
            for c in range(classes)
        ]
        for i in range(n)
    ]
    return Tables(
        ids=np.array([f"i{i}" for i in range(n)]),
        folds=np.arange(n) % folds,
        gate=gate,
        area=np.array([[area for area, _ in of_image] for of_image in pairs]),
        intersection=np.array([[both for _, both in of_image] for of_image in pairs]),
        truth=truths.sum(axis=(1, 2)).astype(np.int32),
    )


def tied(seed: int, images: int = 7, classes: int = 1) -> Tables:
    """Return tables of few images, pixels, gates and levels, on which many rules score the same."""
    rng = np.random.default_rng(seed)
    levels = np.array([0, 40, 90, 140, 200, 255], np.uint8)
    maps = levels[rng.integers(0, rng.integers(2, 7), (images, 4, 4, classes))]
    truths = (maps > rng.integers(30, 230)) ^ (rng.random(maps.shape) < 0.25)
    truths &= (rng.random(images) < 0.6)[:, None, None, None]
    gate = rng.integers(0, 5, images) / rng.choice([4, 7])
    return from_maps(maps, truths, gate.clip(0, 1))


def by_force(tables: Tables, metric: str, variant: Variant) -> float:
    """Return the best score over all pairs of levels, gate cuts and area cuts."""
    levels = [40, 90, 140, 200, 255]
    gates = [*np.unique(tables.gate).tolist(), 1.0] if variant.gate else [0.0]
    best = -np.inf
    for upper, lower in product(levels, levels):
        if lower > upper or (variant.thresholds == 1 and lower != upper):
            continue
        areas = np.unique(tables.area[:, :, upper])
        for gate, area in product(gates, [*areas, areas[-1] + 1]):
            rule = Rule(float(gate), probability(upper), probability(lower), int(area))
            best = max(best, score(tables, rule, metric))
    return best


def noisy(seed: int, images: int, positives: float = 0.22, folds: int = 5) -> Tables:
    """Draw the tables of a competition without its maps: cheap enough for 100,000 images.

    Of each image its true area, how strong and how large its answer is, and how much of it is right, are drawn at
    random; area and hits fall smoothly with the level. The gate's AUC is about 0.97.
    """
    rng = np.random.default_rng(seed)
    positive = rng.random(images) < positives
    truth = np.where(positive, rng.lognormal(np.log(500), 1.0, images).astype(int) + 3, 0)
    strength = np.where(positive, rng.beta(5, 2, images), rng.beta(1.2, 6, images))
    size = np.where(positive, truth * rng.lognormal(0.2, 0.4, images), rng.lognormal(np.log(300), 1.2, images))
    right = np.where(positive, rng.beta(6, 3, images), 0.0)
    level = np.arange(257) / 255 / np.maximum(strength[:, None], 1e-3)
    area = np.floor(1.3 * size[:, None] * np.clip(1 - level**2.5, 0, 1) ** 0.6).astype(np.int32)
    area[:, 0], area[:, 256] = 65536, 0
    hits = np.floor(np.minimum(area, truth[:, None]) * right[:, None]).astype(np.int32)
    hits[:, 0] = truth
    gate = np.where(positive, rng.beta(5, 2, images), rng.beta(1.5, 5, images)).round(6)
    return Tables(
        ids=np.arange(images).astype(str),
        folds=np.arange(images) % folds,
        gate=gate,
        area=np.minimum.accumulate(area, axis=1)[:, None],
        intersection=np.minimum.accumulate(hits, axis=1)[:, None],
        truth=truth.astype(np.int32)[:, None],
    )
