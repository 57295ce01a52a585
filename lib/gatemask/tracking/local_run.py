"""Find and read the runs on disk that belong on W&B."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask import files
from gatemask.config import Experiment, load_run_config
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.training import trained_from
from gatemask.stage import Stamp
from gatemask.tracking.extras import Extras
from gatemask.tracking.run_folder import fold_lock, read_metrics

QUIET_S = 60.0  # without changes for this long, a run without a result is taken for interrupted
NO_RUNS = ("kaggle", "rehearsal-train", "rehearsal")  # folders below runs/<comp> that hold no finished runs


@dataclass(frozen=True)
class LocalRun:
    """A run on disk.

    Args:
        folder: Its folder.
        label: Label of the project, which names the default project on W&B.
        exp: Its experiment.
        fold: Number of its fold.
        made_from: Hashes of everything that decides its outcome.
        rows: Metrics of its epochs, in order.
        finished: Whether its training has finished.
        extras: What belongs on W&B besides its epochs; None before it has finished.
    """

    folder: Path
    label: str
    exp: Experiment
    fold: int
    made_from: Mapping[str, object]
    rows: Sequence[Mapping[str, float]]
    finished: bool
    extras: Extras | None = None

    @property
    def id(self) -> str:
        return run_id(self.label, self.exp.name, self.made_from)

    @property
    def project(self) -> str:
        """Project on W&B."""
        return self.exp.tracking.project or f"gatemask-{self.label}"

    @property
    def first_epoch(self) -> int:
        return int(self.rows[0]["epoch"])

    @property
    def last_epoch(self) -> int:
        return int(self.rows[-1]["epoch"])

    @property
    def summary(self) -> dict[str, float]:
        """The summary on W&B: the last row, the best score, and the number of epochs."""
        scores = [row[self.exp.monitor] for row in self.rows if self.exp.monitor in row]
        best = {"best": max(scores)} if scores else {}
        return {**self.rows[-1], **best, "epochs": self.last_epoch + 1}

    @property
    def hashes(self) -> Mapping[str, str]:
        """Hashes of its extras, by kind."""
        return {} if self.extras is None else self.extras.hashes

    @property
    def fingerprint(self) -> str:
        return files.fingerprint([self.id, self.rows, *([self.hashes] if self.hashes else [])])


def run_id(label: str, experiment: str, made_from: Mapping[str, object]) -> str:
    """Return the id of a run on W&B: a resumed training keeps it, one of other settings or data gets another.

    Its states carry it too, so that none continues another run.
    """
    return files.fingerprint([label, experiment, trained_from(made_from)])


def find_runs(project: Project) -> list[Path]:
    """Return the folders of all runs that were tracked by W&B, online or offline."""
    folders = [folder for folder in project.runs.glob("*/fold*") if folder.parent.name not in NO_RUNS]
    return sorted(folder for folder in folders if (folder / "wandb").is_dir() and (folder / "config.yaml").exists())


def read_run(project: Project, folder: Path) -> LocalRun:
    """Read a run.

    Raises:
        GatemaskError: A file of the run is missing or damaged.
    """
    stamp = next((path for name in ("result.json", "begun.json") if (path := folder / name).exists()), None)
    if stamp is None:
        raise _damaged(folder, "neither result.json nor begun.json exists")
    made_from = Stamp.load(stamp).made_from
    try:
        rows = read_metrics(folder / "metrics.jsonl")
        epochs = [int(row["epoch"]) for row in rows]
        exp = load_run_config(folder)
        fold = int(str(made_from.get("fold", 0)))
    except (GatemaskError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, " ".join(str(error).split())) from None
    if epochs != sorted(set(epochs)):
        raise _damaged(folder, "the epochs of metrics.jsonl are not in order")
    extras = Extras.of(project, exp, folder)
    return LocalRun(folder, project.label, exp, fold, made_from, rows, stamp.name == "result.json", extras)


def is_being_written(folder: Path) -> bool:
    """Return whether an unfinished run seems to be in training: its lock is held, it changed lately (on another
    machine that shares the folder), or its W&B files are open.
    """
    if files.is_locked(fold_lock(folder)):
        return True
    # A fetch from Kaggle writes kaggle.json last.
    changed, was_fetched = max(
        (path.stat().st_mtime, path.name == "kaggle.json") for path in folder.rglob("*") if path.is_file()
    )
    return (time.time() - changed < QUIET_S and not was_fetched) or _has_open_files(folder / "wandb")


def _has_open_files(folder: Path) -> bool:
    """Return whether one of our processes has a file in the folder open; False on systems without /proc."""
    prefix = f"{folder.resolve()}/"
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(prefix):  # noqa: PTH115 - Path.readlink is slower over thousands of links
                return True
        except OSError:
            continue
    return False


def _damaged(folder: Path, reason: str) -> GatemaskError:
    return GatemaskError("A run is damaged.", where=folder, received=reason, do="Fetch it again, or delete its folder.")
