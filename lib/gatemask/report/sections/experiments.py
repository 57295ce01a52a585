"""Experiments: scores with intervals as dots and bars, and a table that sorts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gatemask.config import metric_title
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.markup import Cell
from gatemask.report.pictures import Pictures
from gatemask.results.runs import ExperimentRun, RunScore

SHOWN = 30  # experiments in the picture
ROWS = 1000  # experiments in the table
KEYS = 4  # changed keys in the table; `gatemask runs show` lists all
COLUMNS = [
    "experiment",
    "task",
    "folds",
    "score",
    "95 % interval",
    "scored",
    "against the best",
    "gain in the ensemble",
    "hours",
    "quota hours",
    "images/s",
    "s per image",
    "leaderboard",
    "changed",
    "commit",
    "tags and note",
]


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the leaderboard of experiments.

    Raises:
        NotYet: Nothing was trained.
    """
    if inputs.listed is None:
        raise NotYet("The experiments cannot be listed; the problems at the top say why.")
    begun = [run for run in inputs.listed.experiments if run.state != "not started"]
    waiting = [run.name for run in inputs.listed.experiments if run.state == "not started"]
    if not begun:
        first = waiting[0] if waiting else "NAME"
        raise NotYet(f"No experiment has been trained yet. Run {inputs.command('train', first, [0])}.")
    scores = [run for run in begun if run.score is not None]
    parts = [_intro(scores)]
    for title, group in _groups(scores).items():
        parts += [markup.heading(title), dots(group[:SHOWN], title)]
        if len(group) > SHOWN:
            parts.append(markup.paragraph(f"The {SHOWN} best of {len(group)}."))
    rows = [_row(run) for run in begun[:ROWS]]
    parts.append(markup.table(*_columns_with_content(rows), "Experiments", sortable=True))
    if len(begun) > ROWS:
        text = f"The first {ROWS} of {len(begun)} experiments; {inputs.command('runs')} lists all."
        parts.append(markup.paragraph(text))
    if waiting:
        names = ", ".join(waiting[:12]) + (f" and {len(waiting) - 12} more" if len(waiting) > 12 else "")
        parts.append(markup.paragraph(f"Not started: {names}."))
    problems = [f"{run.name}: {problem}" for run in inputs.listed.experiments for problem in run.problems]
    if problems:
        parts.append(markup.warning("Some runs have damaged or unexpected files.", problems))
    return "".join(parts)


def _groups(scores: Sequence[ExperimentRun]) -> dict[str, list[ExperimentRun]]:
    """Return the experiments whose scores can be compared, by the heading of their picture, best first."""
    groups: dict[str, list[ExperimentRun]] = {}
    for run in sorted(scores, key=lambda run: -run.score.value if run.score else 0.0):
        if run.score is None:
            continue
        title = "AUC" if run.score.metric == "auc" else metric_title(run.score.metric)
        kind = "mask networks" if run.task == "mask" else "gates"
        beside = f", each with {' and '.join(run.score.beside)}" if run.score.beside else ""
        groups.setdefault(f"{title} of {kind}{beside}", []).append(run)
    return dict(sorted(groups.items(), key=lambda group: group[1][0].task != "mask"))


def _intro(scores: Sequence[ExperimentRun]) -> str:
    if not scores:
        return markup.paragraph("Scores appear as soon as a fold is finished. Until then, see the curves below.")
    sentences = [
        "Out-of-fold score of each experiment, with the 95 % interval over groups of images.",
        "Two intervals that overlap say little: the table compares experiments on the same images.",
    ]
    if any(run.score and run.score.kind == "in-sample" for run in scores):
        sentences.append(
            "Open dots are in-sample: with a single finished fold, thresholds are tuned on its own images."
        )
    return markup.paragraph(*sentences)


