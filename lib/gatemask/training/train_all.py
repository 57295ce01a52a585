"""Train all folds of several experiments at a place, as many at once as it can."""

from __future__ import annotations

from collections.abc import Sequence

from gatemask.config import Competition, Experiment
from gatemask.pieces.piece import Place
from gatemask.project import Project
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.side_by_side import raise_failures, train_at, unfinished_folds
from gatemask.training.time_budget import TimeBudget


def train_all(
    project: Project, comp: Competition, experiments: Sequence[Experiment], budget: TimeBudget, place: Place
) -> None:
    """Train the unfinished folds of experiments, as far as the time limit allows.

    Experiments that start from the weights of another one wait for it.

    Args:
        project: Project to train in.
        comp: Competition.
        experiments: Experiments.
        budget: Time limit that all trainings share.
        place: Place that trains.

    Raises:
        GatemaskError: A fold failed; raised after the others have finished.
    """
    waiting = list(experiments)
    while waiting:
        names = {exp.name for exp in waiting}
        ready = [exp for exp in waiting if _source(exp) not in names - {exp.name}] or waiting
        waiting = [exp for exp in waiting if exp not in ready]
        inputs = [TrainingInputs(project, comp, exp) for exp in ready]
        jobs = [(each, fold) for each in inputs for fold in unfinished_folds(each, each.choose_folds(None))]
        outcomes = train_at(place, jobs, budget) if jobs else {}
        for each in inputs:
            raise_failures(each, outcomes.get(each.exp.name, {}))


def _source(exp: Experiment) -> str | None:
    """Return the experiment whose weights this one starts from."""
    source = exp.model.weights.removeprefix("run:")
    return source if source != exp.model.weights else None
