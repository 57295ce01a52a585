"""Draw what a command prints as a picture of a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from rich.console import Console

from gatemask import console


def draw_terminal(show: Callable[[], object], path: Path, title: str, width: int = 104) -> Path:
    """Write an SVG of what a function prints through gatemask's console.

    Args:
        show: Function that prints.
        path: Picture to write.
        title: Title of the window.
        width: Width of the terminal, in characters. Default: 104.

    Returns:
        `path`.
    """
    recorder = Console(
        record=True, file=StringIO(), force_terminal=True, color_system="truecolor", width=width, highlight=False
    )
    console._console, before = recorder, console._console
    try:
        show()
    finally:
        console._console = before
    svg = recorder.export_svg(title=title, unique_id=path.stem)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)  # fonts of another host
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    return path
