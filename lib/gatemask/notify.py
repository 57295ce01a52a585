"""Post a short message when a campaign ends, a kernel dies or a loss becomes NaN.

    runs/<comp>/notified/<hash>.json    an event whose message was sent

The address is `notify.url` of competition.yaml or, before that, the environment variable GATEMASK_NOTIFY_URL. Slack,
Discord and ntfy get a message in their own format, other hosts a JSON object. A message never fails the work, and
delays it by LIMIT_S at most. An event is reported once: a command that is run again finds the record of the first time.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from gatemask.config import Competition, load_competition
from gatemask.config.notify_urls import VARIABLE, notify_url_fault, service_of
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, write_json
from gatemask.project import Project
from gatemask.results.notify import NotifyResult
from gatemask.secrets.guard import refuse_secrets

LIMIT_S = 5.0  # for one message, from the look-up of the host to its answer
LONGEST = 1500  # characters of a message; Discord accepts 2000
TITLES = {
    "campaign_ended": "campaign ended",
    "kernel_died": "kernel died",
    "loss_not_finite": "loss became NaN or infinite",
    "test": "test",
}


@dataclass(frozen=True)
class Event:
    """Something worth a message.

    Args:
        kind: Kind of the event.
        message: What happened, in one or two sentences.
        key: What distinguishes it from other events of its kind.
        experiment: Name of the experiment. Default: none.
        fold: Fold. Default: none, or several.
    """

    kind: Literal["campaign_ended", "kernel_died", "loss_not_finite", "test"]
    message: str
    key: str
    experiment: str | None = None
    fold: int | None = None


class _Address(NamedTuple):
    url: str
    source: str  # where it was found

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


def notify(project: Project, event: Event, comp: Competition | None = None) -> None:
    """Send an event's message, unless it was sent before or there is no address. Nothing that fails here raises.

    Args:
        project: Project and competition.
        event: What happened.
        comp: Competition. Default: competition.yaml is read if it is needed.
    """
    try:
        record = project.runs / "notified" / f"{fingerprint([event.kind, event.key])[:16]}.json"
        if record.exists() or (address := _address(project, comp)) is None:
            return
        if reason := _send(project, event, address):
            say(f"The message '{TITLES[event.kind]}' was not sent to {address.host}: {reason}")
            return
        with suppress(OSError):  # of a full disk; at worst, the message is sent again
            write_json(record, {"event": event.kind, "key": event.key, "message": event.message, "at": _now()})
    except Exception as error:  # of a YAML that was edited meanwhile, or of the system: the work is more important
        text = error.short() if isinstance(error, GatemaskError) else type(error).__name__
        say(f"The message '{TITLES[event.kind]}' was not sent: {text}")


def send_test(project: Project, comp: Competition) -> NotifyResult:
    """Send a test message.

    Raises:
        GatemaskError: There is no address, or the environment's is not valid.
    """
    address = _address(project, comp)
    if address is None:
        raise GatemaskError(
            "There is no address for messages.",
            where=project.experiments / "competition.yaml",
            expected=f"notify.url, or the environment variable {VARIABLE}",
            do=f"Webhooks of Slack and Discord are secrets: set {VARIABLE}. A topic of ntfy may be in the YAML: "
            "notify: {url: https://ntfy.sh/my-topic}.",
        )
    reason = _send(project, Event("test", "Messages of gatemask arrive here.", _now()), address)
    return NotifyResult(
        service=service_of(address.url), host=address.host, source=address.source, sent=reason is None, reason=reason
    )


def _address(project: Project, comp: Competition | None) -> _Address | None:
    if url := os.environ.get(VARIABLE, "").strip():
        if fault := notify_url_fault(url):
            raise GatemaskError(fault.replace("notify.url", VARIABLE) + ".", where=f"environment variable {VARIABLE}")
        return _Address(url, VARIABLE)
    comp = comp or load_competition(project.experiments, quick=project.quick)
    return None if comp.notify.url is None else _Address(comp.notify.url, "competition.yaml")


def _send(project: Project, event: Event, address: _Address) -> str | None:
    """Post a message; return why it was not accepted, or None."""
    request = make_request(address.url, project.label, _without_secrets(event, project.root))
    outcome: list[str | None] = [f"no answer within {LIMIT_S:g} s"]

    def post() -> None:
        outcome[0] = _post(request)

    # The limit of a socket counts for each of its operations, and not at all for the look-up of the host's name.
    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return outcome[0]


def _without_secrets(event: Event, root: Path) -> Event:
    """Return the event, without its details if they contain a secret: logs of kernels are quoted."""
    try:
        refuse_secrets({"message": event.message.encode("utf-8", "replace")}, root)
    except GatemaskError:
        return replace(event, message="(The details contain a secret and were left out.)")
    return event


def make_request(url: str, competition: str, event: Event) -> urllib.request.Request:
    """Return the request that posts a message in the format of the address's service.

    Args:
        url: Address.
        competition: Name of the competition.
        event: What happened.
    """
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "gatemask", **_authorization(parts)}
    parts = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    service = service_of(url)
    subject = " ".join(filter(None, [event.experiment, None if event.fold is None else f"fold {event.fold}"]))
    title = f"{competition}: {TITLES[event.kind]}" + (f", {subject}" if subject else "")
    message = event.message if len(event.message) <= LONGEST else f"{event.message[: LONGEST - 3]}..."
    body: Mapping[str, object]
    if service == "slack":
        body = {"text": _escaped(f"*{title}*\n{message}")}
    elif service == "discord":
        body = {"content": f"**{title}**\n{message}", "allowed_mentions": {"parse": []}}
    elif service == "ntfy":
        body = {"topic": parts.path.strip("/"), "title": title, "message": message}
        parts = parts._replace(path="/")
    else:
        body = {
            "event": event.kind,
            "competition": competition,
            "experiment": event.experiment,
            "fold": event.fold,
            "message": message,
            "at": _now(),
        }
    data = json.dumps(body).encode()
    return urllib.request.Request(urlunsplit(parts), data, headers, method="POST")


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _escaped(text: str) -> str:
    """Escape the characters with which Slack marks links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect: another host must not see the message."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _post(request: urllib.request.Request) -> str | None:
    """Send a request; return what went wrong, or None. Texts of exceptions may contain the address and are not used."""
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=LIMIT_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP status {error.code}" + (", a redirect" if 300 <= error.code < 400 else "")
    except urllib.error.URLError as error:
        return _cause(error.reason)
    except Exception as error:  # of urllib, http.client or ssl, for a strange address or answer
        return _cause(error)


def _cause(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {LIMIT_S:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
