"""Draw local scores against leaderboard scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.plots import style

CLOSE = 0.05  # share of the local scores' range within which labels would overlap
MARKERS = {"public": {"color": style.BLUE, "marker": "o"}, "private": {"color": style.ORANGE, "marker": "D"}}


@dataclass(frozen=True)
class ScoredSubmission:
    """One submission with a local score.

    Args:
        label: Short text next to its point.
        local: Cross-fitted score.
        boards: Leaderboard scores by board ("public", "private"), those that are known.
    """

    label: str
    local: float
    boards: Mapping[str, float]


def draw_leaderboard(
    submissions: Sequence[ScoredSubmission], correlations: Mapping[str, float | None], metric: str, title: str
) -> Figure:
    """Draw leaderboard scores over local scores, with the line on which both are equal.

    Args:
        submissions: Submissions with a local score and at least one leaderboard score.
        correlations: Rank correlation of each board; None where there are too few scores.
        metric: Name of the local score.
        title: Title of the figure.
    """
    figure, ax = style.new_figure(7.2, 5.6)
    for submission in submissions:
        if len(submission.boards) == 2:
            ends = list(submission.boards.values())
            ax.plot([submission.local] * 2, ends, color=style.GRAY, linewidth=0.8, alpha=0.6, zorder=1)
    for board, marker in MARKERS.items():
        shown = [submission for submission in submissions if board in submission.boards]
        if not shown:
            continue
        rho = correlations[board]
        text = f"{board}: too few to correlate" if rho is None else f"{board}: rank correlation {rho:+.2f}"
        local, scores = [each.local for each in shown], [each.boards[board] for each in shown]
        ax.scatter(local, scores, s=42, label=text, zorder=3, edgecolors="white", linewidths=0.7, **marker)
    _draw_labels(ax, submissions)
    _draw_equal_line(ax)
    ax.legend(fontsize=8, frameon=False, loc="best")
    style.label(ax, f"local score, cross-fitted ({metric})", "leaderboard score", title)
    return figure


def _draw_labels(ax: Any, submissions: Sequence[ScoredSubmission]) -> None:
    """Write each label above the upper point; labels of close neighbors go to either side."""
    ordered = sorted(submissions, key=lambda submission: submission.local)
    places = np.array([submission.local for submission in ordered], float)
    close = np.diff(places) < CLOSE * max(float(np.ptp(places)), 1e-9)
    for number, submission in enumerate(ordered):
        before, after = number > 0 and close[number - 1], number < len(close) and close[number]
        side = 0 if before == after else 1 if before else -1
        ax.annotate(
            submission.label,
            (submission.local, max(submission.boards.values())),
            xytext=(3 * side, 7),
            textcoords="offset points",
            ha={0: "center", 1: "left", -1: "right"}[side],
            fontsize=8,
            color="#444444",
        )


def _draw_equal_line(ax: Any) -> None:
    """Draw the line of equal scores, as far as it crosses the figure."""
    ax.margins(0.12)
    ax.autoscale_view()
    limits = ax.get_xlim(), ax.get_ylim()
    if max(limits[0][0], limits[1][0]) >= min(limits[0][1], limits[1][1]):
        return
    ax.axline((0, 0), slope=1, color=style.GRAY, linestyle="--", linewidth=0.9, label="equal", zorder=0)
    ax.set(xlim=limits[0], ylim=limits[1])
