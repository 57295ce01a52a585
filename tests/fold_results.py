"""Results of folds, for tests that train nothing."""

from __future__ import annotations

from typing import Any

from gatemask.config import Experiment
from gatemask.results.training import FoldResult


def fold_result(**changes: Any) -> FoldResult:
    """Return the result of a gate's fold 0, with some fields changed."""
    fields: dict[str, Any] = {
        "experiment": "gate_b0",
        "fold": 0,
        "task": "gate",
        "best_epoch": 0,
        "best_epochs": [0],
        "monitor": "auc",
        "score": 0.5,
        "best_single": 0.5,
        "epochs": 1,
        "batch": 4,
        "seconds_training": 1.0,
        "train_images": 8,
        "validation_images": 4,
    }
    return FoldResult(**{**fields, **changes})


def mask_settings(**changes: Any) -> dict[str, Any]:
    """Return the config.yaml of a mask network's run, with some keys changed."""
    fields: dict[str, Any] = {
        "name": "unet_b0",
        "task": "mask",
        "model": {"name": "unet", "encoder": "resnet18"},
        "input": {"size": 64},
        "loss": {"bce": 1},
        "epochs": 1,
    }
    return Experiment.model_validate({**fields, **changes}).settings
