"""The path of greedy selection as a picture: what each round took, what it came to, and where the path was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from gatemask.masks.metrics import TITLES
from gatemask.plots import style

KINDS = {"mask": "Mask experiments", "gate": "Gate experiments"}


def selection_path(selection: Mapping[str, Any], metric: str) -> Figure:
    """One panel for masks, one for gates, where they were selected.

    Args:
        selection: of tuned/result.json; at least one of its parts was selected.
        metric: a name in METRICS.
    """
    there = {kind: found for kind, found in selection.items() if found}
    drawn, axes = style.figure(8.4, 3.5 * len(there), len(there), squeeze=False)
    for ax, (kind, found) in zip(axes[:, 0], there.items(), strict=True):
        _panel(ax, found)
        style.label(ax, "what each round took", f"{TITLES[metric]}, cross-fitted", _title(kind, found))
    return drawn


def _title(kind: str, found: Mapping[str, Any]) -> str:
    counts = found["rounds"][found["cut"] - 1]["counts"]
    taken, rounds = sum(count > 0 for count in counts.values()), found["cut"]
    return f"{KINDS[kind]}: {taken} of {len(counts)} taken in {rounds} round{'s' if rounds > 1 else ''}"


def _panel(ax: Any, found: Mapping[str, Any]) -> None:
    scores, kept = [one["score"] for one in found["rounds"]], found["cut"]
    rounds = range(1, len(scores) + 1)
    best = found["best_member"]
    lines = (
        (f"best alone, {best['name']}", best["score"], style.GREEN, "--"),
        ("all equally", found["equal"], style.ORANGE, "-."),
        ("chosen on other folds", found["nested"], style.GREY, ":"),
    )
    ax.plot(rounds[kept - 1 :], scores[kept - 1 :], "o-", color=style.BLUE, alpha=0.3, markersize=5)
    ax.plot(rounds[:kept], scores[:kept], "o-", color=style.BLUE, markersize=6, label="path")
    ax.plot(
        [kept], [scores[kept - 1]], "o", color=style.RED, markersize=9, label=f"kept: {scores[kept - 1]:.4f}", zorder=4
    )
    for text, height, colour, line in lines:
        ax.axhline(height, color=colour, linestyle=line, linewidth=1.3, label=f"{text}: {height:.4f}", zorder=1)
    first = _first_rounds(found)
    names = [f"{'+ ' if at in first else 'again '}{one['taken']}" for at, one in enumerate(found["rounds"])]
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(names) > 3 else {}
    ax.set_xticks(list(rounds), names, **tilted)
    for at, text in enumerate(ax.get_xticklabels()):
        text.set_color("black" if at < kept else style.GREY)
    ax.set_xlim(0.6, max(len(scores), 4) + 0.4)
    ax.margins(y=0.12)
    ax.ticklabel_format(axis="y", style="plain", useOffset=False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _first_rounds(found: Mapping[str, Any]) -> set[int]:
    """The rounds, from 0, that took an experiment for the first time."""
    taken = [one["taken"] for one in found["rounds"]]
    return {taken.index(name) for name in taken}
