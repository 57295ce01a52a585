"""Result of `gatemask new`."""

from __future__ import annotations

from gatemask.results.rules import Frozen
from gatemask.stage import CommandResult


class FoundFact(Frozen):
    """One fact about the files.

    Args:
        topic: What it is about.
        found: The fact.
        why: Evidence.
    """

    topic: str
    found: str
    why: str


class NewResult(CommandResult):
    """Result of `gatemask new`.

    Args:
        folder: Folder of the YAMLs, below the project.
        findings: Facts about the files, in the order in which they were found.
    """

    folder: str
    findings: list[FoundFact]
