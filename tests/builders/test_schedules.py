"""Learning rates per epoch."""

from __future__ import annotations

import pytest

from gatemask.builders.schedules import learning_rate
from gatemask.config import Schedule


def test_warmup_hold_decay_reproduces_a_published_schedule() -> None:
    config = Schedule(name="warmup_hold_decay", start=3e-4, peak=3e-3, warmup=3, hold=4, decay=0.8, floor=1e-6)
    rates = [learning_rate(config, epoch, 30) for epoch in range(30)]
    assert rates[:4] == pytest.approx([3e-4, 1.2e-3, 2.1e-3, 3e-3])
    assert rates[3:7] == pytest.approx([3e-3] * 4)
    assert rates[7:9] == pytest.approx([2.4e-3, 1.92e-3])
    assert min(rates) >= 1e-6


def test_cosine_cycles_restart_and_end_at_the_floor() -> None:
    config = Schedule(name="cosine", peak=1.0, floor=0.0, cycle=3, grow=2, restart=0.5)
    rates = [learning_rate(config, epoch, 9) for epoch in range(9)]
    assert rates[:3] == pytest.approx([1.0, 0.5, 0.0])
    assert rates[3] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.0)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_plateau_lowers_the_rate_whenever_patience_ends() -> None:
    config = Schedule(name="plateau", peak=1.0, patience=2, factor=0.5)
    scores = [0.5, 0.6, 0.6, 0.6, 0.7, 0.65, 0.7, 0.7]
    rates = [learning_rate(config, epoch, 9, scores[:epoch]) for epoch in range(9)]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_and_hold_do_not_count_towards_patience() -> None:
    config = Schedule(name="plateau", peak=1.0, warmup=2, hold=2, patience=2, factor=0.5)
    rates = [learning_rate(config, epoch, 7, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4][:epoch]) for epoch in range(7)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 0.5])


def test_cosine_ends_at_the_floor() -> None:
    config = Schedule(name="cosine", peak=1.0, floor=0.1, warmup=1, start=0.5)
    rates = [learning_rate(config, epoch, 6) for epoch in range(6)]
    assert (rates[0], rates[1], rates[-1]) == pytest.approx((0.5, 1.0, 0.1))
    assert rates[1:] == sorted(rates[1:], reverse=True)
