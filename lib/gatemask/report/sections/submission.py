"""The submission as it was rehearsed."""

from __future__ import annotations

import os

from gatemask.config import metric_title
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.markup import Cell
from gatemask.report.pictures import Pictures
from gatemask.results.submission import RehearsalResult


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return what the rehearsal of the offline kernel showed.

    Raises:
        NotYet: Nothing was rehearsed.
    """
    rehearsed = inputs.rehearsed
    if rehearsed is None:
        if (inputs.project.dist / "package.json").exists():
            raise NotYet(f"The package was not rehearsed yet. Run {inputs.command('rehearse')}.")
        steps = " and ".join(inputs.command(stage) for stage in ("package", "rehearse"))
        raise NotYet(f"Nothing was packaged yet. {steps} make a submission once an ensemble is chosen.")
    parts = [markup.table(["rehearsal", ""], _rows(inputs, rehearsed), "Rehearsal")]
    if rehearsed.metric != inputs.comp.metric:
        parts.append(markup.paragraph("The metric has changed since, so the score of the rehearsal is not shown."))
    if rehearsed.advice:
        parts.append(markup.paragraph(rehearsed.advice))
    if rehearsed.as_trained:
        parts.append(markup.warning("Members were used as trained:", rehearsed.as_trained))
    return "".join(parts)


def _rows(inputs: Inputs, rehearsed: RehearsalResult) -> list[list[object]]:
    def share(value: float | None) -> str | None:
        return None if value is None else f"{value:.1%}"

    score = rehearsed.submission_score if rehearsed.metric == inputs.comp.metric else None
    shown: list[tuple[str, object]] = [
        (metric_title(inputs.comp.metric), score),
        ("test images", rehearsed.images),
        ("passed the gate", rehearsed.passed),
        ("rows with an empty mask", f"{rehearsed.empty} ({rehearsed.empty_share:.1%})"),
        ("empty in training", share(rehearsed.train_empty_share)),
        ("unreadable images", ", ".join(rehearsed.unreadable) or "none"),
        ("prediction", f"{rehearsed.inference_seconds:.1f} s"),
        ("expected for the hidden test set", f"{rehearsed.expected_seconds:.0f} s for {rehearsed.test_images} images"),
        ("rehearsed with", rehearsed.isolation),
        ("file", os.path.relpath(rehearsed.submission, inputs.project.root)),
    ]
    return [[name, Cell(_text(value), None, wide=True)] for name, value in shown if value is not None]


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
