"""Results of `gatemask runs`: experiments with their scores, costs and changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from gatemask.results.rules import Frozen
from gatemask.results.tuning import Kind, Verdict
from gatemask.stage import CommandResult


class RunScore(Frozen):
    """Out-of-fold score of an experiment.

    Args:
        value: Score, in the competition's metric; `auc` for gates that no mask networks stand behind.
        ci95: 95 % interval over groups of images.
        kind: "cross-fitted" where each fold is scored by a rule tuned on the others; "in-sample" where one fold is
            finished, so that its rule is tuned on its own images; "auc" for gates without mask networks.
        metric: Name of the metric.
        folds: Finished folds, in order.
        images: Number of images.
        groups: Number of groups of images.
        beside: Experiments on the other side of the pair: gates in front of a mask network, or the other way round.
    """

    value: float
    ci95: tuple[float, float]
    kind: Literal["cross-fitted", "in-sample", "auc"]
    metric: str
    folds: tuple[int, ...]
    images: int
    groups: int
    beside: tuple[str, ...] = ()


class AgainstBest(Frozen):
    """Paired comparison of an experiment with the best of its task, on the images of the folds both have finished.

    Args:
        best: Name of the best experiment.
        difference: Score of this experiment minus that of the best.
        ci95: 95 % interval of the difference over groups of images.
        verdict: Whether this experiment is better, worse, or cannot be told from the best.
    """

    best: str
    difference: float
    ci95: tuple[float, float]
    verdict: Verdict


class Gain(Frozen):
    """What an experiment adds to the current ensemble.

    Args:
        value: Cross-fitted score of the ensemble with the experiment, minus that without it.
        ci95: 95 % interval of the difference over groups of images.
    """

    value: float
    ci95: tuple[float, float]


class ExperimentRun(Frozen):
    """One experiment: a row of `gatemask runs`.

    Args:
        name: Name of the experiment.
        task: Task of the experiment.
        parent: File that its YAML extends, such as `base.yaml`; None if there is none.
        changed: Values of the keys in which it differs from its parent, by dotted key: the parent's, then its own.
        state: "training" while a process trains one of its folds.
        folds_done: Finished folds, in order.
        folds: Number of folds of the split; 0 where there is no split.
        epochs_done: Trained epochs by fold, of finished and of unfinished folds.
        epochs: Number of epochs of a fold.
        score: Out-of-fold score; None until a fold is finished, or if the score cannot be computed.
        against_best: Comparison with the best experiment of the task; None for the best itself.
        gain: Gain from joining the ensemble; None unless it was computed.
        monitor: Metric that chose the epochs.
        fold_scores: Best validation score by fold, in the monitor's metric.
        hours: Hours of training, here and on Kaggle.
        quota_hours: Hours of Kaggle's accelerator quota.
        images_per_s: Training images per second; None if unknown.
        inference_s: Seconds per image of one fold's network, views included; None unless it was measured.
        commits: Commits its folds were trained from.
        leaderboard: Best public score of a submission with this experiment; None without one.
        submission: Id of that submission.
        alone: Whether the submission holds no other experiment of the task.
        tags: Tags, in alphabetical order.
        note: Note.
        problems: What is wrong with its files, one sentence each.
    """

    name: str
    task: Kind
    parent: str | None = None
    changed: dict[str, tuple[JsonValue, JsonValue]] = Field(default_factory=dict)
    state: Literal["not started", "training", "unfinished", "finished"]
    folds_done: tuple[int, ...] = ()
    folds: int
    epochs_done: dict[int, int] = Field(default_factory=dict)
    epochs: int
    score: RunScore | None = None
    against_best: AgainstBest | None = None
    gain: Gain | None = None
    monitor: str
    fold_scores: dict[int, float] = Field(default_factory=dict)
    hours: float = 0.0
    quota_hours: float = 0.0
    images_per_s: float | None = None
    inference_s: float | None = None
    commits: tuple[str, ...] = ()
    leaderboard: float | None = None
    submission: str | None = None
    alone: bool = False
    tags: tuple[str, ...] = ()
    note: str = ""
    problems: tuple[str, ...] = ()


class RunList(CommandResult):
    """Report of `gatemask runs`: all experiments of a competition, best first.

    Args:
        competition: Name of the competition, with `-quick` for quick runs.
        metric: Name of the competition's metric.
        experiments: The experiments.
        problems: Files that could not be read and belong to no single experiment, one sentence each.
    """

    competition: str
    metric: str
    experiments: tuple[ExperimentRun, ...]
    problems: tuple[str, ...] = ()


class NoteResult(CommandResult):
    """Report of `gatemask runs tag` and `gatemask runs note`.

    Args:
        experiment: Name of the experiment.
        tags: Its tags, in alphabetical order.
        note: Its note.
    """

    experiment: str
    tags: tuple[str, ...]
    note: str


class FoldRun(Frozen):
    """One fold of an experiment, as `gatemask runs show` lists it.

    Args:
        fold: Number of the fold.
        state: "training" while a process trains it.
        epochs_done: Number of epochs trained.
        score: Best validation score, in the experiment's monitor; None until the fold is finished.
        hours: Hours of training.
        images_per_s: Training images per second; None if unknown.
        commit: Commit it was trained from.
        kernel: Kaggle kernel that trained it; None if it was trained elsewhere.
    """

    fold: int
    state: Literal["training", "unfinished", "finished"]
    epochs_done: int
    score: float | None = None
    hours: float = 0.0
    images_per_s: float | None = None
    commit: str | None = None
    kernel: str | None = None


class RunDetails(CommandResult):
    """Report of `gatemask runs show`: all about one experiment.

    Args:
        experiment: Its row of `gatemask runs`.
        runs: Its folds.
        settings: Settings it was trained with, or those of its YAML, by dotted key.
    """

    experiment: ExperimentRun
    runs: tuple[FoldRun, ...]
    settings: dict[str, JsonValue]


class Curve(Frozen):
    """Mean over the folds of what an experiment logged per epoch.

    Args:
        loss: Training loss of each epoch.
        score: Validation score of each epoch, in the experiment's monitor.
    """

    loss: tuple[float, ...]
    score: tuple[float, ...]


class RunDifference(CommandResult):
    """Report of `gatemask runs diff`.

    Args:
        first, second: Names of the experiments.
        settings: Values of the settings in which they differ, by dotted key; None is not set.
        first_score, second_score: Scores on the folds that both have finished; None if there are none.
        difference: Second score less first.
        ci95: 95 % interval of the difference over groups of images.
        verdict: Whether the second is better, worse, or cannot be told from the first.
        folds: Folds that both have finished.
        curves: Curves by experiment.
        problems: Why there is no score.
    """

    first: str
    second: str
    settings: dict[str, tuple[JsonValue, JsonValue]]
    first_score: RunScore | None = None
    second_score: RunScore | None = None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    verdict: Verdict | None = None
    folds: tuple[int, ...] = ()
    curves: dict[str, Curve] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
