"""Studies in a PostgreSQL database that several machines share: GATEMASK_STORAGE, or --storage.

Optuna keeps the trials, through its RDB storage. Advisory locks of PostgreSQL decide who chooses a trial and who
trains it. Such a lock ends with the connection of its process: at once where a process is killed, and after about a
minute where a machine is lost, when the server misses its answers.

Passwords come from PGPASSWORD, from ~/.pgpass or from the address in the environment, and are never printed or written.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatemask.errors import GatemaskError
from gatemask.optional import require

if TYPE_CHECKING:
    import optuna

VARIABLE = "GATEMASK_STORAGE"
LOOK_S = 0.2  # between two attempts to take a lock
# Seconds after which the server asks a silent client, between two questions, and the number of them.
KEEPALIVES = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


@dataclass(frozen=True)
class Database:
    """A PostgreSQL database.

    Args:
        url: Its address: postgresql://user@host:port/database. It may hold a password.
    """

    url: str

    def __repr__(self) -> str:
        return f"Database({self.shown})"

    @property
    def shown(self) -> str:
        """The address without user, password and options."""
        return re.sub(r"//[^/]*@", "//", self.url).split("?")[0]

    @contextmanager
    def locked(self, name: str, busy: str, wait_s: float) -> Iterator[None]:
        """Hold a lock by which processes of all machines agree.

        Args:
            name: Name of the lock.
            busy: Error message if another process holds it.
            wait_s: How long to wait for it, in seconds.

        Raises:
            GatemaskError: Another process holds it, or the database cannot be reached.
        """
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with self._connection() as connection:
            deadline = time.monotonic() + wait_s
            while not connection.execute("select pg_try_advisory_lock(%s)", [number]).fetchone()[0]:
                if time.monotonic() > deadline:
                    raise GatemaskError(busy, where=f"{self.shown}, lock {name}", do="Wait until it ends, or stop it.")
                time.sleep(LOOK_S)
            yield

    def is_locked(self, name: str) -> bool:
        """Return whether a process holds a lock."""
        try:
            with self.locked(name, "", 0.0):
                return False
        except GatemaskError as error:
            if error.what:
                raise
            return True

    def storage(self) -> optuna.storages.RDBStorage:
        """Return Optuna's storage.

        Raises:
            GatemaskError: The database cannot be reached.
        """
        with self._connection():
            pass  # in words, where Optuna and SQLAlchemy would raise a page
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # An idle connection may be cut between two folds: it is tested before it is used.
        address = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.url)
        return optuna.storages.RDBStorage(address, engine_kwargs={"pool_pre_ping": True})

    def copy_trials(self, study: optuna.Study, name: str) -> None:
        """Add the finished trials of a study to the one of this name in the database, as far as it lacks them."""
        import optuna

        kept = optuna.create_study(
            storage=self.storage(), study_name=name, direction=study.direction, load_if_exists=True
        )
        finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        kept.add_trials(finished[len(kept.get_trials(deepcopy=False)) :])

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        require("psycopg", "A study in PostgreSQL")
        import psycopg

        try:
            connection = psycopg.connect(self.url, autocommit=True, options=KEEPALIVES, connect_timeout=20)
        except (psycopg.Error, ValueError) as error:
            raise GatemaskError(
                "The database cannot be reached.",
                where=self.shown,
                received=" ".join(str(error).replace(self.url, self.shown).split())[:300],
                do="Check address, user and password (PGPASSWORD or ~/.pgpass).",
            ) from None
        with connection:
            yield connection


def chosen_database(url: str | None = None) -> Database | None:
    """Return the database of shared studies; None if none is set.

    Args:
        url: Its address. Default: that in GATEMASK_STORAGE.

    Raises:
        GatemaskError: The address is not one of PostgreSQL.
    """
    url = (url or os.environ.get(VARIABLE, "")).strip()
    if not url:
        return None
    if not re.match(r"postgres(ql)?://", url):
        raise GatemaskError(
            "Studies are shared in a PostgreSQL database.",
            where=f"--storage, or environment variable {VARIABLE}",
            received=url.split("://")[0],
            expected="postgresql://user@host/database",
        )
    return Database(url)
