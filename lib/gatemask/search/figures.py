"""Figures of a search, drawn by Optuna."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatemask.console import say
from gatemask.plots.style import save

if TYPE_CHECKING:
    import optuna

LEAST_TRIALS = 3  # finished trials that an estimate of importance needs


def draw_figures(study: optuna.Study, folder: Path, metric: str) -> list[Path]:
    """Draw history, slices and importances as PNG, and return the files.

    Args:
        study: Study of the search.
        folder: Folder of the figures.
        metric: Name of the score, for the axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import optuna
    from optuna.visualization import matplotlib as figures

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    drawn = {"history": figures.plot_optimization_history, "slice": figures.plot_slice}
    if len(complete) >= LEAST_TRIALS and len(complete[0].params) > 1:
        drawn["importance"] = figures.plot_param_importances
    paths = []
    for name, plot in drawn.items() if complete else ():
        options = {"target": _value} if name == "importance" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                axes = plot(study, target_name=metric, **options)
            except (ValueError, RuntimeError) as error:  # such as trials that all have one score
                say(f"{name}.png is not drawn: {error}")
                continue
            paths.append(save(_figure(axes), folder / f"{name}.png"))
    return paths


def _value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.value or 0.0)


def _figure(axes: Any) -> Any:
    import matplotlib.pyplot as plt
    import numpy as np

    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.set_layout_engine("constrained")
    plt.close(figure)  # pyplot would keep it
    return figure
