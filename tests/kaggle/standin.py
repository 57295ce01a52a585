"""A stand-in for Kaggle's download service, which the real command talks to over HTTP on this machine.

As on Kaggle, the API answers a download request with a redirect to a signed URL, which serves the file with ETag,
Last-Modified and byte ranges. Tests queue faults; each request uses up one.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

API = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
SIGNATURE = "signed-and-not-to-be-shown"
OWNER, KEY = "someone", "a-key-that-nobody-may-see"


@dataclass
class Fault:
    """A wrong answer of the API.

    Args:
        status: HTTP status.
        body: Body of the answer; a dictionary as JSON, text as HTML.
    """

    status: int
    body: dict[str, object] | str = ""


@dataclass
class Kaggle:
    """Content of the service, its next faults, and the requests it received.

    Args:
        slug: Name of its only competition.
        content: The competition's file.
        name: Name of the file in the URL after the redirect.
        api: Faults of the API, one per request.
        cut: Number of bytes after which the file's transfer breaks off, one per request.
        expired: Number of requests for the file after such a break that get an error page.
        sized: Whether the answer contains the file's length, age and ETag.
        pace: Pause between two pieces of the file, in seconds.
        piece: Size of a piece, in bytes.
        modified: Time of the file's last change, in seconds since 1970.
        asked: Kind of every request.
        sent: Number of bytes of the file sent so far.
        port: Port of the server, once it runs.
    """

    slug: str = "lungs"
    content: bytes = b""
    name: str = "archive.zip"
    api: list[Fault] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    expired: int = 0
    sized: bool = True
    pace: float = 0.0
    piece: int = 1 << 16
    modified: float = 1_700_000_000.0
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    port: int = 0

    def environment(self, home: Path) -> dict[str, str]:
        """Return variables that direct the real command to this service, and nowhere else."""
        home.mkdir(parents=True, exist_ok=True)
        here = f"http://127.0.0.1:{self.port}"
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": here,
            "https_proxy": here,  # requests for the real service end here and fail
            "HTTP_PROXY": here,
            "HTTPS_PROXY": here,
            "NO_PROXY": "",
            "no_proxy": "",
            "KAGGLE_USERNAME": OWNER,
            "KAGGLE_KEY": KEY,
            "HOME": str(home),
            "TMPDIR": str(home),
        }


def serve(kaggle: Kaggle) -> ThreadingHTTPServer:
    """Start a server on a free port; `shutdown()` stops it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            kaggle.asked.append("api")
            expected = "Basic " + base64.b64encode(f"{OWNER}:{KEY}".encode()).decode()
            if urlsplit(self.path).path != API:
                self._answer(Fault(404, {"code": 404, "message": "no such method"}))
            elif self.headers.get("Authorization") != expected:
                self._answer(Fault(401, {"code": 401, "message": "Unauthenticated"}))
            elif kaggle.api:
                self._answer(kaggle.api.pop(0))
            elif request.get("competitionName") != kaggle.slug:
                self._answer(Fault(404, "<html>not found</html>"))
            else:
                self.send_response(302)
                self.send_header("Location", f"http://files.localhost/bundle/{kaggle.name}?sig={SIGNATURE}")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_GET(self) -> None:
            if kaggle.expired and not kaggle.cut:
                kaggle.expired -= 1
                kaggle.asked.append("expired")
                return self._answer(Fault(403, "<Error>expired</Error>"))
            content, etag = kaggle.content, f'"{hash(kaggle.content):x}"'
            wanted = self.headers.get("Range")
            complete = wanted is None or self.headers.get("If-Range") not in (None, etag) or not kaggle.sized
            start = 0 if complete else int(str(wanted).removeprefix("bytes=").split("-")[0])
            kaggle.asked.append(f"file from {start}")
            self.send_response(200 if complete else 206)
            self.send_header("Content-Type", "application/zip")
            if kaggle.sized:
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", etag)
                self.send_header("Last-Modified", formatdate(kaggle.modified, usegmt=True))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            end = min(len(content), kaggle.cut.pop(0)) if kaggle.cut else len(content)
            try:
                for offset in range(start, end, kaggle.piece):
                    self.wfile.write(content[offset : min(end, offset + kaggle.piece)])
                    kaggle.sent += min(end, offset + kaggle.piece) - offset
                    time.sleep(kaggle.pace)
            except OSError:  # the other side was killed
                pass

        def _answer(self, fault: Fault) -> None:
            as_json = isinstance(fault.body, dict)
            body = (json.dumps(fault.body) if as_json else str(fault.body)).encode()
            self.send_response(fault.status)
            self.send_header("Content-Type", "application/json" if as_json else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kaggle.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
