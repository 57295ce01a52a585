"""Faults of training on Kaggle: the message, and that no work is lost or done twice.

Most tests end by running the same command again, which completes the work.
"""

from __future__ import annotations

import errno
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatemask import files, notify
from gatemask.config.machines import machine
from gatemask.errors import GatemaskError
from gatemask.files import read_json, write_json
from gatemask.kaggle.client import api, datasets
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.kaggle.train import bundle, campaign, commands, inputs, kernel_records, session
from gatemask.tracking import run_folder
from gatemask.training.found_batch import write_found_batch
from tests.conftest import kill_when, run_python, slow
from tests.kaggle.cloud import KEY, OWNER, Fault, stand_in
from tests.kaggle.fakes import (
    COMP,
    EXP,
    RECORDS,
    TPU,
    FakeMachine,
    FakeSession,
    World,
    change_records,
    found_batch,
    options,
    project_from,
    ref,
    seed,
    train_fold,
)
from tests.kaggle.warm import GATEMASK, starter
from tests.warm import Call

pytestmark = pytest.mark.integration

FOUR = "epochs=4"
AUTO = "batch.per_device=auto"


@pytest.fixture
def world(phantom_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_kaggle: Path) -> Iterator[World]:
    """Kaggle with the datasets in place, and a project without any run."""
    project, machine = project_from(phantom_records, tmp_path / "project"), FakeMachine()
    with stand_in(tmp_path, monkeypatch) as cloud:
        machine.install(monkeypatch)
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", starter(warm_kaggle))
        monkeypatch.setenv("WARM_KAGGLE", str(warm_kaggle))
        cloud.runner = machine
        seed(cloud, project)
        monkeypatch.setattr(inputs, "wheels_dataset", lambda: None)  # saves requests
        monkeypatch.setattr(bundle, "package_files", dict)  # sessions run the package of the tests
        monkeypatch.setattr(bundle, "lzma", SimpleNamespace(compress=lambda data, **_: lzma.compress(data, preset=0)))
        yield World(cloud, machine, project)


@pytest.fixture
def empty(world: World) -> World:
    """As `world`, but without any upload."""
    world.cloud.datasets.clear()
    shutil.rmtree(world.project.root / "runs")
    return world


wait = Call.wait


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> GatemaskError:
    """Return the error of a call, which must not contain a secret."""
    with pytest.raises(GatemaskError) as caught:
        call(*arguments, **more)
    assert KEY not in str(caught.value)
    return caught.value


def completes(world: World, versions: int = 1) -> None:
    """Push and wait again; all is done then, after this many sessions."""
    world.push()
    world.wait()
    assert world.done() == [0]
    assert len(world.versions()) == versions
    assert world.push().current


# --- a push ------------------------------------------------------------------------------------------------------


def test_push_refused_with_exit_code_0(world: World) -> None:
    world.cloud.faults.append(Fault("SaveKernel", 200, {"error": "Something about this kernel is not right."}))
    error = refusal(world.push)
    assert "Something about this kernel" in str(error)
    assert "nothing runs" in str(error)
    assert world.kernel.last.state == "refused"
    completes(world)


def test_dataset_dropped_from_a_push(world: World) -> None:
    def remove_dataset(_: dict[str, Any]) -> bool:
        return world.cloud.datasets.pop(RECORDS, None) is not None

    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.cloud.faults.append(Fault("SaveKernel", None, when=remove_dataset))
    error = refusal(world.push)
    assert RECORDS in str(error)
    assert "Version 1 runs now" in str(error)
    assert world.push().in_hand == (0,), "a running kernel is not pushed again"
    release.set()
    world.wait()
    assert world.kernel.last.outcome == "lost"
    assert "records" in (world.kernel.last.message or "")
    completes(world, versions=2)
    assert len(world.cloud.datasets[RECORDS]) == 1


def test_output_dropped_from_a_push(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1)]
    world.push()
    world.wait()
    answer = {"versionNumber": 2, "url": "x", "invalidKernelSources": [ref()]}
    world.cloud.faults.append(Fault("SaveKernel", 200, answer, after=True))
    error = refusal(world.push)
    assert f"kernel: {ref()}" in str(error)
    assert world.kernel.last.version == 2
    completes(world, versions=2)


def test_push_waits_for_a_dataset_in_processing(empty: World) -> None:
    empty.cloud.processing = 4
    empty.push()
    methods = empty.cloud.methods()
    assert "SaveKernel" not in methods[: len(methods) - 1 - methods[::-1].index("ListDatasetFiles")]
    empty.wait()
    assert empty.done() == [0]
    assert len(empty.cloud.datasets[RECORDS]) == len(empty.versions()) == 1


