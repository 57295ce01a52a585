"""Each way in which a trip to Kaggle goes wrong: what the user is told, that nothing is lost, and nothing done twice.

Every test ends with the same command given again, by which all gets done.
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
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatemask.errors import GatemaskError
from gatemask.files import read_json, write_json
from gatemask.kaggle.client import api, datasets
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.kaggle.image.machines import MACHINES
from gatemask.kaggle.train import bundle, campaign, commands, inputs, kernel_records, session
from tests.conftest import gatemask
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
    options,
    project_from,
    ref,
    seed,
    train_fold,
)
from tests.kaggle.warm import warm

pytestmark = pytest.mark.integration

FOUR = "epochs=4"


@pytest.fixture(scope="module")
def quick_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start


@pytest.fixture
def world(
    phantom_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_command: Any
) -> Iterator[World]:
    """Kaggle with the datasets in place, and a project that has trained nothing."""
    project, machine = project_from(phantom_records, tmp_path / "project"), FakeMachine()
    with stand_in(tmp_path, monkeypatch) as cloud:
        machine.install(monkeypatch)
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", quick_command)
        cloud.runner = machine
        seed(cloud, project)
        monkeypatch.setattr(inputs, "wheels_dataset", lambda: None)  # a question fewer to Kaggle
        monkeypatch.setattr(bundle, "package_files", list)  # what runs is the package of the tests
        monkeypatch.setattr(bundle, "lzma", SimpleNamespace(compress=lambda data, **_: lzma.compress(data, preset=0)))
        yield World(cloud, machine, project)


@pytest.fixture
def empty(world: World) -> World:
    """As `world`, but nothing was ever uploaded."""
    world.cloud.datasets.clear()
    shutil.rmtree(world.project.root / "runs")
    return world


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> GatemaskError:
    """The error that a call ends with; it names no secret."""
    with pytest.raises(GatemaskError) as caught:
        call(*arguments, **more)
    assert KEY not in str(caught.value)
    return caught.value


def ends_well(world: World, versions: int = 1) -> None:
    """The same commands again: push and wait. One session did it, or as many as are said."""
    world.push()
    world.wait()
    assert world.done() == [0]
    assert len(world.versions()) == versions
    assert world.push().current


# --- a push ------------------------------------------------------------------------------------------------------


def test_a_push_that_kaggle_refuses_with_exit_code_0(world: World) -> None:
    world.cloud.faults.append(Fault("SaveKernel", 200, {"error": "Something about this kernel is not right."}))
    error = refusal(world.push)
    assert "Something about this kernel" in str(error)
    assert "nothing runs" in str(error)
    assert world.kernel.last.state == "refused"
    ends_well(world)


def test_a_dataset_that_is_dropped_from_a_push(world: World) -> None:
    def gone(_: dict[str, Any]) -> bool:
        return world.cloud.datasets.pop(RECORDS, None) is not None

    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.cloud.faults.append(Fault("SaveKernel", None, when=gone))
    error = refusal(world.push)
    assert RECORDS in str(error)
    assert "Version 1 runs now" in str(error)
    assert world.push().in_hand == [0], "what runs is not pushed again"
    release.set()
    world.wait()
    assert world.kernel.last.outcome == "lost"
    assert "records" in (world.kernel.last.message or "")
    ends_well(world, versions=2)
    assert len(world.cloud.datasets[RECORDS]) == 1


def test_an_output_that_is_dropped_from_a_push(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1)]
    world.push()
    world.wait()
    answer = {"versionNumber": 2, "url": "x", "invalidKernelSources": [ref()]}
    world.cloud.faults.append(Fault("SaveKernel", 200, answer, after=True))
    error = refusal(world.push)
    assert f"kernel: {ref()}" in str(error)
    assert world.kernel.last.version == 2
    ends_well(world, versions=2)


def test_a_dataset_that_is_long_in_processing_is_waited_for(empty: World) -> None:
    empty.cloud.processing = 4
    empty.push()
    methods = empty.cloud.methods()
    assert "SaveKernel" not in methods[: len(methods) - 1 - methods[::-1].index("ListDatasetFiles")]
    empty.wait()
    assert empty.done() == [0]
    assert len(empty.cloud.datasets[RECORDS]) == len(empty.versions()) == 1


def test_a_dataset_that_never_gets_done_is_not_pushed_with(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.cloud.processing = 10**6
    monkeypatch.setattr(datasets, "PROCESSING_LIMIT_S", 0.0)
    error = refusal(empty.push)
    assert "Timed out waiting for Kaggle to process the dataset" in str(error)
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud._pending.clear()
    ends_well(empty)
    assert len(empty.cloud.datasets[RECORDS]) == 1, "what was uploaded is not uploaded again"


def test_an_old_version_that_stays_current_is_not_pushed_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    change_records(world.project)

    def stays(_: dict[str, Any]) -> bool:
        world.cloud.stale.add(RECORDS)
        return True

    world.cloud.faults.append(Fault("CreateDatasetVersion", None, when=stays))
    monkeypatch.setattr(datasets, "PROCESSING_LIMIT_S", 0.0)
    error = refusal(world.push)
    assert "ready, version 1" in str(error)
    assert "ready, version 2" in str(error)
    assert "SaveKernel" not in world.cloud.methods()
    world.cloud.stale.clear()
    ends_well(world)
    assert world.kernel.last.datasets[RECORDS] == len(world.cloud.datasets[RECORDS]) == 2


def test_a_dataset_that_kaggle_cannot_process(empty: World) -> None:
    empty.cloud.failing.add(RECORDS)
    error = refusal(empty.push)
    assert "could not process" in str(error)
    assert RECORDS in str(error)
    assert "delete" in str(error)
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud.failing.clear()
    del empty.cloud.datasets[RECORDS]  # as the message says
    ends_well(empty)


def test_a_file_that_kaggle_loses_is_uploaded_again(empty: World) -> None:
    empty.cloud.dropped.add("masks.csv")

    def mended(_: dict[str, Any]) -> bool:
        empty.cloud.dropped.clear()
        return True

    empty.cloud.faults.append(Fault("CreateDatasetVersion", None, when=mended))
    ends_well(empty)
    assert ["masks.csv" in files for files in empty.cloud.datasets[RECORDS]] == [False, True]


def test_a_file_that_kaggle_always_loses_ends_the_push(empty: World) -> None:
    empty.cloud.dropped.add("masks.csv")
    error = refusal(empty.push)
    assert "masks.csv" in str(error)
    assert len(empty.cloud.datasets[RECORDS]) == datasets.UPLOAD_ATTEMPTS
    assert "SaveKernel" not in empty.cloud.methods()
    empty.cloud.dropped.clear()
    ends_well(empty)


def test_a_dataset_that_was_deleted_is_uploaded_again(world: World) -> None:
    del world.cloud.datasets[RECORDS]
    ends_well(world)
    assert len(world.cloud.datasets[RECORDS]) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("SaveKernel", 500),
        Fault("SaveKernel", 502, {"code": 502, "message": "Bad gateway"}),
        Fault("SaveKernel", break_off=True),
    ],
    ids=["500", "502", "broken"],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_push_with_a_wrong_answer_is_looked_for(world: World, fault: Fault, after: bool) -> None:
    world.cloud.faults.append(Fault("SaveKernel", fault.status, fault.body, break_off=fault.break_off, after=after))
    if after:
        assert world.push().pushed[0].state == "pushed"
        ends_well(world)
        assert kernel_records.log_path(world.project, world.kernel).exists(), (
            "though its version's number went with the answer"
        )
    else:
        assert "server failed" in str(error := refusal(world.push)) or "broke" in str(error)
        ends_well(world)


@pytest.mark.parametrize("when", ["never", "at once", "late"])
def test_a_push_that_hangs_is_looked_for(world: World, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle never does it, or does it at once and does not say so, or does it when it was given up here."""
    after = when == "at once"
    late = Fault("SaveKernel", None, hang_s=5)
    world.cloud.faults.append(late if when == "late" else Fault("SaveKernel", hang_s=30, break_off=True, after=after))
    with monkeypatch.context() as short:
        short.setattr(api, "kaggle", lambda *a, **k: real(*a, **{**k, "limit_s": 3 if "push" in a else 60}))
        if after:
            world.push()
        else:
            assert "cannot be reached" in str(refusal(world.push))
    while when == "late" and not world.versions():
        time.sleep(0.05)
    ends_well(world)


