"""Look-ups in tables equal the results of thresholding the maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
from gatemask.masks.metrics import METRICS, dice_of_masks
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, all_empty_score, count_levels, dice_per_image, score
from tests.masks.test_metrics import plainly


def random_problem(seed: int, images: int = 24, side: int = 12) -> tuple[Tables, np.ndarray, np.ndarray]:
    """Return tables, and the maps and truths they were counted from, both (n, side, side)."""
    rng = np.random.default_rng(seed)
    truths = (rng.random((images, side, side)) < 0.2) & (rng.random(images) < 0.4)[:, None, None]
    maps = np.clip(rng.normal(60, 50, truths.shape) + 90 * truths, 0, 255).astype(np.uint8)
    counts = [count_levels(full_map, truth) for full_map, truth in zip(maps, truths, strict=True)]
    tables = Tables(
        ids=np.array([f"i{n}" for n in range(images)]),
        folds=np.arange(images) % 3,
        gate=np.clip(rng.normal(0.4, 0.2, images) + 0.3 * truths.any(axis=(1, 2)), 0, 1),
        area=np.stack([area for area, _ in counts])[:, None],
        intersection=np.stack([both for _, both in counts])[:, None],
        truth=truths.sum(axis=(1, 2)).astype(np.int32)[:, None],
    )
    return tables, maps, truths


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_those_of_the_maps(seed: int) -> None:
    tables, maps, truths = random_problem(seed)
    rng = np.random.default_rng(seed)
    for _ in range(25):
        upper = round(float(rng.uniform(0.02, 1)), 4)
        rule = Rule(float(rng.random()), upper, round(upper * float(rng.random()), 4), int(rng.integers(0, 40)))
        naive = [
            dice_of_masks(t, rules.apply_rule(rule, g, m)) for t, g, m in zip(truths, tables.gate, maps, strict=True)
        ]
        assert dice_per_image(tables, rule)[:, 0] == pytest.approx(naive, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_by_look_up_equals_the_naive_one(metric: str) -> None:
    for seed in range(6):
        tables, maps, truths = random_problem(seed)
        rng = np.random.default_rng(seed)
        for _ in range(10):
            upper = round(float(rng.uniform(0.02, 1)), 4)
            rule = Rule(float(rng.random()), upper, round(upper * float(rng.random()), 4), int(rng.integers(0, 40)))
            masks = np.stack([rules.apply_rule(rule, g, m) for g, m in zip(tables.gate, maps, strict=True)])
            assert score(tables, rule, metric) == pytest.approx(plainly(metric, truths, masks), abs=1e-9)


def test_a_rule_by_component_needs_more_than_tables() -> None:
    with pytest.raises(GatemaskError, match="cannot distinguish connected components"):
        score(random_problem(0)[0], Rule(0.5, 0.5, 0.5, 0, min_component=3))


def test_an_empty_submission_scores_the_share_of_empty_images() -> None:
    tables, _, truths = random_problem(1)
    assert all_empty_score(tables) == pytest.approx((~truths.any(axis=(1, 2))).mean())


def test_tables_are_restored_from_disk(tmp_path: Path) -> None:
    tables, _, _ = random_problem(2)
    rule = Rule(0.3, 0.5, 0.3, 2)
    assert score(Tables.load(tables.save(tmp_path / "t.npz")), rule) == score(tables, rule)


def test_levels_stay_contiguous_in_memory(tmp_path: Path) -> None:
    tables, _, _ = random_problem(0)
    for copy in (tables, tables.subset(np.arange(5)), Tables.load(tables.save(tmp_path / "t.npz"))):
        assert copy.area.flags.f_contiguous
        assert copy.intersection.flags.f_contiguous


@pytest.mark.parametrize("damage", ["empty", "cut short", "flipped", "text", "array", "missing", "a name less"])
def test_damaged_tables_are_named(tmp_path: Path, damage: str) -> None:
    tables = random_problem(0)[0]
    path = tables.save(tmp_path / "tables.npz")
    sound = path.read_bytes()
    spoiled = {
        "empty": b"",
        "cut short": sound[: len(sound) // 2],
        "flipped": sound[:300] + bytes([sound[300] ^ 1]) + sound[301:],
        "text": b"not a zip",
    }
    if damage in spoiled:
        path.write_bytes(spoiled[damage])
    elif damage == "missing":
        path.unlink()
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        np.savez(path, ids=tables.ids, area=tables.area)
    with pytest.raises(GatemaskError, match=r"tables\.npz"):
        Tables.load(path)
