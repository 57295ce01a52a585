"""The training of a fold as a piece of work, which `train_piece` runs."""

from __future__ import annotations

from pathlib import Path

from gatemask.pieces.piece import Piece
from gatemask.training.fold_inputs import TrainingInputs, written_settings
from gatemask.training.time_budget import TimeBudget

MEMORY = 3 << 30  # bytes: a backend, the input's processes, and a small network


def fold_piece(inputs: TrainingInputs, fold: int, budget: TimeBudget, kind: str = "any") -> Piece:
    """Return the training of a fold as a piece of work.

    Args:
        inputs: Inputs of the experiment.
        fold: Number of the fold.
        budget: Time limit.
        kind: Kind of the device that must work: "gpu" or "cpu". Default: whatever the settings of the experiment say.
    """
    project, exp = inputs.project, inputs.exp
    return Piece(
        name=f"{exp.name} fold {fold}",
        function="training.train_piece:train_piece",
        arguments={
            "project": project.as_dict(),  # type: ignore[dict-item]
            "competition": inputs.comp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
            "experiment": written_settings(exp),
            "fold": fold,
            "deadline": budget.deadline,
            "kind": kind,
        },
        reads=(str(project.records(inputs.comp.records.size) / "index.json"), str(project.folds)),
        log=str(logs_of(inputs) / f"fold{fold}.log"),
        training=True,
        accelerator=exp.runtime.accelerator,
        memory=MEMORY,
    )


def logs_of(inputs: TrainingInputs) -> Path:
    """Return the folder of an experiment's logs."""
    return inputs.project.runs / inputs.exp.name / "logs"
