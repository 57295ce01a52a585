"""Run as much of a W&B server on localhost as the real client needs. It keeps runs and their history line by line.

As on the real server, a client that resumes is answered with what is stored, and the lines of a file stream are stored
at their offset: a client that numbers its rows wrongly duplicates or overwrites rows.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

from tests.tracking.wandb_lineage import NamedArtifacts
from tests.tracking.wandb_views import Views

KEY = "f" * 40


@dataclass
class Run:
    """A run on the server.

    Args:
        fields: Fields of the last UpsertBucket: group, jobType, displayName, config.
        lines: Lines of its history, by number.
        events: Lines of its system metrics, by number.
        summary: Latest summary.
        exits: Exit code of each stream that ended.
        overwritten: Number of history lines that were sent again.
        files: Contents of each uploaded file, by name: one per upload.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    overwritten: int = 0
    files: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def media(self) -> dict[str, list[bytes]]:
        """Uploads of media, by name."""
        return {name: contents for name, contents in self.files.items() if name.startswith("media/")}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.lines.items())]

    @property
    def config(self) -> dict[str, Any]:
        values = {name: entry["value"] for name, entry in json.loads(self.fields.get("config") or "{}").items()}
        return {name: value for name, value in values.items() if not name.startswith("_")}

    def take(self, files: dict[str, Any]) -> None:
        if history := files.get("wandb-history.jsonl"):
            for number, line in enumerate(history["content"], history["offset"]):
                self.overwritten += number in self.lines
                self.lines[number] = line
        if events := files.get("wandb-events.jsonl"):
            self.events.update(enumerate(events["content"], events["offset"]))
        if summary := files.get("wandb-summary.json"):
            self.summary = json.loads(summary["content"][-1])


class Server(ThreadingHTTPServer):
    """Server whose `runs` hold what was received, and whose `requests` list path and name of each request.

    Args:
        status: Status of every answer; 0 for regular answers.
        keys: Valid API keys.
        refuses: Status for any other key; with 200 the answer has no viewer, as from some versions.
        hang_s: Delay before each answer, in seconds; 0 releases those that wait.
        hang_on: Part of the requests that are delayed.
        lines_at_most: Number of history lines to accept per run; then its file stream is answered with 500.
        loses: Part of the names of run files that are accepted but not kept, as if the upload had never begun.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.requests: list[str] = []
        self.keys: set[str] = {KEY}
        self.refuses = 401
        self.status = 0
        self.hang_s = 0.0
        self.hang_on = ""
        self.lines_at_most: int | None = None
        self.views = Views()
        self.loses = ""
        self.artifacts = NamedArtifacts(self.url)
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect: some tests kill them."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        request = f"{self.command} {self.path} {_operation(body)}".strip()
        with self.server.lock:
            self.server.requests.append(request)
        released = time.monotonic() + self.server.hang_s
        while self.server.hang_on in request and self.server.hang_s and time.monotonic() < released:
            time.sleep(0.02)
        if self.server.status:
            return self._answer(self.server.status, {"errors": [{"message": "set by the test"}]})
        if self.path.startswith("/storage/"):
            return self._store(self.path.removeprefix("/storage/"), body)
        if not self._known():
            answer = {"data": {"viewer": None}, "errors": [{"message": "user is not logged in"}]}
            return self._answer(self.server.refuses, answer)
        if self.path == "/graphql":
            return self._answer(200, {"data": self._graphql(json.loads(body))})
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            return self._stream(match[1], json.loads(body))
        return self._answer(404, {})

    def _store(self, path: str, body: bytes) -> None:
        kind, _, rest = path.partition("/")
        with self.server.lock:
            if kind == "artifact":
                self.server.artifacts.store(rest, body)
            else:
                run, _, quoted = rest.partition("/")
                name = unquote(quoted)
                if not self.server.loses or self.server.loses not in name:
                    self.server.runs[run].files.setdefault(name, []).append(body)
        self._answer(200, {})

    def _known(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(given).decode().removeprefix("api:") in self.server.keys

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, name: str, sent: dict[str, Any]) -> None:
        with self.server.lock:
            run = self.server.runs.setdefault(name, Run())
            most, files = self.server.lines_at_most, sent.get("files") or {}
            if most is not None:
                history = files.get("wandb-history.jsonl") or {"offset": 0, "content": []}
                history["content"] = history["content"][: max(0, most - history["offset"])]
                run.lines.update(enumerate(history["content"], history["offset"]))
                if len(run.lines) >= most:
                    return self._answer(500, {"error": "no more lines"})
            run.take(files)
            if sent.get("complete"):
                run.exits.append(sent.get("exitcode"))
        self._answer(200, {"exitcode": None, "limits": {}})

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        given = request.get("variables") or {}
        given = {**given, **(given.get("input") or {})}
        name = _operation(json.dumps(request).encode())
        with self.server.lock:
            if (answer := self.server.views.answer(name, given)) is not None:
                return answer
            if name == "Viewer":
                return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            if name == "UpsertBucket":
                return self._upsert(given)
            if name == "RunResumeStatus":
                return {
                    "model": {"id": "p", "name": given["project"], "entity": ME, "bucket": self._held(given["name"])}
                }
            if name == "CreateRunFiles":
                place = f"{self.server.url}/storage/run/{given['run']}"
                files = [{"name": f, "uploadUrl": f"{place}/{quote(f, safe='')}"} for f in given["files"]]
                return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
            if name == "RunFiles":
                kept = self.server.runs[given["name"]].files
                found = [{"name": f, "sizeBytes": len(kept[f][-1])} for f in given["names"] if f in kept]
                return {"project": {"run": {"files": {"edges": [{"node": node} for node in found]}}}}
            return self.server.artifacts.answer(name, given) or {}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        exists = given["name"] in self.server.runs
        run = self.server.runs.setdefault(given["name"], Run())
        run.fields.update({key: value for key, value in given.items() if value is not None})
        project = given.get("project") or "uncategorized"
        bucket = {
            "id": f"id-{given['name']}",
            "name": given["name"],
            "displayName": run.fields.get("displayName"),
            "description": None,
            "config": run.fields.get("config"),
            "sweepName": None,
            "historyLineCount": len(run.lines),
            "project": {"id": "p", "name": project, "entity": ME},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": not exists}}

    def _held(self, name: str) -> dict[str, Any] | None:
        run = self.server.runs.get(name)
        if run is None:
            return None
        tail = [line for _, line in sorted(run.lines.items())][-1:]
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": run.fields.get("displayName"),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines),
            "eventsLineCount": len(run.events),
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": run.fields.get("config"),
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }


ME = {"id": "e", "name": "me"}


def _operation(body: bytes) -> str:
    """Return the name of a GraphQL request."""
    match = re.search(rb"(?:query|mutation)\s+(\w+)", body)
    return match[1].decode() if match else ""
