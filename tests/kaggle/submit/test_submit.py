"""`gatemask submit` with the real kaggle command: success, all kinds of failure, and nothing done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import load_competition
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import read_json, sha256
from gatemask.kaggle.client import api, datasets, reconcile
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.submit import package, submission_records, submit
from gatemask.project import Project
from gatemask.submission import check
from gatemask.submission.scoring import score_submission
from tests.conftest import Loop, gatemask, kill_when, run_python, slow
from tests.kaggle.cloud import KEY, Cloud, Fault, Run, serve, stand_in
from tests.kaggle.cloud_http import requests_of
from tests.kaggle.submit.shipping import (
    COMPETITION,
    DATASET,
    IDS,
    KERNEL,
    SAMPLE,
    SCRIPT,
    Desk,
    prepare,
    real_submission,
    ship,
    stamp_rehearsal,
)
from tests.kaggle.warm import GATEMASK, starter

pytestmark = pytest.mark.integration


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_kaggle: Path) -> Iterator[Desk]:
    """Return a fake Kaggle and a project with a rehearsed package."""
    project = prepare(tmp_path / "project")
    ship(project)
    with stand_in(tmp_path, monkeypatch) as cloud:
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", starter(warm_kaggle))
        monkeypatch.setenv("WARM_KAGGLE", str(warm_kaggle))
        cloud.competitions[COMPETITION] = {"sample_submission.csv": SAMPLE.encode()}
        yield Desk(cloud, project)


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> GatemaskError:
    """Return the error that a call raises; it must not contain the API key."""
    with pytest.raises(GatemaskError) as caught:
        call(*arguments, **more)
    assert KEY not in str(caught.value)
    return caught.value


class KilledError(BaseException):
    """Stands in for SIGKILL: nothing may catch it."""


# --- success --------------------------------------------------------------------------------------------


def test_version_and_score_are_recorded_and_a_second_call_submits_nothing(desk: Desk) -> None:
    desk.cloud.queueing, desk.cloud.processing, desk.cloud.scoring = 2, 2, 3
    desk.cloud.score = lambda file: (0.8123, 0.7991)
    result = desk.submit(message="the first try")
    assert not result["current"]
    wanted = {"state": "scored", "version": 1, "ref": KERNEL, "public": 0.8123, "private": 0.7991, "local": 0.8}
    wanted |= {"dataset": DATASET, "dataset_version": 1, "rehearsed": True, "images": len(IDS), "seconds": 1.5}
    assert {name: result[name] for name in wanted} == wanted
    assert result["package"] == package.require_package(desk.project, desk.competition())
    assert result["timings"]["unet_b0-fold0"] == {"images": 3, "seconds_per_image": 0.4}
    assert result["experiments"] == ["gate_r18", "unet_b0"]
    assert result["submission_sha256"] == sha256(desk.versions()[0].output / "submission.csv")
    kept = submission_records.submissions_folder(desk.project) / result["file"]
    assert (kept.name, sha256(kept)) == (f"{result['id']}.csv", result["submission_sha256"])
    assert {name: value for name, value in result.items() if name != "current"} == desk.stored()

    (asked,) = requests_of(desk.cloud, "CreateCodeSubmission")
    assert (asked["competitionName"], asked["fileName"], asked["kernelVersion"]) == (COMPETITION, "submission.csv", 1)
    assert "the first try" in asked["submissionDescription"]
    assert "local 0.8000, 3 members" in asked["submissionDescription"]
    (pushed,) = requests_of(desk.cloud, "SaveKernel")
    assert pushed["datasetDataSources"] == [DATASET], "the missing owner is replaced by this account"
    assert pushed["enableInternet"] is False
    (files,) = desk.cloud.datasets[DATASET]
    assert set(files) > {path.name for path in (desk.project.dist / "dataset").iterdir()} - {"dataset-metadata.json"}

    asked_before = len(desk.cloud.asked)
    again = desk.submit()
    assert again == {**result, "current": True}
    assert desk.cloud.methods()[asked_before:] == ["ListSubmissions"]
    assert submission_records.submission_log_path(desk.project, desk.record).read_text().endswith("here is a kernel\n")


def test_image_scores_of_the_ensemble_are_kept_with_the_record(desk: Desk) -> None:
    desk.submit()
    kept = submission_records.image_scores_path(desk.project, desk.record)
    assert not kept.exists(), "an earlier version selected the ensemble"
    scores = desk.project.runs / "ensemble" / "scores.npz"
    scores.write_bytes(b"scores")
    assert desk.submit()["current"]
    assert kept.read_bytes() == b"scores"
    scores.write_bytes(b"of a later ensemble")
    desk.submit()
    assert kept.read_bytes() == b"scores"


def test_the_packaged_kernel_is_not_changed(desk: Desk) -> None:
    before = {path: path.read_bytes() for path in desk.project.dist.rglob("*") if path.is_file()}
    desk.submit()
    assert {path: path.read_bytes() for path in before} == before


def test_late_scores_are_recorded_by_the_next_call(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[str] = []  # to W&B
    monkeypatch.setattr(submit, "send_at_once", lambda _, paths: offered.extend(path.stem for path in paths))
    desk.cloud.scoring = 3
    desk.cloud.score = lambda file: (0.7, None)
    assert desk.submit(wait=False)["state"] == "submitted"
    assert desk.record.public is None
    again = desk.submit(wait=False)
    assert again["state"] == "submitted"
    assert again["current"]
    done = desk.finishes()
    assert (done["public"], done["private"]) == (0.7, None)
    desk.cloud.entries[COMPETITION][0].scores = (0.7, 0.65)  # the competition has ended
    assert desk.submit()["private"] == 0.65
    assert desk.stored()["private"] == 0.65
    assert offered == [desk.record.id] * 5


def test_another_package_is_another_submission(desk: Desk) -> None:
    first = desk.submit()
    ship(desk.project, local=0.9)
    second = desk.submit()
    assert not second["current"]
    assert second["version"] == second["dataset_version"] == 2
    assert second["id"] != first["id"]
    assert [record.local for record in desk.records()] == [0.8, 0.9]
    assert len(desk.descriptions()) == 2


def test_a_new_package_while_the_kernel_of_the_last_one_is_queued(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.cloud.queueing = 4
    with monkeypatch.context() as killed:
        killed.setattr(submit.Submitter, "wait_for_kernel", stop)
        with pytest.raises(KilledError):
            desk.submit()
    ship(desk.project, local=0.9)
    assert desk.submit()["state"] == "scored"
    first, second = desk.records()
    assert first.state == "failed"
    assert "abandoned for another package" in (first.message or "")
    assert (second.version, len(desk.descriptions())) == (2, 1)
    assert desk.versions()[1].run is not desk.versions()[0].run, "it waited for the end of the other run"


def stop(*_: Any) -> None:
    raise KilledError


# --- requirements -----------------------------------------------------------------------------------


def test_an_unrehearsed_package_is_rejected_unless_forced(desk: Desk) -> None:
    ship(desk.project, local=0.81, rehearsed=False)  # the rehearsal belongs to the earlier one
    error = refusal(desk.submit)
    assert "rehearsal belongs to another package" in str(error)
    assert "gatemask rehearse phantom" in str(error)
    assert "--force" in str(error)
    assert not desk.cloud.asked
    assert not desk.records()
    result = desk.submit(force=True)
    assert (result["state"], result["rehearsed"]) == ("scored", False)


def test_a_package_rehearsed_after_the_rejection_is_submitted(desk: Desk) -> None:
    ship(desk.project, local=0.81, rehearsed=False)
    refusal(desk.submit)
    stamp_rehearsal(desk.project)
    assert desk.finishes()["rehearsed"]


def test_a_missing_outdated_or_changed_package_is_rejected(desk: Desk) -> None:
    assert "no kaggle.competition" in str(refusal(desk.submit, "kaggle.competition=null"))
    weights = desk.project.dist / "dataset/gate_r18-fold0.weights.h5"
    content = weights.read_bytes()
    weights.write_bytes(b"other weights")
    assert "missing or have changed" in str(refusal(desk.submit))
    weights.write_bytes(content)
    ensemble = desk.project.runs / "ensemble/ensemble.yaml"
    chosen = ensemble.read_bytes()
    ensemble.write_bytes(b"other: members")
    assert "older than the ensemble" in str(refusal(desk.submit))
    ensemble.write_bytes(chosen)
    stamp = (desk.project.dist / "package.json").rename(desk.project.dist / "aside")
    assert "Nothing is packaged" in str(refusal(desk.submit))
    stamp.rename(desk.project.dist / "package.json")
    assert not desk.cloud.asked
    desk.finishes()


def test_a_package_made_while_another_runs_is_not_submitted_in_its_place(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, requests = api.kernel_status, []

    def status(ref: str) -> api.KernelStatus:
        requests.append(ref)
        if len(requests) == 2:  # the first one is before the push
            ship(desk.project, local=0.9, rehearsed=False)
        return real(ref)

    desk.cloud.queueing = 3
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(api, "kernel_status", status)
        result = desk.submit()
    assert (result["state"], result["local"], result["version"]) == ("scored", 0.8, 1)
    assert "was not rehearsed" in str(refusal(desk.submit)) or "another package" in str(refusal(desk.submit))
    assert len(desk.descriptions()) == 1


def test_a_package_made_before_a_second_push_replaces_the_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(folder: Path, limit_s: int) -> int:
        ship(desk.project, local=0.9)
        raise KaggleError("The connection broke.", kind="network")

    with monkeypatch.context() as broken:
        broken.setattr(api, "push_kernel", lost)
        with pytest.raises(KaggleError):
            desk.submit()
    result = desk.submit()
    assert (result["local"], result["state"]) == (0.9, "scored")
    assert len(desk.descriptions()) == 1


def test_uncommitted_files_are_rejected(desk: Desk) -> None:
    assert "no commit to record" in str(refusal(desk.submit, allow_dirty=False))
    desk.finishes()


def test_a_secret_is_not_uploaded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import this\n# my key is a-very-secret-word\n"
    with monkeypatch.context() as patched:
        patched.setenv("MY_SECRET", "a-very-secret-word")
        patched.setattr("tests.kaggle.submit.shipping.SCRIPT", script)
        ship(desk.project)
        assert "A secret would be uploaded" in str(refusal(desk.submit))
    ship(desk.project)
    desk.finishes()


# --- killed and run again -----------------------------------------------------------------------------------

CALLS = {
    "dataset": (datasets, "ensure_uploaded"),
    "push": (api, "push_kernel"),
    "output": (api, "kernel_output"),
    "submit": (api, "submit"),
    "list": (api, "submissions"),
}


@pytest.mark.parametrize(
    ("call", "after"),
    [
        # Before most requests, all is as after the one before.
        (call, after) if after or call in ("push", "submit") else slow(call, after)
        for call in CALLS
        for after in (False, True)
    ],
)
def test_killed_at_a_request_it_continues_from_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    module, name = CALLS[call]
    real = getattr(module, name)

    def killed(*arguments: Any, **more: Any) -> Any:
        if after:
            real(*arguments, **more)
        raise KilledError

    with monkeypatch.context() as kill:
        kill.setattr(module, name, killed)
        with pytest.raises(KilledError):
            desk.submit()
    result = desk.finishes()
    assert result["version"] == 1
    assert len(desk.cloud.datasets[DATASET]) == 1


@pytest.mark.parametrize("number", [0, slow(1), 2, slow(3), 4, slow(5), 6])
def test_killed_after_any_recorded_state(desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    written: list[str] = []

    def save(project: Any, record: Any, real: Any = submission_records.save_record) -> None:
        real(project, record)
        written.append(record.state)
        if len(written) > number:
            raise KilledError

    with monkeypatch.context() as kill:
        kill.setattr(submission_records, "save_record", save)
        with pytest.raises(KilledError):
            desk.submit()
    assert written[-1] == desk.stored()["state"]
    desk.finishes()


@pytest.mark.parametrize("method", ["SaveKernel", pytest.param("CreateCodeSubmission", marks=pytest.mark.slow)])
def test_sigkill_while_kaggle_answers(desk: Desk, method: str) -> None:
    """A real process, killed after Kaggle has carried out the request and before it answers."""
    desk.cloud.faults.append(Fault(method, None, hang_s=20, after=True))
    arguments = ["submit", "phantom", "--quick", "--allow-dirty", "--poll", "0.05", "--json"]
    made = desk.versions if method == "SaveKernel" else desk.descriptions
    kill_when(lambda _: made(), "-c", GATEMASK, *arguments, root=desk.project.root)
    assert desk.stored()["state"] == ("pushing" if method == "SaveKernel" else "submitting")
    done = run_python("-c", GATEMASK, *arguments, root=desk.project.root)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert (result["state"], result["version"]) == ("scored", 1)
    assert len(desk.versions()) == len(desk.descriptions()) == 1
    again = run_python("-c", GATEMASK, *arguments, root=desk.project.root)
    assert json.loads(again.stdout)["current"]
    board = gatemask("leaderboard", "phantom", "--quick", root=desk.project.root)
    assert board.returncode == 0, board.stderr[-2000:]
    for words in ("local", "public", "private", "Too few scores", "leaderboard.png"):
        assert words in board.stderr
    assert len(desk.versions()) == len(desk.descriptions()) == 1


def test_the_number_of_a_version_is_found_after_a_lost_answer(desk: Desk) -> None:
    for local in (0.6, 0.7):
        ship(desk.project, local=local)
        desk.submit()
    shutil.rmtree(submission_records.submissions_folder(desk.project))  # no record of earlier versions is left
    for local in (0.75, 0.76, 0.77):
        ship(desk.project, local=local)
        desk.cloud.daily += 1
        desk.cloud.faults.append(Fault("SaveKernel", break_off=True, after=True))
        desk.submit()
    assert [record.version for record in desk.records()] == [3, 4, 5]
    assert [entry.request["kernelVersion"] for entry in desk.cloud.entries[COMPETITION]] == [1, 2, 3, 4, 5]


def test_a_version_of_unknown_number_is_pushed_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.cloud.faults.append(Fault("SaveKernel", break_off=True, after=True))
    monkeypatch.setattr(reconcile, "find_version", lambda *_: None)
    result = desk.submit()
    assert (result["state"], result["version"], result["pushes"]) == ("scored", 2, 2)


# --- failures on the way ---------------------------------------------------------------------------------


def test_a_push_refused_with_exit_code_0(desk: Desk) -> None:
    desk.cloud.faults.append(Fault("SaveKernel", 200, {"error": "Something about this kernel is not right."}))
    assert "Something about this kernel" in str(refusal(desk.submit))
    assert desk.record.state == "packaged"
    desk.finishes()


def test_a_dataset_dropped_from_the_push(desk: Desk) -> None:
    def gone(_: dict[str, Any]) -> bool:
        return desk.cloud.datasets.pop(DATASET, None) is not None

    desk.cloud.faults.append(Fault("SaveKernel", None, when=gone))
    assert DATASET in str(refusal(desk.submit))
    assert desk.record.state == "failed"
    desk.finishes(versions=2)


@pytest.mark.parametrize(
    ("method", "broken", "after"),
    [
        # Each pair of values occurs in a fast test.
        (method, broken, after) if (method == "SaveKernel") ^ broken ^ after else slow(method, broken, after)
        for method in ("SaveKernel", "CreateCodeSubmission")
        for broken in (False, True)
        for after in (False, True)
    ],
)
def test_an_unclear_answer_is_looked_up(desk: Desk, method: str, after: bool, broken: bool) -> None:
    desk.cloud.faults.append(Fault(method, 500, break_off=broken, after=after))
    if not after:
        error = str(refusal(desk.submit))
        assert "broke" in error or "server failed" in error
    desk.finishes()


@pytest.mark.parametrize("method", ["SaveKernel", "CreateCodeSubmission"])
def test_a_hanging_request_is_looked_up(desk: Desk, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.cloud.faults.append(Fault(method, hang_s=30, break_off=True, after=True))
    real = api.kaggle
    slow = ("push", "submit")
    with monkeypatch.context() as short:
        short.setattr(api, "kaggle", lambda *a, **k: real(*a, **{**k, "limit_s": 2 if a[1] in slow else 60}))
        assert desk.submit()["state"] == "scored"
    desk.finishes()


def test_a_submission_listed_late(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.cloud.faults += [
        Fault("CreateCodeSubmission", break_off=True, after=True),
        Fault("ListSubmissions", 200, {"submissions": []}, times=2),
    ]
    refusal(desk.submit)  # not listed yet; it may be on its way
    assert desk.record.state == "submitting"
    desk.finishes()


def test_an_old_version_of_the_dataset_causes_one_more_push(desk: Desk) -> None:
    desk.submit()
    ship(desk.project, local=0.9)
    late = Fault("SaveKernel", None, when=lambda _: desk.cloud.stale.add(DATASET) is None)
    runner = desk.cloud.runner

    def mounted(run: Any) -> int:
        desk.cloud.stale.clear()
        return runner(run)

    desk.cloud.runner = mounted
    desk.cloud.faults.append(late)
    result = desk.submit()
    assert (result["state"], result["version"], result["pushes"]) == ("scored", 3, 2)
    assert [entry.request["kernelVersion"] for entry in desk.cloud.entries[COMPETITION]] == [1, 3]

    ship(desk.project, local=0.95)
    desk.cloud.faults += [Fault("SaveKernel", None, when=late.when, times=2)]
    error = refusal(desk.submit)
    assert "another version of the dataset" in str(error)
    assert len(desk.versions()) == 5
    assert desk.records()[-1].state == "failed"
    desk.finishes(versions=6, submitted=3)


def test_a_failed_kernel_is_reported_with_the_end_of_its_log(desk: Desk) -> None:
    desk.cloud.variables["CRASH"] = "no such layer: top_conv"
    error = refusal(desk.submit)
    assert "no such layer: top_conv" in str(error)
    assert "exited with code 3" in str(error)
    assert f"{KERNEL}, version 1" in str(error)
    assert desk.record.state == "failed"
    assert "no such layer" in submission_records.submission_log_path(desk.project, desk.record).read_text()
    assert not desk.descriptions()
    del desk.cloud.variables["CRASH"]
    desk.finishes(versions=2)


def test_the_output_of_an_earlier_version_is_not_accepted(desk: Desk) -> None:
    desk.submit()
    first = desk.versions()[0].run
    ship(desk.project, local=0.9)
    real = desk.cloud.latest
    asked = []

    def latest(owner: str, slug: str) -> Any:
        """Status and output lag behind: the first answers are those of the first version."""
        newest = real(owner, slug)
        if "/" in slug or newest.number == 1 or len(asked) > 4:
            return newest
        asked.append(slug)
        return first if hasattr(first, "run") else newest.__class__(1, first.request, first.source, first)

    desk.cloud.latest = latest  # type: ignore[method-assign]
    result = desk.submit()
    assert len(asked) > 4
    assert (result["state"], result["version"], result["pushes"]) == ("scored", 2, 1)


def test_a_degraded_kernel_is_not_submitted_unless_forced(desk: Desk) -> None:
    desk.cloud.variables["DEGRADED"] = "Time ran out: unet_b0-fold1 was left out."
    error = refusal(desk.submit)
    assert "unet_b0-fold1 was left out" in str(error)
    assert "--force" in str(error)
    assert desk.record.state == "ran"
    refusal(desk.submit)
    assert len(desk.versions()) == 1
    assert not desk.descriptions()
    result = desk.submit(force=True)
    assert result["state"] == "scored"
    assert result["degraded"] == ["Time ran out: unet_b0-fold1 was left out."]
    assert len(desk.versions()) == 1


def test_an_invalid_submission_is_not_submitted(desk: Desk) -> None:
    desk.cloud.variables["WRONG"] = "ids"
    assert "2 missing" in str(refusal(desk.submit))
    assert desk.record.state == "failed"
    assert not desk.descriptions()
    desk.cloud.variables.clear()
    desk.finishes(versions=2)


def test_without_a_sample_the_kernels_report_suffices(desk: Desk) -> None:
    (desk.project.data / "raw/sample_submission.csv").unlink()
    desk.finishes()


@pytest.mark.parametrize(
    ("wrong", "message"), [("account", "cannot be fetched completely"), ("none", "did not write inference.json")]
)
def test_a_wrong_or_missing_report(desk: Desk, wrong: str, message: str) -> None:
    desk.cloud.variables["WRONG"] = wrong
    assert message in str(refusal(desk.submit))
    assert not desk.descriptions()
    assert desk.record.state == ("running" if wrong == "account" else "failed")


REFUSED, SHORT = {"status": 403, "body": "<html>no</html>"}, {"status": None, "short": True}


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("submission.csv", SHORT),
        ("inference.json", REFUSED),
        slow("submission.csv", REFUSED),
        slow("inference.json", SHORT),
    ],
)
def test_a_damaged_file_is_fetched_again(desk: Desk, file: str, fault: dict[str, Any]) -> None:
    desk.cloud.faults.append(Fault("output-file", **fault, when=lambda asked: asked["file"].endswith(file)))
    desk.finishes()
    assert sum(asked["file"].endswith(file) for asked in requests_of(desk.cloud, "output-file")) >= 2


# --- Kaggle's refusals -------------------------------------------------------------------------------------------


def test_at_the_daily_limit_the_run_is_kept_for_the_next_day(desk: Desk) -> None:
    desk.cloud.daily = 0
    error = refusal(desk.submit)
    assert "submissions of this day are used up" in str(error)
    assert "9.6 hours from now" in str(error)
    assert "midnight UTC" in str(error)
    assert desk.record.state == "ran"
    desk.cloud.daily = 1
    desk.finishes()


def test_unaccepted_rules(desk: Desk) -> None:
    files = desk.cloud.competitions.pop(COMPETITION)
    refused = {"code": 403, "message": "You must accept this competition's rules before you'll be able to submit."}
    error = refusal(desk.submit)  # the push drops the competition's files
    assert COMPETITION in str(error)
    desk.cloud.competitions[COMPETITION] = files
    desk.cloud.faults.append(Fault("CreateCodeSubmission", 403, refused))
    error = refusal(desk.submit)
    assert f"/c/{COMPETITION}/rules" in str(error)
    assert desk.records()[-1].state == "ran"
    desk.finishes(versions=2)


@pytest.mark.parametrize(
    "method", ["SaveKernel", "ListSubmissions", slow("CreateCodeSubmission"), slow("GetKernelSessionStatus")]
)
def test_dead_credentials(desk: Desk, method: str) -> None:
    dead = {"code": 401, "message": "Unauthenticated"}
    desk.cloud.faults.append(Fault(method, 401, dead, times=2))
    if method == "GetKernelSessionStatus":  # the command reports it as a missing kernel
        desk.cloud.faults.append(Fault("GetKernel", 401, dead))
    assert "401" in str(refusal(desk.submit))
    desk.cloud.faults.clear()
    desk.finishes()


def test_waiting_survives_a_night_without_a_network(desk: Desk) -> None:
    desk.cloud.scoring = 2
    desk.cloud.faults += [
        Fault("GetKernelSessionStatus", break_off=True, times=4, when=lambda _: bool(desk.versions())),
        Fault("ListSubmissions", 503, times=4),
    ]
    desk.finishes()


def test_a_submission_that_cannot_be_scored_is_not_repeated_unless_forced(desk: Desk) -> None:
    def fails(file: Path) -> tuple[float, float]:
        raise ValueError("Evaluation metric raised an unexpected error.")

    good, desk.cloud.score = desk.cloud.score, fails
    assert "could not score" in str(refusal(desk.submit))
    assert desk.record.state == "failed"
    assert "already" in str(refusal(desk.submit))
    assert len(desk.descriptions()) == 1
    desk.cloud.score = good
    assert desk.submit(force=True)["state"] == "scored"
    assert len(desk.descriptions()) == 2


def test_waiting_ends_when_no_score_is_ever_shown(desk: Desk) -> None:
    desk.cloud.score = lambda file: (None, None)
    assert desk.submit()["state"] == "submitted"
    desk.cloud.entries[COMPETITION][0].scores = (0.5, None)
    desk.finishes()


def test_an_unknown_answer(desk: Desk) -> None:
    desk.cloud.faults.append(Fault("CreateCodeSubmission", 200, {"message": "Something new"}))
    assert "Could not parse the output of" in str(refusal(desk.submit))
    assert desk.record.state == "submitting"
    desk.finishes()


# --- small parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        SCRIPT,
        '"""Only words."""',
        "",
        "x = 1\n",
        "from __future__ import annotations\nx: int = 1\n",
        '"""Words."""\n\nfrom __future__ import (\n    annotations,\n)\nx = 1\n',
    ],
)
def test_the_mark_is_printed_first_and_the_script_stays_valid(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    marked = submit.insert_mark(source, "0123456789ab")
    code = compile(marked, "script.py", "exec")
    if source is not SCRIPT:
        exec(code, {})
        assert capsys.readouterr().out == "gatemask push 0123456789ab\n"
    kept = marked.replace('print("gatemask push 0123456789ab", flush=True)\n', "")
    assert kept.rstrip("\n") == source.rstrip("\n")


def test_the_list_of_submissions(desk: Desk) -> None:
    assert api.submissions(COMPETITION) == []
    desk.cloud.score = lambda file: (0.25, None)
    desk.submit()
    (listed,) = api.submissions(COMPETITION)
    assert (listed.status, listed.public, listed.private) == ("complete", 0.25, None)
    assert listed.ref == desk.record.submission
    assert listed.date.startswith("2026-11-25T12:00")
    assert reconcile.push_arrived(KERNEL, desk.stored()["push"])


# --- end to end: the real package and kernel --------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_package_from_the_loop_to_a_score(
    phantom_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package of `gatemask loop phantom --quick` runs as on Kaggle, and is scored."""
    root = tmp_path / "project"
    shutil.copytree(phantom_loop.root, root, symlinks=True)
    project = Project(root, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    truth = Masks(project.data / "test_masks.csv", comp.image.size)
    prefix, _ = sandbox.isolation()
    python, _ = sandbox.make_image(tmp_path / "image", refuse_sockets=not prefix)

    def machine(run: Run) -> int:
        """Run a session with the packages of Kaggle's image and no network."""
        script = run.folder / "script.py"
        script.write_text(run.source)
        code = sandbox.run([*prefix, str(python), str(script)], run.kaggle, run.folder, run.timeout_s)
        return -9 if code is None else code

    cloud = Cloud(tmp_path / "cloud", runner=machine, score=lambda file: (score_submission(file, comp, truth), None))
    with serve(cloud):
        for name, value in cloud.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        result = real_submission(cloud, project)
        assert real_submission(cloud, project)["current"]
    assert cloud.errors == []
    assert (result["state"], result["version"], result["degraded"]) == ("scored", 1, [])
    rehearsed = read_json(project.runs / "rehearsal/result.json")
    assert result["images"] == len(check.visible_table(project, comp).image_ids)
    assert result["public"] == pytest.approx(rehearsed["submission_score"], abs=1e-4)