def test_a_push_that_is_not_to_be_looked_for_is_looked_for_later(world: World) -> None:
    """The network goes with the answer, and is away when it is asked what became of the push."""
    world.cloud.faults += [Fault("SaveKernel", break_off=True, after=True), Fault("GetKernel", break_off=True, times=3)]
    refusal(world.push)
    assert world.kernel.last.state == "pushing"
    ends_well(world)


def test_a_push_whose_version_is_not_told(world: World) -> None:
    world.cloud.faults.append(Fault("SaveKernel", 200, {"url": "x"}, after=True))
    assert world.push().pushed[0].version is None, "a number that nobody told"
    ends_well(world)
    assert read_json(world.fold() / "kaggle.json")["push"] == world.kernel.last.id


def test_a_title_that_is_another_kernels_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr(KernelMetadata, "write", write_with_another_title)
        error = refusal(world.push)
    assert "something-else" in str(error)
    assert ref().split("/")[1] in str(error)
    assert not world.cloud.kernels
    ends_well(world)


def test_two_experiments_whose_names_become_one(world: World) -> None:
    yaml = world.project.experiments / f"{EXP}.yaml"
    shutil.copy(yaml, yaml.with_name("unet-b0.yaml"))
    world.push()
    error = refusal(world.push, name="unet-b0")
    assert "phantom-quick/unet_b0 and phantom-quick/unet-b0" in str(error)
    assert "Rename" in str(error)
    ends_well(world)


