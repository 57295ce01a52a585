"""The report in headless Chromium: what a reader sees, with a mouse, a keyboard, a phone, and at night.

The screenshots are kept in runs/artefacts/report.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatemask.report.page import SECTIONS, make_page
from gatemask.report.pictures import LIMIT, Pictures
from tests.conftest import ROOT, Loop, slow
from tests.report.browser import PHONE, Visit, find_chromium, open_browser
from tests.report.small_project import again, epochs, finish, small_project

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        find_chromium() is None, reason="no Chromium: install the package 'chromium', or set GATEMASK_CHROMIUM"
    ),
]
STATES = ["first epoch", "one fold", "tuned"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, phantom_loop: Loop) -> dict[str, Path]:
    """Return a page for each state of a competition."""
    folder = tmp_path_factory.mktemp("pages")
    inputs = small_project(folder / "project")
    epochs(inputs, 0, 1)
    early = folder / "first-epoch.html"
    early.write_text(make_page(again(inputs), Pictures())[0])
    finish(inputs, 0)
    one = folder / "one-fold.html"
    one.write_text(make_page(again(inputs), Pictures())[0])
    return {"first epoch": early, "one fold": one, "tuned": Path(phantom_loop.result["report"])}


def keep(visit: Visit, name: str) -> None:
    """Keep a screenshot of the whole page, for those who read the log of a test run."""
    path = ROOT / "runs" / "artefacts" / "report" / f"{name.replace(' ', '-')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=str(path), full_page=True)
    print(f"screenshot: {path}")


@pytest.mark.parametrize(
    ("look", "state"),
    [
        (look, state) if look == "desktop" or state == "tuned" else slow(look, state)
        for look in ("desktop", "phone", "dark")
        for state in STATES
    ],
)
def test_a_page_without_faults(browser: Browser, files: dict[str, Path], state: str, look: str) -> None:
    options = {"phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True}, "dark": {"color_scheme": "dark"}}
    assert files[state].stat().st_size < LIMIT
    with Visit(browser, files[state], **options.get(look, {})) as visit:
        page = visit.page
        assert visit.messages == []
        assert visit.outside() == []
        assert page.locator("h2").all_inner_texts() == [section.title for section in SECTIONS]
        nameless = "[...document.querySelectorAll('img')].filter((one) => !one.alt).length"
        assert page.evaluate(nameless) == 0
        broken = "[...document.querySelectorAll('img')].filter((one) => !one.naturalWidth).length"
        assert page.evaluate(broken) == 0
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, "nothing but boxes scrolls sideways"
        ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        assert (brightness(ink) > brightness(paper)) == (look == "dark")
        assert contrast(ink, paper) > 7
        keep(visit, f"{state}-{look}")


@pytest.mark.parametrize("look", ["light", "dark"])
def test_texts_have_enough_contrast_and_size(browser: Browser, files: dict[str, Path], look: str) -> None:
    with Visit(browser, files["tuned"], color_scheme=look, viewport=PHONE) as visit:
        sizes = visit.page.evaluate(
            """[...document.querySelectorAll('p, td, th, li, figcaption, label, output, summary, .stops span, nav a')]
            .filter((one) => one.checkVisibility()).map((one) => parseFloat(getComputedStyle(one).fontSize))"""
        )
        assert min(sizes) >= 13
        for selector in ("section > p", "figcaption", "nav a", "td", "th", ".card span", ".card.first b", ".note"):
            color, background = visit.page.evaluate(
                """(selector) => {
                    let one = document.querySelector(selector);
                    const color = getComputedStyle(one).color;
                    while (getComputedStyle(one).backgroundColor === 'rgba(0, 0, 0, 0)') one = one.parentElement;
                    return [color, getComputedStyle(one).backgroundColor];
                }""",
                selector,
            )
            assert contrast(color, background) >= 4.5, f"{selector}: {color} on {background}"


def test_the_keyboard_reaches_sliders_and_they_change_the_layer(browser: Browser, files: dict[str, Path]) -> None:
    with Visit(browser, files["one fold"]) as visit:
        page = visit.page
        focused = "document.activeElement.id"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(200):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(focused))
            if str(page.evaluate(focused)).startswith("layer-"):
                break
        assert "all-images" in reached
        slider = page.evaluate(focused)
        assert visible(visit, slider) == {"image", "mask"}
        for value, seen in (("map", {"image", "map"}), ("truth", {"image", "truth"}), ("image", {"image"})):
            page.keyboard.press("ArrowLeft")
            assert page.get_attribute(f"#{slider}", "aria-valuetext") == value
            assert visible(visit, slider) == seen
        page.keyboard.press("End")
        assert visible(visit, slider) == {"image", "mask"}


def test_the_pointer_blends_two_layers_and_one_slider_moves_all(browser: Browser, files: dict[str, Path]) -> None:
    with Visit(browser, files["one fold"]) as visit:
        page = visit.page
        slider = str(page.evaluate("document.querySelector('.shot input').id"))
        page.locator(f"#{slider}").evaluate("(one) => { one.value = 1.5; one.dispatchEvent(new Event('input')); }")
        assert page.get_attribute(f"#{slider}", "aria-valuetext") == "between truth and map"
        assert visible(visit, slider) == {"image", "truth", "map"}
        page.locator(f"#{slider} ~ .stops span").nth(1).click()
        assert visible(visit, slider) == {"image", "truth"}
        page.locator("#all-images").focus()
        page.keyboard.press("ArrowLeft")
        values = page.eval_on_selector_all(".shot input", "(all) => all.map((one) => one.value)")
        assert len(values) > 4 and set(values) == {"2"}


def test_tables_are_sorted_by_buttons(browser: Browser, files: dict[str, Path]) -> None:
    with Visit(browser, files["tuned"]) as visit:
        table = visit.page.locator("#ensemble table.sortable").last
        head = table.locator("th").nth(4)
        assert head.get_attribute("aria-sort") == "none"
        head.locator("button").focus()
        for direction, reverse in (("descending", True), ("ascending", False)):
            visit.page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == direction
            scores = [float(text) for text in table.locator("td:nth-child(5)").all_inner_texts()]
            assert len(scores) > 2 and scores == sorted(scores, reverse=reverse)


def test_boxes_that_scroll_can_be_focused(browser: Browser, files: dict[str, Path]) -> None:
    with Visit(browser, files["tuned"], viewport=PHONE) as visit:
        boxes = visit.page.evaluate(
            """[...document.querySelectorAll('.scroll')].filter((one) => one.checkVisibility()).map(
                (one) => [one.scrollWidth > one.clientWidth + 1, one.tabIndex === 0, one.getAttribute('aria-label')]
            )"""
        )
        assert any(scrolls for scrolls, _, _ in boxes)
        assert all(scrolls == focused and label for scrolls, focused, label in boxes)


def test_it_prints_all_layers_and_no_sliders(browser: Browser, files: dict[str, Path]) -> None:
    with Visit(browser, files["one fold"], color_scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        assert not visit.page.locator("nav").is_visible()
        assert not visit.page.locator(".slider").first.is_visible()
        opacity = "[...document.querySelectorAll('.layers img')].map((one) => getComputedStyle(one).opacity)"
        assert set(visit.page.evaluate(opacity)) == {"1"}


def visible(visit: Visit, slider: str) -> set[str]:
    """Return the layers of a slider's image that can be seen."""
    layers = visit.page.locator(f".shot:has(#{slider}) .layers img")
    opacities = layers.evaluate_all("(all) => all.map((one) => [one.className, getComputedStyle(one).opacity])")
    return {name for name, opacity in opacities if float(opacity) > 0}


def brightness(color: str) -> float:
    """Return the relative luminance of a color as browsers write it."""
    channels = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)
