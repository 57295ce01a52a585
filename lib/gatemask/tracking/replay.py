"""Replay a run to W&B: python -m gatemask.tracking.replay TASK, with a `Task` as JSON.

`gatemask sync` and online trainings start it as a process of its own, whose W&B client ends with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gatemask.project import Project
from gatemask.tracking.extras import ARTIFACTS, OVERLAYS, SENT, TABLE
from gatemask.tracking.local_run import LocalRun, read_run
from gatemask.tracking.wandb_run import WandbRun

MEDIA_S = 300.0  # time limit for overlays and table
ARTIFACTS_S = 800.0


@dataclass(frozen=True)
class Task:
    """What the server lacks of a run.

    Args:
        folder: Folder of the run.
        root: Project folder.
        comp: Name of the competition.
        quick: Whether its quick runs are meant.
        scratch: Folder for the client's own files.
        after: Last epoch on the server; -1 for none.
        kinds: Kinds of extras that the server lacks.
        repair: Kinds whose row is on the server, but not all of its files.
        step: Step of that row.
    """

    folder: str
    root: str
    comp: str
    quick: bool
    scratch: str
    after: int
    kinds: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()
    step: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Return the task that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "kinds": tuple(fields["kinds"]), "repair": tuple(fields["repair"])})


def replay(task: Task) -> bool:
    """Log the epochs after `task.after`, the extras and the summary; return whether the client reported no error."""
    project = Project(Path(task.root), task.comp, task.quick)
    run = read_run(project, Path(task.folder))
    row, lost = _media(run, task.kinds), _media(run, task.repair)
    wandb_run = WandbRun(run.exp, run.label, run.fold, Path(task.scratch), run.id)
    for epoch in run.rows:
        if epoch["epoch"] > task.after:
            wandb_run.log(epoch)
    if row:
        values = {"epoch": run.last_epoch, **row}
        wandb_run.send("W&B media", lambda client: client.log(values), MEDIA_S)
    if lost:
        wandb_run.send("W&B media", partial(_upload_files, lost, task.step), MEDIA_S)
    if run.extras is not None and ARTIFACTS in task.kinds:
        wandb_run.send("W&B artifacts", run.extras.send_artifacts, ARTIFACTS_S)
    wandb_run.finish(run.summary)
    return wandb_run.is_online


def _media(run: LocalRun, kinds: tuple[str, ...]) -> dict[str, object]:
    """Return overlays and table of a run; none if they cannot be made, which is printed."""
    if run.extras is None or not {OVERLAYS, TABLE} & set(kinds):
        return {}
    try:
        return run.extras.row(kinds)
    except Exception as error:  # the epochs are sent all the same
        print("failed:", type(error).__name__, " ".join(str(error).split()))
        return {}


def _upload_files(row: Mapping[str, object], step: int, client: Any) -> None:
    """Upload the files of a row that the server has. Their names follow from key, step and content."""
    from wandb.sdk.data_types.utils import val_to_json

    for key, value in row.items():
        if not key.startswith(SENT):
            val_to_json(client, key, value, namespace=step)


if __name__ == "__main__":
    if replay(Task.from_json(sys.argv[1])):
        print("Replayed")
