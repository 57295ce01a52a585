"""Print `gatemask runs`: a table that fits 100 columns, and details."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gatemask.config import metric_title
from gatemask.console import CONTROL, console, say, table
from gatemask.results.runs import ExperimentRun, NoteResult, RunDetails, RunDifference, RunList
from gatemask.results.tuning import Kind
from gatemask.runs.columns import COLUMNS, answer

WIDTH = 100  # characters; a wider terminal shows more columns
LONGEST_NAME = 32
SHOWN_PROBLEMS = 6
STYLES = {"yes": "green", "no": "red", "cannot tell": "yellow", "best": "bold"}
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class _Column:
    """A printed column.

    Args:
        title: Title.
        cells: Text of each row.
        right: Whether cells are aligned on the right.
        styles: Style of each row. Default: none.
        shrinks: Fewest characters to which it may be cut. Default: it is never cut.
    """

    title: str
    cells: list[str]
    right: bool = True
    styles: list[str] = field(default_factory=list)
    shrinks: int | None = None

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.cells)))


def print_runs(runs: RunList) -> None:
    """Print a table for each task, and what is wrong."""
    if not runs.experiments:
        say("No experiments.")
    width = max(WIDTH, console().width if console().is_terminal else 0)
    for task in ("mask", "gate"):
        rows = [run for run in runs.experiments if run.task == task]
        if rows:
            _print_table(_title(runs, rows, task), _fitting(_columns(rows), width))
    _print_footnotes(runs)


def _title(runs: RunList, rows: Sequence[ExperimentRun], task: Kind) -> str:
    count = f"{len(rows)} {'mask network' if task == 'mask' else 'gate'}{'s' if len(rows) > 1 else ''}"
    score = next((run.score for run in rows if run.score), None)
    if score is None:
        return f"{runs.competition}: {count}"
    what = "AUC" if score.kind == "auc" else f"{metric_title(runs.metric)}, cross-fitted"
    if score.beside:
        side = "behind" if task == "mask" else "in front of"
        what += f" {side} {' + '.join(score.beside)}"
    elif task == "mask":
        what += " without a gate"
    return f"{runs.competition}: {count}; {what}"


def _columns(rows: Sequence[ExperimentRun]) -> list[_Column]:
    """Return the columns, most important first; those without a value are left out."""
    answers = [answer(run) or "-" for run in rows]
    names = [("> " if run.state == "training" else "") + _short(run.name, LONGEST_NAME) for run in rows]
    always = [
        _Column("experiment", names, False, ["cyan" if run.state == "training" else "" for run in rows]),
        _Column("folds", [f"{len(run.folds_done)}/{run.folds or '?'}" for run in rows]),
        _Column("score", [_score(run) for run in rows]),
        _Column("95 %", [_interval(run) for run in rows]),
        _Column("better?", answers, False, [STYLES.get(text, "") for text in answers]),
        _Column(
            "difference", [_number(run.against_best.difference if run.against_best else None, "+.4f") for run in rows]
        ),
    ]
    optional = [
        _Column("gain", [_number(run.gain.value if run.gain else None, "+.4f") for run in rows]),
        _Column("board", [_number(run.leaderboard, ".4f") for run in rows]),
        _Column("hours", [_number(run.hours or None, ".1f") for run in rows]),
        _Column("quota", [_number(run.quota_hours or None, ".1f") for run in rows]),
        _Column("img/s", [_number(run.images_per_s, ".0f") for run in rows]),
        _Column("s/img", [_number(run.inference_s, ".2g") for run in rows]),
        _Column("tags", [",".join(run.tags) or "-" for run in rows], False, shrinks=8),
        _Column("changes", [",".join(run.changed) or "-" for run in rows], False, shrinks=12),
        _Column("commit", [_commit(run) for run in rows], False),
    ]
    return [*always, *(column for column in optional if any(cell != "-" for cell in column.cells))]


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Return as many columns as fit; the last ones are cut where that makes room."""
    kept: list[_Column] = []
    left = width + 2
    for column in columns:
        room = left - 2
        if column.width > room:
            if column.shrinks is None or room < column.shrinks:
                continue
            column.cells = [_short(cell, room) for cell in column.cells]
        kept.append(column)
        left -= column.width + 2
    return kept


