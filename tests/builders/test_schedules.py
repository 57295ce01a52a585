"""Learning rates per epoch and per step."""

from __future__ import annotations

import math

import pytest

from gatemask.builders.schedules import learning_rate, step_rates
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


@pytest.mark.parametrize("steps", [[5, 5, 5, 5, 5], [3, 8, 5, 2, 7]])
def test_by_step_a_cosine_falls_within_epochs_of_any_length(steps: list[int]) -> None:
    config = Schedule(name="cosine", peak=0.8, floor=0.02, warmup=1, start=0.1, per="step")
    rates = [rate for epoch in range(5) for rate in step_rates(config, epoch, 5, steps[epoch], 0, steps[epoch])]
    expected = []
    for epoch, length in enumerate(steps):
        for step in range(length):
            at = epoch + step / length
            if at < 1:
                expected.append(0.1 + 0.7 * at)
            else:
                expected.append(0.02 + 0.78 * (1 + math.cos(math.pi * (at - 1) / 4)) / 2)
    assert rates == pytest.approx(expected)
    assert rates[: steps[0] + 1] == sorted(rates[: steps[0] + 1])
    assert rates[steps[0] :] == sorted(rates[steps[0] :], reverse=True)
    middle = step_rates(config, 2, 5, steps[2], 2, 4)
    assert middle == rates[sum(steps[:2]) + 2 : sum(steps[:2]) + 4], "a step has its rate wherever a leg starts"


def test_by_step_a_cosine_restarts_with_its_cycle() -> None:
    config = Schedule(name="cosine", peak=1.0, floor=0.0, cycle=1, grow=2, restart=0.5, per="step")
    rates = [rate for epoch in range(3) for rate in step_rates(config, epoch, 3, 4, 0, 4)]
    assert rates[0] == 1.0
    assert rates[3] == pytest.approx((1 + math.cos(0.75 * math.pi)) / 2)
    assert rates[4] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.25), "halfway through the second cycle, which is twice as long"
    assert rates[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_by_step_the_decay_follows_the_hold_without_a_jump() -> None:
    config = Schedule(name="warmup_hold_decay", peak=1.0, hold=1, decay=0.5, per="step")
    assert step_rates(config, 0, 3, 2, 0, 2) == [1.0, 1.0]
    assert step_rates(config, 1, 3, 2, 0, 2) == pytest.approx([1.0, 0.5**0.5])
    assert step_rates(config, 2, 3, 2, 0, 2) == pytest.approx([0.5, 0.5**1.5])


def test_by_step_the_warm_up_starts_at_the_floor() -> None:
    config = Schedule(peak=1.0, warmup=2, floor=0.0, per="step")
    assert step_rates(config, 0, 3, 2, 0, 2) + step_rates(config, 1, 3, 2, 0, 2) == [0.0, 0.25, 0.5, 0.75]
    assert step_rates(config, 2, 3, 2, 0, 2) == [1.0, 1.0]
