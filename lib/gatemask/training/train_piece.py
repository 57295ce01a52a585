"""Run the training of a fold as a piece of work, in a process or on a node of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.pieces.piece import BrokenDeviceError
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.tracking.wandb_run import finish_client
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.time_budget import TimeBudget
from gatemask.training.train import train_fold


def train_piece(
    project: Mapping[str, Any],
    competition: Mapping[str, Any],
    experiment: Mapping[str, Any],
    fold: int,
    deadline: float | None,
    kind: str,
) -> dict[str, object]:
    """Train a fold, and return its result, or the work that is left.

    Args:
        project: Fields of the project.
        competition: Values of the resolved competition.
        experiment: Values of the resolved experiment.
        fold: Number of the fold.
        deadline: Time at which the training must end; None for no limit.
        kind: Kind of the device that must work: "gpu", "cpu" or "any".
    """
    comp, exp = Competition.model_validate(competition), Experiment.model_validate(experiment)
    require_device(exp, kind)
    inputs = TrainingInputs(Project.of(project), comp, exp)
    try:
        outcome = train_fold(inputs, fold, TimeBudget.until(deadline), may_begin=True)
    finally:
        finish_client()
    return {"result": outcome.as_dict()} if isinstance(outcome, FoldResult) else {"left": outcome}


def require_device(exp: Experiment, kind: str) -> None:
    """Raise if the device that this process was given does not work; Keras would silently take the CPU."""
    if kind != "gpu":
        return
    from gatemask.training.runtime import start_keras

    try:
        start_keras(exp.runtime.model_copy(update={"accelerator": "gpu"}))
    except GatemaskError as error:
        raise BrokenDeviceError(str(error)) from None
