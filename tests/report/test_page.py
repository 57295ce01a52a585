"""The report of a finished loop is one complete file that fetches nothing and escapes everything."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.report.page import SECTIONS
from tests.conftest import Loop
from tests.report.pages import Page


@pytest.fixture(scope="module")
def page(phantom_loop: Loop) -> str:
    return Path(phantom_loop.result["report"]).read_text()


def test_all_sections_are_there(page: str) -> None:
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == [section.title for section in SECTIONS]
    assert re.findall(r'<a href="#(\w+)"', page) == [section.anchor for section in SECTIONS]
    waiting = re.findall(r'<a href="#(\w+)" class="later"', page)
    assert waiting == ["leaderboard"], "nothing was submitted"
    assert "gatemask submit phantom --quick" in Page(page).sections["leaderboard"]
    for word in ("ensitivity", "cross-fitted", "95 % from", "(shipped)", "all empty", "gate_r18", "unetpp_b0"):
        assert word in page
    assert "Some files are damaged" not in page


def test_it_is_well_formed_and_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids)), "ids are unique"
    assert parsed.inline == [], "neither inline styles nor inline handlers, which a strict policy blocks"
    assert all(picture.get("alt") or picture.get("aria-label") for picture in parsed.pictures)
    assert len(parsed.pictures) > 20
    assert not re.search(r"(src|href)=[\"'](?!data:|#)|url\((?!#)|@import|<link(?! rel=.icon. href=.data:,)", page)
    assert len(page.encode()) < 8_000_000


def test_its_pictures_decode(page: str) -> None:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(found) > 20
    for data in found:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None
    shots = re.findall(r'<img class="(\w+)" alt="[^"]+" src="data:', page)
    assert len(shots) % 4 == 0
    assert shots[:4] == ["image", "truth", "map", "mask"]


def test_its_headline_is_the_cross_fitted_score(page: str, phantom_loop: Loop) -> None:
    tuned = json.loads((phantom_loop.runs / "tuned/result.json").read_text())
    assert re.search(r'class="card first"><b>([0-9.]+)<', page).group(1) == f"{tuned['cross_fitted']:.4f}"  # type: ignore[union-attr]


def test_reports_about_the_data_are_listed(page: str, phantom_loop: Loop) -> None:
    stamp = json.loads((phantom_loop.data / "manifest.json").read_text())
    for report in stamp["reports"]:
        assert f"<li>{html.escape(report)}</li>" in page
