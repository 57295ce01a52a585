"""Ask the W&B server for the account and for the state of a run. The API key is used, never shown or stored."""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gatemask.errors import GatemaskError

ANSWER_S = 30.0  # time limit for one answer
# ~/.netrc may still hold the key under the service's former host name.
FORMER_HOSTS = {"api.forge.coreweave.com": "api.wandb.ai"}

_VIEWER = "query Viewer { viewer { id entity } }"
# The query by which the client itself resumes a run.
_RESUME = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics }
  }
}"""


# As in the client's own public API.
_FILES = """query RunFiles($project: String!, $entity: String!, $name: String!, $names: [String]!, $count: Int) {
  project(name: $project, entityName: $entity) {
    run(name: $name) { files(names: $names, first: $count) { edges { node { name sizeBytes } } } }
  }
}"""


class UnreachableError(GatemaskError):
    """The server does not answer, or its answer makes no sense."""


@dataclass(frozen=True)
class Account:
    """Account that uploads.

    Args:
        server: Address of the server.
        key: API key.
        entity: Default entity of the account.
    """

    server: str
    key: str = field(repr=False)
    entity: str = ""


@dataclass(frozen=True)
class RemoteRun:
    """State of a run on the server.

    Args:
        last_epoch: Its last epoch; None before the first.
        summary: Its summary, by name.
        tail: Last row of its history; empty before the first.
    """

    last_epoch: int | None
    summary: Mapping[str, object]
    tail: Mapping[str, object] = field(default_factory=dict)

    def get(self, key: str) -> object:
        """Return a value of the summary or of the last row, which may be newer."""
        return self.tail.get(key, self.summary.get(key))


def server_address() -> str:
    """Return the server's address: WANDB_BASE_URL, the host of `wandb login --host`, or W&B's own."""
    import wandb

    return str(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url).rstrip("/")


def sign_in() -> Account:
    """Return the account of WANDB_API_KEY or ~/.netrc, once the server has accepted its key.

    Raises:
        GatemaskError: The key is missing or rejected, or the server does not answer.
    """
    url = server_address()
    key = os.environ.get("WANDB_API_KEY") or _netrc_key(urlsplit(url).netloc)
    if not key:
        raise GatemaskError(
            "The W&B API key is missing.",
            where=url,
            expected="WANDB_API_KEY, or what `wandb login` writes to ~/.netrc",
            do="Run `wandb login`, or set WANDB_API_KEY to the key from your settings on W&B; then sync again.",
        )
    viewer = ask(Account(url, key), _VIEWER, {}).get("viewer")
    if not viewer:  # how some versions of the server reject a key
        raise _rejected(url)
    return Account(url, key, viewer.get("entity") or "")


def entity_of(account: Account) -> str:
    """Return the entity that owns the runs: WANDB_ENTITY, or the account's own."""
    return os.environ.get("WANDB_ENTITY") or account.entity


def ask_summary(account: Account, entity: str, project: str, run: str) -> Mapping[str, object]:
    """Return the summary of a run on the server; an empty one if there is no such run.

    Raises:
        GatemaskError: The server does not answer.
    """
    return _parse(_ask_bucket(account, entity, project, run).get("summaryMetrics")) or {}


def _ask_bucket(account: Account, entity: str, project: str, run: str) -> dict[str, Any]:
    answer = ask(account, _RESUME, {"entity": entity, "project": project, "name": run})
    return (answer.get("model") or {}).get("bucket") or {}


def ask_run(account: Account, entity: str, project: str, run: str) -> RemoteRun:
    """Return the state of a run on the server.

    Raises:
        GatemaskError: The run was not written by gatemask, or the server does not answer.
    """
    bucket = _ask_bucket(account, entity, project, run)
    summary = _parse(bucket.get("summaryMetrics")) or {}
    if not bucket.get("historyLineCount"):
        return RemoteRun(None, summary)
    tail = [_parse(line) for line in _parse(bucket.get("historyTail")) or []]
    epochs = [row["epoch"] for row in tail if "epoch" in row]
    if not epochs and "epoch" in summary:
        epochs = [summary["epoch"]]
    if not epochs:
        raise GatemaskError(
            "The run on W&B has rows without an epoch.",
            where=f"{entity}/{project}/{run}",
            do="It was not written by gatemask: rename or delete it there, then sync again.",
        )
    return RemoteRun(int(max(epochs)), summary, tail[-1] if tail else {})


def lost_files(account: Account, entity: str, project: str, run: str, row: Mapping[str, object]) -> set[str]:
    """Return the keys of a row whose media are not on the server: its client was killed before it uploaded them.

    Raises:
        GatemaskError: The server does not answer.
    """
    files = {key: set(_media_files(value)) for key, value in row.items()}
    names = sorted(set().union(*files.values())) if files else []
    if not names:
        return set()
    variables: dict[str, object] = {
        "entity": entity,
        "project": project,
        "name": run,
        "names": names,
        "count": len(names),
    }
    answer = ask(account, _FILES, variables)
    edges = (((answer.get("project") or {}).get("run") or {}).get("files") or {}).get("edges") or []
    there = {edge["node"]["name"] for edge in edges if int(edge["node"].get("sizeBytes") or 0) > 0}
    return {key for key, needed in files.items() if not needed <= there}


def _media_files(value: object) -> Iterator[str]:
    """Yield the names of the files in a value of the history."""
    if isinstance(value, str) and value.startswith("media/"):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _media_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _media_files(inner)


def ask(account: Account, query: str, variables: Mapping[str, object]) -> dict[str, Any]:
    """Return the data with which the server answers a query.

    Raises:
        GatemaskError: The key is rejected, or the server does not answer.
    """
    import requests

    try:
        answer = requests.post(
            f"{account.server}/graphql",
            json={"query": query, "variables": dict[str, Any](variables)},
            auth=("api", account.key),
            timeout=ANSWER_S,
        )
    except requests.RequestException as error:
        raise _unreachable(account.server, type(error).__name__) from None
    if answer.status_code in (401, 403):
        raise _rejected(account.server)
    try:
        data = answer.json()["data"] if answer.ok else None
    except (ValueError, KeyError, TypeError):
        data = None
    if data is None:
        raise _unreachable(account.server, f"HTTP {answer.status_code}")
    return dict(data)


def _netrc_key(host: str) -> str | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None
    entry = entries.authenticators(host) or entries.authenticators(FORMER_HOSTS.get(host, host))
    return entry[2] if entry else None


def _parse(value: Any) -> Any:
    """Parse a field that some versions of the server send as JSON text."""
    return json.loads(value) if isinstance(value, str) and value else value


def not_accepted(output: str) -> GatemaskError:
    """Return the error for an upload that the server did not accept completely, from the client's output."""
    lines = [line.removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if "ERROR" in line or "failed" in line or line.startswith("no end")]
    if not reasons:
        reasons = ["its client reported no error"] if lines[-1:] == ["Replayed"] else lines[-1:]
    return GatemaskError(
        "W&B did not accept all of it:",
        received="; ".join(reasons)[:300],
        do="Sync again: only what is missing is sent.",
    )


def _rejected(url: str) -> GatemaskError:
    return GatemaskError(
        "W&B rejects the API key.",
        where=url,
        do="Take the key from your settings on W&B: `wandb login --relogin`, or WANDB_API_KEY where that is set.",
    )


def _unreachable(url: str, received: str) -> UnreachableError:
    return UnreachableError(
        "W&B cannot be reached.",
        where=url,
        received=received,
        do="Nothing is lost: all runs are kept on disk. Sync again when the network is back.",
    )
