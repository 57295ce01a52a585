"""Result of `gatemask doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gatemask.stage import CommandResult


@dataclass(frozen=True)
class Finding:
    """Outcome of a check.

    Args:
        name: What was checked.
        state: ok; warn, if something works less well or not yet; or wrong, which makes the command fail.
        found: What was found, in one line.
        do: What to do about it; None if the state is ok.
    """

    name: str
    state: Literal["ok", "warn", "wrong"]
    found: str
    do: str | None = None


class DoctorResult(CommandResult):
    """All findings.

    Args:
        findings: One per check, in order.
        wrong: Number of findings that make the command fail.
        warn: Number of warnings.
    """

    findings: list[Finding]
    wrong: int
    warn: int
