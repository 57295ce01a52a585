"""The W&B server: who we are there, and how far it has got with a run. The key is used, never shown nor stored."""

from __future__ import annotations

import json
import netrc
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gatemask.errors import GatemaskError

ANSWER_S = 30.0  # for one answer
# Keys of accounts older than the service's present name stand in ~/.netrc under the old one.
OLD_HOSTS = {"api.forge.coreweave.com": "api.wandb.ai"}

_VIEWER = "query Viewer { viewer { id entity } }"
# What the client itself asks before it resumes a run.
_RESUME = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics }
  }
}"""


class UnreachableError(GatemaskError):
    """The service does not answer, or not with sense."""


@dataclass(frozen=True)
class Account:
    """Who uploads, and where to.

    Args:
        server: the address of the service.
        key: its API key.
        entity: the account's own name there.
    """

    server: str
    key: str = field(repr=False)
    entity: str = ""


def server() -> str:
    """The address of the service: WANDB_BASE_URL, or what `wandb login --host` left, or W&B's own."""
    import wandb

    return str(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url).rstrip("/")


def sign_in() -> Account:
    """The account of WANDB_API_KEY, or else of ~/.netrc, once the service has accepted it.

    Raises:
        GatemaskError: there is no key, it is refused, or the service does not answer.
    """
    url = server()
    key = os.environ.get("WANDB_API_KEY") or _from_netrc(urlsplit(url).netloc)
    if not key:
        raise GatemaskError(
            "There is no key for W&B.",
            where=url,
            expected="WANDB_API_KEY, or what `wandb login` writes to ~/.netrc",
            do="Run `wandb login`, or set WANDB_API_KEY to the key from your settings on W&B; then sync again.",
        )
    viewer = _ask(Account(url, key), _VIEWER, {}).get("viewer")
    if not viewer:  # what some versions of the service answer to a key that they do not know
        raise _refused(url)
    return Account(url, key, viewer.get("entity") or "")


@dataclass(frozen=True)
class Held:
    """What the service has of a run: the last epoch, None before the first, and the summary."""

    epoch: int | None
    summary: dict[str, Any]


def held(account: Account, entity: str, project: str, run: str) -> Held:
    """Ask how far the service has got with a run.

    Raises:
        GatemaskError: the run there was not written by gatemask.
    """
    found = _ask(account, _RESUME, {"entity": entity, "project": project, "name": run})
    bucket = (found.get("model") or {}).get("bucket") or {}
    summary = _loaded(bucket.get("summaryMetrics")) or {}
    if not bucket.get("historyLineCount"):
        return Held(None, summary)
    tail = [_loaded(line) for line in _loaded(bucket.get("historyTail")) or []]
    epochs = [row["epoch"] for row in tail if "epoch" in row]
    epochs = epochs or [summary[name] for name in ("epoch",) if name in summary]
    if not epochs:
        raise GatemaskError(
            "The run on W&B has rows without an epoch.",
            where=f"{entity}/{project}/{run}",
            do="It was not written by gatemask: rename or delete it there, then sync again.",
        )
    return Held(int(max(epochs)), summary)


def _ask(account: Account, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    import requests

    try:
        answer = requests.post(
            f"{account.server}/graphql",
            json={"query": query, "variables": variables},
            auth=("api", account.key),
            timeout=ANSWER_S,
        )
    except requests.RequestException as error:
        raise _silent(account.server, type(error).__name__) from None
    if answer.status_code in (401, 403):
        raise _refused(account.server)
    try:
        data = answer.json()["data"] if answer.ok else None
    except (ValueError, KeyError, TypeError):
        data = None
    if data is None:
        raise _silent(account.server, f"HTTP {answer.status_code}")
    return dict(data)


def _from_netrc(host: str) -> str | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        known = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None
    found = known.authenticators(host) or known.authenticators(OLD_HOSTS.get(host, host))
    return found[2] if found else None


def _loaded(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) and text else text


def _refused(url: str) -> GatemaskError:
    return GatemaskError(
        "W&B refuses the key.",
        where=url,
        do="Take the key from your settings on W&B: `wandb login --relogin`, or WANDB_API_KEY where that is set.",
    )


def _silent(url: str, received: str) -> UnreachableError:
    return UnreachableError(
        "W&B cannot be reached.",
        where=url,
        received=received,
        do="Nothing is lost: what is not uploaded stays where it is. Sync again when the network is back.",
    )
