"""The wait for input, from the readings of a clock."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gatemask.input import wait
from gatemask.input.wait import InputWait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only moves when a test sets `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(wait, "perf_counter", lambda: clock.now)
    return clock


def batches(clock: SimpleNamespace, seconds: list[float]) -> Iterator[int]:
    for number, duration in enumerate(seconds):
        clock.now += duration
        yield number


def test_slow_input_is_waited_for(clock: SimpleNamespace) -> None:
    """Each batch takes 3 s and each step 1 s; the next batch is asked for when a step begins."""
    measured = InputWait()
    for step in measured.watched(batches(clock, [3.0, 2.0, 2.0])):
        clock.now += 1.0  # one of the three seconds in which the next batch is made
        measured.step_done(step)
    assert measured.seconds() == pytest.approx(3 + 2 + 2)
    assert measured.seconds(start=1) == pytest.approx(2 + 2)


def test_a_batch_that_is_ready_before_the_step_ends_costs_nothing(clock: SimpleNamespace) -> None:
    measured = InputWait()
    made = measured.watched(batches(clock, [1.0, 0.5, 0.5]))
    for step in range(3):
        next(made)
        if step:
            clock.now += 4.0
            measured.step_done(step - 1)
    assert measured.seconds() == pytest.approx(1.0), "only the first batch is waited for"


def test_a_second_pass_replaces_the_first(clock: SimpleNamespace) -> None:
    measured = InputWait()
    for _ in range(2):
        assert list(measured.watched(batches(clock, [1.0]))) == [0]
    assert measured.seconds() == pytest.approx(1.0)


def test_without_batches_nothing_is_waited_for() -> None:
    assert InputWait().seconds() == 0.0
