"""The report: one file, complete, nothing fetched, nothing unescaped."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.masks.rule import Rule
from gatemask.report import draw, pictures
from gatemask.report.gallery import choose
from tests.conftest import Loop
from tests.oof.test_tables import random_problem


@pytest.fixture(scope="module")
def page(phantom_loop: Loop) -> str:
    return Path(phantom_loop.result["report"]).read_text()


class Balanced(HTMLParser):
    """Refuses tags that are closed in the wrong order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_sections_are_there(page: str) -> None:
    wanted = ["Rule", "Members", "Learning curves", "Thresholds", "Gate", "Masks", "Gallery", "Folds", "Submission"]
    assert re.findall(r"<h2>(.*?)</h2>", page) == wanted
    assert page.count("<figure>") >= 6
    for word in ("sensitivity", "cross-fitted", "all empty", "gate_b0", "unetpp_b0"):
        assert word in page


def test_it_is_well_formed_and_fetches_nothing(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|<script|<link", page)


def test_its_pictures_decode(page: str) -> None:
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.std() > 1, "an empty picture"


def test_its_headline_is_the_cross_fitted_score(page: str, phantom_loop: Loop) -> None:
    tuned = json.loads((phantom_loop.runs / "tuned/result.json").read_text())
    assert re.search(r'class="card first"><b>([0-9.]+)<', page).group(1) == f"{tuned['cross_fitted']:.4f}"  # type: ignore[union-attr]


def test_cells_and_captions_are_escaped() -> None:
    assert "<b>" not in draw.table(["<b>"], [["<b>"]])
    figure, _ = draw.figure(1, 1)
    assert '"><b>' not in draw.as_html(figure, '"><b>')


def test_the_confusion_matrix_counts_the_gate_alone() -> None:
    tables, _, truths = random_problem(3, images=200)
    rule = Rule(0.5, 0.9, 0.5, 3)
    _, numbers = pictures.confusion(tables, rule)
    positive = truths.any(axis=(1, 2))
    assert numbers["sensitivity"] == pytest.approx((tables.gate[positive] >= 0.5).mean())
    assert numbers["specificity"] == pytest.approx((tables.gate[~positive] < 0.5).mean())
    assert 0.5 < numbers["AUC"] < 1


def test_the_gallery_shows_best_typical_worst_and_alarms() -> None:
    tables, _, truths = random_problem(4, images=200)
    chosen = choose(tables, Rule(0.3, 0.5, 0.4, 2))
    positive = truths.any(axis=(1, 2))
    assert all(positive[chosen[kind]].all() for kind in ("Best", "Typical", "Nothing found, or in the wrong place"))
    assert not positive[chosen["False alarms"]].any()
    assert all(len(indices) <= 4 for indices in chosen.values())
