"""The time budget decides which work still fits before `hours`."""

from __future__ import annotations

from gatemask.training.time_budget import TimeBudget


def test_without_a_limit_everything_fits() -> None:
    assert TimeBudget(None).allows(steps=10**9)


def test_a_margin_is_kept_and_measured_work_counts() -> None:
    now = [0.0]
    budget = TimeBudget(1.0, clock=lambda: now[0])
    assert budget.allows(steps=1000), "work that was never measured counts as instantaneous"
    budget.record_steps(100.0, 50)  # 2 s per step
    budget.record_validation(300.0)
    now[0] = 1000.0
    assert budget.allows(steps=1000, validations=1)  # 1000 + 2000 + 300 s
    assert not budget.allows(steps=1100, validations=1)  # 3500 s, more than 0.95 h
    now[0] = 3421.0
    assert not budget.allows()


def test_the_last_measurement_counts() -> None:
    """The first leg includes the compilation; the second shows the duration of a step."""
    budget = TimeBudget(100 / 3600, clock=lambda: 0.0)
    budget.record_steps(60.0, 1)
    assert not budget.allows(steps=2)
    budget.record_steps(1.0, 1)
    assert budget.allows(steps=2)
