"""Result of `gatemask notify`."""

from __future__ import annotations

from typing import Literal

from gatemask.stage import CommandResult


class NotifyResult(CommandResult):
    """Report of a test message.

    Args:
        service: Service whose format the message has.
        host: Host that it was posted to.
        source: Where the address comes from: the environment variable, or competition.yaml.
        sent: Whether the host accepted it.
        reason: Why it did not; None if it did.
    """

    service: Literal["slack", "discord", "ntfy", "other"]
    host: str
    source: str
    sent: bool
    reason: str | None
