"""The task of a process that trains folds on one device, as `side_by_side` sends it to `fold_process`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a process trains.

    Args:
        root: Folder of the project.
        comp: Name of the competition.
        quick: Whether it runs in quick mode.
        overrides: Options `--set` of the command.
        competition: Values of the resolved competition.
        experiment: Values of the resolved experiment.
        kind: Kind of the device: "gpu" or "cpu".
        logs: Folder of the logs.
    """

    root: str
    comp: str
    quick: bool
    overrides: list[str]
    competition: dict[str, Any]
    experiment: dict[str, Any]
    kind: str
    logs: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def log_of(logs: Path, fold: int) -> Path:
    """Return the path of a fold's log."""
    return logs / f"fold{fold}.log"