def dots(runs: Sequence[ExperimentRun], title: str) -> str:
    """Return scores as dots with bars, one row per experiment, best first.

    Args:
        runs: Experiments with a score, all in one metric.
        title: Name of the score.
    """
    scored = sorted(((run, run.score) for run in runs if run.score), key=lambda pair: -pair[1].value)
    low, high = min(score.ci95[0] for _, score in scored), max(score.ci95[1] for _, score in scored)
    room = 0.06 * (high - low) or 0.01
    ticks = _ticks(low - room, high + room)

    def place(value: float) -> str:
        return f"{100 * (value - low + room) / (high - low + 2 * room):.2f}%"

    grid = "".join(f'<line class="grid" x1="{place(t)}" x2="{place(t)}" y1="0" y2="100%"/>' for t in ticks)
    best = scored[0][1].value
    rows = []
    for run, score in scored:
        bar = f'<line class="bar" x1="{place(score.ci95[0])}" x2="{place(score.ci95[1])}" y1="50%" y2="50%"/>'
        kind = "dot open" if score.kind == "in-sample" else "dot"
        dot = f'<circle class="{kind}" cx="{place(score.value)}" cy="50%" r="5.5"/>'
        first = " best" if score.value == best else ""
        rows.append(
            f'<div class="row{first}"><span class="name">{markup.text(run.name)}</span>'
            f'<svg class="plotted" aria-hidden="true">{grid}{bar}{dot}</svg>'
            f'<span class="value"><b>{score.value:.4f}</b> &ensp;{_interval(score)}</span></div>'
        )
    labels = "".join(f'<text x="{place(t)}" y="1rem">{_short(t, ticks)}</text>' for t in ticks)
    axis = (
        f'<div class="row axis"><span></span><svg class="plotted" aria-hidden="true">{labels}</svg><span></span></div>'
    )
    told = "; ".join(f"{run.name} {score.value:.4f}, {_interval(score)}" for run, score in scored)
    alt = f"{title}: {len(scored)} experiments as dots, with 95 % intervals as bars, best first: {told}."
    return f'<div class="dots" role="img" aria-label="{markup.text(alt)}">{"".join(rows)}{axis}</div>'


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def _short(value: float, ticks: Sequence[float]) -> str:
    """Return a tick with as many digits as the distance of the ticks needs."""
    step = min((b - a for a, b in pairwise(ticks)), default=0.1)
    digits = next((digits for digits in (1, 2, 3) if abs(round(step, digits) - step) < 1e-6), 4)
    return f"{value:.{digits}f}"


def _interval(score: RunScore) -> str:
    return f"{score.ci95[0]:.4f} to {score.ci95[1]:.4f}"


def _row(run: ExperimentRun) -> list[object]:
    score, against = run.score, run.against_best
    verdict = None
    if against is not None:
        verdict = Cell(f"{against.verdict} ({against.difference:+.4f})", against.verdict)
    elif score is not None:
        verdict = Cell("the best", "")
    keys = [f"{key} {str(pair[1])[:40]}" for key, pair in run.changed.items()]
    changed = "; ".join(keys[:KEYS]) + (f"; {len(keys) - KEYS} more" if len(keys) > KEYS else "")
    remarks = " ".join([*(f"#{tag}" for tag in run.tags), run.note]).strip()
    board = None if run.leaderboard is None else Cell(f"{run.leaderboard:.5f}", run.leaderboard)
    return [
        run.name,
        run.task,
        _folds(run),
        None if score is None else score.value,
        None if score is None else _interval(score),
        None if score is None else score.kind,
        verdict,
        None if run.gain is None else Cell(f"{run.gain.value:+.4f}", run.gain.value),
        Cell(f"{run.hours:.2f}", run.hours),
        Cell(f"{run.quota_hours:.2f}", run.quota_hours) if run.quota_hours else None,
        None if run.images_per_s is None else Cell(f"{run.images_per_s:.0f}", run.images_per_s),
        None if run.inference_s is None else Cell(f"{run.inference_s:.4f}", run.inference_s),
        board,
        Cell(changed, changed, wide=True) if changed else None,
        ", ".join(dict.fromkeys(commit[:8] for commit in run.commits)) or None,
        Cell(remarks, remarks, wide=True) if remarks else None,
    ]


def _folds(run: ExperimentRun) -> Cell:
    shown = f"{len(run.folds_done)} of {run.folds}"
    left = [f"{fold}: {done}/{run.epochs}" for fold, done in run.epochs_done.items() if fold not in run.folds_done]
    if left:
        shown += f" ({'training ' if run.state == 'training' else ''}fold {', '.join(left)} epochs)"
    return Cell(shown, len(run.folds_done))


def _columns_with_content(rows: list[list[object]]) -> tuple[list[str], list[list[object]]]:
    """Return heads and rows without the columns that are empty throughout."""
    kept = [index for index in range(len(COLUMNS)) if any(row[index] is not None for row in rows)]
    return [COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows]
