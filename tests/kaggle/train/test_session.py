"""Tests of the session inside the kernel: initial weights, W&B, the account, and its separate process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from gatemask.config import load_competition, load_experiment
from gatemask.data import extra_sources
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_json, write_yaml
from gatemask.kaggle.client import datasets
from gatemask.kaggle.train import inputs, session, session_compiled, session_inputs
from gatemask.kaggle.train.session_compiled import unpack_compiled
from gatemask.kaggle.train.session_output import SessionOutput
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, FoldAccount, SessionAccount
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.initial_weights import find_initial_weights
from tests.kaggle.train.test_bundle import SESSION

pytestmark = pytest.mark.integration

TWO_FOLDS = SESSION.model_copy(update={"folds": (0, 1)})


@pytest.fixture
def root(phantom_records: Path, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("runs", "dist"))
    return root


def mount(project: Project, sources: list[datasets.Dataset], kaggle: Path, layout: str) -> Path:
    for source in sources:
        mount = kaggle / "input" / layout.format(slug=source.slug)
        mount.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(datasets.write_upload_folder(project, source, "me"), mount)  # copies, as links are followed
    (kaggle / "working").mkdir(parents=True)
    return kaggle


# --- initial weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["{slug}", "datasets/me/{slug}", "a/b/c/{slug}"])
@pytest.mark.parametrize("kind", ["file", "run"])
def test_initial_weights_are_attached(root: Path, tmp_path: Path, kind: str, layout: str) -> None:
    project = Project(root, "phantom", quick=True)
    if kind == "file":
        weights = "data/weights/mine.h5"
        (root / weights).parent.mkdir(parents=True)
        (root / weights).write_bytes(b"weights")
    else:
        weights = "run:before"
        before = load_experiment(project.experiments / "unet_b0.yaml", quick=True)
        for fold in (0, 1):
            run = project.fold("before", fold)
            run.mkdir(parents=True)
            (run / "best.weights.h5").write_bytes(b"weights of fold %d" % fold)
            write_yaml(run / "config.yaml", before.model_dump(mode="json"))
            outputs = {"best.weights.h5": sha256(run / "best.weights.h5")}
            write_json(run / "result.json", {"made_from": {"folds": sha256(project.folds)}, "outputs": outputs})
    (root / "experiments/phantom/late.yaml").write_text(f"extends: unet_b0.yaml\nmodel: {{weights: '{weights}'}}\n")
    comp = load_competition(project.experiments, quick=True)
    exp = load_experiment(project.experiments / "late.yaml", quick=True)
    sources = inputs.input_datasets(project, comp, exp, [0, 1])
    assert [dataset.kind for dataset in sources] == ["records", "wheels", "weights"]

    kaggle = mount(project, sources, tmp_path / "kaggle", layout)
    digests = {dataset.kind: dataset.digest for dataset in sources}
    request = SESSION.model_copy(update={"quick": True, "experiment": "late", "datasets": digests})
    mounted_inputs = session_inputs.find_inputs(kaggle / "input", request.datasets)
    payload = tmp_path / "payload"
    (payload / "folds").mkdir(parents=True)
    shutil.copy(project.folds, payload / "folds")
    session_inputs.link_project(payload, kaggle, request, mounted_inputs)
    for fold in (0, 1):
        start = find_initial_weights(Project(payload, "phantom", quick=True), exp, fold)
        assert start.kind == kind
        assert start.identity == find_initial_weights(project, exp, fold).identity, "the kernel would train another run"


def test_weights_outside_the_project_are_rejected(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.h5").write_bytes(b"weights")
    exp = load_experiment(
        root / "experiments/phantom/unet_b0.yaml", quick=True, overrides=[f"model.weights={tmp_path / 'mine.h5'}"]
    )
    project = Project(root, "phantom", quick=True)
    with pytest.raises(GatemaskError, match="weights outside the project's folder"):
        inputs.input_datasets(project, load_competition(project.experiments, quick=True), exp, [0])


def test_folds_that_start_from_runs_have_separate_datasets(root: Path) -> None:
    """Kernels that run at once would change a shared dataset."""
    project = Project(root, "phantom", quick=True)
    before = load_experiment(project.experiments / "unet_b0.yaml", quick=True)
    for fold in (0, 1):
        run = project.fold("before", fold)
        run.mkdir(parents=True)
        (run / "best.weights.h5").write_bytes(b"weights")
        write_yaml(run / "config.yaml", before.model_dump(mode="json"))
        write_json(
            run / "result.json", {"made_from": {"folds": sha256(project.folds)}, "outputs": {"best.weights.h5": ""}}
        )
    exp = load_experiment(project.experiments / "unet_b0.yaml", quick=True, overrides=["model.weights=run:before"])
    comp = load_competition(project.experiments, quick=True)
    first, second = (inputs.input_datasets(project, comp, exp, [fold])[-1] for fold in (0, 1))
    assert first.slug != second.slug


# --- sources ------------------------------------------------------------------------------------------------------


def test_sources_are_attached_and_leak_no_more_than_here(root: Path, tmp_path: Path) -> None:
    project = Project(root, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    raw = project.data / "raw"
    values = {"raw": str(raw), "train": {"images": "train/**/*.dcm"}, "labels": comp.labels.model_dump(mode="json")}
    project.source_file("again").parent.mkdir()
    write_yaml(project.source_file("again"), values)
    # All images are copies: each fold is left with those that it does not validate.
    extra_sources.make_sources(project, comp)
    exp = load_experiment(
        project.experiments / "unet_b0.yaml", quick=True, overrides=["data.extra=[again]", "sampling.epoch=4"]
    )
    sources = inputs.input_datasets(project, comp, exp, [0, 1])
    assert [dataset.kind for dataset in sources] == ["records", "wheels", "source-again"]
    kaggle = mount(project, sources, tmp_path / "kaggle", "{slug}")
    digests = {dataset.kind: dataset.digest for dataset in sources}
    request = SESSION.model_copy(update={"quick": True, "experiment": exp.name, "datasets": digests})
    payload = tmp_path / "payload"
    (payload / "folds").mkdir(parents=True)
    shutil.copy(project.folds, payload / "folds")
    mounted_inputs = session_inputs.find_inputs(kaggle / "input", request.datasets)
    there = session_inputs.link_project(payload, kaggle, request, mounted_inputs)
    for fold in (0, 1):
        here = TrainingInputs(project, comp, exp)
        kernel = TrainingInputs(there, comp, exp)
        assert kernel.made_from(fold) == here.made_from(fold), "the kernel would train another run"
        ids = {example.image_id.removeprefix("again/") for example in kernel.examples(fold).extra[0].examples}
        assert ids == {example.image_id for example in kernel.examples(fold).own}


# --- W&B ----------------------------------------------------------------------------------------------------------


def secret(monkeypatch: pytest.MonkeyPatch, answer: str | BaseException) -> None:
    class Client:
        def get_secret(self, name: str) -> str:
            assert name == "WANDB_API_KEY"
            if isinstance(answer, BaseException):
                raise answer
            return answer

    module = types.ModuleType("kaggle_secrets")
    module.UserSecretsClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ("k" * 40, "online"),
        ("", "offline"),
        (ValueError("no such secret"), "offline"),
        (SystemExit(1), "offline"),  # no failure of this client may end a training
    ],
)
def test_wandb_is_online_with_a_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: str | BaseException, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "before")
    monkeypatch.setenv("WANDB_API_KEY", "before")
    secret(monkeypatch, answer)
    session.set_up_wandb("offline")
    assert os.environ["WANDB_MODE"] == mode
    assert os.environ["WANDB_API_KEY"] == (answer if mode == "online" else "before")
    assert "k" * 40 not in "".join(capfd.readouterr())


def test_disabled_wandb_does_not_ask_for_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "before")
    secret(monkeypatch, AssertionError("was asked"))
    session.set_up_wandb("disabled")
    assert os.environ["WANDB_MODE"] == "disabled"


# --- the account ----------------------------------------------------------------------------------------------------


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def read_account(working: Path) -> dict[str, object]:
    return json.loads((working / ACCOUNT_FILE).read_text())


def test_account_lists_the_files_worth_fetching(tmp_path: Path) -> None:
    run = tmp_path / "runs/unet_b0/fold0"
    kept = [
        "best.weights.h5",
        "state/at-0001-00000.h5",
        "wandb/offline-run-1/run-1.wandb",
        "wandb/offline-run-1/files/a",
    ]
    removed = ["wandb/debug.log", "wandb/offline-run-1/logs/debug.log", ".tmp-best.weights.h5"]
    files(run, *kept, *removed)
    (run / "wandb/latest-run").symlink_to("offline-run-1")
    (run / "wandb/gone").symlink_to("nowhere")
    output = SessionOutput(tmp_path, SESSION, time.monotonic())
    output.record_fold(0, FoldAccount(done=True))
    assert set(read_account(tmp_path)["files"]) == {f"runs/unet_b0/fold0/{name}" for name in kept}  # type: ignore[call-overload]
    output.remove_unwanted_files()
    assert {p.relative_to(run).as_posix() for p in run.rglob("*") if not p.is_dir()} == set(kept)


def test_account_of_a_killed_session_lists_finished_folds(tmp_path: Path) -> None:
    output = SessionOutput(tmp_path, TWO_FOLDS, time.monotonic())
    files(tmp_path / "runs/unet_b0/fold0", "result.json")
    files(tmp_path / "runs/unet_b0/fold1", "state/at-0001-00000.h5")
    output.record_fold(0, FoldAccount(done=True))
    assert set(read_account(tmp_path)["files"]) == {"runs/unet_b0/fold0/result.json"}  # type: ignore[call-overload]
    assert read_account(tmp_path)["state"] == "stopped"
    output.write(all_folds=True)
    assert "runs/unet_b0/fold1/state/at-0001-00000.h5" in read_account(tmp_path)["files"]  # type: ignore[operator]


# --- compiled functions ---------------------------------------------------------------------------------------------


def end_session(working: Path, done: bool) -> SessionAccount:
    files(working / ".compiled" / "tpu", "jit_step-cache", "autotuned/a")
    output = SessionOutput(working, SESSION, time.monotonic())
    output.record_fold(0, FoldAccount(done=done, left=None if done else "2 epochs"))
    output.close()
    return SessionAccount.load(working / ACCOUNT_FILE)


def test_the_next_session_gets_what_was_compiled(tmp_path: Path) -> None:
    working, place = tmp_path / "working", tmp_path / "compiled"
    account = end_session(working, done=False)
    assert sorted(path.name for path in working.iterdir()) == ["gatemask-compiled.bin", ACCOUNT_FILE]
    assert account.files == {}, "its damage would keep the runs from being fetched"
    unpack_compiled(working, account.compiled, place)
    unpacked = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert unpacked == {"tpu/jit_step-cache": "jit_step-cache", "tpu/autotuned/a": "autotuned/a"}


def test_compiled_functions_are_left_out_where_they_are_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end_session(tmp_path, done=True).compiled is None  # no session follows
    assert [path.name for path in tmp_path.iterdir()] == [ACCOUNT_FILE]
    monkeypatch.setattr(session_compiled, "LIMIT_BYTES", 3)
    assert end_session(tmp_path, done=False).compiled is None
    assert [path.name for path in tmp_path.iterdir()] == [ACCOUNT_FILE]


@pytest.mark.parametrize("fault", ["damaged", "missing", "not an archive", "no place"])
def test_a_faulty_archive_of_compiled_functions_is_ignored(tmp_path: Path, fault: str) -> None:
    account, place = end_session(tmp_path / "working", done=False), tmp_path / "compiled"
    archive, digest = tmp_path / "working/gatemask-compiled.bin", account.compiled
    if fault == "damaged":
        archive.write_bytes(archive.read_bytes()[:-10])
    elif fault == "missing":
        archive.unlink()
    elif fault == "not an archive":
        archive.write_bytes(b"page not found")
        digest = sha256(archive)
    else:
        place.write_text("a file")
    unpack_compiled(tmp_path / "working", digest, place)
    assert not place.is_dir() or not any(place.iterdir())


# --- the training process -------------------------------------------------------------------------------------------

ENDS = """
import os, signal, sys, time
from pathlib import Path
from gatemask.kaggle.train import session
from gatemask.kaggle.train.session_output import SessionOutput
from gatemask.results.kaggle_training import FoldAccount, SessionRequest

