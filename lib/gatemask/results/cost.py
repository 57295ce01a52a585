"""Results of cost estimates: the plan of an experiment, and of a competition with many more images."""

from __future__ import annotations

from gatemask.stage import CommandResult


class SessionPlan(CommandResult):
    """Cost of an experiment on one kind of session. Steps and hours are left out until folds exist.

    Args:
        session: Name of the session's devices.
        machine: Kaggle's name of the machine; None of this machine.
        batch: Images per device and number of devices, such as "4 x 8"; "auto: 4 x 8" if it is predicted.
        gigabytes: Memory needed per device, in GB.
        memory: Memory needed and available per device, marked with "!" where it does not fit.
        steps: Training steps per epoch, on average.
        minutes_an_epoch: Duration of an epoch, in minutes.
        hours_a_fold: Duration of a fold, in hours.
        hours_all_folds: Duration of all folds, in hours, one after the other on all devices.
        hours_side_by_side: The same with one fold per device; left out where that is impossible.
        hours_a_week: Free hours per week on Kaggle; None where they are not limited.
        note: That the batch will probably not fit, in words; left out if it will.
    """

    session: str
    machine: str | None = None
    batch: str
    gigabytes: float
    memory: str
    steps: int | None = None
    minutes_an_epoch: float | None = None
    hours_a_fold: float | None = None
    hours_all_folds: float | None = None
    hours_side_by_side: float | None = None
    hours_a_week: int | None = None
    note: str | None = None


class ExperimentPlan(CommandResult):
    """Report of `gatemask plan`. The number of folds and images is left out until folds exist.

    Args:
        experiment: Name of the experiment.
        parameters: Number of parameters of the network.
        gigaflops: Operations of one forward pass of one image, in 10^9.
        epochs: Number of epochs.
        folds: Number of folds.
        train_images: Number of training images in the first fold.
        validation_images: Number of validation images in the first fold.
        images_first_epoch: Images that the first epoch draws.
        images_last_epoch: Images that the last epoch draws.
        sessions: Cost on each kind of session.
        measured: Duration of an epoch of an earlier run of this experiment, in words; None before the first run.
        batch: The batch that a training has found, in words; left out before, and where the batch is fixed.
        note: What is missing for a complete plan.
        records: Missing records.
        advice: Settings that would train faster, in words; left out where there are none.
        tiled: Whether the images above are tiles.
    """

    experiment: str
    parameters: int
    gigaflops: float
    epochs: int
    folds: int | None = None
    train_images: int | None = None
    validation_images: int | None = None
    images_first_epoch: int | None = None
    images_last_epoch: int | None = None
    sessions: tuple[SessionPlan, ...]
    measured: str | None
    batch: str | None = None
    note: str | None = None
    records: str | None = None
    advice: str | None = None
    tiled: bool = False


class ScaleRow(CommandResult):
    """Cost of a competition for a number of images.

    Args:
        images: Number of training images; as many test images are predicted.
        hours: Hours of each stage on one machine.
        total_hours: Their sum.
        storage_gb: Size of raw files, records and predictions, in GB.
        total_gb: Their sum.
        transfer_gb: Size of what is copied between the remote and the machine, in GB.
        transfer_hours: Hours of the transfer; left out without a speed of the network.
        cost_hours: Price of the hours; left out without a price.
        cost_month: Price of the storage per month; left out without a price.
    """

    images: int
    hours: dict[str, float]
    total_hours: float
    storage_gb: dict[str, float]
    total_gb: float
    transfer_gb: float
    transfer_hours: float | None = None
    cost_hours: float | None = None
    cost_month: float | None = None


class StageLimit(CommandResult):
    """Where a stage stops on one machine.

    Args:
        stage: The stage.
        images: Largest number of images.
        why: What ends there, in words.
        instead: What replaces it.
    """

    stage: str
    images: int
    why: str
    instead: str


class ScalePlan(CommandResult):
    """Report of `gatemask plan` for a competition.

    Args:
        competition: Name of the competition.
        machine: Name of the machine.
        cores: Number of its cores.
        ram_gb: Its memory, in GB.
        experiments: Experiments of the ensemble.
        rows: Cost for each number of images.
        limits: Where each stage stops, the first to stop first.
        rates: Where the rate of each stage was measured.
    """

    competition: str
    machine: str
    cores: int
    ram_gb: float
    experiments: tuple[str, ...]
    rows: tuple[ScaleRow, ...]
    limits: tuple[StageLimit, ...]
    rates: dict[str, str]
