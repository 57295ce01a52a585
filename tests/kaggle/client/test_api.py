"""Tests of the API: kernels, datasets and quotas, with the real command against a stateful stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatemask.kaggle.client import api
from gatemask.kaggle.client.api import DatasetStatus, KernelStatus
from gatemask.kaggle.client.cli import KaggleError
from tests.kaggle.cloud import KEY, Cloud, Fault, Run, stand_in
from tests.kaggle.cloud_http import requests_of
from tests.kaggle.warm import warm

pytestmark = pytest.mark.integration

REF, WEIGHTS = "someone/train-it", "someone/weights"


@pytest.fixture(scope="module")
def quick_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_command: Any) -> Iterator[Cloud]:
    with stand_in(tmp_path, monkeypatch) as cloud:
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", quick_command)  # logs are followed by real processes
        yield cloud


def kernel(folder: Path, source: str = "print('hello')\n", **more: Any) -> Path:
    """Write a kernel folder for `push_kernel`."""
    folder.mkdir(exist_ok=True)
    metadata = {"id": REF, "title": "Train it", "code_file": "script.py", "language": "python", "kernel_type": "script"}
    metadata |= {"is_private": True, "enable_internet": False, **more}
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
    (folder / "script.py").write_text(source)
    return folder


def dataset(folder: Path, files: dict[str, bytes], ref: str = WEIGHTS) -> Path:
    """Write a dataset folder for `create_dataset`."""
    folder.mkdir(exist_ok=True)
    metadata = {"id": ref, "title": "weights", "licenses": [{"name": "CC0-1.0"}]}
    (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def failure(call: Any, *arguments: Any) -> KaggleError:
    with pytest.raises(KaggleError) as caught:
        call(*arguments)
    assert KEY not in str(caught.value)
    return caught.value


def finish(cloud: Cloud) -> None:
    for thread in cloud._threads:
        thread.join(30)


def waiting(cloud: Cloud) -> threading.Event:
    """Make runs last until the returned event is set."""
    event = threading.Event()
    cloud.runner = lambda run: 0 if event.wait(30) else 1
    return event


# --- kernels --------------------------------------------------------------------------------------

SCRIPT = """
import os, pathlib
kaggle = pathlib.Path(os.environ["GATEMASK_KAGGLE"])
print("\\x1b[1;31mfound\\x1b[0m", *sorted(p.name for p in kaggle.glob("input/datasets/someone/weights/*")), flush=True)
for n in range(205):
    path = kaggle / f"working/{n % 3}/{n}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(n))
"""


def test_kernel_from_push_to_output(cloud: Cloud, tmp_path: Path) -> None:
    cloud.datasets[WEIGHTS] = [{"a.h5": b"1", "b.h5": b"2"}]
    cloud.queueing = 1
    folder = kernel(tmp_path / "kernel", SCRIPT, dataset_sources=[WEIGHTS], enable_tpu=True)
    assert api.push_kernel(folder, 3600) == 1
    request = requests_of(cloud, "SaveKernel")[0]
    assert (request["slug"], request["text"], request["sessionTimeoutSeconds"]) == (REF, SCRIPT, 3600)
    assert api.kernel_output(REF, tmp_path / "output") == []
    assert api.kernel_status(REF) == KernelStatus("queued")
    assert api.kernel_status(REF).word in ("running", "complete")
    finish(cloud)
    assert api.kernel_status(REF) == KernelStatus("complete")
    assert api.kernel_log(REF) == "found a.h5 b.h5\n"
    assert list(api.follow_log(REF)) == ["found a.h5 b.h5"]
    assert api.kernel_source(REF, tmp_path / "pulled") == (SCRIPT, None)
    assert api.kernel_source(f"{REF}/1", tmp_path / "pulled")[0] == SCRIPT
    assert api.kernel_source(f"{REF}/2", tmp_path / "pulled") == (None, None)

    (tmp_path / "output/old.txt").write_text("from before")
    names = {p.relative_to(tmp_path / "output").as_posix() for p in api.kernel_output(REF, tmp_path / "output")}
    assert names == {f"{n % 3}/{n}.txt" for n in range(205)} | {"train-it.log"}
    assert (tmp_path / "output/0/204.txt").read_text() == "204"


def test_log_of_running_kernel_arrives_line_by_line(cloud: Cloud, tmp_path: Path) -> None:
    first = threading.Event()

    def runner(run: Run) -> int:
        run.log.write_text("one\n\x1b[32mtwo\x1b[0m\n")
        first.wait(30)
        with run.log.open("a") as log:
            log.write("three\n")
        return 0

    cloud.runner = runner
    cloud.faults = [Fault("log-stream", None, break_off=True)]  # the stream resumes where it broke off
    api.push_kernel(kernel(tmp_path / "kernel"), 60)
    lines = api.follow_log(REF)
    assert [next(lines), next(lines)] == ["one", "two"]
    assert api.kernel_log(REF) == "one\ntwo\n"
    first.set()
    assert list(lines) == ["three"]


def test_closing_the_log_stream_ends_its_process(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real_start = api.start
    monkeypatch.setattr(api, "start", lambda *a, **k: started.append(real_start(*a, **k)) or started[-1])
    cloud.runner = lambda run: 0 if run.log.write_text("one\n") and run.stop.wait(30) else 1
    api.push_kernel(kernel(tmp_path / "kernel"), 60)
    lines = api.follow_log(REF)
    assert next(lines) == "one"
    assert started[0].poll() is None
    lines.close()  # type: ignore[attr-defined]
    assert started[0].returncode is not None


def test_lost_log_connection_is_an_error(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gives up after five seconds with exit code 0; a script prints its message without the wait."""
    message = "Log stream connection failed 5 times with no new data; giving up."
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho one\necho '{message}' >&2\n")
    script.chmod(0o755)
    monkeypatch.setattr("gatemask.kaggle.client.cli.sys.executable", str(script))
    lines = api.follow_log(REF)
    assert next(lines) == "one"
    error = failure(list, lines)
    assert (error.kind, error.details["received"]) == ("network", message)


