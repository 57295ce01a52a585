"""The trials of a search: taken by one process at a time, continued where they stopped, reported fold by fold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from gatemask.config import Competition, Experiment, Search
from gatemask.console import say
from gatemask.errors import GatemaskError, StorageError
from gatemask.files import locked
from gatemask.project import TRIALS, Project
from gatemask.results.search import SearchResult, TrialState, TrialSummary
from gatemask.results.training import FoldResult
from gatemask.search.pruning import chance_of, make_pruner, scores_by_step
from gatemask.search.space import Param, Space
from gatemask.search.study import data_fingerprints, lock_file, open_study, shared_lock
from gatemask.search.trial_files import trial_name, write_trial
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.tuning.database import Database

if TYPE_CHECKING:
    import optuna

REASON = "reason"  # attribute of a trial: why it was pruned or failed
SEARCH_LOCK_S = 60.0  # a process holds the lock of the search for moments only
MOST_FAILURES = 3  # first trials that fail before the search is given up


@dataclass
class TakenTrial:
    """A trial that this process works on.

    Args:
        number: Number of the trial.
        exp: Its experiment.
        yaml: Its YAML.
        trial: Optuna's trial.
        lock: Holds the trial's lock until it is closed.
    """

    number: int
    exp: Experiment
    yaml: Path
    trial: optuna.Trial
    lock: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        return self.exp.name


class Trials:
    """The trials of a search.

    Args:
        project, comp: Project of the search.
        space: What is searched.
        afresh: Whether to set an earlier search of other settings or data aside. Default: False.
        database: Database that keeps the study, for several machines. Default: a journal keeps it.

    Raises:
        GatemaskError: A fold does not exist, or the search was begun with other settings or data.
    """

    def __init__(
        self, project: Project, comp: Competition, space: Space, afresh: bool = False, database: Database | None = None
    ) -> None:
        self.project, self.comp, self.space, self.database = project, comp, space, database
        inputs = TrainingInputs(project, comp, space.exp)
        self.folds = inputs.choose_folds(self.search.folds)
        data = data_fingerprints(project, inputs.made_from(self.folds[0]))
        self.made_from: dict[str, JsonValue] = {**data, "search": space.spec(), "order of folds": [*self.folds]}
        with self._locked():
            self.study = open_study(project, self.experiment, self.made_from, afresh, database)
            self._enqueue_experiment()
        self.study.pruner = make_pruner(self.search.pruner, len(self.folds))

    @property
    def experiment(self) -> str:
        return self.space.exp.name

    @property
    def search(self) -> Search:
        return self.space.search

    @property
    def metric(self) -> str:
        """The metric of the scores: the monitor; at full size where trials have inputs of different sizes."""
        varies = any(key.split(".")[0] == "input" for key in self.search.space)
        return "dice_full" if varies and self.space.exp.task == "mask" else self.space.exp.monitor

    def score(self, result: FoldResult) -> float:
        """Return the score of a fold."""
        return result.dice_full if self.metric == "dice_full" and result.dice_full is not None else result.score

    # --- taking ----------------------------------------------------------------------------------------------

    def take(self) -> TakenTrial | None:
        """Return an unfinished trial that no other process works on, else a new one; None if there is none.

        The trial stays locked until its `lock` is closed.
        """
        from optuna.trial import TrialState as State

        with self._locked():
            for frozen in self.study.get_trials(deepcopy=False, states=(State.RUNNING,)):
                with ExitStack() as stack:
                    if self._lock(frozen.number, stack) and self._state(frozen.number) == State.RUNNING:
                        return self._prepare(frozen.number, frozen._trial_id, stack.pop_all())
            begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != State.WAITING]
            if len(begun) >= self.search.trials:
                return None
            with ExitStack() as stack:
                number = len(begun)
                if not self._lock(number, stack):
                    return None
                self.study.sampler = self._sampler(number)
                asked = self.study.ask()
                assert asked.number == number, "trials are begun in order"
                return self._prepare(number, asked._trial_id, stack.pop_all())

    def _prepare(self, number: int, trial_id: int, lock: ExitStack) -> TakenTrial:
        """Draw the parameters that a trial lacks, and write its YAML."""
        import optuna

        with lock:
            self.study.sampler = self._sampler(number)
            trial = optuna.trial.Trial(self.study, trial_id)
            for dimension in self.space.dimensions:
                _suggest(trial, dimension.key, dimension.distribution())
            values = self.space.values(trial.params)
            yaml, exp = write_trial(self.project, self.space, number, values)
            done = len(self.scores(number))
            shown = ", ".join(f"{key} {value}" for key, value in values.items())
            resumed = f" (continues after {done} folds)" if done else ""
            say(f"{exp.name}, trial {number + 1} of {self.search.trials}: {shown}{resumed}")
            return TakenTrial(number, exp, yaml, trial, lock.pop_all())

    def left_to_others(self) -> str | None:
        """Say how many trials other processes have not finished, when `take` finds none."""
        left = self.result().left
        return f"{left} trials are in training in other processes" if left else None

    def _lock(self, number: int, stack: ExitStack) -> bool:
        """Lock a trial. Returns False where another process holds it."""
        name, busy = trial_name(self.project, self.experiment, number), "Another process trains this trial."
        try:
            stack.enter_context(locked(lock_file(self.project, name), busy, wait_s=0.0))
            if self.database is not None:
                stack.enter_context(self.database.locked(shared_lock(self.project, name), busy, wait_s=0.0))
        except StorageError:
            raise
        except GatemaskError as error:
            if error.what != busy:
                raise
            return False
        return True

    def _locked(self) -> ExitStack:
        stack = ExitStack()
        busy = f"Another process is choosing a trial of {self.experiment}."
        stack.enter_context(locked(lock_file(self.project, self.experiment), busy, wait_s=SEARCH_LOCK_S))
        if self.database is not None:
            name = shared_lock(self.project, self.experiment)
            stack.enter_context(self.database.locked(name, busy, wait_s=SEARCH_LOCK_S))
        return stack

    def _enqueue_experiment(self) -> None:
        """Let the experiment itself be the first trial, so that the others are compared with it."""
        own = self.space.own_params
        if own is not None and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(own)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a trial, with a seed of its own: an interrupted search draws the same trials."""
        import optuna

        seed = self.search.seed * 100_003 + number
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        at_random = min(10, max(4, self.search.trials // 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=at_random)

    # --- reporting -------------------------------------------------------------------------------------------

    def scores(self, number: int) -> dict[int, float]:
        """Return the scores of a trial's finished folds, by position in the order of folds."""
        return scores_by_step(self._frozen(number))

    def next_fold(self, taken: TakenTrial) -> int | None:
        """Return the fold that a trial trains next; None, and close the trial, if it is finished or pruned."""
        import optuna

        if self._state(taken.number) != optuna.trial.TrialState.RUNNING:  # after a restart of the database
            self._close(taken, "finished by another process")
            return None
        scores = self.scores(taken.number)
        if len(scores) == len(self.folds):
            value = sum(scores.values()) / len(scores)
            best = self._best_score()
            self.study.tell(taken.trial, value)
            against = "" if best is None else f", the best so far {best:.4f}"
            self._close(taken, f"{self.metric} {value:.4f} over {len(scores)} folds{against}")
            return None
        if scores and taken.trial.should_prune():
            chance = chance_of(self.study, self._frozen(taken.number), len(self.folds), self.search.pruner.startup)
            by_chance = self.search.pruner.name == "interval" and chance is not None
            reason = (
                f"chance of becoming the best {chance:.2g}" if by_chance else f"pruned by {self.search.pruner.name}"
            )
            taken.trial.set_user_attr(REASON, reason)
            self.study.tell(taken.trial, state=optuna.trial.TrialState.PRUNED)
            self._close(taken, f"stopped after {len(scores)} of {len(self.folds)} folds: {reason}")
            return None
        return next(fold for step, fold in enumerate(self.folds) if step not in scores)

    def report(self, taken: TakenTrial, fold: int, score: float) -> None:
        """Record the score of a fold; a fold counts once."""
        step = self.folds.index(fold)
        if step not in self.scores(taken.number):
            taken.trial.report(score, step)

    def fail(self, taken: TakenTrial, reason: str) -> None:
        """Close a trial that cannot be trained with its values. The sampler takes it for worse than all others.

        Raises:
            GatemaskError: All trials so far have failed.
        """
        import optuna

        # Optuna's samplers learn from pruned trials, but not from failed ones.
        taken.trial.set_user_attr(REASON, f"failed: {reason}")
        self.study.tell(taken.trial, state=optuna.trial.TrialState.PRUNED)
        self._close(taken, f"failed: {reason}")
        states = [trial.state for trial in self.summaries()]
        if len(states) >= MOST_FAILURES and set(states) == {"failed"}:
            raise GatemaskError(
                f"All {len(states)} trials so far have failed.",
                where=taken.yaml,
                received=reason,
                do="Train the experiment itself first (gatemask train), or narrow the ranges and use --afresh.",
            )

    def _close(self, taken: TakenTrial, outcome: str) -> None:
        say(f"{taken.name}: {outcome}")
        taken.lock.close()

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _state(self, number: int) -> optuna.trial.TrialState:
        return self._frozen(number).state

    def _best_score(self) -> float | None:
        return max((t.score for t in self.summaries() if t.score is not None), default=None)

    # --- summaries -------------------------------------------------------------------------------------------

    def summaries(self) -> tuple[TrialSummary, ...]:
        """Return all trials that have begun."""
        from optuna.trial import TrialState as State

        trials = self.study.get_trials(deepcopy=False)
        keys = {dimension.key for dimension in self.space.dimensions}
        return tuple(self._summary(t) for t in trials if t.state != State.WAITING and keys <= set(t.params))

    def _summary(self, trial: optuna.trial.FrozenTrial) -> TrialSummary:
        params: Mapping[str, Param] = trial.params
        reason = str(trial.user_attrs.get(REASON, ""))
        return TrialSummary(
            number=trial.number,
            name=trial_name(self.project, self.experiment, trial.number),
            values=self.space.values(params),
            state=_state_of(trial, reason),
            folds={self.folds[step]: score for step, score in scores_by_step(trial).items()},
            score=trial.value if _state_of(trial, reason) == "finished" else None,
            reason=reason,
        )

    def result(self, stopped: str | None = None) -> SearchResult:
        """Return the report of the search as it stands."""
        trials = self.summaries()
        done = [trial for trial in trials if trial.state != "running"]
        finished = [trial for trial in trials if trial.score is not None]
        best = max(finished, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)
        first = trials[0] if trials and self.space.own_params is not None else None
        fields: dict[str, object] = {
            "experiment": self.experiment,
            "metric": self.metric,
            "fold_order": tuple(self.folds),
            "trials": trials,
            "left": max(0, self.search.trials - len(done)),
            "trained": sum(len(trial.folds) for trial in trials),
            "saved": sum(len(self.folds) - len(trial.folds) for trial in done),
        }
        if best is not None:
            path = self.project.experiments / TRIALS / f"{best.name}.yaml"
            fields |= {"best": best.name, "best_yaml": self.project.relative(path), "best_score": best.score}
        if first is not None and first.score is not None:
            fields["own_score"] = first.score
        if stopped:
            fields["stopped"] = stopped
        return SearchResult.model_validate(fields)


def _suggest(trial: optuna.Trial, key: str, distribution: optuna.distributions.BaseDistribution) -> None:
    """Draw a parameter, unless the trial has it already."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(key, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _state_of(trial: optuna.trial.FrozenTrial, reason: str) -> TrialState:
    """Return the state of a trial in words; one that was failed by another program, such as a dashboard, is failed."""
    from optuna.trial import TrialState as State

    states: dict[State, TrialState] = {State.COMPLETE: "finished", State.RUNNING: "running", State.FAIL: "failed"}
    return states.get(trial.state, "failed" if reason.startswith("failed") else "pruned")
