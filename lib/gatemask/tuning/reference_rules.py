"""Published rules, set by hand or searched on a grid, to be scored next to the tuned one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.errors import GatemaskError, nearest
from gatemask.masks import rule_files
from gatemask.masks.rule import Rule

PIXELS = 1024 * 1024  # image size for which the areas below were chosen
REFERENCE_RULES: dict[str, list[Rule]] = {
    # SIIM-ACR Pneumothorax, private Dice 0.8522: one rule, set by hand.
    "siim-seed": [Rule(gate=0.60, upper=0.75, lower=0.40, min_area=200)],
    # SIIM-ACR Pneumothorax, winning solution (0.8679): pairs of top threshold and minimum area, each with two bottom
    # thresholds, no gate; the best on validation was (0.75, 2000, 0.3).
    "siim-winner": [
        Rule(0.0, upper, lower, area)
        for upper, area in ((0.75, 1000), (0.75, 2000), (0.60, 2000), (0.60, 3000))
        for lower in (0.30, 0.40)
    ],
}


def reference_rules(name: str, size: tuple[int, int], root: Path, classes: Sequence[str]) -> list[list[Rule]]:
    """Return the rules with this name, one per class. Several of these are a grid, to be searched for its best.

    Args:
        name: Key of REFERENCE_RULES, or path of a rule.yaml.
        size: Height and width of the competition's images, in pixels. Areas in REFERENCE_RULES are scaled to it,
            those in a file are not.
        root: Folder of the project, to which a file's path is relative.
        classes: Names of the classes.

    Raises:
        GatemaskError: Unknown name, or a file that does not hold a rule.

    >>> reference_rules("siim-seed", (512, 512), Path(), ["lesion"])[0][0].min_area
    50
    """
    if name.endswith((".yaml", ".yml")):
        return [rule_files.load_rules(root / name, classes)]
    if name not in REFERENCE_RULES:
        close = nearest(name, list(REFERENCE_RULES))
        raise GatemaskError(
            "Unknown rule in 'tune.beside'.",
            received=name,
            expected=f"{', '.join(REFERENCE_RULES)}, or a rule.yaml",
            do=f"Did you mean '{close}'?" if close else "Correct tune.beside in ensemble.yaml.",
        )
    scale = size[0] * size[1] / PIXELS
    return [
        [Rule(rule.gate, rule.upper, rule.lower, round(rule.min_area * scale))] * len(classes)
        for rule in REFERENCE_RULES[name]
    ]
