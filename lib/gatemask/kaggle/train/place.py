"""Kaggle as a place that runs pieces of work: trainings of folds, as a campaign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.kaggle.train.campaign import run_campaign
from gatemask.kaggle.train.dispatch import PushOptions
from gatemask.pieces.piece import OnOutcome, Outcome, Piece, always, ignore
from gatemask.project import Project
from gatemask.training.fold_inputs import TrainingInputs


@dataclass(frozen=True)
class Kaggle:
    """Kaggle's kernels.

    Args:
        project, comp: Competition.
        overrides: Options `--set` of the command. Default: none.
    """

    project: Project
    comp: Competition
    overrides: tuple[str, ...] = ()

    def slots(self, piece: Piece) -> int:
        """Return 1: a campaign decides how many kernels run at once."""
        self._refuse_other([piece])
        return 1

    def run(
        self, pieces: Sequence[Piece], on_outcome: OnOutcome = ignore, may_begin: Callable[[], bool] = always
    ) -> dict[str, Outcome]:
        """Run trainings as `Place.run` says.

        Raises:
            GatemaskError: A piece is not the training of a fold, or Kaggle refuses the kernels.
        """
        self._refuse_other(pieces)
        experiments: dict[str, Experiment] = {}
        folds: dict[str, list[int]] = {}
        for piece in pieces:
            exp = Experiment.model_validate(piece.arguments["experiment"])
            experiments[exp.name] = exp
            folds.setdefault(exp.name, []).append(int(str(piece.arguments["fold"])))
        report = run_campaign(
            self.project, self.comp, list(experiments.values()), folds, PushOptions(overrides=self.overrides)
        )
        outcomes: dict[str, Outcome] = {}
        for piece in pieces:
            exp = Experiment.model_validate(piece.arguments["experiment"])
            fold = int(str(piece.arguments["fold"]))
            result = TrainingInputs(self.project, self.comp, exp).stage(fold).current()
            if result is not None:
                outcomes[piece.name] = Outcome({"result": result.as_dict()})
            else:
                reason = report.given_up.get(f"{exp.name}/{fold}", "The campaign ended without its result.")
                outcomes[piece.name] = Outcome(error=reason)
            on_outcome(piece, outcomes[piece.name])
        return outcomes

    @staticmethod
    def _refuse_other(pieces: Sequence[Piece]) -> None:
        if other := next((piece for piece in pieces if not piece.training), None):
            raise GatemaskError(
                "Kaggle runs trainings only.",
                where="--on kaggle",
                received=other.name,
                expected="the training of a fold",
                do="Use --on local or --on ray. The loop with --on kaggle trains there, and does everything else here.",
            )
