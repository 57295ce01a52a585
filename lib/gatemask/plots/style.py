"""The common style of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gatemask.files import write_with

# Okabe and Ito's colors, which color-blind readers can distinguish.
BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
CYCLE = [BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
DPI = 110
matplotlib.rcParams["text.parse_math"] = False  # names of files and folds may contain $


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a styled figure of `width` x `height` inches, and its axes."""
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_prop_cycle(color=CYCLE)
        ax.tick_params(labelsize=8, color=GRAY)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def label(ax: Any, x: str, y: str, title: str = "") -> None:
    """Set axis labels and title."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")


def note(ax: Any, text: str) -> None:
    """Write a sentence in place of a curve that cannot be drawn."""
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color=GRAY, transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])


def count_range(counts: Sequence[int]) -> str:
    """Return the range of some counts as text, or their common value.

    >>> count_range([3, 5]), count_range([4, 4])
    ('3 to 5', '4')
    """
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically."""
    return write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI, facecolor="white"))
