"""A remote on a server that speaks S3: conditional writes, and the whole loop with killed uploads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from gatemask.remote.address import VARIABLE
from gatemask.remote.lease import Lease
from gatemask.remote.objects import Objects
from tests.conftest import TINY_GATEMASK, contents, start_python
from tests.remote.s3_server import BUCKET, s3_server
from tests.tiny import INSTALL

# Kills its own process in the middle of an upload: the request of one object has begun.
KILL = """
import os, signal, threading
from gatemask.remote.objects import Objects
left, upload = int(os.environ["KILL_AT"]), Objects.upload
def upload_or_die(self, files):
    global left
    for key, path in files.items():
        left -= 1
        if left == 0:
            threading.Timer(0.003, os.kill, [os.getpid(), signal.SIGKILL]).start()
        upload(self, {key: path})
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
Objects.upload = upload_or_die
"""
MEASURED = {"seconds", "stages", "current"}


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture
def url(server: None) -> str:
    return f"s3://{BUCKET}/{uuid.uuid4()}"


@pytest.mark.integration
def test_conditional_writes(url: str) -> None:
    """Of many writes under a condition (If-None-Match), one succeeds."""
    objects, created = Objects(url), []

    def create(number: int) -> None:
        if objects.create("locks/1", str(number).encode()):
            created.append(number)

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert objects.read("locks/1") == str(created[0]).encode()
    assert objects.list("nothing") == {}
    with Lease(objects, "runs/x.json", "Busy."):
        pass


@pytest.mark.integration
def test_contents_are_compared_without_a_download(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ETag of an object in several parts tells its content, too."""
    objects = Objects(url)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(os.urandom(1 << 20) * 101)
    objects.upload({"a/small": small, "a/large": large})
    listed = objects.list("a")
    assert "-" in listed["a/large"].tag
    monkeypatch.setattr(Objects, "read", lambda *_: pytest.fail("it is downloaded"))
    assert objects.holds("a/small", listed["a/small"], small)
    assert objects.holds("a/large", listed["a/large"], large)
    large.write_bytes(os.urandom(1 << 20) * 101)
    assert not objects.holds("a/large", listed["a/large"], large)


def loop(root: Path, kill_at: int | None = None) -> dict[str, Any]:
    """Run the quick loop, and return its summary; empty if it was killed at an upload."""
    python = TINY_GATEMASK
    if kill_at is not None:
        os.environ["KILL_AT"] = str(kill_at)
        python = ("-c", INSTALL + KILL + "from gatemask.cli import main; main()")
    command = ["loop", "phantom", "--quick", "--set", "runtime.deterministic=true", "--json"]
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        call = start_python(*python, *command, root=root, stdout=output, stderr=errors)
        code = call.wait(1800)
        if kill_at is not None:
            assert code == -signal.SIGKILL, contents(errors)[-3000:]
            return {}
        assert code == 0, contents(errors)[-3000:]
        result: dict[str, Any] = json.loads(contents(output))
        return result


def comparable(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary without durations, and with names in place of paths."""
    fields = {name: value for name, value in summary.items() if name not in MEASURED}
    return {**fields, **{name: Path(fields[name]).name for name in ("report", "submission")}}


@pytest.mark.slow
def test_the_loop_with_killed_uploads(
    url: str, make_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, runs and dist on S3; uploads killed at many points, machines lost: the same summary as without a remote."""
    expected = loop(make_root("local"))
    monkeypatch.setenv("KILL_AT", "0")
    monkeypatch.setenv(VARIABLE, url)
    root = make_root("first")
    # Phantoms, tables, records, the first state, a later one, results: each kill is that many uploads after the last.
    for kill_at, lost in ((3, False), (70, True), (4, False), (9, False), (6, True), (14, False), (25, True)):
        loop(root, kill_at)
        if lost:
            shutil.rmtree(root)
            root = make_root("next")
    summary = loop(root)
    assert not summary["current"]
    assert comparable(summary) == comparable(expected)
    other = loop(make_root("other"))
    assert other["current"], "another machine has nothing to do"
    assert comparable(other) == comparable(expected)
    stored = json.loads(Objects(url).read("runs/phantom-quick/summary.json") or b"")
    assert comparable(stored) == comparable(expected)
