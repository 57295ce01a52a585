"""Data on the console is shown as it is: no markup, no emoji, no control characters."""

from __future__ import annotations

import pytest

from gatemask import console
from gatemask.plots import style
from gatemask.report.pictures import svg

NAMES = ["[/bold]", "[red]fold[/red]", "a[0].png", "[/]", ":warning:", r"\[x", "[link=x]y", "[bold"]


@pytest.fixture(autouse=True)
def fresh_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console, "_console", None)


@pytest.mark.parametrize("name", NAMES)
def test_titles_and_names_are_printed_as_they_are(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    console.say(f"read {name}")
    console.table(f"title {name}", ["file", f"column {name}"], [[name, 0.5], [f"in {name}", 1]])
    list(console.progress([1], f"reading {name}"))
    shown = capfd.readouterr().err
    assert shown.count(name) == 5, shown


@pytest.mark.parametrize("name", NAMES)
def test_progress_bars_show_names_as_they_are(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert list(console.progress([1, 2], f"reading {name}")) == [1, 2]
    assert f"reading {name}" in capfd.readouterr().err


def test_control_characters_are_shown_as_escapes(capfd: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b[31mb\x07c\rd")
    assert capfd.readouterr().err == "a\\x1b[31mb\\x07c\\x0dd\n"


@pytest.mark.parametrize("name", [*NAMES, "$x$", r"$\frac$", "a_$b"])
def test_figures_draw_names_as_they_are(name: str) -> None:
    figure, ax = style.new_figure(2, 2)
    ax.bar([name], [1], label=f"of {name}")
    ax.legend()
    style.label(ax, name, name, name)
    assert "<svg" in svg(figure, name)