def test_output_of_another_kernel_is_mounted(cloud: Cloud, tmp_path: Path) -> None:
    cloud.competitions["lungs"] = {"train/a.png": b"a"}
    api.push_kernel(kernel(tmp_path / "one", "open('made.txt', 'w').write('1')"), 60)
    finish(cloud)
    cloud.layout = "old"
    listing = "import os; print(open('../input/train-it/made.txt').read(), os.listdir('../input/lungs/train'))"
    more = {"id": "someone/second", "title": "Second", "kernel_sources": [REF], "competition_sources": ["lungs"]}
    api.push_kernel(kernel(tmp_path / "two", listing, **more), 60)
    finish(cloud)
    assert api.kernel_log("someone/second") == "1 ['a.png']\n"


# --- kernels: failures ------------------------------------------------------------------------------------


def test_failed_kernel(cloud: Cloud, tmp_path: Path) -> None:
    api.push_kernel(kernel(tmp_path / "kernel", "raise SystemExit(3)"), 60)
    finish(cloud)
    assert api.kernel_status(REF) == KernelStatus("error", "Your notebook exited with code 3.")


def test_kernel_past_its_time_limit_keeps_its_output(cloud: Cloud, tmp_path: Path) -> None:
    source = "import time\nopen('half.txt', 'w').write('1')\ntime.sleep(60)"
    api.push_kernel(kernel(tmp_path / "kernel", source), 1)
    finish(cloud)
    status = api.kernel_status(REF)
    assert (status.word, "exceeded" in str(status.message)) == ("cancelled", True)
    assert [path.name for path in api.kernel_output(REF, tmp_path / "out")] == ["half.txt"]


@pytest.mark.parametrize("word", ["CANCEL_REQUESTED", "NEW_SCRIPT", "ERROR"])
def test_status_words(word: str, cloud: Cloud, tmp_path: Path) -> None:
    body = {"status": word, "failureMessage": 'It said "no"\nand ended.' if word == "ERROR" else None}
    cloud.faults = [Fault("GetKernelSessionStatus", 200, body)]
    expected = {"CANCEL_REQUESTED": "cancelling", "NEW_SCRIPT": "queued", "ERROR": "error"}[word]
    assert api.kernel_status(REF) == KernelStatus(expected, body["failureMessage"])


def test_absent_kernel(cloud: Cloud, tmp_path: Path) -> None:
    assert api.kernel_status(REF) == KernelStatus("absent")
    assert api.kernel_source(REF, tmp_path / "pulled") == (None, None)
    assert api.kernel_output(REF, tmp_path / "output") == []
    assert api.kernel_log(REF) == ""
    assert failure(list, api.follow_log(REF)).kind == "absent"


def test_refused_credentials_do_not_look_like_an_absent_kernel(cloud: Cloud, tmp_path: Path) -> None:
    """The command reports 401 in the same words as an absent kernel."""
    cloud.key_valid = False
    assert failure(api.kernel_status, REF).kind == "login"
    assert failure(api.push_kernel, kernel(tmp_path / "kernel"), 60).kind == "login"
    assert cloud.kernels == {}


