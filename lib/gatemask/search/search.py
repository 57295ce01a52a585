"""`gatemask search`: train trials of an experiment until the search is done.

    runs/<comp>/search/<experiment>/study.log     Optuna's journal: parameters and scores
    runs/<comp>/search/<experiment>/*.png         figures
    runs/<comp>/search/<experiment>/result.json   stamp, written last
    experiments/<comp>/trials/<trial>.yaml        a trial, an ordinary experiment
    runs/<comp>/<trial>/fold<k>/                  its runs

Several processes may work on one search, and with a database several machines. Each takes a trial of its own; a killed
one is continued by the next process: in the middle of its fold where it finds the state on its disk or in the remote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gatemask.config import Competition
from gatemask.console import say, table
from gatemask.errors import DivergedError, is_out_of_memory
from gatemask.project import Project
from gatemask.results.search import SearchResult, TrialSummary
from gatemask.search.figures import draw_figures
from gatemask.search.space import Space
from gatemask.search.study import search_folder
from gatemask.search.trials import TakenTrial, Trials
from gatemask.stage import Stage
from gatemask.training.time_budget import TimeBudget
from gatemask.training.train import train
from gatemask.tuning.database import Database

Work = Callable[[Trials], str | None]  # works on trials until none is left; returns why it stopped before


def run_search(
    project: Project,
    comp: Competition,
    space: Space,
    work: Work | None = None,
    afresh: bool = False,
    database: Database | None = None,
) -> SearchResult:
    """Search the space of an experiment, as far as its time limit allows.

    Args:
        project: Project of the search.
        comp: Competition.
        space: What is searched.
        work: Trains trials. Default: in this process, one after the other.
        afresh: Whether to set an earlier search of other settings or data aside. Default: False.
        database: Database that keeps the study, for several machines. Default: a journal keeps it.

    Raises:
        GatemaskError: The search was begun with other settings, a trial's YAML was edited, or training fails for a
            reason that other values do not change.
    """
    trials = Trials(project, comp, space, afresh, database)
    made_from = {"study": trials.made_from, "trials": trials.search.trials}
    stamp = search_folder(project, trials.experiment) / "result.json"
    stage = Stage(f"the search of {trials.experiment}", stamp, made_from, SearchResult)
    if (done := stage.current()) is not None:
        return done
    stopped = (work or LocalWork(space.exp.hours))(trials)
    result = trials.result(stopped)
    if result.left:
        return result

    def finish() -> tuple[SearchResult, list[Path]]:
        return trials.result(), draw_figures(trials.study, stamp.parent, trials.metric)

    return stage.run(finish)


@dataclass(frozen=True)
class LocalWork:
    """Trains trials in this process.

    Args:
        hours: Time limit of all trials together, in hours. Default: none.
    """

    hours: float | None = None

    def __call__(self, trials: Trials) -> str | None:
        """Train trials until none is left, and return None; or why it stopped before."""
        return self.train(trials, TimeBudget(self.hours)) or trials.left_to_others()

    @staticmethod
    def train(trials: Trials, budget: TimeBudget) -> str | None:
        """Train trials until none is left that no other process trains, and return None; or why it stopped before."""
        while (taken := trials.take()) is not None:
            with taken.lock:
                if not _train_trial(trials, taken, budget):
                    return "the time limit is reached"
        return None


def _train_trial(trials: Trials, taken: TakenTrial, budget: TimeBudget) -> bool:
    """Train the folds of a trial as long as they are worth it. Returns False if time runs out."""
    while (fold := trials.next_fold(taken)) is not None:
        try:
            result = train(trials.project, trials.comp, taken.exp, [fold], budget)
        except DivergedError as error:
            trials.fail(taken, error.what)
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            trials.fail(taken, "Out of memory.")
            return True
        if fold not in result.folds:
            return False
        trials.report(taken, fold, trials.score(result.folds[fold]))
    return True


def print_search(result: SearchResult) -> None:
    """Print a table of the trials, and the best one."""
    keys = list(result.trials[0].values) if result.trials else []
    columns = ["trial", *keys, *(f"fold {fold}" for fold in result.fold_order), "score", "state"]
    order = sorted(result.trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0), trial.number))
    table(f"Search of {result.experiment}, {result.metric}", columns, [_row(trial, result) for trial in order])
    total = result.trained + result.saved
    if total:
        say(f"{result.trained} folds trained, {result.saved} saved ({100 * result.saved / total:.0f} %)")
    if result.best_score is not None:
        own = result.own_score
        gain = "" if own is None else f"; the experiment itself {own:.4f} ({result.best_score - own:+.4f})"
        say(f"best: {result.best} {result.best_score:.4f}{gain}")
        say(f"      {result.best_yaml}")
    if result.left:
        say(
            f"{result.left} trials are left{f': {result.stopped}' if result.stopped else ''}. Run it again to continue."
        )


def _row(trial: TrialSummary, result: SearchResult) -> list[object]:
    folds = [f"{trial.folds[fold]:.4f}" if fold in trial.folds else "-" for fold in result.fold_order]
    values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.values.values()]
    score = "-" if trial.score is None else f"{trial.score:.4f}"
    state = f"{trial.state}: {trial.reason}" if trial.state == "pruned" else trial.reason or trial.state
    return [trial.name, *values, *folds, score, state]
