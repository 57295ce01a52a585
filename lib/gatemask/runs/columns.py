"""Columns of `gatemask runs`: values to sort by, to filter by, and to export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gatemask.results.runs import ExperimentRun

Value = str | float | int | bool | None
Cell = Value | tuple[str, ...]
ANSWERS = {"better": "yes", "worse": "no", "cannot tell": "cannot tell"}


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        value: Returns the value of a row.
        descending: Whether large values come first when rows are sorted by it.
    """

    value: Callable[[ExperimentRun], Cell]
    descending: bool = False


COLUMNS: Mapping[str, Column] = {
    "name": Column(lambda run: run.name),
    "task": Column(lambda run: run.task),
    "state": Column(lambda run: run.state),
    "done": Column(lambda run: len(run.folds_done), descending=True),
    "folds": Column(lambda run: run.folds, descending=True),
    "epochs_done": Column(lambda run: sum(run.epochs_done.values()), descending=True),
    "epochs": Column(lambda run: run.epochs, descending=True),
    "score": Column(lambda run: run.score.value if run.score else None, descending=True),
    "low": Column(lambda run: run.score.ci95[0] if run.score else None, descending=True),
    "high": Column(lambda run: run.score.ci95[1] if run.score else None, descending=True),
    "kind": Column(lambda run: run.score.kind if run.score else None),
    "better": Column(lambda run: answer(run)),
    "difference": Column(lambda run: run.against_best.difference if run.against_best else None, descending=True),
    "difference_low": Column(lambda run: run.against_best.ci95[0] if run.against_best else None, descending=True),
    "difference_high": Column(lambda run: run.against_best.ci95[1] if run.against_best else None, descending=True),
    "gain": Column(lambda run: run.gain.value if run.gain else None, descending=True),
    "gain_low": Column(lambda run: run.gain.ci95[0] if run.gain else None, descending=True),
    "gain_high": Column(lambda run: run.gain.ci95[1] if run.gain else None, descending=True),
    "monitor": Column(lambda run: run.monitor),
    "hours": Column(lambda run: run.hours, descending=True),
    "quota_hours": Column(lambda run: run.quota_hours, descending=True),
    "images_per_s": Column(lambda run: run.images_per_s, descending=True),
    "inference_s": Column(lambda run: run.inference_s),
    "parent": Column(lambda run: run.parent),
    "changed": Column(lambda run: tuple(run.changed)),
    "commits": Column(lambda run: run.commits),
    "leaderboard": Column(lambda run: run.leaderboard, descending=True),
    "submission": Column(lambda run: run.submission),
    "alone": Column(lambda run: run.alone),
    "tags": Column(lambda run: run.tags),
    "note": Column(lambda run: run.note),
    "problems": Column(lambda run: run.problems),
}


def answer(run: ExperimentRun) -> str | None:
    """Return whether an experiment is better than the best: "yes", "no" or "cannot tell"; "best" for the best."""
    if run.score is None:
        return None
    return ANSWERS[run.against_best.verdict] if run.against_best else "best"