def test_a_payload_that_is_too_large_for_a_script_comes_as_a_dataset(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = len(bundle.SCRIPT.read_bytes()) + 500
    monkeypatch.setattr(bundle, "SCRIPT_LIMIT", limit)
    ends_well(world)
    (attached,) = [name for name in world.cloud.datasets if name.endswith("payload")]
    assert attached in world.versions()[0].request["datasetDataSources"]
    assert len(world.versions()[0].source) < limit


# --- the account -------------------------------------------------------------------------------------------------


def test_dead_credentials_at_a_push(world: World) -> None:
    world.cloud.key_valid = False
    error = refusal(world.push)
    assert "401" in str(error)
    assert "kaggle.json" in str(error)
    world.cloud.key_valid = True
    ends_well(world)


@pytest.mark.parametrize("command", ["wait", "campaign"])
def test_credentials_that_die_while_a_kernel_runs(world: World, command: str) -> None:
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
    ends_well(world)


def test_no_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delenv("KAGGLE_USERNAME")
        without.delenv("KAGGLE_KEY")
        error = refusal(world.push, "kaggle.owner=null")
        assert "There are no Kaggle credentials" in str(error)
        assert "kaggle.json" in str(error)
        assert "There are no Kaggle credentials" in str(refusal(world.push))
    ends_well(world)


def test_too_few_hours_before_a_push(world: World) -> None:
    world.cloud.used["TPU"] = 19.9
    error = refusal(world.push, TPU)
    assert "0.10 h of 20 h left" in str(error)
    assert "2026-11-28" in str(error)
    assert "SaveKernel" not in world.cloud.methods()
    world.cloud.used["TPU"] = 19.0
    (pushed,) = world.push(TPU).pushed
    assert pushed.hours == pytest.approx(1.0, abs=0.01), "a session is not longer than what is left"
    world.wait()
    assert world.done() == [0]


def test_hours_that_end_amid_a_campaign(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1, at_end=lambda: world.cloud.used.update(TPU=20.0))]
    error = refusal(world.campaign, TPU)
    assert "quota" in str(error)
    assert list(world.kernel.last.progress) == ["0"]
    assert (world.fold() / "state").is_dir(), "what is done so far is here"
    world.cloud.used["TPU"] = 0.0
    assert world.campaign(TPU).sessions == 1
    assert world.done() == [0]
    assert world.authors() == [push.id for push in world.kernel.pushes]


def test_a_machine_that_another_kernel_of_the_account_has(world: World, tmp_path: Path) -> None:
    other = world.start_foreign_session(tmp_path / "other")
    error = refusal(world.push, TPU)
    assert "Too many kernels" in str(error)
    asked = []

    def third_time(_: dict[str, Any]) -> bool:
        asked.append(1)
        if len(asked) == 3:
            other.state = "COMPLETE"
        return False

    world.cloud.faults.append(Fault("SaveKernel", when=third_time))
    result = world.campaign(TPU)
    assert result.sessions == 1
    assert world.done() == [0]
    assert len(world.versions()) == 1
    assert len(world.kernel.pushes) == 1, "refusals pile up"


