"""A server that speaks S3, on localhost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[None]:
    """Run moto's server while the block runs, with a bucket; the environment points to it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from _run(monkeypatch)


class OneAtATime:
    """Handles one request at a time: moto checks the condition of a write and writes in two steps, S3 in one."""

    def __init__(self, app: Any) -> None:
        self._app, self._lock = app, threading.Lock()

    def __call__(self, environment: Any, start_response: Any) -> list[bytes]:
        with self._lock:
            return list(self._app(environment, start_response))


def _run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    application = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto's server is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    import botocore.session
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = application.DomainDispatcherApplication(application.create_backend_app)
    server = make_server("127.0.0.1", 0, OneAtATime(app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        botocore.session.get_session().create_client("s3").create_bucket(Bucket=BUCKET)
        s3fs.S3FileSystem.clear_instance_cache()  # it would remember the server of another test
        yield
    finally:
        server.shutdown()
