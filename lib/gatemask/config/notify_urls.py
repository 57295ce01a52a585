"""Addresses of notifications: what is one, which service it belongs to, and whether it is a secret."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import SplitResult, urlsplit

Service = Literal["slack", "discord", "ntfy", "other"]
SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
DISCORD = ("discord.com", "discordapp.com")
VARIABLE = "GATEMASK_NOTIFY_URL"
IN_ENVIRONMENT = f"set the environment variable {VARIABLE} instead, and remove notify.url"
RANDOM = re.compile(r"(?=[\w.:-]*\d)(?=[\w.:-]*[A-Za-z])[\w.:-]{16,}")  # of a path: a key, a UUID, a token of a bot


def notify_url_fault(url: str) -> str | None:
    """Return why messages cannot be posted to an address, without repeating it; None if they can.

    >>> notify_url_fault("https://ntfy.sh/my-topic")
    >>> notify_url_fault("ntfy.sh/my-topic")
    'notify.url must be an address that begins with https:// or http://'
    """
    parts = _split(url)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        return "notify.url must be an address that begins with https:// or http://"
    if service_of(url) == "ntfy" and len(_segments(parts)) != 1:
        return "notify.url of ntfy must end in one topic, such as https://ntfy.sh/my-topic"
    return None


def service_of(url: str) -> Service:
    """Return the service that an address belongs to.

    >>> [service_of(f"https://{name}/x") for name in ("hooks.slack.com", "discord.com", "ntfy.sh", "example.org")]
    ['slack', 'discord', 'ntfy', 'other']
    """
    parts = _split(url)
    host = (parts.hostname or "") if parts else ""
    if host in SLACK:
        return "slack"
    if host in DISCORD or host.endswith(tuple(f".{name}" for name in DISCORD)):
        return "discord"
    return "ntfy" if host.startswith("ntfy.") else "other"


def secret_in_url(url: str) -> str | None:
    """Return why an address must not be written to a file, without repeating it; None if it may.

    >>> secret_in_url("https://ntfy.sh/my-topic")
    >>> secret_in_url("https://example.org/hook?token=1").split(":")[0]
    'notify.url contains a query, which may be a key'
    """
    parts = _split(url)
    if parts is None:
        return None
    service = service_of(url)
    if service in ("slack", "discord"):
        return f"a webhook of {service.capitalize()} is a secret: {IN_ENVIRONMENT}"
    if parts.username or parts.password:
        return f"notify.url contains a user name or password: {IN_ENVIRONMENT}"
    if parts.query or parts.fragment:
        return f"notify.url contains a query, which may be a key: {IN_ENVIRONMENT}"
    if service == "other" and any(RANDOM.fullmatch(segment) for segment in _segments(parts)):
        return f"notify.url contains what looks like a key: {IN_ENVIRONMENT}"
    return None


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return None
    return parts


def _segments(parts: SplitResult) -> list[str]:
    return [segment for segment in parts.path.split("/") if segment]