def work(project, kaggle, started):
    assert "tensorflow" not in sys.modules and "jax" not in sys.modules
    output = SessionOutput(kaggle / "working", SessionRequest.load(project / "session.json"), started)
    run = kaggle / "working" / "runs" / "unet_b0"
    def write(name):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    {how}
    output.write(all_folds=True)
    return output.exit_code

session.work = work
sys.exit(session.run_session(Path(sys.argv[1]), Path(sys.argv[2]), time.monotonic()))
"""
DONE = "write('fold0/result.json'); output.record_fold(0, FoldAccount(done=True))"
STATE = "write('fold1/state/at-0001-00000.h5')"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
WRITTEN = {"fold0/result.json", "fold1/state/at-0001-00000.h5"}


@pytest.mark.parametrize(
    ("how", "code", "state", "kept", "reason"),
    [
        (
            f"{DONE}; {STATE}; output.record_fold(1, FoldAccount(done=False, left='2 epochs'))",
            0,
            "stopped",
            WRITTEN,
            None,
        ),
        (f"{DONE}; {STATE}; output.record_failure('no image', 1)", 0, "failed", WRITTEN, "no image"),
        ("output.record_lost('another machine'); return output.exit_code", 1, "lost", set(), "another machine"),
        (KILL, 1, "lost", set(), "signal 9"),
        (f"{STATE}; {KILL}", 0, "lost", WRITTEN - {"fold0/result.json"}, "signal 9"),
        (f"{DONE}; {STATE}; {KILL}", 0, "lost", WRITTEN, "signal 9"),
        (f"{DONE}; {STATE}; write('fold1/.tmp-a'); os.abort()", 0, "lost", WRITTEN, "signal 6"),
        (f"{DONE}; {STATE}; os._exit(3)", 0, "lost", WRITTEN, "exit code 3"),
    ],
    ids=["stopped", "failed", "not begun", "killed at once", "with a state", "with a fold", "aborted", "gone"],
)
def test_every_end_of_the_training_process_is_accounted_for(
    tmp_path: Path, how: str, code: int, state: str, kept: set[str], reason: str | None
) -> None:
    """The exit code is 0 if the output is worth keeping: Kaggle may not mount what a failed kernel left."""
    project, kaggle = tmp_path / "project", tmp_path / "kaggle"
    (kaggle / "working").mkdir(parents=True)
    TWO_FOLDS.write(project / "session.json")
    command = [sys.executable, "-c", ENDS.replace("{how}", how), str(project), str(kaggle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    account = json.loads((kaggle / "working" / ACCOUNT_FILE).read_text())
    assert account["state"] == state
    assert set(account["files"]) == {f"runs/unet_b0/{name}" for name in kept}
    assert {fold for fold, outcome in account["folds"].items() if outcome.get("done")} == (
        {"0"} if "fold0/result.json" in kept else set()
    )
    assert account["error"] is None if reason is None else reason in account["error"]
    assert reason is None or reason in done.stderr, "the log lacks the reason"
    if kept == WRITTEN or STATE in how:
        assert SessionAccount.model_validate(account).newest_states() == {1: "at-0001-00000"}
