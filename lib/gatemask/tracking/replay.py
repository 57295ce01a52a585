"""Replay the epochs of a run to W&B: python -m gatemask.tracking.replay FOLDER LABEL LAST_EPOCH SCRATCH.

`gatemask sync` starts it as a process of its own, whose W&B client ends with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gatemask.project import Project
from gatemask.tracking.local_run import read_run
from gatemask.tracking.wandb_run import WandbRun


def replay(folder: Path, label: str, last_epoch: int, scratch: Path) -> bool:
    """Log the epochs after `last_epoch` and the summary; return whether the client reported no error.

    Args:
        folder: Folder of the run.
        label: Label of its project.
        last_epoch: Last epoch on the server; -1 for none.
        scratch: Folder for the client's own files.
    """
    run = read_run(Project(folder, label), folder)
    wandb_run = WandbRun(run.exp, label, run.fold, scratch, run.id)
    for row in run.rows:
        if row["epoch"] > last_epoch:
            wandb_run.log(row)
    wandb_run.finish(run.summary)
    return wandb_run.is_online


if __name__ == "__main__":
    if replay(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])):
        print("Replayed")
