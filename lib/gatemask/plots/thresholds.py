"""Pictures of a rule: the score around its thresholds, the masks that it makes, and how it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatemask.masks.metrics import METRICS, TITLES, ratio
from gatemask.masks.rule import LEVELS, Rule, probability
from gatemask.oof.components import Components
from gatemask.oof.tables import Scorable, Tables, dice_per_image, score, worths
from gatemask.plots import style
from gatemask.plots.gates import confusion, quantiles, roc

NEAR = 0.001  # a score so far below the best is as good for all that a validation set can tell
FEW = 5  # a box of fewer masks tells nothing
NUMBERS = {
    "gate": "gate threshold (probability)",
    "upper": "upper threshold (probability)",
    "lower": "lower threshold (probability)",
    "min_area": "least area (pixels)",
}


def draw_all(
    folder: Path,
    tables: Tables,
    counted: Scorable,
    rule: Rule,
    metric: str,
    rules: Mapping[int, Rule],
    by_fold: Mapping[int, float],
    score: float,
    values: Sequence[float],
    exact_score: float | None,
) -> list[Path]:
    """Write all pictures of a tuned rule.

    folder/surface.png     the score over gate and upper threshold
    folder/slices.png      the score against each number of the rule
    folder/gate.png        ROC, probabilities and calibration of the gate
    folder/confusion.png   confusion of gate and masks, and the inconclusive band
    folder/dice.png        Dice of the masks, by area
    folder/folds.png       the rules that the folds chose
    folder/optuna.png      Optuna's trials

    Args:
        folder: made if missing.
        tables: threshold tables: the gate and the mask areas.
        counted: what the rule is scored on; the tables, or components where it looks at those.
        rule: the shipped one.
        metric: a name in METRICS.
        rules: of each held-out fold.
        by_fold: the score of each held-out fold.
        score: the cross-fitted one, of all folds.
        values: the score of each of Optuna's trials.
        exact_score: the exact optimum on the same images, where it is known.
    """
    pictures = {
        "surface": threshold_surface(tables, counted, rule, metric),
        "slices": threshold_slices(tables, counted, rule, metric),
        "gate": roc(tables, rule),
        "confusion": confusion(tables, counted, rule),
        "dice": dice_by_area(counted, rule),
        "folds": per_fold(rules, by_fold, rule, score, metric),
        "optuna": history(values, exact_score, metric),
    }
    return [style.save(drawn, folder / f"{name}.png") for name, drawn in pictures.items()]


def largest_area(tables: Tables, rule: Rule) -> int:
    """How far the least area is drawn, in pixels: twice the median mask, and some way beyond the rule's own."""
    positive = tables.truth[tables.truth > 0]
    return max(1, int(2 * np.median(positive)) if len(positive) else 1, int(1.5 * rule.min_area))


def over_gates(tables: Tables, counted: Scorable, rule: Rule, metric: str, gates: np.ndarray) -> np.ndarray:
    """The score at each of many gates, the rule's other numbers as they are: float (gates,).

    A gate only empties images, so the rule is counted once, and each gate is a partial sum over falling probability.
    """
    nothing = np.zeros(counted.truth.shape)
    empty = METRICS[metric](nothing, nothing, counted.truth)
    order = np.argsort(-tables.gate, kind="stable")
    passed = len(order) - np.searchsorted(tables.gate[order][::-1], gates, "left")
    sums = []
    for kept, none in zip(worths(counted, replace(rule, gate=0.0), metric), empty, strict=True):
        gained = np.cumsum((kept - none)[order], axis=0)
        sums.append(np.concatenate([np.zeros((1, gained.shape[1])), gained])[passed] + none.sum(axis=0))
    return ratio(*sums).mean(axis=1)