def test_dropped_sources_are_named(cloud: Cloud, tmp_path: Path) -> None:
    cloud.datasets[WEIGHTS] = [{"a": b"1"}]
    sources = {"dataset_sources": [WEIGHTS, "someone/nothing", "x/else"], "kernel_sources": ["someone/other"]}
    folder = kernel(tmp_path / "kernel", competition_sources=["lungs"], **sources)
    error = failure(api.push_kernel, folder, 60)
    assert (error.kind, error.version) == ("sources", 1)
    expected = "dataset: someone/nothing, x/else; competition: lungs; kernel: someone/other"
    assert error.details["received"] == expected
    assert len(cloud.kernels[REF]) == 1


def test_title_that_does_not_match_the_slug_is_rejected(cloud: Cloud, tmp_path: Path) -> None:
    error = failure(api.push_kernel, kernel(tmp_path / "kernel", title="Train that"), 60)
    assert error.kind == "slug"
    assert "train-that" in str(error)
    assert cloud.asked == []


def test_session_limit_and_a_second_push_to_a_queued_kernel(cloud: Cloud, tmp_path: Path) -> None:
    cloud.queueing = 1
    done = waiting(cloud)
    api.push_kernel(kernel(tmp_path / "one", "print(1)", enable_tpu=True), 60)
    assert api.push_kernel(kernel(tmp_path / "one", "print(2)", enable_tpu=True), 60) == 2
    assert [run.source for run in cloud.runs()] == ["print(1)"]  # the second push does not start a session
    more = {"id": "someone/second", "title": "Second", "machine_shape": "TpuV5E8"}
    error = failure(api.push_kernel, kernel(tmp_path / "two", **more), 60)
    assert (error.kind, error.details["received"]) == ("slots", "Maximum batch TPU session count of 1 reached.")
    done.set()


def test_exhausted_quota(cloud: Cloud, tmp_path: Path) -> None:
    cloud.used["GPU"] = 30.0
    error = failure(api.push_kernel, kernel(tmp_path / "kernel", enable_gpu=True), 60)
    assert error.kind == "quota"
    assert cloud.kernels == {}


def test_refused_push(cloud: Cloud, tmp_path: Path) -> None:
    error = failure(api.push_kernel, kernel(tmp_path / "kernel", "#" * 1_000_000), 60)
    assert (error.kind, error.version) == ("push", None)
    assert "smaller than 1 megabyte" in str(error)
    assert failure(api.push_kernel, kernel(tmp_path / "kernel", id="else/train-it"), 60).kind == "refused"


@pytest.mark.parametrize("fault", [{"status": 502}, {"break_off": True}], ids=str)
def test_push_that_arrived_is_not_repeated(fault: dict[str, Any], cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("SaveKernel", after=True, **fault)]
    error = failure(api.push_kernel, kernel(tmp_path / "kernel", "print('mine')"), 60)
    assert error.kind == ("server" if "status" in fault else "network")
    assert len(cloud.kernels[REF]) == 1
    assert api.kernel_source(REF, tmp_path / "pulled")[0] == "print('mine')"


def test_answer_without_a_version_number_is_unclear(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("SaveKernel", 200, {"url": "https://www.kaggle.com/code/someone/train-it"}, after=True)]
    error = failure(api.push_kernel, kernel(tmp_path / "kernel"), 60)
    assert (error.kind, error.version) == ("other", None)
    assert "successfully pushed" in str(error)


def test_push_waits_when_kaggle_asks_for_fewer_requests(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("SaveKernel", 429, headers={"Retry-After": "1"})]
    assert api.push_kernel(kernel(tmp_path / "kernel"), 60) == 1


def test_interrupted_output_is_fetched_again(cloud: Cloud, tmp_path: Path) -> None:
    api.push_kernel(kernel(tmp_path / "kernel", "open('a.bin', 'wb').write(bytes(300_000))"), 60)
    finish(cloud)
    cloud.faults = [Fault("output-file", None, break_off=True), Fault("ListKernelSessionOutput", 500)]
    (path,) = api.kernel_output(REF, tmp_path / "output")
    assert path.read_bytes() == bytes(300_000)
    assert cloud.faults == []
    denied = {"code": 403, "message": "Permission 'kernels.get' was denied"}
    cloud.faults = [Fault("ListKernelSessionOutput", 403, denied)]
    assert api.kernel_output(REF, tmp_path / "output") == []


