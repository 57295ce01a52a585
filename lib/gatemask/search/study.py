"""The study of a search: in an Optuna journal that several processes share, or in a database for several machines.

runs/<comp>/search/<experiment>/study.log        Optuna's journal: parameters and scores of all trials
runs/<comp>/search/<experiment>/.study.log.lock  held while a process writes to the journal

Both survive SIGKILL. In a database, the study is called <comp>/search/<experiment>.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import is_locked, set_aside, sha256
from gatemask.project import TRIALS, Project
from gatemask.search.trial_files import trial_letter, trial_name
from gatemask.storage import storage_error, storage_errors
from gatemask.tuning.database import Database

if TYPE_CHECKING:
    import optuna

MADE_FROM = "made_from"  # attribute of the study


def search_folder(project: Project, experiment: str) -> Path:
    """Return the folder of a search."""
    return project.runs / "search" / experiment


def study_file(project: Project, experiment: str) -> Path:
    """Return the journal of a search, which optuna-dashboard opens."""
    return search_folder(project, experiment) / "study.log"


class JournalLock:
    """Lock of a journal: it ends with the process that holds it.

    Whoever takes it removes the end of a line that a killed process, or a full disk, cut short: Optuna would append
    the next record to it.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._descriptor = -1

    def acquire(self) -> bool:
        path = self._journal.with_name(f".{self._journal.name}.lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def _cut_torn_line(journal: Path) -> None:
    with journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def study_name(project: Project, experiment: str) -> str:
    """Return the name of a search's study in a database."""
    return f"{project.label}/search/{experiment}"


def shared_lock(project: Project, name: str) -> str:
    """Return the name of the lock, in a database, of a search or of one of its trials."""
    return f"{project.label}/search/{name}"


def open_study(
    project: Project,
    experiment: str,
    made_from: Mapping[str, JsonValue],
    afresh: bool,
    database: Database | None = None,
) -> optuna.Study:
    """Open the study of a search, or begin it. Call it while the search is locked.

    Args:
        project: Project of the search.
        experiment: Name of the searched experiment.
        made_from: Settings and data that decide scores and trials.
        afresh: Whether to set an earlier search of other settings or data aside.
        database: Database that keeps the study. Default: a journal keeps it.

    Raises:
        GatemaskError: The study belongs to other settings or data, or is damaged.
    """
    journal = study_file(project, experiment)
    with storage_errors(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        study = _load(journal, experiment) if database is None else _load_shared(project, experiment, database)
        begun = study.user_attrs.get(MADE_FROM)
        if begun is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(MADE_FROM, dict(made_from))
            return study
    if begun == dict(made_from):
        return study
    if afresh:
        _set_search_aside(project, experiment, database)
        return open_study(project, experiment, made_from, afresh=False, database=database)
    changed = sorted(key for key in made_from if not isinstance(begun, dict) or begun.get(key) != made_from[key])
    raise GatemaskError(
        "This search was begun with other settings or data.",
        where=journal if database is None else f"study {study.study_name} in {database.shown}",
        received=f"different {', '.join(changed)}",
        expected="those that all its trials share",
        do="Undo the change; or start over with --afresh, which keeps the old search under another name.",
    )


def lock_file(project: Project, name: str) -> Path:
    """Return the lock of a search or of one of its trials. It lies outside the folder, which may be set aside."""
    return project.runs / "search" / f".{name}.lock"


def _set_search_aside(project: Project, experiment: str, database: Database | None) -> None:
    """Rename the study, the folder and the YAMLs of the trials."""
    folder = search_folder(project, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    trial = re.compile(rf"\.?{re.escape(experiment)}-{trial_letter(project)}\d+")
    locks = [path for path in sorted(folder.parent.glob(".*.lock")) if trial.fullmatch(path.stem)]
    if busy := [lock for lock in locks if is_locked(lock)]:
        raise GatemaskError(
            "Another process works on this search.", where=busy[0], do="Wait until it ends, or stop it."
        )
    if database is not None:
        _rename_study(project, experiment, database)
    aside = set_aside(folder)
    (aside / TRIALS).mkdir()
    for path in sorted((project.experiments / TRIALS).glob("*.yaml")):
        if trial.fullmatch(path.stem):
            path.rename(aside / TRIALS / path.name)
    say(f"{folder} was made from other settings or data: moved to {aside.name}, with the YAMLs of its trials.")


def _rename_study(project: Project, experiment: str, database: Database) -> None:
    """Give a study in a database the first free name `<name>.replaced<n>`.

    Raises:
        GatemaskError: A machine works on one of its trials.
    """
    import optuna

    storage, name = database.storage(), study_name(project, experiment)
    for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False):
        lock = shared_lock(project, trial_name(project, experiment, trial.number))
        if not trial.state.is_finished() and database.is_locked(lock):
            raise GatemaskError(
                "Another machine works on this search.",
                where=f"{database.shown}, lock {lock}",
                do="Wait until it ends, or stop it.",
            )
    names = optuna.get_all_study_names(storage)
    number = next(number for number in itertools.count(1) if f"{name}.replaced{number}" not in names)
    optuna.copy_study(
        from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=f"{name}.replaced{number}"
    )
    optuna.delete_study(study_name=name, storage=storage)


def _load_shared(project: Project, experiment: str, database: Database) -> optuna.Study:
    import optuna

    return optuna.create_study(
        direction="maximize",
        storage=database.storage(),
        study_name=study_name(project, experiment),
        load_if_exists=True,
    )


def _load(journal: Path, name: str) -> optuna.Study:
    """Open a journal and replay it.

    Raises:
        GatemaskError: It is damaged.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=JournalLock(journal))
        study = optuna.create_study(
            direction="maximize", storage=optuna.storages.JournalStorage(backend), study_name=name, load_if_exists=True
        )
        study.get_trials(deepcopy=False)
        return study
    except Exception as error:  # Optuna replays records unchecked, and fails with almost anything
        if storage_error(error) is not None:
            raise
        raise GatemaskError(
            "The study of a search cannot be read.",
            where=journal,
            received=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            do=f"Restore it from a backup; or rename {journal.parent} and run the search again, which reads the "
            "finished folds of its first trials from disk.",
        ) from None


def data_fingerprints(project: Project, made_from: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return the part of a fold's `made_from` that all folds and trials share."""
    shared = {key: str(made_from[key]) for key in ("settings", "selection", "records")}
    return {**shared, "folds": sha256(project.folds)}
