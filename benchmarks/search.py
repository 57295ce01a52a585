"""Benchmark of the pruner of `gatemask search`, on stored scores of many configurations.

Two kinds of tables, each with one score per configuration and fold:

- measured: search_scores.npz, networks on phantoms, trained by `benchmarks/search_table.py`;
- generated: a score is the quality of its configuration, plus a fold's difference, plus noise of the training, plus the
  mean over the fold's images of what is hard in an image for every configuration, and for this one.

Each search draws configurations from a table in random order and replays them through Optuna with one rule after the
other, fold by fold. All rules see the same configurations in the same order. `saved` is the share of folds that were
not trained. `lost` compares the configuration that a search would ship with that of the same search without a pruner:
by the mean score over all folds, which for generated tables is also given without noise (`true`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from timing import Row

from gatemask.config import Pruner
from gatemask.search.pruning import make_pruner

TABLE = Path(__file__).with_name("search_scores.npz")
TRIALS, FOLDS = 12, 3
SEARCHES = 120  # drawn from the tables of one kind in turn
TABLES, CONFIGURATIONS, IMAGES = 6, 60, 150  # of a kind; in a generated table; images per fold
LEAST_SAVED = 1 / 3
MOST_LOST = 0.0005  # mean loss of a search, in the metric


@dataclass(frozen=True)
class Scores:
    """Scores of configurations.

    Args:
        name: Name of the table.
        images: Score of each image, float (configurations, folds, images).
        true: Expected score of each configuration, float (configurations,); None if unknown.
    """

    name: str
    images: np.ndarray
    true: np.ndarray | None


class ImagePruner(optuna.pruners.BasePruner):
    """Signed-rank test over the images of the finished folds, against the best trial.

    Args:
        images: Score of each image, float (trials, folds, images).
        threshold: Largest p-value at which a trial is stopped.
    """

    def __init__(self, images: np.ndarray, threshold: float = 0.05) -> None:
        self.images, self.threshold = images, threshold

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        from scipy.stats import wilcoxon

        if not any(t.state == optuna.trial.TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
            return False
        steps = sorted(trial.intermediate_values)
        difference = (self.images[trial.number] - self.images[study.best_trial.number])[steps].ravel()
        return bool(difference.any() and wilcoxon(difference, alternative="less").pvalue < self.threshold)


def rules(images: np.ndarray) -> dict[str, optuna.pruners.BasePruner]:
    """Return the rules that are compared; `interval` is that of gatemask."""
    folds = images.shape[1]
    return {
        "no pruner": make_pruner(Pruner(name="none"), folds),
        "interval": make_pruner(Pruner(), folds),
        "Optuna's median": make_pruner(Pruner(name="median"), folds),
        "Optuna's Wilcoxon over folds": make_pruner(Pruner(name="wilcoxon", hope=0.1), folds),
        "Wilcoxon over images": ImagePruner(images),
    }


def rows() -> Iterator[Row]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Trainings scatter by less than the good half of the configurations differs, and by as much.
    kinds = [[generated(seed, noise) for seed in range(TABLES)] for noise in (0.004, 0.012)]
    kinds += [[measured()]] if TABLE.exists() else []
    for folds in (FOLDS, 5):
        for tables in kinds:
            yield from rows_of(tables, folds)


def rows_of(tables: list[Scores], folds: int) -> Iterator[Row]:
    """Yield two rows for each rule: the folds that it trains, and what the search loses by it."""
    whole = TRIALS * folds
    for name, searches in replay(tables, folds).items():
        if name == "no pruner":
            continue
        trained, lost = np.mean([one.trained for one in searches]), np.array([one.lost for one in searches])
        targets = name == "interval"
        ratio = whole / trained
        yield {
            "name": f"{name}: {TRIALS} trials x {folds} folds, {tables[0].name}",
            "ours": f"{trained:.1f} folds, {1 - trained / whole:.0%} saved",
            "reference": f"{whole} folds",
            "ratio": round(ratio, 3),
            "target": 1 / (1 - LEAST_SAVED) if targets else None,
            "met": bool(ratio >= 1 / (1 - LEAST_SAVED)) if targets else None,
        }
        noiseless = [one.truly_lost for one in searches if one.truly_lost is not None]
        of_true = f", {np.mean(noiseless):+.5f} without noise" if noiseless else ""
        yield {
            "name": f"{name}: loss of the best score; none in {np.mean(lost == 0):.0%} of searches",
            "ours": f"{lost.mean():.5f}{of_true}",
            "reference": f"{MOST_LOST:g}",
            "ratio": round(MOST_LOST / max(float(lost.mean()), 1e-5), 3),
            "target": 1.0 if targets else None,
            "met": bool(lost.mean() <= MOST_LOST) if targets else None,
        }


@dataclass(frozen=True)
class Replayed:
    """A search with one rule.

    Args:
        trained: Number of folds trained.
        lost: Mean score over all folds of the best trial without a pruner, minus that of the best trial here.
        truly_lost: The same of the expected scores; None if they are unknown.
    """

    trained: int
    lost: float
    truly_lost: float | None


def replay(tables: list[Scores], folds: int) -> dict[str, list[Replayed]]:
    """Replay searches with each rule, by the rule's name."""
    replayed: dict[str, list[Replayed]] = {}
    for search in range(SEARCHES):
        table = tables[search % len(tables)]
        rng = np.random.default_rng([search, folds])
        order = rng.permutation(len(table.images))[:TRIALS]
        images = table.images[order][:, rng.permutation(table.images.shape[1])[:folds]]
        scores = images.mean(axis=2)
        without = int(scores.mean(axis=1).argmax())
        for name, pruner in rules(images).items():
            trained, best = replay_search(scores, pruner)
            lost = float(scores[without].mean() - scores[best].mean())
            truly = None if table.true is None else float(table.true[order[without]] - table.true[order[best]])
            replayed.setdefault(name, []).append(Replayed(trained, lost, truly))
    return replayed