def test_error_page_and_truncated_file_pass_as_output(cloud: Cloud, tmp_path: Path) -> None:
    """`kernel_output` cannot detect these; its caller compares hashes."""
    api.push_kernel(kernel(tmp_path / "kernel", "[open(n, 'w').write('content') for n in 'ab']"), 60)
    finish(cloud)
    cloud.faults = [Fault("output-file", 403, "<Error>expired</Error>"), Fault("output-file", None, short=True)]
    contents = {path.name: path.read_text() for path in api.kernel_output(REF, tmp_path / "output")}
    assert contents == {"a": "<Error>expired</Error>", "b": "con"}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ('[{"stream_name":"stdout","time":2.0,"data":"b\\n"}\n,{"time":1.0,"data":"a\\n"}\n]', "a\nb\n"),
        ('[{"time":1.0,"data":"a\\n"}\n,{"time":2.0,"data":"[]\\n"}\n,{"time":3.0,"da', "a\n[]\n"),
        ('{"time":1.0,"data":"\\u001b[1mbold\\u001b[0m"}\n{"time":1.0,"data":"er\\n"}', "bolder\n"),
        ("no JSON at all\n", "no JSON at all"),
        ("", ""),
    ],
)
def test_log_formats(log: str, expected: str, cloud: Cloud) -> None:
    cloud.faults = [Fault("ListKernelSessionOutput", 200, {"log": log})]
    assert api.kernel_log(REF) == expected


# --- datasets -----------------------------------------------------------------------------------------------------

FILES = {"a.h5": bytes(5000), "empty": b"", "a b (1).txt": b"abc", "rules.json": b"{}"}


def test_dataset_and_its_second_version(cloud: Cloud, tmp_path: Path) -> None:
    cloud.processing = 1
    assert api.dataset_status(WEIGHTS) == DatasetStatus("absent")
    api.create_dataset(dataset(tmp_path / "data", FILES))
    assert requests_of(cloud, "CreateDataset")[0]["isPrivate"] is True
    assert api.dataset_status(WEIGHTS) == DatasetStatus("pending")
    assert api.dataset_status(WEIGHTS) == DatasetStatus("ready", 1)
    assert api.dataset_files(WEIGHTS) == {name: len(content) for name, content in FILES.items()}
    folder = dataset(tmp_path / "data", {"a.h5": b"new"})
    api.version_dataset(folder, "a message")
    assert requests_of(cloud, "CreateDatasetVersion")[0]["body"]["versionNotes"] == "a message"
    error = failure(api.version_dataset, folder, "too early")
    assert (error.kind, "being processed" in str(error)) == ("refused", True)
    assert api.dataset_status(WEIGHTS) == DatasetStatus("pending", 1)
    assert api.dataset_status(WEIGHTS) == DatasetStatus("ready", 2)
    assert cloud.datasets[WEIGHTS][1]["a.h5"].read_bytes() == b"new"  # type: ignore[union-attr]
    assert b"new" in {content for _, content in cloud.uploaded()}


def test_file_list_of_several_pages(cloud: Cloud) -> None:
    files: dict[str, bytes | Path] = {f"{n}.txt": bytes(n) for n in range(405)}
    cloud.datasets[WEIGHTS] = [files]
    assert api.dataset_files(WEIGHTS) == {name: len(files[name]) for name in files}  # type: ignore[arg-type]
    assert cloud.methods() == ["ListDatasetFiles"] * 3


def test_dataset_being_created_has_only_a_status(cloud: Cloud) -> None:
    cloud.datasets[WEIGHTS] = [{"a": b"1"}]
    cloud.failing = {WEIGHTS}
    cloud.faults = [Fault("GetDataset", 403, {"code": 403, "message": "Permission 'datasets.get' was denied"})]
    assert api.dataset_status(WEIGHTS) == DatasetStatus("error")


def test_existing_dataset_is_not_created_again(cloud: Cloud, tmp_path: Path) -> None:
    cloud.datasets[WEIGHTS] = [{"a": b"1"}]
    error = failure(api.create_dataset, dataset(tmp_path / "data", FILES))
    assert (error.kind, "already in use" in str(error)) == ("dataset", True)


