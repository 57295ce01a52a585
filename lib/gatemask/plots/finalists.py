"""Draw the private scores that candidates are expected to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from gatemask.plots import style

MOST = 20  # candidates in the figure


@dataclass(frozen=True)
class CandidateScores:
    """Scores of a candidate.

    Args:
        label: Short name.
        local: Local score.
        public: Public score, if known.
        private: Private score, if known.
        expected: Expected private score.
        interval: 90 % interval of the private score.
        best: Probability of being the best.
        chosen: Whether it is one of the two finalists.
    """

    label: str
    local: float
    public: float | None
    private: float | None
    expected: float
    interval: tuple[float, float]
    best: float
    chosen: bool


def draw_finalists(candidates: Sequence[CandidateScores], metric: str, title: str) -> Figure:
    """Draw one row per candidate: the expected private score with its interval, the local and the public score.

    Args:
        candidates: Candidates, highest expected score first.
        metric: Name of the score.
        title: Title of the figure.
    """
    shown = [each for place, each in enumerate(candidates) if place < MOST or each.chosen]
    figure, (ax, bars) = style.new_figure(
        8.6, 1.6 + 0.34 * len(shown), columns=2, sharey=True, gridspec_kw={"width_ratios": [3, 1]}
    )
    for row, each in enumerate(shown):
        color = style.ORANGE if each.chosen else style.GRAY
        ax.plot(each.interval, [row, row], color=color, linewidth=2.4, alpha=0.8, zorder=2)
        ax.scatter(each.expected, row, color=color, s=36, zorder=3, label=_once(row, "expected private, 90 %"))
        ax.scatter(each.local, row, marker="|", s=90, color=style.BLUE, zorder=4, label=_once(row, "local"))
        bars.barh(row, each.best, color=color, height=0.6)
    for name, marker, color in (("public", "x", style.GREEN), ("private", "D", style.RED)):
        known = [(score, row) for row, each in enumerate(shown) if (score := getattr(each, name)) is not None]
        if known:
            ax.scatter(*zip(*known, strict=True), marker=marker, s=30, color=color, zorder=4, label=name)
    ax.set_yticks(range(len(shown)), [f"{each.label}  \N{BLACK STAR}" if each.chosen else each.label for each in shown])
    ax.invert_yaxis()
    ax.legend(fontsize=8, frameon=False, loc="best")
    style.label(ax, metric, "", f"{title}: finalists")
    style.label(bars, "probability of being the best", "")
    bars.set_xlim(0, 1)
    return figure


def _once(row: int, text: str) -> str | None:
    return text if row == 0 else None