def surface(
    tables: Tables, counted: Scorable, rule: Rule, metric: str, steps: int = 52
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The score over gate and upper threshold, the others as in `rule`.

    Where upper falls below lower, lower follows; upper does not fall below the least that lower can be.

    Returns:
        gates, uppers: rising, `steps` of each and the rule's own.
        scores: float (gates, uppers).
    """
    gates = np.union1d(np.linspace(0, 1, steps), [rule.gate])
    lowers = _lowers(counted, rule)
    uppers = np.union1d(_levels(np.linspace(1, LEVELS - 1, steps).round()), [rule.upper])
    uppers = uppers[uppers >= min(lowers[0], rule.upper)]
    columns = [
        replace(rule, upper=u, lower=rule.lower if u >= rule.lower else float(lowers[lowers <= u][-1]))
        for u in uppers.tolist()
    ]
    return gates, uppers, np.stack([over_gates(tables, counted, one, metric, gates) for one in columns], axis=1)


def threshold_surface(tables: Tables, counted: Scorable, rule: Rule, metric: str) -> Figure:
    """The score over gate and upper threshold: the rule's own point, and where the score is nearly the best."""
    gates, uppers, found = surface(tables, counted, rule, metric)
    drawn, ax = style.figure(6.2, 4.6)
    ax.grid(False)
    mesh = ax.pcolormesh(uppers, gates, found, cmap="viridis", shading="nearest", rasterized=True)
    drawn.colorbar(mesh, label=TITLES[metric]).ax.tick_params(labelsize=8)
    edge = found.max() - NEAR
    if found.min() < edge:  # else all of it is within
        ax.contour(uppers, gates, found, [edge], colors="white", linewidths=1)
    ax.plot([], [], color="white", linewidth=1, label=f"within {NEAR} of the best")
    chosen = {"color": style.RED, "markeredgecolor": "white", "markersize": 8}
    ax.plot(rule.upper, rule.gate, "o", **chosen, label="chosen", clip_on=False, zorder=4)
    legend = ax.legend(fontsize=8, loc="upper left", facecolor="#333333", framealpha=0.6, labelcolor="white")
    legend.set_zorder(5)
    style.label(ax, NUMBERS["upper"], NUMBERS["gate"], f"{TITLES[metric]}: gate against upper threshold")
    return drawn


def threshold_slices(tables: Tables, counted: Scorable, rule: Rule, metric: str) -> Figure:
    """The score against each of the four numbers, the other three as chosen."""
    gates = np.union1d(np.linspace(0, 1, 256), [rule.gate])
    levels, lowers = _levels(np.arange(1, LEVELS, 3)), _lowers(counted, rule)
    lowers = lowers[:: 1 + len(lowers) // 100]
    sweeps = {
        "upper": np.union1d(levels[levels >= rule.lower], [rule.upper]),
        "lower": np.union1d(lowers[lowers <= rule.upper], [rule.lower]),
        "min_area": np.union1d(np.linspace(0, largest_area(tables, rule), 86).astype(int), [rule.min_area]),
    }
    lines = {"gate": (gates, over_gates(tables, counted, rule, metric, gates))}
    for name, values in sweeps.items():
        lines[name] = values, np.array([score(counted, replace(rule, **{name: v}), metric) for v in values.tolist()])
    drawn, axes = style.figure(9, 5, 2, 2, sharey=True)
    for at, (ax, (name, (values, found))) in enumerate(zip(axes.ravel(), lines.items(), strict=True)):
        ax.plot(values, found, color=style.BLUE)
        chosen = getattr(rule, name)
        ax.axvline(chosen, color=style.RED, linewidth=1)
        ax.ticklabel_format(style="plain", useOffset=False)
        ax.locator_params(axis="x", nbins=6)
        style.label(ax, NUMBERS[name], "" if at % 2 else TITLES[metric], f"{name} {_short(chosen)}")
    return drawn


def dice_by_area(counted: Scorable, rule: Rule) -> Figure:
    """How good the masks are where there is one in truth: all of them, and by decile of their area.

    With several classes each class of an image is a mask of its own. Deciles of fewer than five masks join.
    """
    there = counted.truth > 0
    found, area = dice_per_image(counted, rule)[there], counted.truth[there]
    drawn, (left, right) = style.figure(10, 3.8, 1, 2, width_ratios=[1, 1.5])
    if not len(area):
        for ax, title in ((left, "Dice of masks"), (right, "By mask area")):
            style.say(ax, "No image has a mask.")
            style.label(ax, "", "", title)
        return drawn
    left.hist(found, np.linspace(0, 1, 21), color=style.BLUE)
    left.axvline(found.mean(), color=style.RED, linewidth=1)
    left.yaxis.get_major_locator().set_params(integer=True)
    missed = f"{(found == 0).mean():.1%} at 0"
    style.label(left, "Dice", "masks in truth", f"Masks in truth, {len(found)}: mean {found.mean():.3f}, {missed}")
    parts = quantiles(area, 10, FEW)
    right.boxplot(
        [found[part] for part in parts],
        widths=0.6,
        showmeans=True,
        medianprops={"color": style.RED},
        meanprops={"marker": "o", "markerfacecolor": style.BLUE, "markeredgecolor": style.BLUE, "markersize": 4},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": style.GREY},
    )
    names = [f"{area[part].min()} to {area[part].max()}" for part in parts]
    tilted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(parts) > 5 else {}
    right.set_xticks(range(1, len(parts) + 1), names, **tilted)
    right.set(xlim=(0.4, max(len(parts), 4) + 0.6), ylim=(-0.03, 1.03))
    each = style.span([len(part) for part in parts])
    style.label(
        right, "mask area in truth (pixels)", "Dice", f"By area, masks a box: {each}; median (line), mean (dot)"
    )
    return drawn


def per_fold(
    rules: Mapping[int, Rule], by_fold: Mapping[int, float], shipped: Rule, score: float, metric: str
) -> Figure:
    """The rules that the folds' tuning chose, and what each scored on the fold that it had not seen.

    Args:
        rules: of each held-out fold, tuned on the other folds.
        by_fold: the score of each held-out fold.
        shipped: drawn as a line.
        score: the cross-fitted one, drawn as a line.
        metric: a name in METRICS.
    """
    drawn, axes = style.figure(12, 3, 1, 5)
    panels = [
        (name, {fold: getattr(rule, name) for fold, rule in rules.items()}, getattr(shipped, name), "shipped")
        for name in NUMBERS
    ]
    titles = {**NUMBERS, "score": TITLES[metric]}
    for ax, (name, dots, line, what) in zip(axes, [*panels, ("score", by_fold, score, "all folds")], strict=True):
        ax.axhline(line, color=style.RED, linewidth=1)
        ax.plot(list(dots), list(dots.values()), "o", color=style.BLUE, markersize=5, zorder=3)
        ax.set_xticks(list(dots))
        ax.margins(x=0.15)
        if name in ("gate", "upper", "lower"):
            ax.set_ylim(-0.03, 1.03)
        ax.ticklabel_format(axis="y", style="plain", useOffset=False)
        digits = f"{line:.4f}" if name == "score" else _short(line)
        style.label(ax, "held-out fold", titles[name], f"{name}: {what} {digits}")
    return drawn


def history(values: Sequence[float], exact: float | None, metric: str) -> Figure:
    """Optuna's trials: what each scored, the best so far, and the exact optimum where it is known.

    Args:
        values: the score of each trial, in order.
        exact: the best score that any rule reaches on the same images.
        metric: a name in METRICS.
    """
    drawn, ax = style.figure(7, 3.4)
    title = "Optuna: no trials"
    if len(values):
        found = np.array(values, float)
        best, trials = np.maximum.accumulate(found), np.arange(1, len(found) + 1)
        title = f"Optuna: best {best[-1]:.4f}, trials: {len(found)}"
        top = max(best[-1], best[-1] if exact is None else exact)
        # A few hopeless trials would squeeze the others into a line: they stand at the lower edge.
        floor = min(np.quantile(found, 0.2), top - 0.002)
        inside = found >= floor
        ax.plot(trials[inside], found[inside], ".", color=style.GREY, label="trial", markersize=5)
        if not inside.all():
            marks = {"color": style.GREY, "alpha": 0.5, "markersize": 4, "clip_on": False}
            ax.plot(trials[~inside], np.full((~inside).sum(), floor), "v", **marks, label="trial below")
        ax.plot(trials, np.maximum(best, floor), color=style.BLUE, label="best so far", drawstyle="steps-post")
        ax.set_ylim(floor - 0.04 * (top - floor), top + 0.06 * (top - floor))
        ax.xaxis.get_major_locator().set_params(integer=True)
    else:
        style.say(ax, "No trials were run.")
    if exact is not None:
        ax.axhline(exact, color=style.RED, linewidth=1, linestyle="--", label=f"exact optimum {exact:.4f}")
    if ax.get_legend_handles_labels()[0]:
        drawn.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    style.label(ax, "trial", TITLES[metric], title)
    return drawn


def _lowers(counted: Scorable, rule: Rule) -> np.ndarray:
    """The lower thresholds at which `rule` can be scored, rising: components are listed at some levels only."""
    some = isinstance(counted, Components) and rule.by_component
    return _levels(np.array(counted.levels) if some else np.arange(1, LEVELS))


def _levels(levels: np.ndarray) -> np.ndarray:
    """Probabilities of uint8 levels, as the rule's YAML spells them."""
    return np.array([probability(int(one)) for one in levels])


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"
