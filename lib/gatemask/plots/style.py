"""The look of every picture, and a figure as a piece of HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gatemask.files import write_with

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
CYCLE = [BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
DPI = 110


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches with its axes, styled."""
    drawn = Figure((width, height), layout="constrained")
    axes = drawn.subplots(rows, columns, **options)
    for ax in drawn.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_prop_cycle(color=CYCLE)
        ax.tick_params(labelsize=8, color=GREY)
        ax.grid(alpha=0.25, linewidth=0.6)
    return drawn, axes


def label(ax: Any, x: str, y: str, title: str = "") -> None:
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")


def say(ax: Any, text: str) -> None:
    """A sentence in place of a curve that cannot be drawn."""
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color=GREY, transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])


def span(counts: Sequence[int]) -> str:
    """The least and the most of some counts, or the one that they all are."""
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def save(drawn: Figure, path: Path) -> Path:
    """A PNG, whole or absent."""
    return write_with(path, lambda temporary: drawn.savefig(temporary, format="png", dpi=DPI, facecolor="white"))


def as_html(drawn: Figure, caption: str) -> str:
    """An embedded PNG with its caption; nothing is fetched when the page opens."""
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return _embedded(buffer.getvalue(), caption)


def file_as_html(path: Path, caption: str) -> str:
    """The same of a PNG that another stage wrote."""
    return _embedded(path.read_bytes(), caption)


def _embedded(png: bytes, caption: str) -> str:
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """An HTML table; numbers stand to the right, everything is escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f'<td class="number">{text}</td>' if number else f"<td>{html.escape(text)}</td>"
