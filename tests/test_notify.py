"""Messages reach a server in the format of its service, once; and nothing about them can stop the work."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gatemask import notify as module
from gatemask.commands import finalists as commands
from gatemask.config import Competition, load_competition
from gatemask.config.notify_urls import VARIABLE
from gatemask.errors import GatemaskError
from gatemask.notify import Event, notify, send_test
from gatemask.project import Project
from gatemask.secrets.guard import refuse_secrets

KEY = "Zk3vQ8rT1xLw9pYn5mBc7dHf"
SLACK = f"https://hooks.slack.com/services/T01ABCDEF/B02GHIJKL/{KEY}"
DISCORD = f"https://discord.com/api/webhooks/123456789012345678/{KEY}_{KEY}"
DEATH = Event("kernel_died", "me/kernel, version 3: failed", "push1", "unet_b0", 2)


@dataclass
class Server:
    """A server that keeps what it gets.

    Args:
        port: Its port.
        status: Status of its answers.
        headers: Headers of its answers.
        answers: Set while it answers; otherwise requests wait.
        got: Path, headers and body of each request.
    """

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answers: threading.Event = field(default_factory=threading.Event)
    got: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.got]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a running server, which the environment names."""
    made = Server()
    made.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, dict(self.headers), json.loads(body)))
            made.answers.wait(30)
            try:
                self.send_response(made.status)
                for name, value in made.headers.items():
                    self.send_header(name, value)
                self.end_headers()
            except OSError:  # the client has not waited
                pass

        def do_GET(self) -> None:  # of a redirect that was followed
            made.got.append((self.path, dict(self.headers), {}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = running.server_address[1]
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, made.url)
    yield made
    running.shutdown()
    running.server_close()


@pytest.fixture
def comp() -> Competition:
    return competition()


def competition(**fields: Any) -> Competition:
    return Competition.model_validate(
        {
            "name": "c",
            "title": "C",
            "raw": "raw",
            "image": {"size": [64, 64]},
            "train": {"images": "*.png"},
            "test": {"images": "*.png"},
            "labels": {"format": "rle", "file": "t.csv"},
            **fields,
        }
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "c")


def test_an_unknown_host_gets_a_json_object(server: Server, project: Project, comp: Competition) -> None:
    notify(project, DEATH, comp)
    ((path, headers, body),) = server.got
    assert path == "/hook"
    assert headers["Content-Type"] == "application/json"
    assert body.pop("at").endswith("+00:00")
    assert body == {
        "event": "kernel_died",
        "competition": "c",
        "experiment": "unet_b0",
        "fold": 2,
        "message": "me/kernel, version 3: failed",
    }


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        (
            "http://hooks.slack.com/services/T/B/x",
            "/services/T/B/x",
            {"text": "*c: kernel died, unet_b0 fold 2*\na &lt;b&gt; &amp; c"},
        ),
        (
            "http://discord.com/api/webhooks/1/x?wait=true",
            "/api/webhooks/1/x?wait=true",
            {"content": "**c: kernel died, unet_b0 fold 2**\na <b> & c", "allowed_mentions": {"parse": []}},
        ),
        (
            "http://ntfy.sh/my-topic",
            "/",
            {"topic": "my-topic", "title": "c: kernel died, unet_b0 fold 2", "message": "a <b> & c"},
        ),
    ],
    ids=["slack", "discord", "ntfy"],
)
def test_each_service_gets_its_own_format(
    server: Server,
    project: Project,
    comp: Competition,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    path: str,
    expected: dict[str, Any],
) -> None:
    """The server stands in as a proxy, which sees the whole address of each request."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(VARIABLE, url)
    notify(project, Event("kernel_died", "a <b> & c", "1", "unet_b0", 2), comp)
    ((got, _, body),) = server.got
    assert got == f"http://{url.split('/')[2]}{path}"
    assert body == expected


def test_user_and_password_become_a_header(
    server: Server, project: Project, comp: Competition, monkeypatch: Any
) -> None:
    monkeypatch.setenv(VARIABLE, server.url.replace("//", "//me:p%40ss@"))
    notify(project, DEATH, comp)
    assert server.got[0][1]["Authorization"] == "Basic bWU6cEBzcw=="
    assert server.got[0][1]["Host"] == f"127.0.0.1:{server.port}"


def test_an_event_is_reported_once(server: Server, project: Project, comp: Competition) -> None:
    for _ in range(2):
        notify(project, DEATH, comp)
    assert len(server.got) == 1
    notify(project, Event("kernel_died", "again", "push2"), comp)
    notify(project, Event("campaign_ended", "all done", "push1"), comp)
    assert [body["message"] for body in server.bodies] == ["me/kernel, version 3: failed", "again", "all done"]


def test_a_message_that_was_not_accepted_is_sent_again(server: Server, project: Project, comp: Competition) -> None:
    server.status = 500
    notify(project, DEATH, comp)
    server.status = 204
    notify(project, DEATH, comp)
    notify(project, DEATH, comp)
    assert len(server.got) == 2


def test_the_environment_comes_before_the_yaml(
    server: Server, project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = competition(notify={"url": server.url.replace("hook", "of-the-yaml")})
    notify(project, DEATH, own)
    monkeypatch.setenv(VARIABLE, "")
    notify(project, Event("kernel_died", "", "2"), own)
    notify(project, Event("kernel_died", "", "3"), comp)
    assert [path for path, _, _ in server.got] == ["/hook", "/of-the-yaml"]


def test_competition_yaml_is_read_where_no_competition_is_given(
    server: Server, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE)
    project.experiments.mkdir(parents=True)
    file = project.experiments / "competition.yaml"
    file.write_text(
        "title: C\nraw: raw\nimage: {size: [64, 64]}\ntrain: {images: '*.png'}\ntest: {images: '*.png'}\n"
        f"labels: {{format: rle, file: t.csv}}\nnotify: {{url: '{server.url}'}}\n"
    )
    notify(project, DEATH)
    assert len(server.got) == 1
    file.write_text("title: [")
    notify(project, Event("kernel_died", "", "2"))
    assert len(server.got) == 1
    assert "was not sent: " in capsys.readouterr().err, "a YAML that is being edited stops no work"


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_slow_server_delays_by_the_limit_only(
    server: Server, project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.2)
    server.answers.clear()
    notify(project, DEATH, comp)
    assert not server.answers.is_set(), "it has not waited for the answer"
    server.answers.set()
    assert "not sent to 127.0.0.1: no answer within 0.2 s" in capsys.readouterr().err


def test_a_look_up_that_hangs_delays_by_the_limit_only(
    project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The limit of a socket does not count while the host's name is looked up."""
    done = threading.Event()
    monkeypatch.setattr(module, "LIMIT_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30))
    monkeypatch.setenv(VARIABLE, "http://example.invalid/x")
    monkeypatch.setenv("no_proxy", "*")
    notify(project, DEATH, comp)
    assert not done.is_set()
    assert "no answer within 0.2 s" in capsys.readouterr().err
    done.set()


def test_a_refused_connection(
    project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{taken.getsockname()[1]}/{KEY}")
        monkeypatch.setenv("no_proxy", "*")
        notify(project, DEATH, comp)
    shown = capsys.readouterr().err
    assert shown == "The message 'kernel died' was not sent to 127.0.0.1: Connection refused\n"


def test_redirects_are_not_followed(server: Server, project: Project, comp: Competition, capsys: Any) -> None:
    server.status, server.headers = 307, {"Location": f"http://localhost:{server.port}/elsewhere"}
    for code in (301, 302, 303, 307, 308):
        server.status = code
        notify(project, Event("kernel_died", "", str(code)), comp)
    assert [path for path, _, _ in server.got] == ["/hook"] * 5
    assert "HTTP status 308, a redirect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        *(f"http://127.0.0.1:1/{KEY}", f"http://127.0.0.1:1/{KEY} \n", f"ftp://127.0.0.1/{KEY}", f"http://[/{KEY}"),
        *(f"http:///{KEY}", f"https://127.0.0.1:99999/{KEY}", f"http://me:{KEY}@127.0.0.1:1/\u00e9", KEY),
        *(f"http://ntfy.sh/a/{KEY}", f"http://127.0.0.1:1/a\tb{KEY}", f"http://{'a' * 70}.invalid/{KEY}"),
    ],
)
def test_no_address_fails_or_is_printed(
    project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch, capsys: Any, url: str
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    monkeypatch.setenv("no_proxy", "*")
    notify(project, DEATH, comp)
    shown = capsys.readouterr().err
    assert "was not sent" in shown
    assert KEY not in shown


def test_any_other_fault_ends_no_work(server: Server, project: Project, comp: Competition, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
    notify(project, DEATH, comp)
    monkeypatch.setattr(module, "make_request", lambda *_: 1 / 0)
    notify(project, DEATH, comp)
    assert len(server.got) == 1


def test_secrets_of_this_machine_are_left_out(
    server: Server, project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    notify(project, Event("kernel_died", f"Its log ends with: key {KEY}", "1", "unet_b0"), comp)
    (body,) = server.bodies
    assert KEY not in json.dumps(body)
    assert body["experiment"] == "unet_b0"
    assert "left out" in body["message"]


def test_long_messages_are_cut(server: Server, project: Project, comp: Competition) -> None:
    notify(project, Event("kernel_died", "x" * 5000, "1"), comp)
    assert len(server.bodies[0]["message"]) == module.LONGEST


# --- addresses in a YAML ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *(SLACK, DISCORD, SLACK.replace("https", "http"), DISCORD.replace("discord.com", "ptb.discord.com")),
        *("https://me:word@example.org/x", "https://example.org/x?auth=1", f"https://example.org/{KEY}"),
        *("https://ntfy.sh/topic?auth=QmVhcmVy", "https://example.org/3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        "https://api.example.org/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/send",
    ],
)
def test_a_secret_is_refused_in_a_yaml(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    lines = "title: C\nraw: r\nimage: {size: [64, 64]}\ntrain: {images: '*.png'}\ntest: {images: '*.png'}\n"
    lines += "labels: {format: rle, file: t.csv}\n"
    (folder / "competition.yaml").write_text(f"{lines}notify:\n  url: '{url}'\n")
    with pytest.raises(GatemaskError) as caught:
        load_competition(folder)
    text = str(caught.value)
    assert f"set the environment variable {VARIABLE} instead" in text
    assert "competition.yaml, line 8" in text
    assert not {KEY, "word", "QmVhcmVy", "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"} & set(text.replace("'", "/").split("/"))
    (folder / "competition.yaml").write_text(lines)
    with pytest.raises(GatemaskError) as caught:
        load_competition(folder, overrides=[f"notify.url={url}"])
    assert KEY not in str(caught.value)
    assert "--set notify.url=..." in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://ntfy.sh/my-topic", "https://ntfy.example.org/gatemask-Zk3vQ8rT1xLw9p", "http://localhost:8000/hook"],
)
def test_other_addresses_may_be_in_a_yaml(url: str) -> None:
    assert competition(notify={"url": url}).notify.url == url


@pytest.mark.parametrize(
    "url", ["ntfy.sh/x", "", "mailto:me@example.org", "https://", "https://ntfy.sh/", "https://ntfy.sh/a/b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"notify\.url"):
        competition(notify={"url": url})


@pytest.mark.parametrize("url", [SLACK, DISCORD, f"https://example.org/hooks/{KEY}"])
def test_the_address_of_the_environment_is_never_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(GatemaskError, match="A secret would be uploaded") as caught:
        refuse_secrets({"file": f"x = '{url}'".encode()}, tmp_path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", [SLACK, DISCORD])
def test_webhooks_in_settings_are_never_uploaded(tmp_path: Path, url: str) -> None:
    (tmp_path / ".env").write_text(f"ALERTS={url}\n")
    with pytest.raises(GatemaskError, match="A secret would be uploaded"):
        refuse_secrets({"file": url.encode()}, tmp_path)


# --- gatemask notify --------------------------------------------------------------------------------------------------


def test_a_test_message(server: Server, project: Project, comp: Competition) -> None:
    for _ in range(2):
        result = send_test(project, comp)
        assert (result.sent, result.reason, result.host, result.service) == (True, None, "127.0.0.1", "other")
        assert result.source == VARIABLE
    assert [body["event"] for body in server.bodies] == ["test", "test"], "a test may be repeated"
    server.status = 403
    assert send_test(project, comp).reason == "HTTP status 403"


def test_a_test_message_needs_an_address(project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(GatemaskError, match="There is no address for messages"):
        send_test(project, comp)
    monkeypatch.setenv(VARIABLE, "ntfy.sh/topic")
    with pytest.raises(GatemaskError, match=f"{VARIABLE} must be an address"):
        send_test(project, comp)


def test_the_command_exits_with_1_if_the_message_is_not_accepted(
    server: Server, project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    loaded: Callable[..., tuple[Project, Competition]] = lambda *_: (project, comp)  # noqa: E731
    monkeypatch.setattr(commands, "load_competition_inputs", loaded)
    commands.notify_command("c", json_=True)
    assert json.loads(capsys.readouterr().out)["sent"] is True
    server.status = 404
    with pytest.raises(commands.typer.Exit) as caught:
        commands.notify_command("c")
    assert caught.value.exit_code == 1
    assert "HTTP status 404" in capsys.readouterr().err
