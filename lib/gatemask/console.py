"""What a person sees while a command runs. All of it goes to stderr: stdout belongs to `--json`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_console: Console | None = None


def console() -> Console:
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True, highlight=False, soft_wrap=True)
    return _console


def say(text: str) -> None:
    console().print(text, markup=False)


def progress(
    items: Iterable[T], what: str, total: int | None = None, size: Callable[[T], int] = lambda _: 1
) -> Generator[T, None, None]:
    """Go through `items` behind a progress bar, each worth `size` of the total; nothing is drawn on a pipe or a log."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = total if total is not None else len(items) if isinstance(items, Sequence) else None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.table import Table

    rows = list(rows)
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        text = any(isinstance(cell := row[index], str) and " " in cell for row in rows)
        drawn.add_column(column, justify="left" if index == 0 or text else "right")
    for row in rows:
        drawn.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console().print(drawn)
