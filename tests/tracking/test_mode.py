"""WANDB_MODE: values that the client rejects are reported before anything is trained."""

from __future__ import annotations

import pytest

from gatemask.config import Experiment
from gatemask.errors import GatemaskError
from gatemask.tracking.mode import tracking_mode
from tests.fold_results import mask_settings


@pytest.fixture
def exp() -> Experiment:
    return Experiment.model_validate(mask_settings())


@pytest.mark.parametrize(
    ("value", "mode"),
    [("online", "online"), ("disabled", "disabled"), ("dryrun", "offline"), ("run", "online"), ("", "offline")],
)
def test_values_of_the_client(exp: Experiment, monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    assert tracking_mode(exp) == mode


@pytest.mark.parametrize(
    ("value", "do"), [("OFFLINE", "offline"), ("none", "disabled"), ("false", "disabled"), ("x", "offline")]
)
def test_other_values_are_rejected_with_a_way_out(
    exp: Experiment, monkeypatch: pytest.MonkeyPatch, value: str, do: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    with pytest.raises(GatemaskError, match=f"WANDB_MODE.*\n.*\n.*{value}(.|\n)*WANDB_MODE={do}"):
        tracking_mode(exp)