def test_machines_that_are_all_ours(world: World) -> None:
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


def test_a_campaign_takes_over_what_runs_and_adds_what_was_never_pushed(world: World) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push()
    release.set()
    (comp, unet), (_, gate) = world.load(), world.load("gate_b0")
    result = campaign.run_campaign(world.project, comp, [gate, unet], None, options())
    assert {name: sorted(scores) for name, scores in result.experiments.items()} == {
        "gate_b0": ["fold0", "fold1"],
        "unet_b0": ["fold0", "fold1"],
    }
    assert result.sessions == 3
    assert all(len(versions) == 1 for versions in world.cloud.kernels.values()), "something ran twice"


# --- a session ---------------------------------------------------------------------------------------------------


def test_another_machine_than_was_asked_for(world: World) -> None:
    world.machine.sessions = [FakeSession(checks_machine=True), FakeSession(checks_machine=True)]
    result = world.campaign(TPU)
    assert len(world.versions()) == result.sessions == campaign.MOST_LOSSES
    assert {push.outcome for push in world.kernel.pushes} == {"lost"}
    (why,) = result.given_up.values()
    assert "a CPU" in why
    assert "a TPU of 8 devices (TpuV5E8)" in why
    assert world.campaign(TPU).sessions == 1
    assert world.done() == [0]


@pytest.mark.parametrize(("platform", "count"), [("cpu", 1), ("tpu", 4)])
def test_an_image_without_the_machine(platform: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatemask.training.runtime.detect_accelerator", lambda: "tpu")
    devices = [SimpleNamespace(platform=platform)] * count
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: devices))
    error = refusal(session.require_machine, MACHINES["TpuV5E8"])
    assert f"of {count} devices" in str(error)
    assert "a TPU of 8 devices" in str(error)
    devices[:] = [SimpleNamespace(platform="tpu")] * 8
    session.require_machine(MACHINES["TpuV5E8"])


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1\nMemoryError: no room for it\n'


def test_a_crash_in_a_campaign(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="the weights are of another shape")]
    result = world.campaign(TPU, folds=[0])
    assert world.kernel.last.outcome == "failed"
    log = kernel_records.records_folder(world.project) / f"{world.kernel.slug}.v1.log"
    assert "the weights are of another shape" in log.read_text()
    error = refusal(campaign.require_all_folds, result)
    assert "unet_b0/0: RuntimeError: the weights are of another shape" in str(error)

    assert world.campaign(TPU, folds=None).sessions == 1, "the other fold goes on"
    assert world.done() == [1]
    assert len(world.versions()) == 1, "what failed would fail again"
    world.resume(TPU)
    world.wait()
    assert world.done() == [0, 1]
    assert world.versions(0)[1].request["kernelDataSources"] == [ref()]


def test_a_crash_is_pushed_again_when_settings_were_changed(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="too many epochs")]
    world.campaign()
    assert not world.campaign().sessions
    assert world.campaign(FOUR).sessions == 1
    assert world.done(FOUR) == [0]
    assert len(world.authors()) == 4


def test_one_fold_fails_and_the_other_comes_home(world: World) -> None:
    world.machine.sessions = [FakeSession(fails={0: "An image of this fold is damaged."})]
    result = world.campaign(TPU, folds=None)
    assert world.done() == [1]
    assert list(result.given_up) == ["unet_b0/0"]
    assert "An image of this fold is damaged." in result.given_up["unet_b0/0"]
    assert len(world.versions("0-1")) == 1
    world.resume(TPU)
    world.wait()
    assert world.done() == [0, 1]


def test_a_kernel_that_is_killed_at_its_time_limit(world: World) -> None:
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
def test_a_session_that_leaves_nothing(world: World, log: str) -> None:
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
            "MemoryError" in (kernel_records.records_folder(world.project) / f"{world.kernel.slug}.v2.log").read_text()
        )
    assert world.campaign().sessions == 1
    assert world.done() == [0]


LOST = {
    "another machine": (FakeSession(checks_machine=True), "a CPU"),
    "nothing left": (FakeSession(vanish=TRACEBACK), "MemoryError"),
    "killed": (FakeSession(killed_after=1), "exceeded"),
}


