"""A piece of work: a function by name, its arguments, and the files that it reads and writes.

The function takes and returns what JSON can hold, so that any process of any machine can run it. What counts are the
files that it writes, with their stamps: a piece that is run twice, or was killed half-way, is simply run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from pydantic import JsonValue

from gatemask.errors import GatemaskError

GB = 1 << 30


class BrokenDeviceError(GatemaskError):
    """The device that a process was given does not work: another process may run the piece."""


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Args:
        name: Name for people, unique among the pieces of a call, such as "unet_b0 fold 3".
        function: "module:function" below gatemask, called with `arguments` by name.
        arguments: Values that JSON can hold.
        reads: Absolute paths of files that must exist.
        writes: Absolute paths of files that exist once the piece is done; stamps, if it has any.
        log: File for what a process of its own prints. Default: none, then it is printed to stderr.
        training: Whether it trains, the only kind of piece that Kaggle runs. Default: False.
        accelerator: "gpu" or "tpu" if it needs one, "auto" if it uses the best there is. Default: "cpu".
        cores: Number of cores. Default: 1.
        memory: Memory it needs, in bytes. Default: 1 GB.
    """

    name: str
    function: str
    arguments: Mapping[str, JsonValue]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    log: str | None = None
    training: bool = False
    accelerator: str = "cpu"
    cores: int = 1
    memory: int = GB


@dataclass(frozen=True)
class Outcome:
    """How a piece ended.

    Args:
        value: What its function returned.
        error: Why it failed. Default: None, it did not.
    """

    value: Any = None
    error: str | None = None


OnOutcome = Callable[[Piece, Outcome], object]


def ignore(piece: Piece, outcome: Outcome) -> None:
    """Take no notice of an outcome."""


def always() -> bool:
    """Let every piece begin."""
    return True


class Place(Protocol):
    """A place that runs pieces."""

    def run(
        self, pieces: Sequence[Piece], on_outcome: OnOutcome = ignore, may_begin: Callable[[], bool] = always
    ) -> dict[str, Outcome]:
        """Run pieces, in any order, and return the outcome of each by its name; pieces that never began are left out.

        Args:
            pieces: Pieces of work.
            on_outcome: Called with each piece and its outcome as soon as it is known.
            may_begin: Asked before a piece begins. Default: all may.
        """
        ...

    def slots(self, piece: Piece) -> int:
        """Return how many pieces of this kind run at once, at least 1."""
        ...


def call(piece: Piece) -> Any:
    """Run a piece in this process, and return what its function returns."""
    module, _, name = piece.function.partition(":")
    return getattr(import_module(f"gatemask.{module}"), name)(**piece.arguments)


T = TypeVar("T")


def split_evenly(items: Sequence[T], count: int) -> list[list[T]]:
    """Return runs of consecutive items, as even as possible, none of them empty.

    >>> split_evenly([0, 1, 2, 3, 4], 2)
    [[0, 1, 2], [3, 4]]
    >>> split_evenly([0], 2)
    [[0]]
    """
    count = min(count, len(items))
    starts = [-(-number * len(items) // count) for number in range(count + 1)] if count else []
    return [list(items[start:end]) for start, end in pairwise(starts)]


def values(outcomes: Mapping[str, Outcome], do: str) -> dict[str, Any]:
    """Return what all pieces returned, by name.

    Args:
        outcomes: Outcomes by name.
        do: What the user should do after a failure.

    Raises:
        GatemaskError: A piece failed.
    """
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
    if failed:
        raise GatemaskError(
            f"{len(failed)} of {len(outcomes)} pieces of work failed.",
            received="\n            ".join(f"{name}: {error}" for name, error in failed.items()),
            do=do,
        )
    return {name: outcome.value for name, outcome in outcomes.items()}
