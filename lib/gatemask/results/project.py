"""Result of `gatemask init`."""

from __future__ import annotations

from gatemask.stage import CommandResult


class InitResult(CommandResult):
    """A project that was created.

    Args:
        folder: Its path.
        example: Name of the example competition in it.
        written: Number of files written.
        kept: Number of files that were there already.
    """

    folder: str
    example: str
    written: int
    kept: int
