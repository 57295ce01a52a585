"""Tables and figures become HTML without anything unescaped."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.plots import style
from gatemask.report import markup
from gatemask.report.markup import Cell
from gatemask.report.pictures import FOR_IMAGES, FOR_TEXT, Pictures, svg
from tests.report.pages import Page


def test_cells_and_captions_are_escaped() -> None:
    evil = '"><b>'
    table = markup.table([evil], [[evil], [Cell(evil, evil)]], evil)
    for shown in (table, markup.note(evil), markup.warning(evil, [evil]), markup.cards([markup.Card(evil, evil)])):
        assert "<b>" not in shown.replace('<div class="card first"><b>', "")
        Page().feed(shown)
    figure, _ = style.new_figure(1, 1)
    assert '"><b>' not in Pictures().plot(figure, evil, evil)


def test_numbers_are_aligned_and_sorted_by_their_value() -> None:
    table = markup.table(["a"], [[0.5], [Cell("1 of 5", 1)], [None], [Cell("word", "w")]], "numbers", sortable=True)
    assert '<td class="number">0.5000</td>' in table
    assert '<td class="number" data-value="1">1 of 5</td>' in table
    assert "<td></td>" in table
    assert '<td data-value="w">word</td>' in table


@pytest.mark.parametrize("name", ["[bold]", "a_$b", r"$\frac$", "<&>"])
def test_a_figure_is_an_svg_with_the_colors_of_the_page(name: str) -> None:
    figure, ax = style.new_figure(3, 2)
    ax.plot([0, 1], [0, 1], color=style.BLUE, label=name)
    ax.legend()
    style.label(ax, name, name, name)
    drawing = svg(figure, name, "p1-")
    assert "style=" not in drawing and "<style" not in drawing, "the page's policy forbids inline styles"
    assert "var(--blue)" in drawing and "currentColor" in drawing
    assert "#000000" not in drawing and style.BLUE.lower() not in drawing
    ids = re.findall(r' id="([^"]+)"', drawing)
    assert ids and all(found.startswith("p1-") for found in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", drawing)) <= set(ids)
    page = Page()
    page.feed(drawing)
    assert page.open == []


def test_a_png_of_another_stage_keeps_its_pixels(tmp_path: Path) -> None:
    figure, ax = style.new_figure(2, 1)
    ax.plot([0, 1], [0, 1])
    path = style.save(figure, tmp_path / "one.png")
    shown = Pictures().file(path, "<i>")
    data = base64.b64decode(re.search(r'base64,([^"]+)"', shown).group(1))  # type: ignore[union-attr]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert (image == cv2.imread(str(path))).all()
    assert "<i>" not in shown
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(GatemaskError, match="cannot be read"):
        Pictures().file(path, "cut short")


def test_pictures_stay_within_the_limit_and_are_counted() -> None:
    pictures = Pictures(limit=FOR_TEXT + 1000)
    assert pictures.image("a", lambda: {"image": "x" * 600}) is not None
    assert pictures.image("b", lambda: {"image": "x" * 600}) is None
    assert pictures.image("c", lambda: pytest.fail("made in vain")) is None
    assert pictures.left_out == ["image b", "image c"]
    figure, _ = style.new_figure(1, 1)
    small = Pictures(limit=round(FOR_TEXT / (1 - FOR_IMAGES)))
    assert small.plot(figure, "no room but for images") == ""
    assert small.image("a", lambda: {"image": "x" * 600}) is not None
    small.settle(10**6)
    assert small.image("b", lambda: {"image": "x"}) is None
