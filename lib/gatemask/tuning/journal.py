"""The journal in which Optuna keeps the study of the thresholds: opened, checked, set aside if it is damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import set_aside, write_bytes
from gatemask.storage import storage_error, storage_errors

if TYPE_CHECKING:
    import optuna

Space = dict[str, tuple[float, float] | tuple[bool, bool]]  # bounds, or choices, by name
Params = Mapping[str, float]  # values by name; choices are 0 or 1


def open_study(
    journal: Path, name: str, space: Space, score: Callable[[Params], float], family: str | None = None
) -> optuna.Study:
    """Open the study in a journal; studies of another family in it are removed.

    A damaged journal is set aside, which is reported.

    Args:
        journal: File that keeps the study; created if it does not exist.
        name: Name of the study.
        space: Bounds of each parameter, by which trials are checked.
        score: Score of a trial, by which the best trial is checked.
        family: Beginning of the names of all studies in the journal. Default: it holds this one only.

    Raises:
        StorageError: The disk is full or read-only, or access is denied.
    """
    with storage_errors(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
        _cut_torn_line(journal)
        named = f'"{name}"' if family is None else f'"{family}'
        if journal.exists() and named.encode() not in journal.read_bytes():
            journal.unlink()
        try:
            _check_lines(journal)
            study = _load(journal, name)
            _check_trials(study, space, score)
            return study
        except Exception as error:  # Optuna replays records unchecked, and fails with almost anything
            if storage_error(error) is not None:
                raise
            fault = " ".join(str(error).split())[:200]
            say(
                f"{journal} is damaged ({type(error).__name__}: {fault}): moved to {set_aside(journal).name}. "
                "The search starts over."
            )
        return _load(journal, name)


def storage_of(journal: Path) -> optuna.storages.JournalStorage:
    """Return the study's journal for other programs, such as the dashboard.

    Raises:
        GatemaskError: The journal is damaged.
    """
    import optuna

    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        storage.get_all_studies()
    except Exception as error:
        if (fault := storage_error(error, journal)) is not None:
            raise fault from None
        raise GatemaskError(
            "The study cannot be read.",
            where=journal,
            received=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            do=f"Delete {journal}, and run gatemask oof-tune again.",
        ) from None
    return storage


def complete_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that have a score."""
    import optuna

    trials: list[optuna.trial.FrozenTrial] = study.get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)
    )
    return trials


def _cut_torn_line(journal: Path) -> None:
    """Remove the end of a line that a killed process, or a full disk, cut short."""
    if journal.exists() and not (text := journal.read_bytes()).endswith(b"\n"):
        write_bytes(journal, text[: text.rfind(b"\n") + 1])


def _check_lines(journal: Path) -> None:
    """Raise ValueError unless each line is a JSON object; Optuna ignores a last line that is not."""
    for number, line in enumerate(journal.read_bytes().splitlines() if journal.exists() else (), start=1):
        if not isinstance(json.loads(line), dict):
            raise ValueError(f"line {number} is not a record")


def _load(journal: Path, name: str) -> optuna.Study:
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    return optuna.create_study(direction="maximize", storage=storage, study_name=name, load_if_exists=True)


def _check_trials(study: optuna.Study, space: Space, score: Callable[[Params], float]) -> None:
    """Raise ValueError unless each trial has a score and the parameters of the space, and the best score is right."""
    trials = complete_trials(study)
    for trial in trials:
        if set(trial.params) != set(space):
            raise ValueError(f"trial {trial.number} has the parameters {', '.join(trial.params)}")
        if trial.value is None or not math.isfinite(trial.value):
            raise ValueError(f"trial {trial.number} has the score {trial.value}")
        for parameter, bounds in space.items():
            if not bounds[0] <= trial.params[parameter] <= bounds[1]:
                raise ValueError(f"trial {trial.number} has {parameter} = {trial.params[parameter]}")
    if trials:
        best = max(trials, key=lambda trial: trial.value or 0.0)
        if not math.isclose(score(best.params), best.value or 0.0, abs_tol=1e-9):
            raise ValueError(f"trial {best.number} has another score than its parameters")
