"""Output for people: messages, progress bars and tables on stderr. Stdout belongs to `--json`."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

VERBOSE = "GATEMASK_VERBOSE"  # variable of the environment: whether details are printed
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
T = TypeVar("T")


class Relay(Protocol):
    """Receives what this process prints and how far its progress bars are."""

    def line(self, text: str) -> None: ...

    def bar(self, what: str, done: int, total: int | None) -> None: ...


_console: Console | None = None
_recorders: list[list[str]] = []
_bars = 0  # open progress bars
_relay: Relay | None = None


def console() -> Console:
    """Return the console of this process, which writes to stderr."""
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True, highlight=False, soft_wrap=True)
    return _console


def plain(text: object, style: str = "") -> Text:
    """Return data for the console as it is: titles, names of files and folds, texts of others.

    Square brackets are not markup, `:names:` are not emoji, and control characters, which could move the cursor or
    change colors, are shown as escapes. All data that is printed goes through this function.

    Args:
        text: Data; anything but text is converted.
        style: Style of rich, such as "dim". Default: none.
    """
    from rich.text import Text

    return Text(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text)), style=style)


def say(text: str) -> None:
    """Print a line as it is. A full disk behind stderr, or a closed terminal, ends no training."""
    for lines in _recorders:
        lines.append(text)
    if _relay is not None:
        _relay.line(text)
    if os.environ.get(VERBOSE):
        text = f"{time.strftime('%H:%M:%S')} {text}"
    with suppress(OSError):
        console().print(plain(text))


def say_command(arguments: Sequence[object]) -> None:
    """Print a command that is about to be run, with `--verbose`. Secrets are never among its arguments."""
    if os.environ.get(VERBOSE):
        say(f"$ {shlex.join(map(str, arguments))}")


def relay_to(relay: Relay) -> None:
    """Send all lines and progress of this process to `relay` as well: another process shows them."""
    global _relay
    _relay = relay


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Yield a list that gets every line that is said while the block runs, besides being printed."""
    lines: list[str] = []
    _recorders.append(lines)
    try:
        yield lines
    finally:
        _recorders.remove(lines)


def is_drawing() -> bool:
    """Return whether progress is drawn: stderr is a terminal."""
    return console().is_terminal


def progress(
    items: Iterable[T], what: str | Callable[[], str], total: int | None = None, size: Callable[[T], int] = lambda _: 1
) -> Generator[T, None, None]:
    """Yield the items while drawing a progress bar, if stderr is a terminal. Inside another bar, nothing is drawn.

    Args:
        items: Items to yield.
        what: Text next to the bar, or a function that returns it whenever the bar is drawn, from any thread.
        total: Length of the bar. Default: the number of items, if they are a sequence.
        size: Share of the total for an item. Default: 1.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn

    class Label(ProgressColumn):
        def render(self, task: Task) -> Text:
            return plain(what() if callable(what) else what)

    total = total if total is not None else len(items) if isinstance(items, Sequence) else None
    columns = Label(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    hidden = not is_drawing() or _bars > 0
    with _counted(), Progress(*columns, console=console(), transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=total)
        done = 0
        for item in items:
            yield item
            bar.advance(task, size(item))
            done += size(item)
            if _relay is not None and _bars == 1:
                _relay.bar(what() if callable(what) else what, done, total)


@contextmanager
def several_bars() -> Iterator[Callable[[str, str, int, int | None], None]]:
    """Yield a function that draws one of several progress bars, if stderr is a terminal.

    Its arguments are a key, the text next to the bar, what is done and the total. A bar of the same key is replaced.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    hidden = not console().is_terminal or _bars > 0
    tasks: dict[str, TaskID] = {}
    with _counted(), Progress(*columns, console=console(), transient=True, disable=hidden) as bars:

        def draw(key: str, what: str, done: int, total: int | None) -> None:
            if key not in tasks:
                tasks[key] = bars.add_task("", total=total)
            bars.update(tasks[key], description=plain(what).plain, completed=done, total=total)

        yield draw


@contextmanager
def status(text: Callable[[], str]) -> Iterator[None]:
    """Show a text that changes while the block runs, if stderr is a terminal and no progress bar is drawn.

    Args:
        text: Returns the text whenever it is drawn, from any thread.
    """
    from rich.live import Live

    if not is_drawing() or _bars > 0:
        yield
        return
    with _counted(), Live(console=console(), transient=True, get_renderable=lambda: plain(text())):
        yield


@contextmanager
def _counted() -> Iterator[None]:
    """Count the open progress bars: only the outermost is drawn."""
    global _bars
    _bars += 1
    try:
        yield
    finally:
        _bars -= 1


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. Floats are shown with four digits; columns of short cells are right-aligned."""
    from rich.table import Table

    rows = list(rows)
    grid = Table(title=plain(title), title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        text = any(isinstance(cell := row[index], str) and " " in cell for row in rows)
        grid.add_column(plain(column), justify="left" if index == 0 or text else "right")
    for row in rows:
        grid.add_row(*(plain(f"{cell:.4f}" if isinstance(cell, float) else cell) for cell in row))
    with suppress(OSError):
        console().print(grid)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print the fields of a result, one line each."""
    if fields.get("current"):
        say("Current: nothing to do.")
    for key, value in fields.items():
        if key != "current":
            say(f"{key + ':':<22}{_as_text(value)}")


def _as_text(value: object, depth: int = 1) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        lines = (f"{'  ' * depth + key + ':':<22}{_as_text(inner, depth + 1)}" for key, inner in value.items())
        return "\n" + "\n".join(lines) if value else "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