def _print_table(title: str, columns: Sequence[_Column]) -> None:
    """Print a table as one text: the tables of rich take seconds for thousands of rows."""
    widths = [column.width for column in columns]
    padded = [
        [_padded(CONTROL.sub("?", cell), width, column.right) for cell in (column.title, *column.cells)]
        for column, width in zip(columns, widths, strict=True)
    ]
    lines = [CONTROL.sub("?", title), *("  ".join(cells).rstrip() for cells in zip(*padded, strict=True))]
    if not console().is_terminal:
        say("\n".join(lines))
        return
    from rich.text import Text

    text = Text("\n".join(lines))
    text.stylize("bold", 0, len(lines[0]) + 1 + len(lines[1]))
    start = len(lines[0]) + len(lines[1]) + 2
    for row, line in enumerate(lines[2:]):
        left = start
        for column, width in zip(columns, widths, strict=True):
            if column.styles and column.styles[row]:
                text.stylize(column.styles[row], left, left + width)
            left += width + 2
        start += len(line) + 1
    with suppress(OSError):
        console().print(text)


def _padded(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _print_footnotes(runs: RunList) -> None:
    rows = runs.experiments
    if any(run.state == "training" for run in rows):
        say("> in training; --watch follows it")
    if any(run.score and run.score.kind == "in-sample" for run in rows):
        say("* in-sample: the only finished fold is scored by a rule that was tuned on it")
    problems = [*runs.problems, *(f"{run.name}: {problem}" for run in rows for problem in run.problems)]
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"! {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        say(f"! {len(problems) - SHOWN_PROBLEMS} more: gatemask runs show, or --json")


def _score(run: ExperimentRun) -> str:
    if run.score is None:
        return "-"
    return f"{run.score.value:.4f}{'*' if run.score.kind == 'in-sample' else ''}"


def _interval(run: ExperimentRun) -> str:
    return "-" if run.score is None else "{:.4f} to {:.4f}".format(*run.score.ci95)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _commit(run: ExperimentRun) -> str:
    short = dict.fromkeys(commit[:7] + ("+" if commit.endswith("+dirty") else "") for commit in run.commits)
    return next(iter(short)) + (" ..." if len(short) > 1 else "") if short else "-"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


# --- details -----------------------------------------------------------------------------------------------


def print_details(details: RunDetails) -> None:
    """Print all about one experiment."""
    run = details.experiment
    say(f"{run.name}: {run.task}, {run.state}, {len(run.folds_done)} of {run.folds or '?'} folds")
    for name, text in _facts(run):
        if text:
            say(f"  {name + ':':<14}{text}")
    if run.changed:
        table(
            f"changes against {run.parent}",
            ["key", "there", "here"],
            [[key, _value(a), _value(b)] for key, (a, b) in run.changed.items()],
        )
    if details.runs:
        rows = [
            [
                fold.fold,
                fold.state,
                f"{fold.epochs_done}/{run.epochs}",
                _number(fold.score, ".4f"),
                _number(fold.hours, ".2f"),
                _number(fold.images_per_s, ".0f"),
                (fold.commit or "-")[:7],
                fold.kernel or "-",
            ]
            for fold in details.runs
        ]
        table("folds", ["fold", "state", "epochs", run.monitor, "hours", "img/s", "commit", "kernel"], rows)
    for problem in run.problems:
        say(f"! {problem}")


def _facts(run: ExperimentRun) -> list[tuple[str, str]]:
    score, best, gain = run.score, run.against_best, run.gain
    facts = [("tags", ", ".join(run.tags)), ("note", run.note)]
    if score is not None:
        where = (
            f", {'behind' if run.task == 'mask' else 'in front of'} {' + '.join(score.beside)}" if score.beside else ""
        )
        title = "AUC" if score.kind == "auc" else f"{metric_title(score.metric)}, {score.kind}"
        interval = "{:.4f} to {:.4f}".format(*score.ci95)
        facts.append(("score", f"{score.value:.4f} (95 % from {interval}; {title}{where})"))
        facts.append(("images", f"{score.images} in {score.groups} groups, folds {', '.join(map(str, score.folds))}"))
        text = (
            "this is the best"
            if best is None
            else f"{answer(run)}: {_difference(best.difference, best.ci95)} than {best.best}"
        )
        facts.append(("better?", text.replace(" than ", " against ")))
    if gain is not None:
        facts.append(("gain", f"{_difference(gain.value, gain.ci95)} for the ensemble"))
    if run.leaderboard is not None:
        facts.append(("leaderboard", f"{run.leaderboard:.4f}, {run.submission}{'' if run.alone else ', with others'}"))
    facts.append(
        ("hours", f"{run.hours:.2f}" + (f", {run.quota_hours:.2f} of Kaggle's quota" if run.quota_hours else ""))
    )
    if run.inference_s is not None:
        facts.append(("inference", f"{run.inference_s:.3g} s per image"))
    facts.append(("commits", ", ".join(run.commits)))
    return facts


def _difference(value: float, ci95: tuple[float, float]) -> str:
    return f"{value:+.4f} (95 % from {ci95[0]:+.4f} to {ci95[1]:+.4f})"


def _value(value: object) -> str:
    return "-" if value is None else _short(str(value), 40)


def print_difference(result: RunDifference) -> None:
    """Print what two experiments differ in: settings, score, curves."""
    first, second = result.first, result.second
    if result.settings:
        rows = [[key, _value(before), _value(after)] for key, (before, after) in result.settings.items()]
        table("settings", ["key", first, second], rows)
    else:
        say("The settings are the same.")
    if result.first_score and result.second_score and result.difference is not None and result.ci95:
        kind = result.first_score.kind
        what = "AUC" if kind == "auc" else f"{metric_title(result.first_score.metric)}, {kind}"
        scores = ((first, result.first_score), (second, result.second_score))
        lines = [[name, f"{score.value:.4f}", "{:.4f} to {:.4f}".format(*score.ci95)] for name, score in scores]
        table(f"{what}, folds {', '.join(map(str, result.folds))}", ["", "score", "95 %"], lines)
        verdict = f"cannot tell {second} from {first}"
        if result.verdict != "cannot tell":
            verdict = f"{second} is {result.verdict} than {first}"
        say(f"{verdict}: {_difference(result.difference, result.ci95)}")
    for problem in result.problems:
        say(problem)
    for part in ("loss", "score"):
        _print_curves(part, {name: getattr(curve, part) for name, curve in result.curves.items()})


def _print_curves(what: str, curves: dict[str, tuple[float, ...]]) -> None:
    """Print curves on one scale, a character per epoch."""
    values = [value for curve in curves.values() for value in curve]
    if not values:
        return
    low, high = min(values), max(values)
    say(f"{what} by epoch, {low:.4f} to {high:.4f}")
    width = max(map(len, curves))
    for name, curve in curves.items():
        say(
            f"  {name:<{width}}  {_spark(curve, low, high)}  {curve[0]:.4f} to {curve[-1]:.4f}"
            if curve
            else f"  {name}"
        )


def _spark(curve: Sequence[float], low: float, high: float, longest: int = 60) -> str:
    """Return a curve as a line of blocks, or of digits where the terminal cannot show them."""
    step = max(1, -(-len(curve) // longest))
    means = [sum(part) / len(part) for start in range(0, len(curve), step) if (part := curve[start : start + step])]
    marks = BLOCKS if _shows(BLOCKS) else "01234567"
    return "".join(marks[min(7, int(8 * (value - low) / ((high - low) or 1.0)))] for value in means)


def _shows(text: str) -> bool:
    try:
        text.encode(console().encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def print_note(result: NoteResult) -> None:
    """Print tags and note of an experiment."""
    say(f"{result.experiment}: {', '.join(result.tags) or 'no tags'}" + (f"; {result.note}" if result.note else ""))


def as_csv(rows: Sequence[ExperimentRun]) -> str:
    """Return rows as CSV with all columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    cells: list[Callable[[ExperimentRun], object]] = [column.value for column in COLUMNS.values()]
    for row in rows:
        values = [cell(row) for cell in cells]
        writer.writerow(["" if v is None else " | ".join(v) if isinstance(v, tuple) else v for v in values])
    return text.getvalue()
