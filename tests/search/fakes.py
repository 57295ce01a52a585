"""Trainings without networks: a fold's score follows from its settings, and its files are stamped as real ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.project import Project
from gatemask.results.training import TrainingResult
from gatemask.tracking import run_folder
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.train import claim_folder, remove_resume_files
from tests.fold_results import fold_result

SEARCH = """
# make train EXP=experiments/phantom/net.yaml
extends: gate_r18.yaml
search:
  trials: {trials}
  pruner: {pruner}
  space:
    schedule.peak: {{low: 1.0e-4, high: 1.0e-1, log: true}}
    label_smoothing: {{low: 0.0, high: 0.3}}
"""


def write_search(project: Project, trials: int = 6, pruner: str = "interval") -> Path:
    """Write a searched experiment of the phantoms, and return its YAML."""
    path = project.experiments / "net.yaml"
    path.write_text(SEARCH.format(trials=trials, pruner=pruner).lstrip())
    return path


def fake_score(exp: Experiment, fold: int) -> float:
    """Return a score that is best at a peak of 0.002, with little noise."""
    noise = np.random.default_rng([fold, int(exp.schedule.peak * 1e9)]).normal(0, 0.002)
    return float(0.9 - 0.1 * np.log10(exp.schedule.peak / 0.002) ** 2 + 0.02 * fold + noise)


class FakeTraining:
    """Stands in for `gatemask.training.train.train` and counts what it trains.

    Args:
        log: File that gets a line per trained fold. Default: none.
        pause_s: Duration of a fold, in seconds. Default: 0.
        before: Called before a fold is trained, with its experiment and number.
    """

    def __init__(
        self, log: Path | None = None, pause_s: float = 0.0, before: Callable[[Experiment, int], object] | None = None
    ) -> None:
        self.log, self.pause_s, self.before = log, pause_s, before
        self.trained: list[tuple[str, int]] = []

    def __call__(
        self, project: Project, comp: Competition, exp: Experiment, folds: Sequence[int], budget: Any = None
    ) -> TrainingResult:
        (fold,) = folds
        stage = TrainingInputs(project, comp, exp).stage(fold)
        if (done := stage.current()) is not None:
            return TrainingResult(experiment=exp.name, current=True, folds={fold: done})
        folder = stage.stamp.parent
        with run_folder.locked_run(folder, f"{exp.name} fold {fold}"):
            claim_folder(folder, stage.made_from, exp)
            if self.before:
                self.before(exp, fold)
            self.trained.append((exp.name, fold))
            if self.log:
                with self.log.open("a") as log:
                    log.write(f"{exp.name} {fold}\n")
            time.sleep(self.pause_s)
            result = fold_result(experiment=exp.name, fold=fold, score=fake_score(exp, fold))
            result = stage.finish(result, [], time.monotonic())
            remove_resume_files(folder)
        return TrainingResult(experiment=exp.name, current=False, folds={fold: result})
