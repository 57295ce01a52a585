"""Pieces of the page: tables, cards, notes and figures, as HTML. Everything that is shown is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

LINES = 40  # of a list in a warning


class Card(NamedTuple):
    """A large number with a caption."""

    value: str
    caption: str


class Cell(NamedTuple):
    """A cell of a table whose text is not its value.

    Args:
        text: What is shown.
        value: What the column is sorted by; None is sorted last.
        wide: Whether the text may be broken into lines. Default: False.
    """

    text: str
    value: float | str | None
    wide: bool = False


def text(value: object) -> str:
    """Return a value as escaped text.

    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(str(value))


def with_code(value: str) -> str:
    """Return escaped text whose parts in backticks are set as code, such as commands.

    >>> with_code("Run `gatemask loop a`.")
    'Run <code>gatemask loop a</code>.'
    """
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(value))


def paragraph(*sentences: str) -> str:
    """Return sentences as one paragraph."""
    return f"<p>{with_code(' '.join(sentences))}</p>"


def note(sentence: str) -> str:
    """Return a line in place of what cannot be shown yet."""
    return f'<p class="note">{with_code(sentence)}</p>'


def warning(sentence: str, lines: Sequence[str] = ()) -> str:
    """Return a highlighted sentence, with a list below it."""
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return f'<div class="warning"><p>{text(sentence)}</p>{bullets([*lines[:LINES], *more])}</div>'


def bullets(lines: Sequence[str]) -> str:
    """Return a list; nothing where there are no lines."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def heading(title: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{text(title)}</h3>"


def cards(shown: Sequence[Card]) -> str:
    """Return large numbers in a row, the first one highlighted."""
    boxes = "".join(
        f'<div class="card{" first" if index == 0 else ""}"><b>{text(card.value)}</b>'
        f"<span>{text(card.caption)}</span></div>"
        for index, card in enumerate(shown)
    )
    return f'<div class="cards">{boxes}</div>'


def details(summary: str, body: str) -> str:
    """Return a part of the page that is opened by a click."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def scroll_box(body: str, label: str) -> str:
    """Return a box that scrolls sideways by itself where the screen is narrower than its contents."""
    return f'<div class="scroll" role="region" aria-label="{text(label)}">{body}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], label: str, sortable: bool = False) -> str:
    """Return a table; numbers are aligned to the right, and floats have four digits.

    Args:
        columns: Heads of the columns.
        rows: Cells: text, numbers, None for an empty one, or `Cell`.
        label: What the table lists, for screen readers.
        sortable: Whether its heads become buttons that sort it. Default: False.
    """
    head = "".join(
        f'<th scope="col"{" class=number" if _is_number([row[index] for row in rows]) else ""}>{text(column)}</th>'
        for index, column in enumerate(columns)
    )
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return scroll_box(f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label)


def _is_number(cells: Sequence[object]) -> bool:
    """Return whether a column holds numbers, whose head is aligned as they are."""
    values = [cell.value if isinstance(cell, Cell) else cell for cell in cells]
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _cell(value: object) -> str:
    if isinstance(value, Cell):
        number = isinstance(value.value, int | float)
        classes = " ".join(name for name, given in (("number", number), ("wide", value.wide)) if given)
        kind = f' class="{classes}"' if classes else ""
        order = "" if value.value is None else f' data-value="{text(value.value)}"'
        return f"<td{kind}{order}>{text(value.text)}</td>"
    if value is None:
        return "<td></td>"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f'<td class="number">{shown}</td>' if number else f"<td>{text(shown)}</td>"
