"""A place for tests: pieces run one after the other in this process, through JSON as between processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from gatemask.errors import GatemaskError
from gatemask.pieces.piece import OnOutcome, Outcome, Piece, always, call, ignore


@dataclass
class Here:
    """A place that runs pieces in this process, and loses some.

    Args:
        at_once: Number of slots. Default: 3.
        lost: Numbers of the pieces that fail. Default: none.

    Attributes:
        ran: Pieces that were run.
    """

    at_once: int = 3
    lost: Sequence[int] = ()
    ran: list[Piece] = field(default_factory=list)

    def slots(self, piece: Piece) -> int:
        return self.at_once

    def run(
        self, pieces: Sequence[Piece], on_outcome: OnOutcome = ignore, may_begin: Callable[[], bool] = always
    ) -> dict[str, Outcome]:
        outcomes = {}
        for number, piece in enumerate(pieces):
            if may_begin():
                outcomes[piece.name] = Outcome(error="killed") if number in self.lost else self._run(piece)
                on_outcome(piece, outcomes[piece.name])
        return outcomes

    def _run(self, piece: Piece) -> Outcome:
        self.ran.append(piece)
        try:
            return Outcome(json.loads(json.dumps(call(Piece(**json.loads(json.dumps(asdict(piece))))))))
        except GatemaskError as error:
            return Outcome(error=str(error))
