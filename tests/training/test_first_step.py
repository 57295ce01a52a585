"""The first step of a model says that it compiles, for how long, and is left out of the speed."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from gatemask import console
from gatemask.training.first_step import FirstStep
from gatemask.training.fold_run import FoldRun
from gatemask.training.state import Progress


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=100.0)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> io.StringIO:
    """What is printed; the parameter says whether to a terminal."""
    output = io.StringIO()
    terminal = bool(getattr(request, "param", False))
    monkeypatch.setattr(console, "_console", Console(file=output, force_terminal=terminal, width=100))
    return output


def test_a_log_gets_a_line_before_and_one_after(clock: SimpleNamespace, shown: io.StringIO) -> None:
    first = FirstStep("unet, training step", True, lambda: clock.now)
    first.done()  # of a step before it began
    assert shown.getvalue() == first.note() == ""
    first.begin()
    assert shown.getvalue() == "unet, training step: compiling\n"
    clock.now += 40.4
    assert first.note() == "compiling, 40 s"
    for _ in range(3):
        first.done()
        clock.now += 1
    assert shown.getvalue().splitlines()[1:] == ["unet, training step: compiled in 40 s"]
    assert (first.seconds, first.note(), first.is_awaited) == (pytest.approx(40.4), "", False)


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_a_terminal_gets_a_counter(clock: SimpleNamespace, shown: io.StringIO) -> None:
    first = FirstStep("unet, validation step", True, lambda: clock.now)
    with first.shown():
        first.begin()
        clock.now += 12
        console.console()._live_stack[-1].refresh()
        assert "unet, validation step: compiling, 12 s" in shown.getvalue()
        first.done()
    assert "compiled in 12 s" in shown.getvalue() and "step: compiling\n" not in shown.getvalue()


@pytest.mark.parametrize("shown", [True], indirect=True)
def test_the_label_of_a_bar_may_change(shown: io.StringIO) -> None:
    labels = iter(["compiling, 1 s", *["compiling, 2 s"] * 1000])
    assert list(console.progress(range(3), lambda: next(labels))) == [0, 1, 2]
    assert "compiling, 2 s" in shown.getvalue()


def test_a_model_that_has_run_shows_nothing(clock: SimpleNamespace, shown: io.StringIO) -> None:
    first = FirstStep("unet, training step", False, lambda: clock.now)
    first.begin()
    clock.now += 5
    first.done()
    assert (first.seconds, first.note(), shown.getvalue()) == (0, "", "")


@pytest.mark.parametrize(
    ("steps", "seconds", "compiling", "compiled", "speed"),
    [(11, 60.0, 40.0, 1, 8 * 10 / 20), (10, 20.0, 0.0, 0, 8 * 10 / 20), (1, 40.0, 39.0, 1, 8 / 40)],
)
def test_speed_leaves_out_compilation(
    steps: int, seconds: float, compiling: float, compiled: int, speed: float
) -> None:
    devices = SimpleNamespace(memory_mb=lambda: 1.0)
    run = SimpleNamespace(trainer=SimpleNamespace(batch=8, models=SimpleNamespace(devices=devices)))
    progress = Progress(8, seconds=seconds, waited=1.0, compiling=compiling, compiled=compiled)
    measured = FoldRun._measured(run, progress, steps)  # type: ignore[arg-type]
    assert measured["images_per_s"] == pytest.approx(speed)
    assert measured["compile_seconds"] == compiling