@pytest.mark.parametrize("how", LOST)
def test_what_a_session_left_outlives_one_that_is_lost(world: World, how: str) -> None:
    """Kaggle mounts what the last session left that ended well."""
    lost, why = LOST[how]
    folds = [0, 1] if how == "killed" else [0]
    world.machine.sessions = [FakeSession(epochs=1), lost]
    world.push(TPU, FOUR, folds=folds)
    world.wait()
    world.push(TPU, FOUR, folds=folds, hours=1 / 3600)
    world.wait()
    if how != "killed":
        assert world.kernel.last.outcome == "lost"
        assert why in (world.kernel.last.message or "")
    result = world.campaign(TPU, FOUR, folds=folds)
    assert not result.given_up
    assert world.done(FOUR) == folds
    (kernel,) = world.kernels()
    assert kernel.last.sources == [kernel.ref]
    assert world.authors()[0] == kernel.pushes[0].id, "hours were lost"


def test_a_training_that_is_ended_by_a_signal_goes_on_from_its_last_state(world: World) -> None:
    world.machine.sessions = [FakeSession(dies=True)]
    assert world.campaign(FOUR).sessions == 2
    assert world.done(FOUR) == [0]
    assert world.authors() == [world.kernel.pushes[0].id] + [world.kernel.last.id] * 3
    assert [push.outcome for push in world.kernel.pushes] == ["lost", "finished"]
    assert "signal 9" in (world.kernel.pushes[0].message or "")


def test_a_training_that_is_always_ended_by_a_signal_is_given_up(world: World) -> None:
    world.machine.sessions = [
        FakeSession(dies=True),
        FakeSession(dies=True, epochs=0),
        FakeSession(dies=True, epochs=0),
    ]
    result = world.campaign(FOUR)
    assert "got no further: " in result.given_up["unet_b0/0"]
    assert "signal 9" in result.given_up["unet_b0/0"]
    assert len(world.versions()) == 3


def test_sessions_that_get_no_further(world: World) -> None:
    world.machine.sessions = [FakeSession(epochs=1), FakeSession(epochs=0), FakeSession(epochs=0)]
    result = world.campaign(FOUR)
    assert len(world.versions()) == 3
    assert "got no further" in result.given_up["unet_b0/0"]
    assert world.campaign(FOUR).sessions == 1
    assert world.done(FOUR) == [0]
    assert len(set(world.authors())) == 2, "the epoch of the first session stands"


def test_an_old_layout_of_the_mounts(world: World) -> None:
    world.cloud.layout = "old"
    world.machine.sessions = [FakeSession(epochs=1)]
    assert world.campaign().sessions == 2
    assert world.done() == [0]
    assert world.authors() == [push.id for push in world.kernel.pushes]


@pytest.mark.parametrize("name", ["masks.csv", "gatemask-records.json"])
def test_a_damaged_file_in_a_mounted_dataset(world: World, name: str) -> None:
    content = world.cloud.datasets[RECORDS][0][name]
    assert isinstance(content, bytes)
    world.cloud.datasets[RECORDS][0][name] = content[:-2] + b"\0\0"
    world.push()
    world.wait()
    assert world.kernel.last.outcome == "lost"
    assert name in (world.kernel.last.message or "")
    assert "elete the dataset on Kaggle" in (world.kernel.last.message or "")
    del world.cloud.datasets[RECORDS]  # as the message says
    ends_well(world, versions=2)


# --- the way home ------------------------------------------------------------------------------------------------

WRONG_FILES = {
    "403": Fault("output-file", 403, "<html>Forbidden</html>"),
    "short": Fault("output-file", None, short=True),
    "broken": Fault("output-file", break_off=True),
}


@pytest.mark.parametrize("name", WRONG_FILES)
@pytest.mark.parametrize("often", [False, True], ids=["once", "always"])
def test_a_wrong_file_in_an_output_is_fetched_again(world: World, name: str, often: bool) -> None:
    fault = WRONG_FILES[name]

    def weights(request: dict[str, Any]) -> bool:
        return request["file"].endswith("best.weights.h5")

    again = Fault("output-file", fault.status, fault.body, break_off=fault.break_off, short=fault.short, when=weights)
    again.times = 1000 if often else 1
    world.cloud.faults.append(again)
    world.push()
    if often:
        world.finish()
        assert "fetch" in str(error := refusal(world.fetch)) or "broke" in str(error)
        assert not world.fold().exists()
        assert world.kernel.last.state == "running"
        world.cloud.faults.clear()
    ends_well(world)


