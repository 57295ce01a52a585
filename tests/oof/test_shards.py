"""Tables that are counted in shards and kept on disk give the same rules, scores and intervals to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatemask.config import Tune, Variant
from gatemask.errors import GatemaskError
from gatemask.masks.metrics import METRICS
from gatemask.oof import array_files, tables
from gatemask.oof.disk_levels import DiskLevels
from gatemask.oof.tables import Tables
from gatemask.tuning import exact
from gatemask.tuning.candidates import TuningImages, find_candidates
from gatemask.tuning.crossfit import Resamples, bootstrap_interval, bootstrap_scores
from gatemask.tuning.members import count_tables
from tests.tuning.masks_in_memory import SIDE, Truths, predictions
from tests.tuning.problems import noisy, tied

IMAGES = 14


def counted(shards: int, classes: int, monkeypatch: pytest.MonkeyPatch, hidden: bool = False) -> Tables:
    """Return the tables of the same maps, counted in some number of shards."""
    given = predictions(0, IMAGES, classes)
    if hidden:  # ignored pixels appear in a late image first
        ignored = np.zeros((SIDE, SIDE), bool)
        ignored[:4] = True
        given = replace(given, truth=Truths(dict(given.truth), {"i11": ignored}))
    monkeypatch.setattr(tables, "SHARD", classes * -(-IMAGES // shards))
    found = count_tables(given, [2, 1])
    assert isinstance(found.area, DiskLevels) == (shards > 1)
    return found


def on_disk(given: Tables) -> Tables:
    """Return the same tables with their counts on disk."""
    stored = {}
    for name in ("area", "intersection"):
        stored[name] = DiskLevels(getattr(given, name).shape)
        stored[name].write(0, getattr(given, name))
    return replace(given, **stored)


def assert_same(left: Tables, right: Tables) -> None:
    arrays, others = left.arrays(), right.arrays()
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(np.asarray(arrays[name]), np.asarray(others[name]), name)


@pytest.mark.parametrize("shards", [2, 7])
@pytest.mark.parametrize("hidden", [False, True])
def test_counts_are_the_same_and_survive_a_file(
    shards: int, hidden: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected, found = counted(1, 2, monkeypatch, hidden), counted(shards, 2, monkeypatch, hidden)
    assert_same(found, expected)
    part = np.arange(IMAGES) % 3 > 0
    assert_same(found.subset(part), expected.subset(part))
    assert_same(found.subset(part).subset(np.array([5, 2, 2])), expected.subset(part).subset(np.array([5, 2, 2])))
    assert_same(found.of_class(1), expected.of_class(1))
    assert found.save(tmp_path / "disk.npz").read_bytes() == expected.save(tmp_path / "memory.npz").read_bytes()
    monkeypatch.setattr(array_files, "LARGE", 1)
    loaded = Tables.load(tmp_path / "disk.npz")
    assert isinstance(loaded.area, DiskLevels)
    assert_same(loaded, expected)


@pytest.mark.integration
def test_rules_scores_and_intervals_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = predictions(0, IMAGES)
    groups = {name: name[-1] for name in given.fold_of}
    results = []
    for shards in (1, 2, 7):
        images = TuningImages(counted(shards, 2, monkeypatch))
        found = find_candidates(images, "mean_dice", Tune(optima=1), groups)
        results.append(
            {
                name: (
                    candidate.rules,
                    candidate.in_sample,
                    candidate.fit.rules,
                    candidate.fit.by_fold,
                    candidate.fit.worth.tolist(),
                    bootstrap_interval(
                        candidate.fit.worth, candidate.fit.weight, images.tables.ids.astype("<U2"), 50, seed=0
                    ),
                )
                for name, candidate in found.items()
            }
        )
    assert results[1] == results[0]
    assert results[2] == results[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("variant", [Variant(), Variant(gate=False, thresholds=1)], ids=["gate", "no-gate"])
def test_the_optimum_is_the_same_for_every_metric(metric: str, variant: Variant) -> None:
    for given in (noisy(0, 200), tied(1)):
        levels, counts = range(20, 256, 20), np.arange(len(given)) % 3
        stored = on_disk(given)
        assert exact.search(stored, metric, variant, levels) == exact.search(given, metric, variant, levels)
        assert exact.search(stored, metric, variant, levels, counts) == exact.search(
            given, metric, variant, levels, counts
        )


def test_a_bootstrap_draws_the_same_whatever_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    worth, groups = rng.random((60, 2)), rng.integers(0, 20, 60).astype(str)
    expected = bootstrap_scores(worth, np.ones_like(worth), groups, 600, seed=1)
    monkeypatch.setattr("gatemask.tuning.crossfit.COUNTS", 70)
    np.testing.assert_allclose(
        bootstrap_scores(worth, np.ones_like(worth), groups, 600, seed=1), expected, rtol=0, atol=1e-14
    )
    images = np.concatenate(list(Resamples.draw(groups, 600, seed=1).image_counts()))
    monkeypatch.setattr("gatemask.tuning.crossfit.KEPT", 100)  # drawn again for each use
    again = Resamples.draw(groups, 600, seed=1)
    for _ in range(2):
        np.testing.assert_allclose(again.scores(worth, np.ones_like(worth)), expected, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(np.concatenate(list(again.image_counts())), images)


def test_a_large_file_that_was_cut_short_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = counted(2, 1, monkeypatch).save(tmp_path / "tables.npz")
    monkeypatch.setattr(array_files, "LARGE", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(GatemaskError, match="cannot be read"):
        Tables.load(path)


def test_the_file_has_no_name_and_reading_it_whole_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    levels = DiskLevels((3, 2, 4))
    values = np.arange(24).reshape(3, 2, 4)
    levels.write(0, values)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(levels[1], values[1])
    np.testing.assert_array_equal(np.concatenate([levels, levels]), np.concatenate([values, values]))
    np.testing.assert_array_equal(levels[:, 1, 3], values[:, 1, 3])
