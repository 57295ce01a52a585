"""Figures that `gatemask oof-tune` wrote, class by class where there are several."""

from __future__ import annotations

from functools import partial

from gatemask.report import markup
from gatemask.report.inputs import Inputs
from gatemask.report.pictures import Pictures
from gatemask.results.tuning import TunedResult

# By the part of the page that shows them.
FIGURES = {
    "Thresholds": {
        "surface.png": "The score over two thresholds: a wide bright plateau means a robust rule.",
        "slices.png": "The score along each number of the rule, the others as chosen (red).",
        "folds.png": "The rules that were tuned on all folds but one (dots), the shipped rule (red), and the scores.",
        "optuna.png": "Optuna's trials, which show how hard the search is.",
    },
    "Gate": {
        "gate.png": "ROC curve, probabilities and calibration of the averaged gates, out of fold.",
        "confusion.png": "Confusion matrices of the gate and of the final masks, and the inconclusive band.",
    },
    "Masks": {"dice.png": "Dice where there is a mask in truth, under the rule, out of fold."},
}


def figures(inputs: Inputs, pictures: Pictures, tuned: TunedResult, part: str) -> str:
    """Return the figures of a part of the page; a damaged one is noted and left out."""
    shown = ""
    previous = ""
    for name, file, caption in _files(tuned, part):
        if name and name != previous:
            shown += markup.heading(name)
            previous = name
        alt = f"{name}: {caption}" if name else caption
        path = inputs.project.tuned / file
        shown += inputs.problems.guard(f"figure {file}", partial(pictures.file, path, caption, alt), "")
    return shown


def _files(tuned: TunedResult, part: str) -> list[tuple[str, str, str]]:
    """Return class, file and caption of each figure; the class is empty where the figure shows all of them."""
    wanted = FIGURES[part]
    if not tuned.classes or (part == "Gate" and tuned.classes[0].gate is None):
        return [("", file, caption) for file, caption in wanted.items()]
    return [
        (of_class.name, file.replace(".png", f"-{index}.png"), caption)
        for index, of_class in enumerate(tuned.classes)
        for file, caption in wanted.items()
        if file != "optuna.png"
    ]
