"""Choose among the epochs whose weights are kept, and write the final weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gatemask.config import Experiment
from gatemask.files import write_with
from gatemask.hdf5 import save_weights
from gatemask.training import state
from gatemask.training.state import Row
from gatemask.training.trainer import Trainer

SCORES = ("auc", "sensitivity", "specificity", "dice", "dice_positives", "val_loss")
FILES = ("best.weights.h5", "config.yaml")  # besides the predictions; metrics.jsonl is a log, and may change
KEPT = "kept"  # folder of the weights of single epochs, where several are kept


def rank(rows: Mapping[int, Row], monitor: str) -> tuple[int, ...]:
    """Return epochs by their score, the best first; of equal ones the earliest.

    >>> rank({0: {"auc": 0.5}, 1: {"auc": 0.9}, 2: {"auc": 0.5}}, "auc")
    (1, 0, 2)
    """
    return tuple(sorted(rows, key=lambda epoch: (-rows[epoch][monitor], epoch)))


@dataclass(frozen=True)
class Choice:
    """Epochs that make up the final weights.

    Args:
        epochs: These epochs, the best first.
        monitor: Metric that chose them.
        best_score: Its value in the best single epoch.
    """

    epochs: tuple[int, ...]
    monitor: str
    best_score: float

    @classmethod
    def of(cls, best: Sequence[int], rows: Mapping[int, Row], exp: Experiment) -> Choice:
        """Return the choice that `checkpoints` makes.

        Args:
            best: Epochs to choose from, the best first.
            rows: Metrics of these epochs.
            exp: Experiment.
        """
        epochs = tuple(best) if exp.checkpoints.average else tuple(best[:1])
        return cls(epochs, exp.monitor, rows[best[0]][exp.monitor])

    def fields(self, scores: Row) -> dict[str, object]:
        """Return the fields of `FoldResult` that depend on the choice.

        Args:
            scores: Metrics of the final weights.
        """
        return {
            "best_epoch": self.epochs[0],
            "best_epochs": sorted(self.epochs),
            "monitor": self.monitor,
            "score": scores[self.monitor],
            "best_single": self.best_score,
            **{name: scores[name] for name in SCORES if name in scores},
        }


def write_weights(trainer: Trainer, folder: Path, kept: Path, choice: Choice) -> None:
    """Give the evaluator the mean of the chosen epochs, and write best.weights.h5.

    Args:
        trainer: Models of the experiment.
        folder: Folder of the run.
        kept: Folder of the weights of single epochs.
        choice: Epochs to average.
    """
    evaluator = trainer.models.evaluator
    state.assign(evaluator.weights, state.average_best_weights(kept, choice.epochs))
    # The evaluator has no optimizer, whose moments would make the file three times as large.
    write_with(folder / "best.weights.h5", partial(save_weights, evaluator))
