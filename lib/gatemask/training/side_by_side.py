"""Train several folds at the same time, each as a piece of work on a device of its own.

Each fold has the batch of one device, so its weights are those that it would get alone, in whatever order folds begin,
and wherever. Locks, states and stamps are those of any training, so an interrupted command is run again.

runs/<comp>/<experiment>/logs/fold<k>.log   what the processes printed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.pieces.devices import Device
from gatemask.pieces.local import Local
from gatemask.pieces.piece import Outcome, Piece, Place
from gatemask.results.training import FoldResult
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.fold_piece import fold_piece, logs_of
from gatemask.training.separate_devices import separate_devices
from gatemask.training.time_budget import TimeBudget

NOT_BEGUN = "not begun in this session"


@dataclass(frozen=True)
class FoldOutcome:
    """How far a fold was brought; exactly one is set.

    Args:
        result: Result of a finished fold.
        left: Remaining work of a fold that the time limit stopped, or that was not begun.
        error: Why it failed, with the path of its log.
    """

    result: FoldResult | None = None
    left: str | None = None
    error: str | None = None


OnOutcome = Callable[[int, FoldOutcome], object]


def devices_for(inputs: TrainingInputs, folds: Sequence[int]) -> list[Device]:
    """Return the devices on which folds are trained side by side; none if the folds are to be trained in sequence.

    Raises:
        GatemaskError: The experiment asks for it, and this machine cannot.
    """
    if inputs.exp.runtime.folds == "sequence":
        return []
    devices = separate_devices(inputs.exp.runtime)
    unfinished = unfinished_folds(inputs, folds)
    if len(devices) < 2 or len(unfinished) < 2:
        return []
    if inputs.exp.batch.per_device == "auto" and inputs.found_batch is None:
        say(f"{inputs.exp.name}: its batch is not found yet, so this time its folds are trained one after the other.")
        return []
    return devices[: len(unfinished)]


def unfinished_folds(inputs: TrainingInputs, folds: Sequence[int]) -> list[int]:
    """Return the folds that have no current result."""
    return [fold for fold in folds if inputs.stage(fold).current() is None]


def train_side_by_side(
    inputs: TrainingInputs,
    folds: Sequence[int],
    devices: Sequence[Device],
    budget: TimeBudget,
    on_outcome: OnOutcome = lambda fold, outcome: None,
) -> dict[int, FoldOutcome]:
    """Train folds, one per device at a time, and return what became of each.

    Args:
        inputs: Inputs of the experiment.
        folds: Numbers of the folds, in the order in which they begin.
        devices: Devices, each for one process.
        budget: Time limit that all folds share.
        on_outcome: Called with each fold and its outcome as soon as it is known.
    """
    names = ", ".join(device.name for device in devices)
    say(f"{inputs.exp.name}: {len(folds)} folds, {len(devices)} side by side ({names}); logs in {logs_of(inputs)}")
    return train_at(Local(devices), [(inputs, fold) for fold in folds], budget, devices[0].kind, on_outcome)[
        inputs.exp.name
    ]


def train_at(
    place: Place,
    jobs: Sequence[tuple[TrainingInputs, int]],
    budget: TimeBudget,
    kind: str = "any",
    on_outcome: OnOutcome = lambda fold, outcome: None,
) -> dict[str, dict[int, FoldOutcome]]:
    """Train folds of any experiments at a place, and return what became of each, by experiment and fold.

    Args:
        place: Place that trains.
        jobs: Inputs of an experiment and number of a fold, in the order in which they begin.
        budget: Time limit that all share.
        kind: Kind of the device that must work. Default: whatever the settings of the experiment say.
        on_outcome: Called with each fold and its outcome as soon as it is known.
    """
    outcomes: dict[str, dict[int, FoldOutcome]] = {inputs.exp.name: {} for inputs, _ in jobs}
    by_piece = {(piece := fold_piece(*job, budget, kind)).name: (piece, job) for job in jobs}
    stopped = False

    def record(piece: Piece, outcome: Outcome) -> None:
        nonlocal stopped
        inputs, fold = by_piece[piece.name][1]
        reached = _fold_outcome(inputs, fold, outcome)
        stopped = stopped or reached.left is not None  # another unfinished fold would be of no use
        outcomes[inputs.exp.name][fold] = reached
        on_outcome(fold, reached)

    first = _batch_finders([job for _, job in by_piece.values()])
    for finding in (True, False):  # one fold finds the batch of its experiment, and the others use it
        pieces = [piece for name, (piece, _) in by_piece.items() if (name in first) == finding]
        if pieces:
            place.run(pieces, record, lambda: not stopped and budget.allows())
    for inputs, fold in jobs:
        if fold not in outcomes[inputs.exp.name]:
            outcomes[inputs.exp.name][fold] = FoldOutcome(left=NOT_BEGUN)
            on_outcome(fold, outcomes[inputs.exp.name][fold])
    return {name: dict(sorted(by_fold.items())) for name, by_fold in outcomes.items()}


def _batch_finders(jobs: Sequence[tuple[TrainingInputs, int]]) -> set[str]:
    """Return the pieces of the first folds of experiments whose batch is not found yet."""
    first: dict[str, str] = {}
    for inputs, fold in jobs:
        if inputs.exp.batch.per_device == "auto" and inputs.found_batch is None:
            first.setdefault(inputs.exp.name, f"{inputs.exp.name} fold {fold}")
    return set(first.values())


def raise_failures(inputs: TrainingInputs, outcomes: Mapping[int, FoldOutcome]) -> None:
    """Raise one error for all folds that failed, if any did."""
    failed = {fold: outcome.error for fold, outcome in outcomes.items() if outcome.error is not None}
    if not failed:
        return
    kept = [str(fold) for fold, outcome in outcomes.items() if outcome.result is not None]
    raise GatemaskError(
        f"{len(failed)} of {len(outcomes)} folds of {inputs.exp.name} failed.",
        where=logs_of(inputs),
        received="\n            ".join(f"fold {fold}: {error}" for fold, error in failed.items()),
        do=f"Fix the cause and run the same command again; finished folds are kept ({', '.join(kept) or 'none'}).",
    )


def _fold_outcome(inputs: TrainingInputs, fold: int, outcome: Outcome) -> FoldOutcome:
    """Return how far a fold was brought; an error if its files were made from other inputs than ours."""
    if outcome.error is not None:
        return FoldOutcome(error=outcome.error)
    if "left" in outcome.value:
        return FoldOutcome(left=outcome.value["left"])
    if inputs.stage(fold).current() is None:
        return FoldOutcome(error="It was trained from other settings or data than the command began with.")
    return FoldOutcome(result=FoldResult.model_validate(outcome.value["result"]))
