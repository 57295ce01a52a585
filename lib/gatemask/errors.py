"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class GatemaskError(Exception):
    """Something the user can put right. The command prints it without a traceback and exits with 1.

    Args:
        what: what was wrong, one sentence.
        where: file and line, image id, or option.
        received: what was found.
        expected: what would have been right.
        do: the next thing to do.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        received: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        self.what = what
        self.details = {"where": where, "received": received, "expected": expected, "do": do}
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {name + ':':<10}{value}" for name, value in self.details.items() if value is not None]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """So that one raised in another process arrives whole."""
        return _again, (type(self), self.what, self.details)

    def short(self) -> str:
        """One line, for a table of many."""
        received, expected = self.details["received"], self.details["expected"]
        if received is None:
            return self.what
        return f"{self.what} Found {received}" + ("." if expected is None else f", not {expected}.")


def _again(kind: type[GatemaskError], what: str, details: dict[str, Any]) -> GatemaskError:
    return kind(what, **details)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, or None where nothing comes near."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None
