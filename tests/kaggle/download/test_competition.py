"""Downloads with the real kaggle command against a fake server: success, failures, kills."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatemask.config import Competition
from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json
from gatemask.kaggle.client import cli
from gatemask.kaggle.client.cli import explain, printable
from gatemask.kaggle.download import file_download
from gatemask.kaggle.download.competition import download_competition
from gatemask.project import Project
from tests.conftest import ROOT
from tests.kaggle.download.test_unpack import files, zipped
from tests.kaggle.standin import KEY, SIGNATURE, Fault, Kaggle, serve
from tests.kaggle.warm import warm
from tests.warm import Call

pytestmark = pytest.mark.integration

PICTURE = random.Random(0).randbytes(1000)
FILES = {"sample_submission.csv": b"ImageId\n", "train/a.png": PICTURE, "train/b.png": b"b" * 300}
CONTENT = zipped(
    ("sample_submission.csv", FILES["sample_submission.csv"]),
    ("train.zip", zipped(*((name, FILES[name]) for name in FILES if name.startswith("train/")))),
)
BIG = zipped(*((f"images/{n}.png", random.Random(n).randbytes(400_000)) for n in range(15)))


def competition(slug: str | None = "lungs") -> Competition:
    return Competition.model_validate(
        {
            "name": "lungs-here",
            "title": "t",
            "raw": "{data}/raw",
            "image": {"size": [128, 128]},
            "train": {"images": "train/*.png"},
            "labels": {"format": "png", "masks": "masks/{id}.png"},
            "folds": {"holdout": True},
            "kaggle": {"competition": slug},
        }
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project", "lungs-here")


REAL_START = cli.start


@pytest.fixture(scope="module")
def quick_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Call]]:
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_command: Callable[..., Call]) -> Iterator[Kaggle]:
    """Return a fake server, with the environment that directs the real command to it; attempts have no pauses."""
    service = Kaggle(content=CONTENT)
    server = serve(service)
    for name in [name for name in os.environ if name.startswith("KAGGLE") or name == "XDG_CONFIG_HOME"]:
        monkeypatch.delenv(name)
    for name, value in service.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(cli, "start", quick_command)  # in this process; those that are killed start the real one
    yield service
    server.shutdown()
    server.server_close()


def failure(project: Project, comp: Competition | None = None) -> str:
    with pytest.raises(GatemaskError) as caught:
        download_competition(project, comp or competition())
    text = str(caught.value)
    assert KEY not in text
    assert SIGNATURE not in text
    assert not (project.data / "raw").exists()
    assert not list(project.data.glob(".raw*"))
    return text


def leftover(project: Project, content: bytes, changed: float = 0.0) -> Path:
    """Write a file of an earlier call where the kaggle command expects its own."""
    path = project.data / "download/lungs/lungs.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if changed:
        os.utime(path, (changed, changed))
    return path


# --- success -----------------------------------------------------------------------------------------


def test_files_arrive_completely_and_once(project: Project, kaggle: Kaggle, capsys: pytest.CaptureFixture[str]) -> None:
    result = download_competition(project, competition())
    assert files(project.data / "raw") == FILES
    expected = {"competition": "lungs", "files": 3, "megabytes": 0.0, "folder": str(project.data / "raw")}
    assert expected.items() <= result.as_dict().items()
    assert {p.name for p in project.data.iterdir()} == {"raw", "download.json", "download-files.json", ".download-lock"}

    asked = list(kaggle.asked)
    again = download_competition(project, competition())
    assert again.current
    assert expected.items() <= again.as_dict().items()
    assert kaggle.asked == asked

    shown = capsys.readouterr()
    assert shown.out == ""
    everything = shown.err + "".join(p.read_text() for p in project.data.iterdir() if p.is_file())
    assert KEY not in everything
    assert SIGNATURE not in everything


def test_a_moved_project_keeps_its_download(project: Project, kaggle: Kaggle) -> None:
    download_competition(project, competition())
    moved = Project(project.root.with_name("moved"), project.comp)
    project.root.rename(moved.root)
    asked = list(kaggle.asked)
    again = download_competition(moved, competition())
    assert (again.current, again.folder) == (True, str(moved.data / "raw"))
    assert kaggle.asked == asked


def test_a_missing_file_is_fetched_again_and_a_changed_one_is_not_overwritten(project: Project, kaggle: Kaggle) -> None:
    raw = project.data / "raw"
    download_competition(project, competition())
    (raw / "train/a.png").unlink()
    (raw / "mine.txt").write_text("mine")
    assert not download_competition(project, competition()).current
    assert files(raw) == {**FILES, "mine.txt": b"mine"}
    (raw / "train/b.png").write_bytes(b"edited")
    with pytest.raises(GatemaskError, match="--force"):
        download_competition(project, competition())
    assert (raw / "train/b.png").read_bytes() == b"edited"
    download_competition(project, competition(), force=True)
    assert files(raw) == {**FILES, "mine.txt": b"mine"}


def test_a_folder_with_other_files_is_rejected_unless_forced(project: Project, kaggle: Kaggle, tmp_path: Path) -> None:
    other = tmp_path / "disk/lungs"
    other.mkdir(parents=True)
    (other / "sample_submission.csv").write_text("old")
    (other / "mine.txt").write_text("mine")
    with pytest.raises(GatemaskError, match="already contains other files"):
        download_competition(project, competition(), other)
    assert kaggle.asked == []
    assert download_competition(project, competition(), other, force=True).folder == str(other)
    assert files(other) == {**FILES, "mine.txt": b"mine"}
    assert download_competition(project, competition(), other).current
    assert not (project.data / "raw").exists()
    with pytest.raises(GatemaskError, match="is a file"):
        download_competition(project, competition(), other / "mine.txt")


def test_a_single_plain_file_is_kept(project: Project, kaggle: Kaggle) -> None:
    kaggle.content, kaggle.name = b"id,mask\n1,2\n", "train.csv"
    download_competition(project, competition())
    assert files(project.data / "raw") == {"lungs.csv": kaggle.content}


def test_killed_while_files_are_moved(project: Project, kaggle: Kaggle) -> None:
    """A kill while new files replace old ones leaves the folder in this state."""
    download_competition(project, competition())
    (project.data / "download.json").unlink()
    record = project.data / "download-files.json"
    record.write_text(json.dumps({**read_json(record), "moving": True}))
    (project.data / "raw/train/a.png").write_bytes(b"the older version")
    download_competition(project, competition())
    assert files(project.data / "raw") == FILES
    assert download_competition(project, competition()).current


# --- failures: messages of the real command that `explain` knows ------------------------------------

ANSWERS = [
    (Fault(403, "<html>no</html>"), r"403.*https://www.kaggle.com/c/lungs/rules"),
    (Fault(403, {"code": 403, "message": "You must accept this competition's rules first."}), r"403.*/lungs/rules"),
    (Fault(401, {"code": 401, "message": "Unauthenticated"}), r"does not accept the credentials.*kaggle\.com/settings"),
    (Fault(418, "<html>"), r"The kaggle command failed.*418 Client Error"),
]


@pytest.mark.parametrize(("fault", "expected"), ANSWERS, ids=lambda value: str(getattr(value, "status", "")))
def test_each_failure_says_what_to_do(fault: Fault, expected: str, project: Project, kaggle: Kaggle) -> None:
    kaggle.api = [fault]
    text = failure(project)
    assert kaggle.asked == ["api"]  # another attempt would not help
    assert re.search(expected, text, re.DOTALL), text


def test_an_unknown_competition(project: Project, kaggle: Kaggle) -> None:
    assert "no competition 'lugns'" in failure(project, competition("lugns"))


def test_without_credentials_no_request_is_made(
    project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    text = failure(project)
    assert "There are no Kaggle credentials" in text
    assert "KAGGLE_API_TOKEN" in text
    assert kaggle.asked == []


def test_a_busy_server_is_asked_again(project: Project, kaggle: Kaggle) -> None:
    kaggle.api = [Fault(429, "<html>"), Fault(500, "<html>")]
    assert download_competition(project, competition()).files == 3
    assert kaggle.asked.count("api") == 3


def test_a_busy_server_is_not_asked_forever(project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle.api = [Fault(503, "<html>"), Fault(429, {"code": 429, "message": "Too many requests"})]
    monkeypatch.setattr(cli, "PAUSES", (0.0,))
    assert "asks for fewer requests" in failure(project)
    assert kaggle.asked == ["api", "api"]


def test_no_network(project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(cli, "PAUSES", ())
    assert "cannot be reached" in failure(project)


def test_no_kaggle_command(project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(cli, "start", REAL_START)
    monkeypatch.setattr(cli.sys, "executable", str(bare))
    assert "not installed" in failure(project)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("Too many requests", "busy"),
        ("Not found", "unknown"),
        (
            "Warning: Your Kaggle API key is readable by others\nPermission 'competitions.participate' was denied",
            "rules",
        ),
        ("HTTPSConnectionPool(host='x', port=443): Max retries exceeded (Caused by NameResolutionError(", "network"),
        ("HTTPSConnectionPool(host='x', port=443): Read timed out.", "network"),
        ("HTTPSConnectionPool(...): Max retries exceeded (Caused by SSLError(SSLCertVerificationError", "certificate"),
        ("[Errno 28] No space left on device: '/x/lungs.zip'", "full"),
        ("[Errno 13] Permission denied: '/x'", "folder"),
        ("Downloaded file size (14) does not match expected size (300218)", "partial"),
        (
            "Traceback (most recent call last):\n  raise ConnectionError\nHTTPError: 401 Client Error: Unauthorized",
            "login",
        ),
        ("", "other"),
    ],
)
def test_what_the_output_means(output: str, kind: str) -> None:
    assert explain(output, "the files", ["competitions", "download", "-c", "lungs"]).kind == kind


def test_secrets_are_not_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123")
    text = printable("KGAT_0123 at\x1b[2J http://me:pw@proxy/f.zip?X-Signature=abc&b=c, ends")
    assert text == "... at [2J http://...@proxy/f.zip?... ends"


def test_a_slug_is_needed(project: Project) -> None:
    for slug in (None, "https://www.kaggle.com/c/lungs", "-p", ""):
        assert "does not name the competition" in failure(project, competition(slug))


# --- damaged files -------------------------------------------------------------------------


def test_an_error_page_is_rejected(project: Project, kaggle: Kaggle) -> None:
    """Once instead of the redirect, once instead of the file; the command exits with 0 both times."""
    kaggle.api = [Fault(200, {"answer": "x"})]
    kaggle.content = b"<!DOCTYPE html><title>Sign in</title>"
    text = failure(project)
    assert "did not send the competition's files" in text
    assert "<!DOCTYPE html><title>Sign in" in text
    assert kaggle.asked == ["api", "api", "file from 0"]


def test_a_hostile_zip_is_rejected(project: Project, kaggle: Kaggle) -> None:
    kaggle.content = zipped(("a.csv", b"1"), ("train.zip", zipped(("../../evil", b"x"))))
    assert "'../../evil'" in failure(project)


def test_half_a_file_without_a_length_is_fetched_again(project: Project, kaggle: Kaggle) -> None:
    kaggle.sized, kaggle.cut = False, [len(CONTENT) // 2]
    download_competition(project, competition())
    assert files(project.data / "raw") == FILES


def test_an_error_page_after_a_broken_connection_is_not_resumed(project: Project, kaggle: Kaggle) -> None:
    """The command saves the page as the first part of the file; run again, it would append the rest."""
    kaggle.content, kaggle.cut, kaggle.expired = BIG, [3_000_000], 2
    assert download_competition(project, competition()).files == 15
    assert kaggle.asked == ["api", "file from 0", "expired", "expired", "api", "file from 0"]


def test_a_leftover_that_looks_complete_is_discarded(project: Project, kaggle: Kaggle) -> None:
    leftover(project, bytes(len(CONTENT)), changed=time.time())
    download_competition(project, competition())
    assert files(project.data / "raw") == FILES
    assert kaggle.asked.count("api") == 2


def test_an_error_page_is_not_resumed_after_a_kill(project: Project, kaggle: Kaggle) -> None:
    kaggle.content = BIG
    path = leftover(project, b"<Error>expired</Error>")
    note = {"validator": f'"{hash(BIG):x}"', "size": len(BIG)}
    path.with_name("lungs.zip.kaggle-partial").write_text(json.dumps(note))
    assert download_competition(project, competition()).files == 15
    assert kaggle.asked == ["api", "file from 0", "file from 22", "api", "file from 0"]


def test_a_stalled_download_is_stopped(project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle.pace = 30.0
    kaggle.content = BIG
    monkeypatch.setattr(cli, "PAUSES", ())
    monkeypatch.setattr(file_download, "STALL_S", 1.0)
    assert "nothing arrived for 1 s" in failure(project)


def test_two_downloads_at_once(project: Project, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatemask.files.LOCK_S", 0.3)
    with locked(project.data / ".download-lock", "unused"):
        assert "Another download" in failure(project)
    assert kaggle.asked == []


# --- kills ------------------------------------------------------------------------------------------------------

RUN = """
import json, sys, time, zipfile
from pathlib import Path
from gatemask.config import Competition
from gatemask.kaggle.download.competition import download_competition
from gatemask.project import Project