@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion"])
def test_error_with_exit_code_0(method: str, cloud: Cloud, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", {"a": b"1"})
    cloud.faults = [Fault(method, 200, {"status": "error", "error": "The licence is odd."})]
    if method == "CreateDatasetVersion":
        cloud.datasets[WEIGHTS] = [{"a": b"1"}]
        error = failure(api.version_dataset, folder, "m")
    else:
        error = failure(api.create_dataset, folder)
    assert (error.kind, error.details["received"]) == ("dataset", "The licence is odd.")


def test_file_that_was_not_uploaded_is_named(cloud: Cloud, tmp_path: Path) -> None:
    """The command ends with exit code 0 and makes a version without the file."""
    cloud.faults = [Fault("blob", 403, when=lambda request: request["bytes"] == 5000)]
    error = failure(api.create_dataset, dataset(tmp_path / "data", FILES))
    assert (error.kind, error.details["received"]) == ("upload", "without a.h5")
    assert "a.h5" not in cloud.datasets[WEIGHTS][0]


def test_interrupted_upload_resumes(cloud: Cloud, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    cloud.faults = [Fault("blob", 503), Fault("blob", None, break_off=True)]
    api.create_dataset(dataset(tmp_path / "data", {"a.h5": content}))
    assert cloud.datasets[WEIGHTS][0]["a.h5"].read_bytes() == content  # type: ignore[union-attr]
    assert cloud.faults == []


def test_files_that_the_command_would_omit_are_rejected(cloud: Cloud, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", {"a": b"1", "kernel-metadata.json": b"{}"})
    (folder / "sub").mkdir()
    error = failure(api.create_dataset, folder)
    assert (error.kind, error.details["received"]) == ("files", "kernel-metadata.json, sub")
    assert failure(api.version_dataset, dataset(tmp_path / "empty", {}), "m").kind == "files"
    assert cloud.asked == []


KILLED = """
import sys
from pathlib import Path
from gatemask.kaggle.client import api
api.create_dataset(Path(sys.argv[1]))
"""


def test_killed_upload_is_not_resumed_with_other_bytes(cloud: Cloud, tmp_path: Path) -> None:
    """With the same name, size and second of change, the command alone would resume the old upload."""
    folder = dataset(tmp_path / "data", {"a.h5": b"old" * 1000})
    os.utime(folder / "a.h5", (1e9, 1e9))
    reached = threading.Event()
    cloud.faults = [Fault("CreateDataset", None, hang_s=30, when=lambda _: reached.set() or True)]  # type: ignore[func-returns-value]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
    assert reached.wait(60)
    process.kill()
    process.wait()
    dataset(folder, {"a.h5": b"new" * 1000})
    os.utime(folder / "a.h5", (1e9, 1e9))
    cloud.datasets.clear()
    api.create_dataset(folder)
    assert cloud.datasets[WEIGHTS][0]["a.h5"].read_bytes() == b"new" * 1000  # type: ignore[union-attr]


def test_silent_failures_of_the_service(cloud: Cloud, tmp_path: Path) -> None:
    """The stand-in can lose a file, keep an old version current and unpack archives, for the tests of callers."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c.txt").write_text("c")
    folder = dataset(tmp_path / "data", {"a": b"1", "b": b"2"})
    shutil.make_archive(str(folder / "more"), "zip", tmp_path / "sub")
    shutil.make_archive(str(folder / "most"), "tar", tmp_path / "sub")
    cloud.dropped, cloud.stale = {"b"}, {WEIGHTS}
    cloud.datasets[WEIGHTS] = [{"old": b"1"}]
    api.version_dataset(folder, "m")
    assert api.dataset_status(WEIGHTS) == DatasetStatus("ready", 1)
    cloud.stale.clear()
    assert api.dataset_files(WEIGHTS) == {"a": 1, "more/c.txt": 1, "most/c.txt": 1}


# --- the account ----------------------------------------------------------------------------------------------------


def test_quota(cloud: Cloud) -> None:
    cloud.used["TPU"] = 1.5
    quotas = api.quota()
    assert set(quotas) == {"TPU", "GPU"}
    assert quotas["TPU"] == (1.5, 20.0, "2026-11-28T00:00:00")
    cloud.hours.clear()
    assert api.quota() == {}


def test_user_by_source_of_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert api.user() == "someone"
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    assert api.user() is None
    assert cloud.asked == []
    path = tmp_path / "home/.kaggle/kaggle.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"username": "fileuser", "key": KEY}))  # readable by others, so the command warns
    assert api.user() == "fileuser"
    monkeypatch.setenv("KAGGLE_API_TOKEN", cloud.token)
    assert api.user() == "someone"
    assert api.quota()["GPU"].total_h == 30.0
    path.unlink()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_another")
    error = failure(api.user)
    assert (error.kind, "does not accept" in str(error)) == ("login", True)
