"""The output of a training session: its account, rewritten after each fold, and which files are kept.

<kaggle>/working/runs/<experiment>/fold<k>/  as `gatemask train` writes it
<kaggle>/working/runs/<experiment>/batch.json   the batch that was found, with `batch: {per_device: auto}`
<kaggle>/working/gatemask-compiled.bin       what was compiled, for the next session
<kaggle>/working/gatemask-output.json        id of the push, outcome of each fold, hash of every file
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gatemask.files import sha256
from gatemask.kaggle.train.session_compiled import pack_compiled
from gatemask.results.kaggle_training import ACCOUNT_FILE, FoldAccount, SessionAccount, SessionRequest
from gatemask.training.found_batch import BATCH_FILE

WANDB_GRACE_S = 5.0  # in which W&B's own process ends after the process that it serves


class SessionOutput:
    """Writes the account of a session again after each fold, so that everything listed in it can be trusted.

    A session that is killed leaves the account of the folds that it finished; later files are not listed.

    Args:
        working: Folder that Kaggle keeps.
        request: Task of the session.
        started: `time.monotonic()` when the kernel began.
    """

    def __init__(self, working: Path, request: SessionRequest, started: float) -> None:
        self._working, self._request, self._started = working, request, started
        self._folds: dict[str, FoldAccount] = {}
        self._errors: list[str] = []
        self._lost = False
        self._begun = True
        self._compiled: str | None = None

    @property
    def exit_code(self) -> int:
        """The kernel's exit code: 1 after an error, unless the session leaves files to keep or to continue from."""
        return int(bool(self._errors) and not (self._begun and any(self._fold_files(all_folds=True))))

    def has_error(self) -> bool:
        """Return whether the account on disk says what went wrong."""
        path = self._working / ACCOUNT_FILE
        return path.exists() and SessionAccount.load(path).error is not None

    def record_fold(self, fold: int, outcome: FoldAccount) -> None:
        """Write the account with the outcome of a fold."""
        self._folds[str(fold)] = outcome
        self.write()

    def record_failure(self, error: str, fold: int | None = None) -> None:
        """Print and keep an error, and write it down if it concerns one fold."""
        text = error if fold is None else f"fold {fold}: {error}"
        print(f"error: {text}", file=sys.stderr, flush=True)
        self._errors.append(text)
        if fold is not None:
            self.record_fold(fold, FoldAccount(error=error))

    def record_lost(self, error: str) -> None:
        """Record that the session could not begin. Earlier states remain in the output that it should have found."""
        self._lost, self._begun = True, False
        self.record_failure(error)
        self.write()

    def record_death(self, error: str) -> None:
        """Account for a training process that died: for the folds that it finished and the states that it left."""
        if (path := self._working / ACCOUNT_FILE).exists():
            self._folds = SessionAccount.load(path).folds
        failures = {fold: outcome.error for fold, outcome in self._folds.items() if outcome.error is not None}
        self._errors = [f"fold {fold}: {failure}" for fold, failure in failures.items()]
        self._lost = True  # the cause is outside the training, so the next session may not meet it
        self.record_failure(error)
        if any(self._working.glob("runs/**/*.wandb")):  # files that still grow have no stable hash
            time.sleep(WANDB_GRACE_S)
        self.close()

    def close(self) -> None:
        """Write the account at the end of the session, without files that are not worth fetching."""
        self.remove_unwanted_files()
        self._compiled = pack_compiled(self._working, is_needed=bool(self._unfinished()))
        self.write(all_folds=True)

    def write(self, all_folds: bool = False) -> None:
        """Write the account.

        Args:
            all_folds: Whether to list the files of unfinished folds too. Default: False.
        """
        unfinished = self._unfinished()
        state = "lost" if self._lost else "failed" if self._errors else "stopped" if unfinished else "finished"
        SessionAccount(
            push=self._request.push,
            ref=self._request.ref,
            experiment=self._request.experiment,
            commit=self._request.commit,
            state=state,
            folds=self._folds,
            error="\n".join(self._errors) or None,
            seconds=round(time.monotonic() - self._started, 1),
            compiled=self._compiled,
            files={p.relative_to(self._working).as_posix(): sha256(p) for p in self._files(all_folds)},
        ).write(self._working / ACCOUNT_FILE)

    def remove_unwanted_files(self) -> None:
        """Delete links and files that are not worth fetching, so that Kaggle does not keep or list them."""
        for path in sorted((self._working / "runs").rglob("*"), reverse=True):
            if path.is_symlink() or (path.is_file() and not _is_kept(path, self._working)):
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _unfinished(self) -> list[int]:
        done = {fold for fold, outcome in self._folds.items() if outcome.done}
        return [fold for fold in self._request.folds if str(fold) not in done]

    def _files(self, all_folds: bool) -> Iterator[Path]:
        if (batch := self._working / "runs" / self._request.experiment / BATCH_FILE).is_file():
            yield batch
        yield from self._fold_files(all_folds)

    def _fold_files(self, all_folds: bool) -> Iterator[Path]:
        for run in sorted((self._working / "runs" / self._request.experiment).glob("fold*")):
            if all_folds or run.name.removeprefix("fold") in self._folds:
                yield from (path for path in sorted(run.rglob("*")) if _is_kept(path, run))


def _is_kept(path: Path, root: Path) -> bool:
    """Return whether a file is worth fetching. Locks and unfinished files, whose names begin with a dot, are not.

    Of W&B's own files, rows and media are; caches and logs are not.
    """
    if not path.is_file() or path.is_symlink() or path.name.startswith("."):
        return False
    parts = path.relative_to(root).parts
    return "wandb" not in parts or path.suffix == ".wandb" or "files" in parts