def replay_search(scores: np.ndarray, pruner: optuna.pruners.BasePruner) -> tuple[int, int]:
    """Replay a search; return the number of trained folds and the best trial.

    Args:
        scores: Score of each fold, float (trials, folds).
        pruner: Rule.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
        trained = 0
        for folds in scores:
            trial = study.ask()
            state = optuna.trial.TrialState.COMPLETE
            for step, score in enumerate(folds):
                trained += 1
                trial.report(float(score), step)
                if step + 1 < len(folds) and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
            study.tell(trial, float(folds.mean()) if state == optuna.trial.TrialState.COMPLETE else None, state=state)
        return trained, study.best_trial.number


def measured() -> Scores:
    """Return the scores that search_table.py measured."""
    with np.load(TABLE) as stored:
        images = stored["images"].astype(float)
    return Scores(f"measured on phantoms ({len(images)} configurations)", images, None)


def generated(seed: int, noise: float) -> Scores:
    """Draw the scores of configurations.

    Args:
        seed: Seed of the table.
        noise: Standard deviation of what a training adds to its fold. Qualities have one of about 0.01 among the good
            half; the others are worse by up to 0.1, and noisier.
    """
    rng = np.random.default_rng(seed)
    poor = rng.random(CONFIGURATIONS) < 0.5
    quality = 0.8 + rng.normal(0, 0.01, CONFIGURATIONS) - np.where(poor, rng.uniform(0, 0.1, CONFIGURATIONS), 0)
    scatter = noise * np.where(poor, 1.5, 1.0)
    of_fold, of_training = rng.normal(0, 0.01, 5), rng.normal(0, scatter, (5, CONFIGURATIONS)).T
    hard = rng.normal(0, 0.15, (1, 5, IMAGES))
    own = rng.normal(0, 0.05, (CONFIGURATIONS, 5, IMAGES))
    images = quality[:, None, None] + of_fold[:, None] + of_training[:, :, None] + hard + own
    return Scores(f"generated, noise {noise:g}", images, quality)


if __name__ == "__main__":
    for found in rows():
        print(f"{found['name']:110} {found['ours']:>26} {found['reference']:>10} {found['ratio']:7.2f} {found['met']}")
