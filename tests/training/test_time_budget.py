"""The clock: what still fits before `hours`."""

from __future__ import annotations

import pytest

from gatemask.training import time_budget
from gatemask.training.time_budget import Clock


def test_without_a_limit_everything_fits() -> None:
    assert Clock(None).fits(step=1e9)


def test_a_margin_is_kept_and_measured_work_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: now[0])
    one = Clock(1.0)
    assert one.fits(step=1000), "what was never measured counts as nothing"
    one.took("step", 100.0, 50)  # 2 s each
    one.took("validation", 300.0)
    now[0] = 1000.0
    assert one.fits(step=1000, validation=1)  # 1000 + 2000 + 300
    assert not one.fits(step=1100, validation=1)  # 3500 s, more than 0.95 h
    now[0] = 3421.0
    assert not one.fits()


def test_the_last_measurement_counts() -> None:
    """The first leg pays for the compilation; the second shows what a step takes."""
    one = Clock(100 / 3600)
    one.took("step", 60.0, 1)
    assert not one.fits(step=2)
    one.took("step", 1.0, 1)
    assert one.fits(step=2)
