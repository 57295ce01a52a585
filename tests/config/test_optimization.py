"""Optimizers and schedules that do not fit together are rejected, and what was added later keeps fingerprints."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gatemask.config import Experiment


def experiment(**changes: Any) -> Experiment:
    gate = {"task": "gate", "model": {"name": "gate", "encoder": "efficientnetb0"}, "input": {"size": 64}}
    return Experiment.model_validate({"name": "x", **gate, "loss": {"bce": 1}, "epochs": 3, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"name": "plateau", "per": "step"}}, "score of each epoch"),
        ({"optimizer": {"name": "schedulefreeadamw", "ema": 0.9}}, "averages weights itself"),
        ({"optimizer": {"name": "schedulefreeadamw"}, "schedule": {"name": "cosine"}}, "not 'cosine'"),
        ({"optimizer": {"layer_decay": 1.5}}, "less than 1"),
        ({"optimizer": {"layer_decay": 0}}, "greater than 0"),
    ],
)
def test_impossible_combinations_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        experiment(**changes)


def test_a_constant_rate_with_warm_up_fits_schedule_free() -> None:
    exp = experiment(optimizer={"name": "schedulefreeadamw"}, schedule={"warmup": 1, "per": "step"})
    assert exp.schedule.name == "constant"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("schedule", "per", "step"), ("optimizer", "layer_decay", 0.5), ("optimizer", "weight_decay_on", "kernels")],
)
def test_keys_added_later_are_settings_only_where_set(section: str, key: str, value: object) -> None:
    settings: Any = experiment().settings
    assert key not in settings[section]
    changed: Any = experiment(**{section: {key: value}}).settings
    assert changed[section][key] == value
    assert {**changed[section], key: None} == {**settings[section], key: None}, "all other keys remain"