TROUBLE = {429: "Too many requests", 500: "Internal server error", 503: "The service is unavailable."}


@pytest.mark.parametrize("status", TROUBLE)
@pytest.mark.parametrize("page", [False, True], ids=["json", "page"])
def test_a_service_in_trouble_is_asked_again(world: World, status: int, page: bool) -> None:
    headers = {"Retry-After": "1"} if status == 429 else {}
    body = "<html>sorry</html>" if page else {"code": status, "message": TROUBLE[status]}
    for method in ("GetKernelSessionStatus", "ListKernelSessionOutput"):
        world.cloud.faults.append(Fault(method, status, body, headers))
    ends_well(world)
    assert not world.cloud.faults


@pytest.mark.parametrize("command", ["wait", "campaign"])
def test_a_network_that_is_away_for_a_while(world: World, command: str) -> None:
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
def test_a_network_that_goes_with_a_push_of_a_campaign(world: World, after: bool) -> None:
    world.cloud.faults.append(Fault("SaveKernel", break_off=True, after=after))
    world.cloud.faults.append(Fault("GetKernel", break_off=True, times=4))
    result = world.campaign()
    assert not world.cloud.faults
    assert not result.given_up
    assert world.done() == [0]
    assert len(world.versions()) == 1
    assert [push.outcome for push in world.kernel.pushes] == ["finished"]


@pytest.mark.parametrize("killed", [False, True], ids=["complete", "killed"])
def test_an_output_of_an_earlier_version_is_not_taken_for_this_one(world: World, killed: bool) -> None:
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


def test_an_output_of_many_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 2)
    ends_well(world)
    assert world.cloud.methods().count("ListKernelSessionOutput") > 1


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ends_well(world)


def test_a_run_of_other_settings_is_set_aside(world: World) -> None:
    train_fold(world.inputs(FOUR), 0, "me")
    world.push()
    world.wait()
    assert world.done() == [0]
    aside = world.fold().with_name("fold0.replaced1")
    assert read_json(aside / "result.json")["made_from"] == world.inputs(FOUR).made_from(0)
    ends_well(world)


def test_a_run_that_was_finished_here_stays(world: World) -> None:
    world.push()
    train_fold(world.inputs(), 0, "me")
    world.wait()
    assert set(world.authors()) == {"me"}
    ends_well(world)


@pytest.mark.parametrize(("here", "there", "stays"), [(3, 1, True), (1, 3, False)])
def test_of_two_unfinished_runs_the_longer_one_stays(world: World, here: int, there: int, stays: bool) -> None:
    world.machine.sessions = [FakeSession(epochs=there)]
    world.push(FOUR)
    train_fold(world.inputs(FOUR), 0, "me", epochs=here)
    world.wait()
    assert len(world.authors()) == 3
    assert (world.authors()[-1] == "me") == stays
    train_fold(world.inputs(FOUR), 0, "me")
    assert world.done(FOUR) == [0], "it goes on from there"


def test_records_that_were_changed_between_two_sessions(world: World) -> None:
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
    assert set(world.authors()) == {world.kernel.last.id}, "an epoch on other records is no part of it"
    assert world.fold().with_name("fold0.replaced1").is_dir(), "but it is kept"


# --- commands that are killed, and two at once -------------------------------------------------------------------


def asked(world: World, method: str) -> bool:
    return method in world.cloud.methods()


