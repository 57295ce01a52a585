"""Arrays of one's own are tuned as `gatemask oof-tune` tunes stored predictions, and refused if they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import as_uint8
from gatemask.tuning.own_predictions import TunedMaps, tune_maps

N, SIZE = 48, 12
FEW: dict[str, Any] = {"settings": {"optima": 2, "bootstrap": 100}}


def images() -> dict[str, Any]:
    """Maps and truths of half-empty images; the maps of every fourth image deceive, and its gate tells."""
    rng = np.random.default_rng(0)
    truths = np.zeros((N, SIZE, SIZE), bool)
    truths[::2, 3:9, 3:9] = True
    deceived = np.zeros_like(truths)
    deceived[1::4, 3:9, 3:9] = True
    maps = 0.6 * rng.random(truths.shape) + 0.4 * (truths | deceived)
    gates = np.clip(rng.normal(0.3, 0.1, N) + 0.4 * truths.any(axis=(1, 2)), 0, 1)
    return {"maps": maps, "truths": truths, "folds": np.arange(N) % 3, "gates": gates, **FEW}


@pytest.fixture(scope="module")
def tuned() -> TunedMaps:
    return tune_maps(**images())


def test_the_scores_are_those_of_the_masks(tuned: TunedMaps) -> None:
    given = images()
    dice = [
        dice_of_masks(truth, tuned.masks(full_map, gate))
        for full_map, truth, gate in zip(given["maps"], given["truths"], given["gates"], strict=True)
    ]
    assert np.mean(dice) == pytest.approx(tuned.in_sample)
    assert tuned.all_empty == 0.5
    held_out = []
    for fold, rules in tuned.candidates[tuned.shipped].fit.rules.items():
        of_fold = TunedMaps(**{**vars(tuned), "rules": rules})
        for row in np.flatnonzero(given["folds"] == fold):
            mask = of_fold.masks(given["maps"][row], given["gates"][row])
            held_out.append(dice_of_masks(given["truths"][row], mask))
    assert np.mean(held_out) == pytest.approx(tuned.cross_fitted)
    assert tuned.interval[0] <= tuned.cross_fitted <= tuned.interval[1]
    assert tuned.candidates["everything-passes"].fit.score < tuned.cross_fitted - 0.1


def test_what_a_map_may_be(tuned: TunedMaps) -> None:
    given = images()
    other = {
        **given,
        "maps": (as_uint8(full_map)[:, :, None] for full_map in given["maps"]),
        "truths": [truth.astype(int)[:, :, None] for truth in given["truths"]],
        "gates": given["gates"][:, None],
        "groups": [f"{row:08}" for row in range(N)],
    }
    same = tune_maps(**other)
    assert (same.rules, same.cross_fitted) == (tuned.rules, tuned.cross_fitted)
    assert same.masks(as_uint8(given["maps"][0])[:, :, None]).shape == (SIZE, SIZE, 1)


def test_two_classes_have_rules_of_their_own(tuned: TunedMaps) -> None:
    given = images()
    twice = {
        **given,
        "maps": np.stack([given["maps"], given["maps"] / 2], axis=3),
        "truths": np.stack([given["truths"], given["truths"]], axis=3),
    }
    both = tune_maps(**twice)
    exact = both.candidates["exact"]
    assert exact.rules[0] == tuned.candidates["exact"].rules[0]
    assert exact.rules[1].lower < exact.rules[0].lower
    assert exact.fit.score_of_class(0) == tuned.candidates["exact"].fit.score


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "mean_dise"}, "mean_dice"),
        ({"maps": []}, "not as many truths as maps"),
        ({"maps": [], "truths": []}, "no maps"),
        ({"truths": np.zeros((N - 1, SIZE, SIZE), bool)}, "48 maps and 47 truths"),
        ({"truths": np.zeros((N, SIZE, SIZE + 1), bool)}, "differ in shape"),
        ({"truths": np.full((N, SIZE, SIZE), 255)}, "truth > 0"),
        ({"maps": np.full((N, SIZE, SIZE), 1.5)}, "sigmoid"),
        ({"maps": np.full((N, SIZE, SIZE), np.nan)}, "probabilities"),
        ({"maps": np.zeros((N, SIZE, SIZE), int)}, "probabilities"),
        ({"maps": np.zeros((N, SIZE))}, "wrong shape"),
        ({"folds": np.zeros(N)}, "at least two folds"),
        ({"folds": [0, 1]}, "'folds' must have one entry per image"),
        ({"folds": 3}, "a single value"),
        ({"gates": np.full(N, 2.0)}, "Gates must be probabilities"),
        ({"gates": np.zeros((N, 2))}, "Gates must be probabilities"),
        ({"truths": np.zeros((N + 2, SIZE, SIZE), bool)}, "48 maps and 50 truths"),
        ({"settings": {"ships": "exact"}}, "settings, ships"),
        ({"settings": {"bootstrap": 0}}, "greater than or equal to 1"),
        ({"groups": ["a"]}, "'groups' must have one entry per image"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GatemaskError, match=message):
        tune_maps(**{**images(), **change})


def test_groups_that_span_folds_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    truths = np.zeros((12, 8, 8), bool)
    truths[::2, 2:6, 2:6] = True
    maps, folds = 0.8 * truths + 0.1, np.arange(12) % 3
    tuned = tune_maps(maps, truths, folds, groups=folds)
    assert "warning" not in capsys.readouterr().err
    assert len(repr(tuned)) < 500
    tune_maps(maps, truths, folds, groups=["shared", "shared", *map(str, range(2, 12))])
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 11 groups have images in several folds, 17% of all images" in said
    with pytest.raises(GatemaskError, match="not NaN") as raised:
        tune_maps(np.where(truths, np.nan, maps), truths, folds)
    assert raised.value.details["where"] == "image 0"