if sys.argv[3] == "slowly":
    plain = zipfile.ZipFile.open
    zipfile.ZipFile.open = lambda *a, **k: (time.sleep(0.1), plain(*a, **k))[1]
root, comp = Path(sys.argv[1]), Competition.model_validate(json.loads(sys.argv[2]))
download_competition(Project(root, "lungs-here"), comp, root / "data/lungs-here/raw")
"""


def kill_when(project: Project, condition: Callable[[], bool], how: str = "fast") -> None:
    """Start a download, and kill it as soon as the condition holds."""
    described = competition().model_dump_json()
    command = [sys.executable, "-c", RUN, str(project.root), described, how]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "the download did not get that far"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_while_it_downloads(project: Project, kaggle: Kaggle) -> None:
    kaggle.content, kaggle.pace, kaggle.piece = BIG, 0.1, 1 << 18
    path = project.data / "download/lungs/lungs.zip"
    kill_when(project, lambda: path.exists() and path.stat().st_size >= 2 << 20)
    size = path.stat().st_size
    time.sleep(0.6)
    assert path.stat().st_size == size < len(BIG)  # the kaggle command died with its parent
    kaggle.pace = 0.0
    assert download_competition(project, competition()).files == 15
    start = int(kaggle.asked[-1].removeprefix("file from "))
    assert start >= 2 << 20  # it resumed
    kept = files(project.data / "raw")
    shutil.rmtree(project.data)
    download_competition(project, competition())
    assert files(project.data / "raw") == kept


def test_killed_while_it_unpacks(project: Project, kaggle: Kaggle) -> None:
    kaggle.content = BIG
    raw, fresh = project.data / "raw", project.data / ".raw.gatemask-download"
    kill_when(project, lambda: len(list(fresh.glob("images/*"))) > 3, "slowly")
    assert not raw.exists()
    assert len(list(fresh.glob("images/*"))) < 15
    assert download_competition(project, competition()).files == 15
    assert not fresh.exists()
    assert {p.name: p.stat().st_size for p in (raw / "images").iterdir()} == {f"{n}.png": 400_000 for n in range(15)}
    assert download_competition(project, competition()).current