def kill(world: World, when: Callable[[], bool], *arguments: str) -> None:
    """Start the real command, and kill it as soon as something holds."""
    command = world.command(*arguments)
    process = subprocess.Popen(
        command, env=world.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 120
    while not when():
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


HELD = [("blob", False), ("CreateDataset", False), ("CreateDataset", True), ("SaveKernel", False), ("SaveKernel", True)]


@pytest.mark.parametrize(("method", "after"), HELD, ids=[f"{'after' if a else 'before'}-{m}" for m, a in HELD])
def test_a_push_that_is_killed(world: World, method: str, after: bool) -> None:
    """Amid an upload, on either side of its end, and on either side of the push itself."""
    if method != "SaveKernel":
        del world.cloud.datasets[RECORDS]
    world.cloud.faults.append(Fault(method, hang_s=300, break_off=True, after=after))
    push = ("push", f"{COMP}/{EXP}", "--fold", "0")

    def held() -> bool:
        there = world.cloud.kernels if method == "SaveKernel" else world.cloud.datasets.get(RECORDS)
        return asked(world, method) and (bool(there) or not after)

    kill(world, held, *push)
    assert len(world.push().pushed) == int((method, after) != ("SaveKernel", True))
    ends_well(world)
    assert len(world.cloud.datasets[RECORDS]) == 1


def test_a_push_that_is_killed_while_kaggle_processes_its_dataset(empty: World) -> None:
    empty.cloud.processing = 10**6

    def waits() -> bool:
        methods = empty.cloud.methods()
        return "CreateDataset" in methods and "GetDatasetStatus" in methods[methods.index("CreateDataset") :]

    kill(empty, waits, "push", f"{COMP}/{EXP}", "--fold", "0")
    empty.cloud.processing = 0
    empty.cloud._pending.clear()
    ends_well(empty)
    assert len(empty.cloud.datasets[RECORDS]) == 1


@pytest.mark.parametrize("command", ["wait", "campaign"])
@pytest.mark.parametrize("moment", ["queued", "running", "fetching"])
def test_a_command_that_is_killed_while_it_waits(world: World, command: str, moment: str) -> None:
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
    kill(world, lambda: asked(world, "output-file" if moment == "fetching" else "GetKernelSessionStatus"), *arguments)
    for version in world.versions() if moment == "queued" else []:
        assert version.state == "QUEUED"
        version.run.queue = 1
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
    "between placing and noting": "from gatemask.kaggle.train import collect as where; name = 'save_kernel'\n"
    "here = lambda project, kernel: kernel.last.state == 'fetched'",
}
DIES = """
import os, signal
from gatemask import cli
%s
real = getattr(where, name)
def dies(*arguments):
    if here(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(where, name, dies)
cli.main(["fetch", "phantom", "--quick"])
"""


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_fetch_that_is_killed_while_it_places_a_run(world: World, moment: str) -> None:
    world.machine.sessions = [FakeSession(epochs=1)]
    world.push()
    world.wait()  # so that an older state is there
    world.push()
    world.finish()
    command = [sys.executable, "-c", DIES % KILLED_AT[moment]]
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert world.fold().exists() == (moment == "between placing and noting")
    assert world.fetch().fetched
    assert not list(world.fold().parent.glob(".*"))
    assert world.authors() == [push.id for push in world.kernel.pushes]
    ends_well(world, versions=2)


def test_two_commands_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    world.machine.sessions = [FakeSession(until=release)]
    world.push()
    waits = subprocess.Popen(
        world.command("wait", COMP), env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        while not asked(world, "GetKernelSessionStatus"):
            assert waits.poll() is None
            time.sleep(0.01)
        monkeypatch.setattr("gatemask.files.LOCK_S", 0.0)
        for command in (partial(world.push, folds=[1]), world.fetch, world.wait, world.campaign, world.resume):
            assert "Another gatemask command" in str(refusal(command))
        (kernel,) = commands.kernel_statuses(world.project, None).kernels
        assert kernel.state == "running", "asking for the status needs no lock"
        assert len(world.cloud.kernels) == 1
        release.set()
        answer = json.loads(waits.communicate(timeout=120)[0])
    finally:
        waits.kill()
        waits.wait()
    assert [one["done"] for one in answer["fetched"]] == [[0]]
    ends_well(world)


def test_the_command_line_ends_with_1_where_a_fold_was_given_up(world: World) -> None:
    world.machine.sessions = [FakeSession(crash="no more of this")]
    arguments = world.command("campaign", COMP, "--experiments", EXP, "--fold", "0")[3:]
    done = gatemask(*arguments, root=world.project.root)
    assert done.returncode == 1
    assert "no more of this" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["given_up"]


real, write_metadata, rename = api.kaggle, KernelMetadata.write, Path.rename


def write_with_another_title(metadata: KernelMetadata, folder: Path) -> Path:
    path = write_metadata(metadata, folder)
    return write_json(path, {**read_json(path), "title": "something else"})
