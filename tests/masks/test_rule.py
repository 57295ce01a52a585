"""The decision rule, as tables of inputs and decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
from gatemask.masks import rule_files
from gatemask.masks.rule import Rule

RULE = Rule(gate=0.6, upper=0.75, lower=0.4, min_area=3)


@pytest.mark.parametrize(
    ("gate", "strong", "weak", "pixels"),
    [
        (0.6, 3, 4, 7),  # the gate's own threshold passes, and so does exactly the minimum area
        (0.59, 3, 4, 0),
        (0.9, 2, 4, 0),
        (0.9, 0, 16, 0),
        (0.9, 16, 0, 16),
    ],
)
def test_gate_area_and_lower_threshold(gate: float, strong: int, weak: int, pixels: int) -> None:
    full_map = np.zeros(16, np.uint8)
    full_map[:strong], full_map[strong : strong + weak] = 200, 110
    assert rules.apply_rule(RULE, gate, full_map.reshape(4, 4)).sum() == pixels


A, B = 200, 110  # strong: reaches `upper`; weak: reaches only `lower`
PARTS = [
    # Pixels that touch at a corner belong together: three pixels.
    ([[A, 0, 0], [0, A, 0], [0, 0, A]], 3, False, 3),
    ([[A, 0, 0], [0, A, 0], [0, 0, A]], 4, False, 0),
    # A component of exactly the minimum size is kept, one pixel less is dropped.
    ([[A, A, 0, A], [0, 0, 0, A], [0, 0, 0, A]], 3, False, 3),
    ([[A, A, 0, A], [0, 0, 0, A], [0, 0, 0, A]], 2, False, 5),
    # Weak pixels are kept only where they are connected to a strong one.
    ([[A, B, 0, B], [0, B, 0, B], [0, 0, 0, B]], 0, True, 3),
    ([[B, B, 0, B], [0, B, 0, B], [0, 0, 0, B]], 0, True, 0),
    ([[B, 0, 0, A], [0, B, A, 0], [0, 0, 0, 0]], 0, True, 4),
    # Both: large enough, with a strong pixel.
    ([[A, B, 0, B], [0, B, 0, B], [0, 0, 0, B]], 3, True, 3),
    ([[A, 0, 0, B], [0, 0, B, B], [A, 0, 0, B]], 2, True, 0),
    # Nothing, and everything.
    ([[0, 0], [0, 0]], 1, True, 0),
    ([[A, B], [B, B]], 4, True, 4),
]


@pytest.mark.parametrize(("rows", "min_component", "hysteresis", "pixels"), PARTS)
def test_components(rows: list[list[int]], min_component: int, hysteresis: bool, pixels: int) -> None:
    rule = Rule(0.5, 0.75, 0.4, 0, min_component, hysteresis)
    mask = rules.apply_rule(rule, 0.5, np.array(rows, np.uint8))
    assert mask.dtype == bool
    assert mask.sum() == pixels
    assert not (mask & (np.array(rows) == 0)).any()


def test_without_component_settings_a_mask_is_every_pixel_that_reaches_lower() -> None:
    full_map = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    for rule in (RULE, Rule(0.0, 0.9, 0.9, 0), Rule(0.6, 1.0, 0.01, 1)):
        assert (rules.apply_rule(rule, 0.7, full_map) == (full_map >= rules.level(rule.lower))).all()
    # A minimum component of one pixel drops nothing.
    by_component = rules.apply_rule(Rule(0.6, 0.75, 0.4, 3, 1), 0.7, full_map)
    assert (by_component == rules.apply_rule(RULE, 0.7, full_map)).all()


@pytest.mark.parametrize("level", [90, 130, 160, 250])
@pytest.mark.parametrize("blur", [0.5, 2, 8])
def test_peaks_of_few_and_of_many_components(blur: float, level: int) -> None:
    import cv2

    noise = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(90, 70)), (0, 0), blur)
    full_map = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    label, sizes, peaks = rules.connected_components(full_map >= level, full_map)
    assert ((label > 0) == (full_map >= level)).all()
    assert sizes.tolist() == [int((label == n + 1).sum()) for n in range(len(sizes))]
    assert peaks.tolist() == [int(full_map[label == n + 1].max()) for n in range(len(sizes))]


def test_levels_and_probabilities_are_inverse_to_each_other() -> None:
    assert [rules.level(rules.probability(n)) for n in range(1, 256)] == list(range(1, 256))
    assert rules.level(0.0) == 1, "a probability of 0 is never mask"


@pytest.mark.parametrize("bad", [{"gate": 1.1}, {"upper": -0.1}, {"lower": 0.8}, {"min_area": -1}])
def test_impossible_rules_are_rejected(bad: dict[str, float]) -> None:
    with pytest.raises(GatemaskError):
        Rule(**{"gate": 0.5, "upper": 0.7, "lower": 0.3, "min_area": 1, **bad})


def test_averages_round_half_up_and_enlarge_the_smaller_members() -> None:
    ones, twos = np.full((2, 2, 1), 1, np.uint8), np.full((4, 4, 1), 2, np.uint8)
    averaged = rules.average_maps([ones, twos])
    assert averaged.shape == (4, 4, 1)
    assert (averaged == 2).all()


MAPS = list(np.random.default_rng(2).integers(0, 256, (3, 16, 16, 2)).astype(np.uint8))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 1 / 3, 1, 7])
def test_equal_weights_equal_no_weights(share: float) -> None:
    for maps in (MAPS[:2], MAPS):
        assert (rules.average_maps(maps, [share] * len(maps)) == rules.average_maps(maps)).all()


def test_weighted_averages_round_half_up() -> None:
    maps = [np.full((2, 2, 1), 10, np.uint8), np.full((2, 2, 1), 20, np.uint8)]
    # 17.5, 12.5, 19.5, 14.5, 13.3, 11.1
    decisions = {(1, 3): 18, (3, 1): 13, (0.05, 0.95): 20, (0.55, 0.45): 15, (2, 1): 13, (0.8, 0.1): 11}
    assert {w: int(rules.average_maps(maps, w)[0, 0, 0]) for w in decisions} == decisions


def test_a_member_of_weight_0_is_ignored() -> None:
    first, second = MAPS[0][:8, :8], MAPS[1]
    assert (rules.average_maps([first, second], [1, 0]) == first).all(), "its size included"
    assert (rules.average_maps([first, second], [0, 0.3]) == second).all()
    assert (rules.average_maps(MAPS, [0.2, 0, 0.6]) == rules.average_maps(MAPS[::2], [0.2, 0.6])).all()


def test_a_saved_rule_is_restored(tmp_path: Path) -> None:
    assert rule_files.load_rules(rule_files.save_rule(RULE, tmp_path / "rule.yaml"), ["x"]) == [RULE]
    (tmp_path / "rule.yaml").write_text("gate: 1\n")
    with pytest.raises(GatemaskError, match="does not hold a rule"):
        rule_files.load_rules(tmp_path / "rule.yaml", ["x"])


def test_exclusive_classes_share_pixels_before_components_are_kept() -> None:
    # The first class claims four pixels in a row; the second, likelier, takes one of them and leaves two parts.
    full_map = np.array([[[150, 0], [150, 0], [150, 200], [150, 0]]], np.uint8)
    rule = Rule(0.0, 0.5, 0.5, 0, min_component=2)
    masks = rules.decide([rule, Rule(0.0, 0.5, 0.5, 0)], 1.0, full_map, exclusive=True)
    assert masks[:, :, 0].tolist() == [[True, True, False, False]]
    assert masks[:, :, 1].tolist() == [[False, False, True, False]]
    both = rules.decide([rule, rule], 1.0, full_map)
    assert both[:, :, 0].all(), "overlapping classes keep their pixels"


def test_each_class_has_a_gate_and_a_rule_of_its_own() -> None:
    full_map = np.full((1, 2, 3), 150, np.uint8)
    by_class = [Rule(0.5, 0.5, 0.5, 0), Rule(0.5, 0.5, 0.5, 3), Rule(0.2, 0.7, 0.7, 0)]
    assert rules.decide(by_class, [0.6, 0.6, 0.6], full_map).any(axis=(0, 1)).tolist() == [True, False, False]
    assert rules.decide(by_class[:2], np.array([0.4, 0.6]), full_map[:, :, :2]).any() == False  # noqa: E712
    equal = rules.decide([by_class[0]] * 2, 0.6, np.dstack([full_map, full_map])[:, :, :3], exclusive=True)
    assert equal.any(axis=(0, 1)).tolist() == [True, False], "of equally likely classes, the first"


def test_rules_of_several_classes_survive_a_file(tmp_path: Path) -> None:
    by_class = [RULE, Rule(0.1, 0.5, 0.2, 0, min_component=4, hysteresis=True, split=0.8)]
    path = rule_files.save_rules(by_class, ["upper", "3"], tmp_path / "rule.yaml")
    assert rule_files.load_rules(path, ["upper", "3"]) == by_class
    for classes, words in ((["upper", "other"], "no rule for other"), (["upper"], "a rule for 3")):
        with pytest.raises(GatemaskError, match="does not hold a rule for each class") as caught:
            rule_files.load_rules(path, classes)
        assert caught.value.details["received"] == words
        assert caught.value.details["where"] == path
    assert rule_files.load_rules(rule_files.save_rules([RULE], ["a"], path), ["a"]) == [RULE]
    assert "split" not in path.read_text()


def test_objects_are_split_then_small_ones_are_dropped() -> None:
    row = [250, 250, 130, 250, 250, 250, 0, 130, 130]
    full_map = np.array(row, np.uint8).reshape(1, -1, 1)
    united = rules.decide_objects([Rule(0.0, 0.4, 0.4, 0)], 1.0, full_map)[0, :, 0]
    assert united.tolist() == [1, 1, 1, 1, 1, 1, 0, 2, 2]
    split = rules.decide_objects([Rule(0.0, 0.4, 0.4, 0, min_component=3, split=0.9)], 1.0, full_map)[0, :, 0]
    assert split.max() == 1, "of the halves only the larger is kept, and the weak object is too small"
    assert split[3:6].all()
    assert not split[[0, 6, 7, 8]].any()
    strong = rules.decide_objects([Rule(0.0, 0.9, 0.4, 0, hysteresis=True)], 1.0, full_map)[0, :, 0]
    assert strong.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert not rules.decide_objects([Rule(0.5, 0.4, 0.4, 0)], 0.4, full_map).any()


def test_a_plane_that_is_no_class_separates_objects() -> None:
    full_map = np.zeros((1, 5, 2), np.uint8)
    full_map[0, :, 0] = 200
    assert rules.decide_objects([Rule(0.0, 0.4, 0.4, 0, split=0.7)], 1.0, full_map).max() == 1
    full_map[0, 2, 1] = 200
    assert rules.decide_objects([Rule(0.0, 0.4, 0.4, 0, split=0.7)], 1.0, full_map).max() == 2
    assert rules.decide([Rule(0.0, 0.4, 0.4, 0)], 1.0, full_map).shape == (1, 5, 1), "borders are no class"
