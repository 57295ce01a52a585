"""Train the trials of a search at a place: several pieces of work take trials from one study until none is left.

A killed piece leaves its trial to the next one, which continues it in the middle of its fold. The nodes of a cluster
share the study's journal through the project's folder, or the database that GATEMASK_STORAGE names on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.config import Competition
from gatemask.pieces.piece import Piece, Place, values
from gatemask.project import Project
from gatemask.search.search import LocalWork
from gatemask.search.space import Space
from gatemask.search.trials import Trials
from gatemask.training.fold_piece import MEMORY
from gatemask.training.time_budget import TimeBudget
from gatemask.tuning.database import chosen_database


@dataclass(frozen=True)
class PlaceWork:
    """Trains trials at a place.

    Args:
        place: The place.
        overrides: Options `--set` of the experiment.
        hours: Time limit of all trials together, in hours. Default: none.
        at_once: Number of trials at work at a time. Default: as many as the place runs at once.
    """

    place: Place
    overrides: tuple[str, ...] = ()
    hours: float | None = None
    at_once: int | None = None

    def __call__(self, trials: Trials) -> str | None:
        """Train trials until none is left, and return None; or why it stopped before."""
        project, space = trials.project, trials.space
        arguments: dict[str, Any] = {
            "project": project.as_dict(),
            "competition": trials.comp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
            "yaml": str(space.path),
            "overrides": list(self.overrides),
            "deadline": TimeBudget(self.hours).deadline,
        }

        def piece(number: int) -> Piece:
            return Piece(
                name=f"search of {trials.experiment}, worker {number}",
                function="search.at_place:work_piece",
                arguments=arguments,
                reads=(str(project.folds), str(space.path)),
                log=str(project.runs / "search" / trials.experiment / f"worker{number}.log"),
                accelerator=space.exp.runtime.accelerator,
                memory=MEMORY,
            )

        at_once = min(self.at_once or self.place.slots(piece(0)), trials.search.trials)
        outcomes = self.place.run([piece(number) for number in range(at_once)])
        stopped = values(outcomes, "Fix the cause and run the same command again: finished folds are kept.")
        return next(filter(None, stopped.values()), trials.left_to_others())


def work_piece(
    project: Mapping[str, Any], competition: Mapping[str, Any], yaml: str, overrides: list[str], deadline: float | None
) -> str | None:
    """Train trials until none is left that no other process trains, and return None; or why it stopped before.

    Args:
        project: Fields of the project.
        competition: Values of the resolved competition.
        yaml: YAML of the searched experiment.
        overrides: Options `--set` of the experiment.
        deadline: Time at which the work must end; None for no limit.
    """
    home = Project.of(project)
    space = Space(Path(yaml), home.quick, overrides)
    trials = Trials(home, Competition.model_validate(competition), space, database=chosen_database())
    return LocalWork.train(trials, TimeBudget.until(deadline))
