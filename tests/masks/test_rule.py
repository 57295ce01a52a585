"""The decision rule, as a table of inputs and decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.masks import rule as rules
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
    one = np.zeros(16, np.uint8)
    one[:strong], one[strong : strong + weak] = 200, 110
    assert rules.apply(RULE, gate, one.reshape(4, 4)).sum() == pixels


def test_levels_and_probabilities_are_inverse_to_each_other() -> None:
    assert [rules.level(rules.probability(n)) for n in range(1, 256)] == list(range(1, 256))
    assert rules.level(0.0) == 1, "a probability of 0 is never mask"


@pytest.mark.parametrize("bad", [{"gate": 1.1}, {"upper": -0.1}, {"lower": 0.8}, {"min_area": -1}])
def test_impossible_rules_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(GatemaskError):
        Rule(**{"gate": 0.5, "upper": 0.7, "lower": 0.3, "min_area": 1, **bad})


def test_averages_round_half_up_and_enlarge_the_smaller_members() -> None:
    ones, twos = np.full((2, 2, 1), 1, np.uint8), np.full((4, 4, 1), 2, np.uint8)
    averaged = rules.average_maps([ones, twos])
    assert averaged.shape == (4, 4, 1)
    assert (averaged == 2).all()


def test_a_saved_rule_comes_back(tmp_path: Path) -> None:
    assert rules.load(rules.save(RULE, tmp_path / "rule.yaml")) == RULE
    (tmp_path / "rule.yaml").write_text("gate: 1\n")
    with pytest.raises(GatemaskError, match="not a rule"):
        rules.load(tmp_path / "rule.yaml")