def test_dataset_that_is_never_processed_ends_the_push(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.cloud.processing = 10**6
    monkeypatch.setattr(datasets, "PROCESSING_LIMIT_S", 0.0)
    error = refusal(empty.push)
    assert "Timed out waiting for Kaggle to process the dataset" in str(error)
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud.finish_processing()
    completes(empty)
    assert len(empty.cloud.datasets[RECORDS]) == 1, "an uploaded file was uploaded again"


def test_dataset_whose_old_version_remains_current_ends_the_push(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    change_records(world.project)

    def keep_old_version(_: dict[str, Any]) -> bool:
        world.cloud.stale.add(RECORDS)
        return True

    world.cloud.faults.append(Fault("CreateDatasetVersion", None, when=keep_old_version))
    monkeypatch.setattr(datasets, "PROCESSING_LIMIT_S", 0.0)
    error = refusal(world.push)
    assert "ready, version 1" in str(error)
    assert "ready, version 2" in str(error)
    assert "SaveKernel" not in world.cloud.methods()
    world.cloud.stale.clear()
    completes(world)
    assert world.kernel.last.datasets[RECORDS] == len(world.cloud.datasets[RECORDS]) == 2


def test_dataset_that_kaggle_cannot_process(empty: World) -> None:
    empty.cloud.failing.add(RECORDS)
    error = refusal(empty.push)
    assert "could not process" in str(error)
    assert RECORDS in str(error)
    assert "delete" in str(error)
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud.failing.clear()
    del empty.cloud.datasets[RECORDS]  # as the message says
    completes(empty)


def test_lost_file_is_uploaded_again(empty: World) -> None:
    empty.cloud.dropped.add("masks.csv")

    def stop_losing(_: dict[str, Any]) -> bool:
        empty.cloud.dropped.clear()
        return True

    empty.cloud.faults.append(Fault("CreateDatasetVersion", None, when=stop_losing))
    completes(empty)
    assert ["masks.csv" in files for files in empty.cloud.datasets[RECORDS]] == [False, True]


def test_file_that_is_always_lost_ends_the_push(empty: World) -> None:
    empty.cloud.dropped.add("masks.csv")
    error = refusal(empty.push)
    assert "masks.csv" in str(error)
    assert len(empty.cloud.datasets[RECORDS]) == datasets.UPLOAD_ATTEMPTS
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud.dropped.clear()
    completes(empty)


def test_deleted_dataset_is_uploaded_again(world: World) -> None:
    del world.cloud.datasets[RECORDS]
    completes(world)
    assert len(world.cloud.datasets[RECORDS]) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("SaveKernel", 500), id="500"),
        slow(Fault("SaveKernel", 502, {"code": 502, "message": "Bad gateway"}), id="502"),
        pytest.param(Fault("SaveKernel", break_off=True), id="broken"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_push_with_a_wrong_answer_is_looked_up(world: World, fault: Fault, after: bool) -> None:
    world.cloud.faults.append(Fault("SaveKernel", fault.status, fault.body, break_off=fault.break_off, after=after))
    if after:
        assert world.push().pushed[0].state == "pushed"
        completes(world)
        assert kernel_records.kernel_log_path(world.project, world.kernel).exists(), (
            "though its version's number went with the answer"
        )
    else:
        assert "server failed" in str(error := refusal(world.push)) or "broke" in str(error)
        completes(world)


HANGS_S = 1234.5  # a limit that stands for: once Kaggle has the request


def wait_until_it_hangs(call: Call, world: World, arrives: bool, timeout: float | None = None) -> int:
    """Give up a push when Kaggle has its request (and has carried it out, if it arrives), however long that takes."""
    if timeout != HANGS_S:
        return wait(call, timeout)
    while world.cloud.faults or (arrives and not world.versions()):
        time.sleep(0.02)
    raise subprocess.TimeoutExpired("kaggle", timeout)


@pytest.mark.parametrize("when", ["never", "at once", "late"])
def test_hanging_push_is_looked_up(world: World, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle never carries out the push; or at once, without an answer; or after gatemask gave up."""
    after = when == "at once"
    late = Fault("SaveKernel", None, hang_s=5)
    world.cloud.faults.append(late if when == "late" else Fault("SaveKernel", hang_s=30, break_off=True, after=after))
    with monkeypatch.context() as short:
        short.setattr(
            api, "kaggle", lambda *a, **k: run_kaggle(*a, **{**k, "limit_s": HANGS_S if "push" in a else 600})
        )
        short.setattr(Call, "wait", partialmethod(wait_until_it_hangs, world, after))
        if after:
            world.push()
        else:
            assert "cannot be reached" in str(refusal(world.push))
    while when == "late" and not world.versions():
        time.sleep(0.05)
    completes(world)


def test_push_that_cannot_be_looked_up_is_looked_up_later(world: World) -> None:
    """The network fails during the answer, and still when the push is looked up."""
    world.cloud.faults += [Fault("SaveKernel", break_off=True, after=True), Fault("GetKernel", break_off=True, times=3)]
    refusal(world.push)
    assert world.kernel.last.state == "pushing"
    completes(world)


def test_push_without_a_version_number(world: World) -> None:
    world.cloud.faults.append(Fault("SaveKernel", 200, {"url": "x"}, after=True))
    assert world.push().pushed[0].version is None, "an invented version number"
    completes(world)
    assert read_json(world.fold() / "kaggle.json")["push"] == world.kernel.last.id


def test_title_of_another_kernel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr(KernelMetadata, "write", write_with_another_title)
        error = refusal(world.push)
    assert "something-else" in str(error)
    assert ref().split("/")[1] in str(error)
    assert not world.cloud.kernels
    completes(world)


def test_two_experiments_with_the_same_slug(world: World) -> None:
    yaml = world.project.experiments / f"{EXP}.yaml"
    shutil.copy(yaml, yaml.with_name("unet-b0.yaml"))
    world.push()
    error = refusal(world.push, name="unet-b0")
    assert "phantom-quick/unet_b0 and phantom-quick/unet-b0" in str(error)
    assert "Rename" in str(error)
    completes(world)


def test_payload_too_large_for_a_script_becomes_a_dataset(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = len(bundle.SCRIPT.read_bytes()) + 500
    monkeypatch.setattr(bundle, "SCRIPT_LIMIT", limit)
    completes(world)
    (attached,) = [name for name in world.cloud.datasets if name.endswith("payload")]
    assert attached in world.versions()[0].request["datasetDataSources"]
    assert len(world.versions()[0].source) < limit


# --- the account -------------------------------------------------------------------------------------------------


def test_invalid_credentials_at_a_push(world: World) -> None:
    world.cloud.key_valid = False
    error = refusal(world.push)
    assert "401" in str(error)
    assert "kaggle.json" in str(error)
    world.cloud.key_valid = True
    completes(world)


@pytest.mark.parametrize("command", ["wait", "campaign"])
def test_credentials_that_expire_while_a_kernel_runs(world: World, command: str) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push()
    world.cloud.key_valid = False
    error = refusal(getattr(world, command))
    assert "401" in str(error)
    assert world.kernel.last.state == "running"
    world.cloud.key_valid = True
    release.set()
    getattr(world, command)()
    completes(world)


def test_missing_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delenv("KAGGLE_USERNAME")
        without.delenv("KAGGLE_KEY")
        error = refusal(world.push, "kaggle.owner=null")
        assert "There are no Kaggle credentials" in str(error)
        assert "kaggle.json" in str(error)
        assert "There are no Kaggle credentials" in str(refusal(world.push))
    completes(world)


def test_too_few_hours_of_quota_for_a_push(world: World) -> None:
    world.cloud.used["TPU"] = 19.9
    error = refusal(world.push, TPU)
    assert "0.10 h of 20 h left" in str(error)
    assert "2026-11-28" in str(error)
    assert "SaveKernel" not in world.cloud.methods()
    world.cloud.used["TPU"] = 19.0
    (pushed,) = world.push(TPU).pushed
    assert pushed.hours == pytest.approx(1.0, abs=0.01), "the session is longer than the remaining quota"
    world.wait()
    assert world.done() == [0]


def test_quota_that_ends_during_a_campaign(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1, at_end=lambda: world.cloud.used.update(TPU=20.0))]
    error = refusal(world.campaign, TPU)
    assert "quota" in str(error)
    assert list(world.kernel.last.progress) == ["0"]
    assert (world.fold() / "state").is_dir(), "the work so far was not fetched"
    world.cloud.used["TPU"] = 0.0
    assert world.campaign(TPU).sessions == 1
    assert world.done() == [0]
    assert world.authors() == [push.id for push in world.kernel.pushes]


def test_machine_occupied_by_another_kernel_of_the_account(world: World, tmp_path: Path) -> None:
    other = world.start_foreign_session(tmp_path / "other")
    error = refusal(world.push, TPU)
    assert "Too many kernels" in str(error)
    requests: list[dict[str, Any]] = []

    def end_other_at_third(request: dict[str, Any]) -> bool:
        requests.append(request)
        if len(requests) == 3:
            other.state = "COMPLETE"
        return False

    world.cloud.faults.append(Fault("SaveKernel", when=end_other_at_third))
    result = world.campaign(TPU)
    assert result.sessions == 1
    assert world.done() == [0]
    assert len(world.versions()) == 1
    assert len(world.kernel.pushes) == 1, "refused pushes accumulate"


def test_machines_occupied_by_own_kernels(world: World) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push(TPU)
    error = refusal(world.push, TPU, folds=[1])
    assert ref() in str(error)
    assert "fewer than 1" in str(error)
    assert "gatemask wait" in str(error)
    release.set()
    assert world.campaign(TPU, folds=None).sessions == 1
    assert world.done() == [0, 1]


def test_campaign_takes_over_running_kernels(world: World) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push()
    release.set()
    (comp, unet), (_, gate) = world.load(), world.load("gate_r18")
    result = campaign.run_campaign(world.project, comp, [gate, unet], None, options())
    assert {name: sorted(scores) for name, scores in result.experiments.items()} == {
        "gate_r18": ["fold0", "fold1"],
        "unet_b0": ["fold0", "fold1"],
    }
    assert result.sessions == 3
    assert all(len(versions) == 1 for versions in world.cloud.kernels.values()), "a fold was trained twice"


# --- a session ---------------------------------------------------------------------------------------------------


def test_another_machine_than_requested(world: World) -> None:
    world.machine.sessions = [FakeSession(checks_machine=True), FakeSession(checks_machine=True)]
    result = world.campaign(TPU)
    assert len(world.versions()) == result.sessions == campaign.MOST_LOSSES
    assert {push.outcome for push in world.kernel.pushes} == {"lost"}
    (reason,) = result.given_up.values()
    assert "a CPU" in reason
    assert "a TPU of 8 devices (TpuV5E8)" in reason
    assert world.campaign(TPU).sessions == 1
    assert world.done() == [0]


@pytest.mark.parametrize(("platform", "count"), [("cpu", 1), ("tpu", 4)])
def test_image_without_the_requested_devices(platform: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatemask.training.runtime.detect_accelerator", lambda: "tpu")
    devices = [SimpleNamespace(platform=platform)] * count
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: devices))
    error = refusal(session.require_machine, machine("TpuV5E8"))
    assert f"of {count} devices" in str(error)
    assert "a TPU of 8 devices" in str(error)
    devices[:] = [SimpleNamespace(platform="tpu")] * 8
    session.require_machine(machine("TpuV5E8"))


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1\nMemoryError: no room for it\n'


def test_crash_during_a_campaign(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="the weights are of another shape")]
    result = world.campaign(TPU, folds=[0])
    assert world.kernel.last.outcome == "failed"
    log = kernel_records.kernels_folder(world.project) / f"{world.kernel.slug}.v1.log"
    assert "the weights are of another shape" in log.read_text()
    error = refusal(campaign.require_all_folds, result)
    assert "unet_b0/0: RuntimeError: the weights are of another shape" in str(error)

    assert world.campaign(TPU, folds=None).sessions == 1, "the other fold was not trained"
    assert world.done() == [1]
    assert len(world.versions()) == 1, "a failed push was repeated"
    world.resume(TPU)
    world.wait()
    assert world.done() == [0, 1]
    assert world.versions(0)[1].request["kernelDataSources"] == [ref()]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the messages that are sent."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setenv("GATEMASK_NOTIFY_URL", "http://127.0.0.1/hook")
    monkeypatch.setattr(notify, "_post", lambda request: sent.append(json.loads(request.data)))
    return sent


def test_each_end_is_reported_once(world: World, messages: list[dict[str, Any]]) -> None:
    world.machine.sessions = [FakeSession(crash="the weights are of another shape")]
    world.campaign()
    died, ended = messages
    assert (died["event"], died["experiment"], died["fold"]) == ("kernel_died", EXP, 0)
    assert f"{ref()}, version 1, folds 0: failed; no fold is finished" in died["message"]
    assert ended["event"] == "campaign_ended"
    assert "0 folds of 1 experiments are finished" in ended["message"]
    assert "unet_b0/0 was given up: RuntimeError: the weights are of another shape" in ended["message"]
    world.campaign()
    world.wait()
    assert len(messages) == 2, "nothing has happened since"
    world.resume()
    world.wait()
    assert len(messages) == 2, "a kernel that finished is not reported"
    world.campaign()
    assert "1 folds of 1 experiments are finished" in messages[2]["message"]
    assert len(messages) == 3


def test_a_campaign_that_ends_with_an_error_is_reported(world: World, messages: list[dict[str, Any]]) -> None:
    world.cloud.key_valid = False
    refusal(world.campaign)
    (ended,) = messages
    assert ended["event"] == "campaign_ended"
    assert "0 folds of 1 experiments are finished" in ended["message"]


def test_crash_is_pushed_again_after_a_change_of_settings(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="too many epochs")]
    world.campaign()
    assert not world.campaign().sessions
    assert world.campaign(FOUR).sessions == 1
    assert world.done(FOUR) == [0]
    assert len(world.authors()) == 4


def test_one_fold_fails_and_the_other_is_fetched(world: World) -> None:
    world.machine.sessions = [FakeSession(fails={0: "An image of this fold is damaged."})]
    result = world.campaign(TPU, folds=None)
    assert world.done() == [1]
    assert list(result.given_up) == ["unet_b0/0"]
    assert "An image of this fold is damaged." in result.given_up["unet_b0/0"]
    assert len(world.versions("0-1")) == 1
    world.resume(TPU)
    world.wait()
    assert world.done() == [0, 1]


def test_kernel_killed_at_its_time_limit(world: World) -> None:
    world.machine.sessions = [FakeSession(killed_after=0)]
    world.push(TPU, folds=None, hours=1 / 3600)
    world.wait()
    (kernel,) = world.kernels()
    assert (kernel.last.word, kernel.last.outcome, kernel.last.done) == ("cancelled", "stopped", [0])
    assert world.done() == [0]
    world.resume(TPU)
    world.wait()
    assert world.done() == [0, 1]
    assert [len(versions) for versions in world.cloud.kernels.values()] == [1, 1]


@pytest.mark.parametrize("log", ["", TRACEBACK], ids=["nothing", "a log"])
def test_session_without_any_output(world: World, log: str) -> None:
    world.machine.sessions = [FakeSession(vanish=log), FakeSession(vanish=log)]
    result = world.campaign()
    assert len(world.versions()) == campaign.MOST_LOSSES
    error = refusal(campaign.require_all_folds, result)
    assert "unet_b0/0: 2 sessions in a row ended without an output" in str(error)
    assert "exited with code 1" in str(error)
    assert "It left neither output nor log." in str(error) or log
    if log:
        assert "MemoryError: no room for it" in str(error)
        assert (
            "MemoryError" in (kernel_records.kernels_folder(world.project) / f"{world.kernel.slug}.v2.log").read_text()
        )
    assert world.campaign().sessions == 1
    assert world.done() == [0]


LOST = {
    "another machine": (FakeSession(checks_machine=True), "a CPU"),
    "nothing left": (FakeSession(vanish=TRACEBACK), "MemoryError"),
    "killed": (FakeSession(killed_after=1), "exceeded"),
}


@pytest.mark.parametrize("how", LOST)
def test_output_survives_a_later_lost_session(world: World, how: str) -> None:
    """Kaggle mounts the output of the last session that completed."""
    lost, reason = LOST[how]
    folds = [0, 1] if how == "killed" else [0]
    world.machine.sessions = [FakeSession(epochs=1), lost]
    world.push(TPU, FOUR, folds=folds)
    world.wait()
    world.push(TPU, FOUR, folds=folds, hours=1 / 3600)
    world.wait()
    if how != "killed":
        assert world.kernel.last.outcome == "lost"
        assert reason in (world.kernel.last.message or "")
    result = world.campaign(TPU, FOUR, folds=folds)
    assert not result.given_up
    assert world.done(FOUR) == folds
    (kernel,) = world.kernels()
    assert kernel.last.sources == [kernel.ref]
    assert world.authors()[0] == kernel.pushes[0].id, "the first session's epochs were lost"


def test_training_killed_by_a_signal_continues_from_its_last_state(world: World) -> None:
    world.machine.sessions = [FakeSession(dies=True)]
    assert world.campaign(FOUR).sessions == 2
    assert world.done(FOUR) == [0]
    assert world.authors() == [world.kernel.pushes[0].id] + [world.kernel.last.id] * 3
    assert [push.outcome for push in world.kernel.pushes] == ["lost", "finished"]
    assert "signal 9" in (world.kernel.pushes[0].message or "")


def test_training_that_is_always_killed_is_given_up(world: World) -> None:
    world.machine.sessions = [
        FakeSession(dies=True),
        FakeSession(dies=True, epochs=0),
        FakeSession(dies=True, epochs=0),
    ]
    result = world.campaign(FOUR)
    assert "got no further: " in result.given_up["unet_b0/0"]
    assert "signal 9" in result.given_up["unet_b0/0"]
    assert len(world.versions()) == 3


def test_sessions_without_progress(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1), FakeSession(epochs=0), FakeSession(epochs=0)]
    result = world.campaign(FOUR)
    assert len(world.versions()) == 3
    assert "got no further" in result.given_up["unet_b0/0"]
    assert world.campaign(FOUR).sessions == 1
    assert world.done(FOUR) == [0]
    assert len(set(world.authors())) == 2, "the first session's epoch was lost"


def test_old_layout_of_the_mounts(world: World) -> None:
    world.cloud.layout = "old"
    world.machine.sessions = [FakeSession(epochs=1)]
    assert world.campaign().sessions == 2
    assert world.done() == [0]
    assert world.authors() == [push.id for push in world.kernel.pushes]


@pytest.mark.parametrize("name", ["masks.csv", "gatemask-records.json"])
def test_damaged_file_in_a_mounted_dataset(world: World, name: str) -> None:
    content = world.cloud.datasets[RECORDS][0][name]
    assert isinstance(content, bytes)
    world.cloud.datasets[RECORDS][0][name] = content[:-2] + b"\0\0"
    world.push()
    world.wait()
    assert world.kernel.last.outcome == "lost"
    assert name in (world.kernel.last.message or "")
    assert "elete the dataset on Kaggle" in (world.kernel.last.message or "")
    del world.cloud.datasets[RECORDS]  # as the message says
    completes(world, versions=2)


# --- fetching ------------------------------------------------------------------------------------------------

WRONG_FILES = {
    "403": Fault("output-file", 403, "<html>Forbidden</html>"),
    "short": Fault("output-file", None, short=True),
    "broken": Fault("output-file", break_off=True),
}


@pytest.mark.parametrize("name", WRONG_FILES)
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
def test_damaged_output_file_is_fetched_again(world: World, name: str, always: bool) -> None:
    fault = WRONG_FILES[name]

    def weights(request: dict[str, Any]) -> bool:
        return request["file"].endswith("best.weights.h5")

    faulty = Fault("output-file", fault.status, fault.body, break_off=fault.break_off, short=fault.short, when=weights)
    faulty.times = 1000 if always else 1
    world.cloud.faults.append(faulty)
    world.push()
    if always:
        world.finish()
        assert "fetch" in str(error := refusal(world.fetch)) or "broke" in str(error)
        assert not world.fold().exists()
        assert world.kernel.last.state == "running"
        world.cloud.faults.clear()
    completes(world)


SERVER_ERRORS = {429: "Too many requests", 500: "Internal server error", 503: "The service is unavailable."}


@pytest.mark.parametrize(
    ("status", "page"), [(429, False), (500, True), (503, False), slow(429, True), slow(500, False), slow(503, True)]
)
def test_server_errors_are_retried(world: World, status: int, page: bool) -> None:
    headers = {"Retry-After": "1"} if status == 429 else {}
    body = "<html>sorry</html>" if page else {"code": status, "message": SERVER_ERRORS[status]}
    for method in ("GetKernelSessionStatus", "ListKernelSessionOutput"):
        world.cloud.faults.append(Fault(method, status, body, headers))
    completes(world)
    assert not world.cloud.faults


@pytest.mark.parametrize("command", ["wait", "campaign"])
def test_network_outage_while_waiting(world: World, command: str) -> None:
    if command == "wait":
        world.push()
    else:
        world.cloud.faults.append(Fault("SaveKernel", break_off=True))
    world.cloud.faults.append(Fault("GetKernelSessionStatus", break_off=True, times=4))
    getattr(world, command)()
    assert not world.cloud.faults
    assert world.done() == [0]
    assert len(world.versions()) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_network_outage_during_a_push_of_a_campaign(world: World, after: bool) -> None:
    world.cloud.faults.append(Fault("SaveKernel", break_off=True, after=after))
    world.cloud.faults.append(Fault("GetKernel", break_off=True, times=4))
    result = world.campaign()
    assert not world.cloud.faults
    assert not result.given_up
    assert world.done() == [0]
    assert len(world.versions()) == 1
    assert [push.outcome for push in world.kernel.pushes] == ["finished"]


@pytest.mark.parametrize("killed", [False, True], ids=["complete", "killed"])
def test_output_of_an_earlier_version_is_ignored(world: World, killed: bool) -> None:
    world.machine.sessions = [FakeSession(epochs=1), FakeSession(killed_after=0) if killed else FakeSession()]
    world.push()
    world.wait()
    world.push(hours=1 / 3600)
    world.finish()
    old = world.cloud._ListKernelSessionOutput({"userName": OWNER, "kernelSlug": f"{ref().split('/')[1]}/1"})
    world.cloud.faults.append(Fault("ListKernelSessionOutput", 200, old, times=2))
    world.wait()
    assert world.done() == [0]
    assert len(world.versions()) == 2
    assert world.kernel.last.asked == 2


def test_output_of_many_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 2)
    completes(world)
    assert world.cloud.methods().count("ListKernelSessionOutput") > 1


def test_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.push()
    world.finish()

    def full(self: Path, target: Path) -> Path:
        if Path(target) == world.fold():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "rename", full)
        error = refusal(world.fetch)
    assert "No space left" in str(error)
    assert "again" in str(error)
    assert world.kernel.last.state == "running"
    completes(world)


def test_run_of_other_settings_is_set_aside(world: World) -> None:
    train_fold(world.inputs(FOUR), 0, "me")
    world.push()
    world.wait()
    assert world.done() == [0]
    aside = world.fold().with_name("fold0.replaced1")
    assert read_json(aside / "result.json")["made_from"] == world.inputs(FOUR).made_from(0)
    completes(world)


def test_run_in_training_here_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    train_fold(world.inputs(FOUR), 0, "me", epochs=1)
    world.push()
    with monkeypatch.context() as impatient, run_folder.locked_run(world.fold(), "unet_b0 fold 0"):
        impatient.setattr(files, "LOCK_S", 0.0)
        error = refusal(world.wait)
    assert "Another process is training or fetching unet_b0 fold 0" in str(error)
    assert not world.fold().with_name("fold0.replaced1").exists()
    completes(world)


def test_all_folds_train_with_the_batch_that_the_first_session_found(world: World) -> None:
    world.push(AUTO)
    world.wait()
    assert world.done(AUTO) == [0]
    assert str(world.inputs(AUTO).found_batch) == "32 x 8"
    world.machine.finds = 16  # what another machine would find
    world.push(AUTO, folds=[1])
    world.wait()
    assert world.done(AUTO) == [0, 1]
    assert str(world.inputs(AUTO).found_batch) == "32 x 8"


def test_fold_with_another_batch_than_the_others_is_not_taken_for_done(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.push(AUTO)
    exp = world.inputs(AUTO).exp
    write_found_batch(world.project, exp.name, found_batch(exp, 64))  # by a training here, meanwhile
    world.wait()
    assert "trained with a batch of 32 x 8, other folds of unet_b0 with 64 x 8" in capsys.readouterr().err
    assert str(world.inputs(AUTO).found_batch) == "64 x 8"
    assert world.done(AUTO) == []


def test_run_finished_here_is_kept(world: World) -> None:
    world.push()
    train_fold(world.inputs(), 0, "me")
    world.wait()
    assert set(world.authors()) == {"me"}
    completes(world)


@pytest.mark.parametrize(("here", "there", "kept"), [(3, 1, True), (1, 3, False)])
def test_longer_of_two_unfinished_runs_is_kept(world: World, here: int, there: int, kept: bool) -> None:
    world.machine.sessions = [FakeSession(epochs=there)]
    world.push(FOUR)
    train_fold(world.inputs(FOUR), 0, "me", epochs=here)
    world.wait()
    assert len(world.authors()) == 3
    assert (world.authors()[-1] == "me") == kept
    train_fold(world.inputs(FOUR), 0, "me")
    assert world.done(FOUR) == [0], "training did not continue from the kept run"


def test_records_changed_between_two_sessions(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1)]
    world.push()
    world.wait()
    change_records(world.project)
    world.cloud.processing = 2
    world.resume()
    assert len(world.cloud.datasets[RECORDS]) == 2
    assert world.kernel.last.datasets[RECORDS] == 2
    world.wait()
    assert world.done() == [0]
    assert set(world.authors()) == {world.kernel.last.id}, "an epoch on other records was kept"
    assert world.fold().with_name("fold0.replaced1").is_dir(), "the earlier run was deleted"


# --- killed and concurrent commands -------------------------------------------------------------------


def was_requested(world: World, method: str) -> bool:
    return method in world.cloud.methods()


def kill(world: World, when: Callable[[], bool], *arguments: str, cold: bool = False) -> None:
    """Start the real command, and kill it as soon as a condition holds.

    Args:
        world: Kaggle and a project.
        when: The condition.
        arguments: Arguments of gatemask.
        cold: Whether each kaggle command is a new process, as for users.
    """
    command = world.command(*arguments)
    kill_when(lambda _: when(), *(["-m", "gatemask", *command[2:]] if cold else command), root=world.project.root)


KILL_POINTS = [
    ("blob", False),
    ("CreateDataset", False),
    ("CreateDataset", True),
    ("SaveKernel", False),
    ("SaveKernel", True),
]
FIRST_AND_LAST = (KILL_POINTS[0], KILL_POINTS[-1])  # the others in make test-all


@pytest.mark.parametrize(
    ("method", "after"),
    [
        pytest.param(method, after, marks=() if (method, after) in FIRST_AND_LAST else pytest.mark.slow)
        for method, after in KILL_POINTS
    ],
    ids=[f"{'after' if after else 'before'}-{method}" for method, after in KILL_POINTS],
)
def test_killed_push(world: World, method: str, after: bool) -> None:
    """Kill the command during an upload, before or after its end, and before or after the push itself."""
    if method != "SaveKernel":
        del world.cloud.datasets[RECORDS]
    world.cloud.faults.append(Fault(method, hang_s=300, break_off=True, after=after))
    push = ("push", f"{COMP}/{EXP}", "--fold", "0")

    def held() -> bool:
        arrived = world.cloud.kernels if method == "SaveKernel" else world.cloud.datasets.get(RECORDS)
        return was_requested(world, method) and (bool(arrived) or not after)

    kill(world, held, *push, cold=method == "blob")
    assert len(world.push().pushed) == int((method, after) != ("SaveKernel", True))
    completes(world)
    assert len(world.cloud.datasets[RECORDS]) == 1


def test_push_killed_while_kaggle_processes_its_dataset(empty: World) -> None:
    empty.cloud.processing = 10**6

    def waits() -> bool:
        methods = empty.cloud.methods()
        return "CreateDataset" in methods and "GetDatasetStatus" in methods[methods.index("CreateDataset") :]

    kill(empty, waits, "push", f"{COMP}/{EXP}", "--fold", "0")
    empty.cloud.finish_processing()
    completes(empty)
    assert len(empty.cloud.datasets[RECORDS]) == 1


@pytest.mark.parametrize("command", ["wait", "campaign"])
@pytest.mark.parametrize("moment", [pytest.param("queued", marks=pytest.mark.slow), "running", "fetching"])
def test_command_killed_while_it_waits(world: World, command: str, moment: str) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    arguments = ("wait", COMP) if command == "wait" else ("campaign", COMP, "--experiments", EXP, "--fold", "0")
    if moment == "queued":
        world.cloud.queueing = 10**6
    if command == "wait":
        world.push()
    if moment == "fetching":
        release.set()
        world.cloud.faults.append(Fault("output-file", hang_s=300, break_off=True))
    kill(
        world,
        lambda: was_requested(world, "output-file" if moment == "fetching" else "GetKernelSessionStatus"),
        *arguments,
    )
    for version in world.versions() if moment == "queued" else []:
        assert version.state == "QUEUED"
        world.cloud.finish_queueing(version.run)
    release.set()
    if command == "wait":
        world.wait()
    else:
        world.campaign()
    assert len(world.versions()) == 1
    assert [kernel.last.outcome for kernel in world.kernels()] == ["finished"]
    assert read_json(world.fold() / "kaggle.json")["push"] == world.kernel.last.id


KILLED_AT = {
    "between the renames": "from pathlib import Path as where; name = 'rename'\n"
    "here = lambda path, target: path.parts[-4:-2] == ('runs', 'unet_b0') or '.fetched' in str(path)",
    "between placing and recording": "from gatemask.kaggle.train import collect as where; name = 'save_kernel'\n"
    "here = lambda project, kernel: kernel.last.state == 'fetched'",
}
DIES = """
import os, signal
%s
real = getattr(where, name)
def dies(*arguments):
    if here(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(where, name, dies)
"""


@pytest.mark.parametrize("moment", KILLED_AT)
def test_fetch_killed_while_it_places_a_run(world: World, moment: str) -> None:
    world.machine.sessions = [FakeSession(epochs=1)]
    world.push()
    world.wait()  # leaves an older state here
    world.push()
    world.finish()
    arguments = ("fetch", COMP, "--quick")
    done = run_python("-c", DIES % KILLED_AT[moment] + GATEMASK, *arguments, root=world.project.root)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert world.fold().exists() == (moment == "between placing and recording")
    assert world.fetch().fetched
    assert {path.suffix for path in world.fold().parent.glob(".*")} <= {".lock"}
    assert world.authors() == [push.id for push in world.kernel.pushes]
    completes(world, versions=2)


def test_two_commands_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run_python, *world.command("wait", COMP), root=world.project.root)
        try:
            while not was_requested(world, "GetKernelSessionStatus"):
                assert not waiting.done()
                time.sleep(0.01)
            monkeypatch.setattr("gatemask.files.LOCK_S", 0.0)
            for command in (partial(world.push, folds=[1]), world.fetch, world.wait, world.campaign, world.resume):
                assert "Another gatemask command" in str(refusal(command))
            (kernel,) = commands.kernel_statuses(world.project, None).kernels
            assert kernel.state == "running", "asking for the status needs no lock"
            assert len(world.cloud.kernels) == 1
        finally:
            release.set()
        answer = json.loads(waiting.result().stdout)
    assert [kernel["done"] for kernel in answer["fetched"]] == [[0]]
    completes(world)


def test_exit_code_1_after_a_fold_was_given_up(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="no more of this")]
    arguments = world.command("campaign", COMP, "--experiments", EXP, "--fold", "0")
    done = run_python(*arguments, root=world.project.root)
    assert done.returncode == 1
    assert "no more of this" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["given_up"]


run_kaggle, write_metadata, rename = api.kaggle, KernelMetadata.write, Path.rename


def write_with_another_title(metadata: KernelMetadata, folder: Path) -> Path:
    path = write_metadata(metadata, folder)
    return write_json(path, {**read_json(path), "title": "something else"})
