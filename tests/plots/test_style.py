"""Figures and tables become HTML without anything unescaped."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from gatemask.plots import style


def test_cells_and_captions_are_escaped() -> None:
    assert "<b>" not in style.table_html(["<b>"], [["<b>"]])
    figure, _ = style.new_figure(1, 1)
    assert '"><b>' not in style.figure_html(figure, '"><b>')


def test_a_png_file_is_embedded_unchanged(tmp_path: Path) -> None:
    figure, _ = style.new_figure(1, 1)
    path = style.save(figure, tmp_path / "one.png")
    shown = style.png_html(path, "<i>")
    assert base64.b64decode(re.search(r'base64,([^"]+)"', shown).group(1)) == path.read_bytes()  # type: ignore[union-attr]
    assert "<i>" not in shown
