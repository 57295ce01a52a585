"""Results of training: one per fold, stamped in its result.json, and the report of `gatemask train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from gatemask.stage import CommandResult, StageResult

# Entries of a fold's `made_from` that are applied after the last epoch, to a fold that is trained already.
AFTER_TRAINING = ("selection", "prediction")


def trained_from(made_from: Mapping[str, object]) -> dict[str, object]:
    """Return the part of a fold's `made_from` that decides its training, without what is applied after it.

    >>> trained_from({"settings": "a", "selection": "b", "prediction": "c"})
    {'settings': 'a'}
    """
    return {key: value for key, value in made_from.items() if key not in AFTER_TRAINING}


class FoldResult(StageResult):
    """Result of one trained fold, as result.json holds it.

    Args:
        experiment: Name of the experiment.
        fold: Number of the fold.
        task: "gate" or "mask".
        best_epoch: Epoch with the best score, counted from 0.
        best_epochs: Epochs whose weights are averaged in best.weights.h5, ascending, counted from 0.
        monitor: Name of the metric that selects the best epochs.
        score: Value of `monitor` for the weights in best.weights.h5.
        best_single: Value of `monitor` in the best single epoch.
        epochs: Number of epochs trained.
        batch: Images per step over all devices.
        auc: Gate: area under the ROC curve.
        sensitivity: Gate: sensitivity at the best threshold.
        specificity: Gate: specificity at the best threshold.
        dice: Masks: mean Dice at the best threshold, at training size.
        dice_positives: Masks: the same over images with a mask.
        val_loss: Loss on the validation fold.
        dice_full: Masks: mean Dice at the scoring size, at the best single threshold; of several classes, the mean of
            each at its own.
        threshold: Masks of one class: that threshold, in [0, 1].
        dice_by_class: Masks of several classes: `dice_full` of each, by name.
        threshold_by_class: Masks of several classes: the threshold of each, by name.
        seconds_training: Time spent in training and validation, in seconds.
        train_images: Number of training images.
        validation_images: Number of validation images.
        train_tiles: Number of training tiles, where images are tiled.
        validation_tiles: Number of validation tiles.
        extra_images: Number of training images from each source of `data.extra`.
        extra_copies: Number of images of each source that were left out as copies of validation or hold-out images.
    """

    experiment: str
    fold: int
    task: Literal["gate", "mask"]
    best_epoch: int
    best_epochs: tuple[int, ...]
    monitor: str
    score: float
    best_single: float
    epochs: int
    batch: int
    auc: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    dice: float | None = None
    dice_positives: float | None = None
    val_loss: float | None = None
    dice_full: float | None = None
    threshold: float | None = None
    dice_by_class: dict[str, float] | None = None
    threshold_by_class: dict[str, float] | None = None
    seconds_training: float
    train_images: int
    validation_images: int
    train_tiles: int | None = None
    validation_tiles: int | None = None
    extra_images: dict[str, int] | None = None
    extra_copies: dict[str, int] | None = None


class TriedBatch(CommandResult):
    """A batch that was tried.

    Args:
        per_device: Images per step and device.
        gigabytes: Memory of one device that the step needs, in GB; None if it ran out of memory.
    """

    per_device: int
    gigabytes: float | None


class FoundBatch(CommandResult):
    """The batch that `batch: {per_device: auto}` found, as runs/<comp>/<experiment>/batch.json holds it.

    Args:
        per_device: Images per step and device.
        devices: Number of devices that it was found on.
        accelerator: Their kind: "tpu", "gpu" or "cpu".
        backend: "tensorflow" or "jax".
        gigabytes: Memory of one device that a step may use, in GB.
        tried: The batches that were tried, in order.
        settings: Fingerprint of the settings that decide the training.
    """

    per_device: int
    devices: int
    accelerator: str
    backend: str
    gigabytes: float
    tried: tuple[TriedBatch, ...]
    settings: str

    @property
    def images(self) -> int:
        """Images per step over all devices."""
        return self.per_device * self.devices

    def __str__(self) -> str:
        return f"{self.per_device} x {self.devices}"


class TrainingResult(CommandResult):
    """Report of `gatemask train`.

    Args:
        experiment: Name of the experiment.
        current: Whether every requested fold had been trained before.
        folds: Results of the finished folds, by fold number.
        stopped: Whether the time limit ended the training early; left out otherwise.
        left: Remaining work of each unfinished fold; left out where there is none.
    """

    experiment: str
    current: bool
    folds: dict[int, FoldResult]
    stopped: bool = False
    left: dict[int, str] = Field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; folds without their `current`."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"folds": {"__all__": {"current"}}})


class SkyResult(CommandResult):
    """Result of `gatemask sky`.

    Args:
        tasks: Paths of the SkyPilot tasks, below the project's folder.
        launch: Command that launches each.
    """

    tasks: list[str]
    launch: list[str]
