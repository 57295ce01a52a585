"""The worst cases by type of error: masks that were missed, false alarms, and poor outlines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gatemask.report import markup
from gatemask.report.inputs import Inputs
from gatemask.report.pictures import Pictures
from gatemask.report.sections.gallery import shots
from gatemask.report.shown import Decided, open_decided

EACH = 8  # images of a type
POOR = 0.5  # Dice below which an outline counts as poor
MEANING = {
    "Missed": "There is a mask in truth, and the prediction is empty. The largest first.",
    "False alarms": "The prediction marks something in an image without a mask. The largest first.",
    "Poor outlines": f"Both have a mask, and their Dice is below {POOR}. The worst first.",
}


class ErrorType(NamedTuple):
    """Errors of one type.

    Args:
        images: Index of each image.
        classes: Index of the class, for each of them.
        lost: Mean Dice of all images and classes that these errors cost.
    """

    images: np.ndarray
    classes: np.ndarray
    lost: float


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return counts of errors by type, and the worst images of each.

    Raises:
        NotYet: No fold of a mask network is finished.
    """
    with open_decided(inputs) as decided:
        found = error_types(decided)
        parts = [_summary(decided, found)]
        for name, errors in found.items():
            if not len(errors.images):
                continue
            chosen = zip(errors.images[:EACH].tolist(), errors.classes[:EACH].tolist(), strict=True)
            remarks = [
                (image, f"{inputs.comp.classes[index]}:" if len(inputs.comp.classes) > 1 else "")
                for image, index in chosen
            ]
            parts += [markup.heading(name), markup.paragraph(MEANING[name]), shots(decided, pictures, remarks)]
    return "".join(parts)


def error_types(decided: Decided) -> dict[str, ErrorType]:
    """Return the errors of each type, worst first. Each class of an image is judged by itself."""
    truth, area, dice = decided.counted.truth, decided.area, decided.dice
    both = (truth > 0) & (area > 0)
    kinds = {
        "Missed": ((truth > 0) & (area == 0), -truth),
        "False alarms": ((truth == 0) & (area > 0), -area),
        "Poor outlines": (both & (dice < POOR), dice),
    }
    found = {}
    for name, (wrong, order) in kinds.items():
        images, classes = np.nonzero(wrong)
        ranked = np.argsort(order[wrong], kind="stable")
        lost = float((1 - dice[wrong]).sum() / max(1, dice.size))
        found[name] = ErrorType(images[ranked], classes[ranked], lost)
    return found


def _summary(decided: Decided, found: dict[str, ErrorType]) -> str:
    several = decided.counted.truth.shape[1] > 1
    units = "masks, one per image and class" if several else "images"
    total = decided.dice.size
    rows = [
        [name, len(errors.images), f"{len(errors.images) / max(1, total):.1%}", errors.lost]
        for name, errors in found.items()
    ]
    rest = float(1 - decided.dice.mean()) - sum(errors.lost for errors in found.values())
    rows.append(
        [f"outlines with a Dice from {POOR}", int(((decided.dice >= POOR) & (decided.dice < 1)).sum()), None, rest]
    )
    text = (
        f"{decided.about} Of {total} {units}, {sum(len(errors.images) for errors in found.values())} are wrong; the "
        "last column says how much of the mean Dice each type costs."
    )
    return markup.paragraph(text) + markup.table(["error", "number", "share", "Dice lost"], rows, "Errors by type")
