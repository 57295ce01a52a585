"""Tests of the kaggle command's process: the explanation of each failure, with the real command and a stand-in."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatemask.kaggle.client import cli
from gatemask.kaggle.client.cli import KaggleError, explain, has_credentials, kaggle, printed
from tests.kaggle.cloud import KEY, Cloud, Fault, stand_in
from tests.kaggle.warm import starter

pytestmark = pytest.mark.integration

STATUS = ("kernels", "status", "someone/kernel")
QUOTA = ("quota", "--format", "json")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with stand_in(tmp_path, monkeypatch) as cloud:
        yield cloud


def failure(*arguments: str, about: str = "the thing", limit_s: float = 60) -> KaggleError:
    with pytest.raises(KaggleError) as caught:
        kaggle(*arguments, about=about, limit_s=limit_s)
    assert KEY not in str(caught.value)
    assert about in str(caught.value)
    return caught.value


def quota_fault(status: int | None, **more: object) -> Fault:
    return Fault("GetAcceleratorQuotaStatistics", status, **more)  # type: ignore[arg-type]


def test_error_survives_pickling() -> None:
    error = KaggleError("Bad.", kind="sources", version=3, where="here", received=[1], do="Fix it.")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, KaggleError)
    assert (str(copy), copy.kind, copy.version) == (str(error), "sources", 3)
    assert (KaggleError("Bad.").kind, KaggleError("Bad.").version) == ("other", None)


FAULTS = [
    (quota_fault(403, body={"code": 403, "message": "Permission 'x' was denied"}), "absent", 1),
    (quota_fault(401, body="<html>"), "login", 1),
    (quota_fault(500, body="<html>", times=9), "server", 2),
    (quota_fault(429, body="<html>", times=9), "busy", 2),
    (quota_fault(None, break_off=True, times=9), "network", 2),
    (quota_fault(418, body="<html>"), "other", 1),
    (quota_fault(400, body={"code": 400, "message": "Maximum batch GPU session count of 2 reached."}), "slots", 1),
]


@pytest.mark.parametrize(("fault", "kind", "attempts"), FAULTS, ids=lambda value: str(getattr(value, "status", value)))
def test_kind_and_attempts_of_each_answer(
    fault: Fault, kind: str, attempts: int, cloud: Cloud, warm_kaggle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "start", starter(warm_kaggle))
    cloud.faults = [dataclasses.replace(fault)]
    monkeypatch.setattr(cli, "PAUSES", (0.0,))
    assert failure(*QUOTA).kind == kind
    assert len(cloud.asked) == attempts


def test_temporary_failures_are_retried(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.faults = [quota_fault(500), quota_fault(429, headers={"Retry-After": "1"})]
    assert '"resource": "TPU"' in kaggle(*QUOTA, about="the quota")
    assert len(cloud.asked) == 3
    assert capsys.readouterr().err.count("Trying again in 0 s") == 2
    cloud.faults = [quota_fault(500)]
    with pytest.raises(KaggleError):
        kaggle(*QUOTA, about="the quota", retry_on=frozenset())
    assert len(cloud.asked) == 4


def test_hanging_server_counts_as_a_network_failure(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "PAUSES", ())
    cloud.faults = [quota_fault(None, hang_s=60)]
    error = failure(*QUOTA, limit_s=2)
    assert (error.kind, error.details["received"]) == ("network", "nothing came for 2 s")


def test_missing_network(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(cli, "PAUSES", ())
    assert failure(*QUOTA).kind == "network"


def test_missing_and_refused_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.key_valid = False
    error = failure(*QUOTA)
    assert (error.kind, error.what) == ("login", cli.MEANING["login"][0])
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    error = failure(*QUOTA)
    assert (error.kind, error.what) == ("login", "There are no Kaggle credentials.")
    assert "KAGGLE_API_TOKEN" in str(error)
    assert len(cloud.asked) == 1


def test_missing_kaggle_command(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(cli.sys, "executable", str(bare))
    assert failure(*QUOTA).kind == "missing"


def test_command_is_never_verbose(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERBOSE", "1")
    monkeypatch.setenv("VERBOSE_OUTPUT", "1")
    assert "Authorization" not in kaggle(*QUOTA, about="the quota")


READ, WRITE = STATUS, ("datasets", "version", "-p", "x", "-m", "y")
DOWNLOAD = ("competitions", "download", "-q", "-c", "lungs")
SUBMIT = ("competitions", "submit", "lungs")


@pytest.mark.parametrize(
    ("arguments", "output", "kind"),
    [
        (READ, "403 Client Error: Forbidden for url: http://x", "absent"),
        (READ, "Cannot access kernel 'a/b' (Permission 'kernels.get' was denied). The most likely cause", "absent"),
        (READ, "404 Client Error: Not Found for url: http://x", "absent"),
        (WRITE, "403 Client Error: Forbidden for url: http://x", "refused"),
        (WRITE, "Not found", "absent"),
        (WRITE, "Starting upload for file rules.json\nUpload successful: rules.json (1B)\nOdd.", "other"),
        (DOWNLOAD, "403 Client Error: Forbidden for url: http://x", "rules"),
        (DOWNLOAD, "404 Client Error: Not Found for url: http://x", "unknown"),
        (("competitions", "submissions", "lungs"), "403 Client Error: Forbidden for url: http://x", "rules"),
        (READ, "Service unavailable", "server"),
        (READ, "Too many requests", "busy"),
        (READ, "Your weekly TPU quota of 20 hours is exceeded.", "quota"),
        (READ, "You have used up your GPU quota", "quota"),
        (READ, "Maximum batch TPU session count of 1 reached.", "slots"),
        (SUBMIT, "Submission not allowed: Your team has used its daily Submission allowance (5) today.", "limit"),
        (SUBMIT, "Your team has exceeded its submission limit: 5 per day.", "limit"),
        (SUBMIT, "You must accept this competition's rules before you'll be able to submit.", "rules"),
        (SUBMIT, "Your Notebook cannot use internet access in this competition.", "other"),
        (SUBMIT, "Could not find competition - please verify that you entered the correct competition ID", "unknown"),
        (READ, "[Errno 28] No space left on device", "full"),
        (READ, "[Errno 122] Disk quota exceeded", "full"),
        (READ, "ValueError: Title must be at least five characters", "other"),
    ],
)
def test_explain(arguments: tuple[str, ...], output: str, kind: str) -> None:
    error = explain(output, "the thing", arguments)
    assert error.kind == kind
    assert not {"ABOUT", "SLUG", "COMMAND"} & set(str(error).split())
    if kind == "rules":
        assert "https://www.kaggle.com/c/lungs/rules" in str(error)


def test_remarks_of_the_command_about_itself_are_omitted() -> None:
    output = (
        b"Warning: Your Kaggle API key is readable by other users on this system! To fix this, you can run 'chmod'\n"
        b"Warning: Looks like you're using an outdated `kaggle` version (installed: 2.2.4), please consider\n"
        b"  0%|\r100%|\r\nkept \xff\n"
    )
    assert printed(io.BytesIO(output)) == "  0%|\n100%|\nkept \ufffd\n"


@pytest.mark.parametrize("name", ["kaggle.json", "access_token", "access_token.txt", "credentials.json"])
def test_credentials_in_a_file(name: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert has_credentials()
    monkeypatch.delenv("KAGGLE_KEY")
    assert not has_credentials()
    path = tmp_path / "home/.kaggle" / name
    path.parent.mkdir()
    path.touch()
    assert has_credentials()


def test_credentials_in_other_places(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    (tmp_path / "kaggle.json").touch()
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert has_credentials()
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    assert not has_credentials()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123")
    assert has_credentials()
