"""`gatemask runs --watch`: follow the folds that are in training, re-reading only files that have changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatemask.console import console, plain, say
from gatemask.errors import GatemaskError
from gatemask.files import is_locked
from gatemask.project import Project
from gatemask.runs.scan import FoundFold, find_runs
from gatemask.tracking.run_folder import fold_lock, read_readable_metrics

if TYPE_CHECKING:
    from rich.table import Table

RECENT = 5  # epochs whose mean duration predicts the next ones


@dataclass(frozen=True)
class WatchedFold:
    """A fold that is, or was, in training while it was watched.

    Args:
        name: Name of the experiment.
        fold: Number of the fold.
        state: "training", "finished", or "stopped": its process has ended before the last epoch.
        epoch: Number of epochs trained.
        epochs: Number of epochs to train; 0 if unknown.
        monitor: Metric that chooses the epochs.
        loss: Training loss of the last epoch.
        score: Validation score of the last epoch.
        best: Best score so far.
        images_per_s: Training images per second of the last epoch; None if unknown.
        epoch_s: Duration of an epoch, in seconds; None before the first.
        logged_at: Time of the last epoch's end, in seconds since 1970.
    """

    name: str
    fold: int
    state: str = "training"
    epoch: int = 0
    epochs: int = 0
    monitor: str = "score"
    loss: float | None = None
    score: float | None = None
    best: float | None = None
    images_per_s: float | None = None
    epoch_s: float | None = None
    logged_at: float = 0.0

    def eta_s(self, now: float) -> float | None:
        """Return the seconds until the last epoch ends, as far as earlier epochs can tell."""
        if self.state != "training" or self.epoch_s is None or not self.epochs:
            return None
        return max(0.0, (self.epochs - self.epoch) * self.epoch_s - max(0.0, now - self.logged_at))

    def line(self) -> str:
        """Return the row as a line of text."""
        parts = [f"{self.name} fold {self.fold}: {self.state}, epoch {self.epoch}/{self.epochs or '?'}"]
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"{self.monitor} {self.score:.4f}"] if self.score is not None else []
        parts += [f"best {self.best:.4f}"] if self.best is not None else []
        parts += [f"{self.images_per_s:.0f} images/s"] if self.images_per_s is not None else []
        eta = self.eta_s(time.time())
        return ", ".join([*parts, *([f"{duration(eta)} left"] if eta is not None else [])])


class Watcher:
    """Looks at the runs of a competition again and again.

    Args:
        project: Project and competition.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._rows: dict[tuple[str, int], WatchedFold] = {}
        self._signatures: dict[tuple[str, int], str] = {}

    def look(self) -> list[WatchedFold]:
        """Return all folds that are in training, and those that were when they were looked at before."""
        for name, folds in find_runs(self._project).items():
            for fold, found in folds.items():
                key = (name, fold)
                finished = found.finished
                training = (not finished or key in self._rows) and is_locked(fold_lock(self._project.fold(name, fold)))
                if training or key in self._rows:
                    state = "finished" if finished else "training" if training else "stopped"
                    self._rows[key] = self._read(name, fold, found, state)
        return list(self._rows.values())

    def _read(self, name: str, fold: int, found: FoundFold, state: str) -> WatchedFold:
        key, folder = (name, fold), self._project.fold(name, fold)
        known = self._rows.get(key)
        if known is not None and (self._signatures[key], known.state) == (found.signature, state):
            return known
        self._signatures[key] = found.signature
        epochs, monitor = _plan(folder)
        log = folder / "metrics.jsonl"
        rows = read_readable_metrics(log)
        scores = [row[monitor] for row in rows if monitor in row]
        seconds = [row["seconds"] for row in rows if "seconds" in row][-RECENT:]
        logged_at = 0.0
        with suppress(OSError):
            logged_at = log.stat().st_mtime
        return WatchedFold(
            name=name,
            fold=fold,
            state=state,
            epoch=int(rows[-1]["epoch"]) + 1 if rows else 0,
            epochs=epochs,
            monitor=monitor,
            loss=rows[-1].get("loss") if rows else None,
            score=rows[-1].get(monitor) if rows else None,
            best=max(scores, default=None),
            images_per_s=rows[-1].get("images_per_s") if rows else None,
            epoch_s=sum(seconds) / len(seconds) if seconds else None,
            logged_at=logged_at,
        )


def _plan(folder: Path) -> tuple[int, str]:
    """Return the number of epochs of a run, and its monitor, as far as they are known yet."""
    from gatemask.config import load_run_config

    try:
        exp = load_run_config(folder)
    except GatemaskError:
        return 0, "score"
    return exp.epochs, exp.monitor


def watch_runs(project: Project, interval_s: float) -> None:
    """Show the folds in training until Ctrl-C: a table that is redrawn, or changed rows where that is impossible.

    Args:
        project: Project and competition.
        interval_s: Time between looks, in seconds.
    """
    looks = _looks(Watcher(project), interval_s)
    with suppress(KeyboardInterrupt):
        if console().is_terminal and not console().is_dumb_terminal:
            _redraw(project, looks)
        else:
            _print_changes(project, looks)


def _looks(watcher: Watcher, interval_s: float) -> Iterator[list[WatchedFold]]:
    while True:
        yield watcher.look()
        time.sleep(interval_s)


def _redraw(project: Project, looks: Iterator[list[WatchedFold]]) -> None:
    from rich.live import Live

    with Live(_table(project, []), console=console(), auto_refresh=False) as live:
        for rows in looks:
            live.update(_table(project, rows), refresh=True)


def _table(project: Project, rows: Sequence[WatchedFold]) -> Table:
    from rich.table import Table

    now = time.time()
    title = f"{project.label}: {time.strftime('%H:%M:%S')}, Ctrl-C ends"
    grid = Table(title=plain(title), title_justify="left", title_style="bold", header_style="bold")
    for column in ("experiment", "fold", "epoch", "loss", "score", "best", "img/s", "left"):
        grid.add_column(column, justify="left" if column == "experiment" else "right")
    for row in rows:
        style = {"training": "cyan", "stopped": "yellow"}.get(row.state, "")
        eta = row.eta_s(now)
        cells = [
            row.name,
            str(row.fold),
            f"{row.epoch}/{row.epochs or '?'}",
            *(_number(value) for value in (row.loss, row.score, row.best)),
            "-" if row.images_per_s is None else f"{row.images_per_s:.0f}",
            row.state if row.state != "training" else "-" if eta is None else duration(eta),
        ]
        grid.add_row(*(plain(cell) for cell in cells), style=style)
    if not rows:
        grid.add_row("nothing is in training")
    return grid


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_changes(project: Project, looks: Iterator[list[WatchedFold]]) -> None:
    shown: dict[tuple[str, int], WatchedFold] = {}
    for number, rows in enumerate(looks):
        if not number and not rows:
            say(f"Nothing is in training in {project.runs}; waiting. Ctrl-C ends.")
        for row in rows:
            if shown.get((row.name, row.fold)) != row:
                shown[row.name, row.fold] = row
                say(row.line())


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(59), duration(600), duration(7300)
    ('59 s', '10 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
