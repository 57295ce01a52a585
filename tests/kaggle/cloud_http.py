"""HTTP side of `tests.kaggle.cloud`: the requests of the real command and the answers it expects."""

from __future__ import annotations

import base64
import json
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tests.kaggle.standin import KEY, OWNER

if TYPE_CHECKING:
    from tests.kaggle.cloud import Cloud, Fault

STREAM = "/api/v1/kernels/logs/stream/"
JSON = "application/json"


class RefusalError(Exception):
    """Answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class Server(ThreadingHTTPServer):
    """HTTP server of a `Cloud`. Its end ends every run; also a context manager."""

    daemon_threads = True
    cloud: Cloud

    def shutdown(self) -> None:
        self.cloud.close()
        super().shutdown()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def serve(cloud: Cloud) -> Server:
    """Start a server on a free port; `shutdown()` or leaving a with block stops it."""
    server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"cloud": cloud}))
    server.cloud = cloud
    cloud.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, *_: object) -> None:
        pass

    # --- requests ------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if len(body) < int(self.headers.get("Content-Length") or 0):  # the client was killed while it sent the request
            self.close_connection = True
            return
        method, request = path.rsplit("/", 1)[-1], json.loads(body or b"{}")
        fault = self.cloud.note(method, request, body)
        if fault and not fault.after and self._answer_wrongly(fault):
            return
        if not path.startswith("/api/v1/"):
            return self._refuse(404, f"no such path: {path}")
        if not self._allowed() and method != "IntrospectToken":
            return self._refuse(401, "Unauthenticated")
        try:
            answer = self.cloud.answer(method, request)
        except RefusalError as refusal:
            return self._refuse(refusal.status, refusal.message)
        except Exception:
            self.cloud.errors.append(traceback.format_exc())
            return self._refuse(400, "The stand-in failed.")
        if fault and fault.after and self._answer_wrongly(fault):
            return
        self._send(200, json.dumps(answer).encode(), JSON)

    def do_PUT(self) -> None:
        """Take a file of a dataset, in one piece or from where an interrupted upload ended."""
        token, body = urlsplit(self.path).path.rsplit("/", 1)[-1], self._body()
        fault = self.cloud.note("blob", {"token": token, "bytes": len(body)}, body)
        span = self.headers.get("Content-Range", "")
        if fault and fault.break_off:
            self._keep(token, span, body[: len(body) // 2])
        if fault and not fault.after and self._answer_wrongly(fault):
            return
        size = self._keep(token, span, body)
        if fault and fault.after and self._answer_wrongly(fault):
            return
        if size < self.cloud._blobs[token][1]:
            received = {"Range": f"bytes=0-{size - 1}"} if size else {}
            return self._send(308, b"", JSON, received)
        self._send(200, b"{}", JSON)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(STREAM):
            return self._stream(*path.removeprefix(STREAM).split("/", 1))
        name = path.removeprefix("/output/")
        fault = self.cloud.note("output-file", {"file": name}, b"")
        if fault and fault.hang_s:
            self.cloud.closed.wait(fault.hang_s)
        if fault and fault.status is not None and not fault.break_off and not fault.short:
            self._answer_wrongly(fault)
            return
        owner, slug, number, file = name.split("/", 3)
        path_on_disk = self.cloud.latest(owner, f"{slug}/{number}").run.output / file
        content = path_on_disk.read_bytes() if path_on_disk.is_file() else b""
        half = content[: len(content) // 2]
        if fault and fault.break_off:
            self._send(200, content, "application/octet-stream", cut=len(half))
        else:
            self._send(200, half if fault and fault.short else content, "application/octet-stream")

    def _stream(self, owner: str, slug: str) -> None:
        """Send the log: events as they come while the kernel runs, else all at once."""
        fault = self.cloud.note("log-stream", {"userName": owner, "kernelSlug": slug}, b"")
        if fault and not fault.break_off and self._answer_wrongly(fault):
            return
        if not self._allowed():
            return self._refuse(401, "Unauthenticated")
        try:
            run = self.cloud.latest(owner, slug).run
        except RefusalError as refusal:
            return self._refuse(refusal.status, refusal.message)
        if run.ended:
            return self._send(200, json.dumps(run.events()).encode(), JSON)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, ended = 0, False
        try:
            while not ended and not self.cloud.closed.wait(0.02):
                ended = run.ended  # read before the log, so that the last lines are sent
                for event in run.events()[sent:]:
                    self._chunk(f"data: {json.dumps(event)}\n\n")
                    sent += 1
                    if fault and fault.break_off:
                        self.close_connection = True
                        return
            self._chunk("data: END_OF_LOG\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the other side was killed
            self.close_connection = True

    # --- answers ---------------------------------------------------------------------------------------

    def _answer_wrongly(self, fault: Fault) -> bool:
        """Give the wrong answer. Returns False if the correct answer is to follow after a delay."""
        if fault.hang_s:
            self.cloud.closed.wait(fault.hang_s)
        if fault.break_off:
            self.close_connection = True
            return True
        if fault.status is None:
            return False
        as_json = isinstance(fault.body, dict)
        body = (json.dumps(fault.body) if as_json else str(fault.body)).encode()
        self._send(fault.status, body, JSON if as_json else "text/html", fault.headers)
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"code": status, "message": message}).encode(), JSON)

    def _send(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if cut is None else body[:cut])
        except OSError:  # the other side was killed
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    # --- small parts --------------------------------------------------------------------------------------------

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization")
        basic = "Basic " + base64.b64encode(f"{OWNER}:{KEY}".encode()).decode()
        return self.cloud.key_valid and given in (basic, f"Bearer {self.cloud.token}")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _keep(self, token: str, span: str, body: bytes) -> int:
        """Write received bytes to their place in the file, and return its size so far."""
        path: Path = self.cloud.blob(token)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not span.startswith("bytes */"):  # which only asks for the size so far
            start = int(span.removeprefix("bytes ").split("-")[0]) if span else 0
            with path.open("r+b" if path.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                file.write(body)
        return path.stat().st_size if path.exists() else 0


def requests_of(cloud: Cloud, method: str) -> list[dict[str, Any]]:
    """Return the requests of a method, in order."""
    return [request for name, request in cloud.asked if name == method]
