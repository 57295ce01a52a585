"""The exceptions for errors that users can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class GatemaskError(Exception):
    """An error that the user can fix. The command prints it without a traceback and exits with 1.

    Args:
        what: The fault, in one sentence.
        where: File and line, image id, or option.
        received: Value or state that is wrong.
        expected: Values or states that are valid.
        do: What the user should do next.
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

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the details of an error that is raised in another process."""
        return _rebuild, (type(self), self.what, self.details)

    def short(self) -> str:
        """Return the error in one line, for a table of several."""
        received, expected = self.details["received"], self.details["expected"]
        if received is None:
            return self.what
        return f"{self.what} Found {received}" + ("." if expected is None else f", not {expected}.")


class DivergedError(GatemaskError):
    """The loss of a training became NaN or infinite."""


class OutOfMemoryError(GatemaskError):
    """The memory of a device does not suffice."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory is too small; TensorFlow and JAX have their own classes."""
    text = f"{type(error).__name__}: {error}"
    own = isinstance(error, MemoryError | OutOfMemoryError)
    return own or "ResourceExhausted" in text or "RESOURCE_EXHAUSTED" in text


class StorageError(GatemaskError, OSError):
    """A fault of the disk or the system, such as a full disk, in the words of a user.

    It is an OSError too, so code that survives faults of the disk survives this one.

    Args:
        what, where, received, expected, do: As in GatemaskError.
        number: Number of the fault, as in `errno`. Default: None.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        received: object = None,
        expected: object = None,
        do: str | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(what, where=where, received=received, expected=expected, do=do)
        self.errno, self.strerror = number, what

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, {**self.details, "number": self.errno})


def _rebuild(kind: type[GatemaskError], what: str, details: dict[str, Any]) -> GatemaskError:
    return kind(what, **details)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most similar to `word`, or None if none is similar.

    >>> nearest("epoch", ["epochs", "batch"])
    'epochs'
    """
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
