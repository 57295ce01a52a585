"""Draw the audit of a fold file: leak, positives and mask area, fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from gatemask.plots import style


@dataclass(frozen=True)
class FoldBars:
    """One fold of an audited file.

    Args:
        leak: Share of images whose group is also in training.
        positives: Share of images with a mask; None where labels are unknown.
        areas: Mask areas of the images with a mask, in pixels.
    """

    leak: float
    positives: float | None
    areas: Sequence[float]


def draw_audit(folds: Mapping[str, FoldBars], leak: float, positives: float | None) -> Figure:
    """Draw leak, share of positives and mask area of each fold.

    Args:
        folds: Folds by name.
        leak: Leak over all folds.
        positives: Share of positives over all folds; None where labels are unknown.
    """
    figure, axes = style.new_figure(11, 3.2, 1, 3)
    for ax, draw in zip(axes, _panels(folds, leak, positives), strict=True):
        draw(ax)
    return figure


def draw_audit_panels(folds: Mapping[str, FoldBars], leak: float, positives: float | None) -> list[Figure]:
    """Draw the same as three figures, for pages that arrange them by the width of the screen."""
    figures = []
    for draw in _panels(folds, leak, positives):
        figure, ax = style.new_figure(3.1, 2.3)
        draw(ax)
        figures.append(figure)
    return figures


def _panels(folds: Mapping[str, FoldBars], leak: float, positives: float | None) -> list[Callable[[Any], None]]:
    return [
        lambda ax: _draw_leak(ax, folds, leak),
        lambda ax: _draw_positives(ax, folds, positives),
        lambda ax: _draw_areas(ax, folds),
    ]


def _draw_leak(ax: Any, folds: Mapping[str, FoldBars], leak: float) -> None:
    leaks = [fold.leak for fold in folds.values()]
    ax.bar(list(folds), leaks, color=[style.RED if share else style.BLUE for share in leaks])
    ax.set_ylim(0, max(1.0, *leaks) if any(leaks) else 1)
    style.label(ax, "fold", "share of images", f"group also in training: {leak:.3f}")


def _draw_positives(ax: Any, folds: Mapping[str, FoldBars], positives: float | None) -> None:
    shares = [fold.positives for fold in folds.values()]
    if positives is None or None in shares:
        return _unknown(ax)
    ax.bar(list(folds), shares, color=style.BLUE)
    ax.axhline(positives, color=style.GRAY, linewidth=1)
    style.label(ax, "fold", "share", "positive images")


def _draw_areas(ax: Any, folds: Mapping[str, FoldBars]) -> None:
    if not any(len(fold.areas) for fold in folds.values()):
        return _unknown(ax)
    areas = [fold.areas for fold in folds.values()]
    ax.boxplot(areas, tick_labels=list(folds), showfliers=False, medianprops={"color": style.RED})
    ax.set_yscale("log")
    ax.tick_params(which="minor", labelsize=8)
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis("{x:g}")  # instead of powers, which would be written as formulas
    style.label(ax, "fold", "pixels", "mask area")


def _unknown(ax: Any) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "unknown: name --labels", ha="center", color=style.GRAY, transform=ax.transAxes)
