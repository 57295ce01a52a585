"""Learning curves: loss, validation score and speed, epoch by epoch, of finished and of unfinished folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatemask.plots import curves
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.pictures import Pictures

SHOWN = 12  # experiments; each has two or three panels
OPEN = 4  # of them are visible at once

Rows = Sequence[Mapping[str, float]]


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the curves of the ensemble's experiments, then of the others, best first.

    Raises:
        NotYet: No epoch is finished.
    """
    by_experiment: dict[str, dict[int, Rows]] = {}
    for (name, fold), rows in inputs.histories.items():
        by_experiment.setdefault(name, {})[fold] = rows
    if not by_experiment:
        first = inputs.ensemble.mask.experiments[0]
        raise NotYet(f"Curves appear after the first epoch of {inputs.command('train', first, [0])}.")
    names = _order(inputs, list(by_experiment))
    parts = [
        markup.paragraph("One color per fold. The validation score is free of thresholds: the best of all levels.")
    ]
    hidden: list[str] = []
    for number, name in enumerate(names[:SHOWN]):
        drawn = _panels(inputs, pictures, name, by_experiment[name])
        (parts if number < OPEN else hidden).append(markup.heading(name) + drawn)
    if hidden:
        parts.append(markup.details(f"{len(hidden)} more experiments", "".join(hidden)))
    if len(names) > SHOWN:
        rest = f"Not drawn: {', '.join(names[SHOWN:][:20])}."
        parts.append(markup.paragraph(rest, "`gatemask runs show` shows a single experiment."))
    return "".join(parts)


def _order(inputs: Inputs, names: Sequence[str]) -> list[str]:
    listed = [run.name for run in inputs.listed.experiments] if inputs.listed else []
    wanted = [*inputs.ensemble.gate.experiments, *inputs.ensemble.mask.experiments, *listed, *names]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _panels(inputs: Inputs, pictures: Pictures, name: str, folds: Mapping[int, Rows]) -> str:
    settings = inputs.settings(name)
    epochs = settings.epochs if settings else None
    monitor = settings.monitor if settings else curves.monitor_of(folds)
    last = {fold: rows[-1] for fold, rows in folds.items()}
    losses = ", ".join(f"fold {fold} {row['loss']:.4f}" for fold, row in last.items() if "loss" in row)
    figure = curves.draw_loss(folds, epochs)
    panels = [pictures.plot(figure, f"Loss of {name} by epoch, training and validation. Last training loss: {losses}.")]
    if monitor is not None:
        title = curves.MONITORS.get(monitor, monitor)
        best = {
            fold: max((row[monitor] for row in rows if monitor in row), default=None) for fold, rows in folds.items()
        }
        reached = ", ".join(f"fold {fold} {value:.4f}" for fold, value in best.items() if value is not None)
        figure = curves.draw_score(folds, monitor, epochs)
        panels.append(pictures.plot(figure, f"Validation {title} of {name} by epoch. Best: {reached or 'none'}."))
    if any("images_per_s" in row for rows in folds.values() for row in rows):
        speeds = [row["images_per_s"] for rows in folds.values() for row in rows if "images_per_s" in row]
        alt = f"Training images per second of {name} by epoch, {min(speeds):.0f} to {max(speeds):.0f}."
        panels.append(pictures.plot(curves.draw_speed(folds, epochs), alt))
    return f'<div class="plots">{"".join(panels)}</div>'
