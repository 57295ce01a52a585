"""Draw the path of greedy selection: what each round took, its score, and where the path was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from gatemask.plots import style


@dataclass(frozen=True)
class SelectionPath:
    """One greedy selection.

    Args:
        title: What was selected from, such as "Mask experiments".
        taken: Experiment taken in each round.
        scores: Score after each round.
        kept: Number of rounds that are kept.
        experiments: Number of experiments to choose from.
        best: Name and score of the best experiment alone.
        equal: Score of all experiments with equal weights.
        nested: Score with each fold scored by what the other folds selected.
    """

    title: str
    taken: Sequence[str]
    scores: Sequence[float]
    kept: int
    experiments: int
    best: tuple[str, float]
    equal: float
    nested: float


def draw_selection(paths: Sequence[SelectionPath], score_title: str) -> Figure:
    """Draw one panel per selection.

    Args:
        paths: Selections, at least one.
        score_title: Name of the score, such as "Dice".
    """
    figure, axes = style.new_figure(8.4, 3.5 * len(paths), len(paths), squeeze=False)
    for ax, path in zip(axes[:, 0], paths, strict=True):
        _draw_path(ax, path)
        style.label(ax, "what each round took", f"{score_title}, cross-fitted", _title(path))
    return figure


def _title(path: SelectionPath) -> str:
    different, rounds = len(set(path.taken[: path.kept])), path.kept
    return f"{path.title}: {different} of {path.experiments} taken in {rounds} round{'s' if rounds > 1 else ''}"


def _draw_path(ax: Any, path: SelectionPath) -> None:
    scores, kept = path.scores, path.kept
    rounds = range(1, len(scores) + 1)
    ax.plot(rounds[kept - 1 :], scores[kept - 1 :], "o-", color=style.BLUE, alpha=0.3, markersize=5)
    ax.plot(rounds[:kept], scores[:kept], "o-", color=style.BLUE, markersize=6, label="path")
    last = scores[kept - 1]
    ax.plot([kept], [last], "o", color=style.RED, markersize=9, label=f"kept: {last:.4f}", zorder=4)
    for text, height, color, line in (
        (f"best alone, {path.best[0]}", path.best[1], style.GREEN, "--"),
        ("all equally", path.equal, style.ORANGE, "-."),
        ("chosen on other folds", path.nested, style.GRAY, ":"),
    ):
        ax.axhline(height, color=color, linestyle=line, linewidth=1.3, label=f"{text}: {height:.4f}", zorder=1)
    names = [f"{'again ' if name in path.taken[:index] else '+ '}{name}" for index, name in enumerate(path.taken)]
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(names) > 3 else {}
    ax.set_xticks(list(rounds), names, **tilted)
    for index, text in enumerate(ax.get_xticklabels()):
        text.set_color("black" if index < kept else style.GRAY)
    ax.set_xlim(0.6, max(len(scores), 4) + 0.4)
    ax.margins(y=0.12)
    ax.ticklabel_format(axis="y", style="plain", useOffset=False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
