"""Rules that people set by hand or searched on a grid, to stand beside the tuned one."""

from __future__ import annotations

from pathlib import Path

from gatemask.errors import GatemaskError, nearest
from gatemask.masks import rule as rules
from gatemask.masks.rule import Rule

PIXELS = 1024 * 1024  # of the images that the areas below were meant for
KNOWN: dict[str, list[Rule]] = {
    # SIIM-ACR Pneumothorax, private Dice 0.8522: one rule, set by hand.
    "siim-seed": [Rule(gate=0.60, upper=0.75, lower=0.40, min_area=200)],
    # SIIM-ACR Pneumothorax, the winner (0.8679): pairs of top threshold and least area, each with two bottom
    # thresholds, no gate; the best on validation was taken, (0.75, 2000, 0.3).
    "siim-winner": [
        Rule(0.0, upper, lower, area)
        for upper, area in ((0.75, 1000), (0.75, 2000), (0.60, 2000), (0.60, 3000))
        for lower in (0.30, 0.40)
    ],
}


def known(name: str, size: tuple[int, int], root: Path) -> list[Rule]:
    """The rules that a name stands for; several are a grid, of which the best is to be taken.

    Args:
        name: of KNOWN, or a rule.yaml.
        size: the competition's height and width in pixels. The areas of KNOWN are brought to it; a file's are not.
        root: the project's folder, from which a file's path counts.

    Raises:
        GatemaskError: there is no such rule.
    """
    if name.endswith((".yaml", ".yml")):
        return [rules.load_rule(root / name)]
    if name not in KNOWN:
        close = nearest(name, list(KNOWN))
        raise GatemaskError(
            "There is no such rule.",
            received=name,
            expected=f"{', '.join(KNOWN)}, or a rule.yaml",
            do=f"Did you mean '{close}'?" if close else "Correct tune.beside in ensemble.yaml.",
        )
    share = size[0] * size[1] / PIXELS
    return [Rule(one.gate, one.upper, one.lower, round(one.min_area * share)) for one in KNOWN[name]]
