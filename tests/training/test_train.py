"""Training survives kills and time limits, resumes in the middle of an epoch, and explains its errors."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from gatemask.config import Experiment, load_competition
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.stage import Stamp
from gatemask.tracking.run_folder import MEASURED
from tests.conftest import TINY_GATEMASK, environment, gatemask, start_python
from tests.tiny import INSTALL
from tests.without_tensorflow import REFUSE, REQUIRE_UNUSED

pytestmark = pytest.mark.trains

TINY: dict[str, Any] = {
    "task": "gate",
    "model": {"name": "gate", "encoder": "mobilenet", "batchnorm_momentum": 0.9},
    "input": {"size": 32},
    "augment": ["hflip", {"affine": {"rotate": 10}}],
    "sampling": {"positives": [0.6, 0.4], "epoch": 32},
    "loss": {"bce": 1},
    "optimizer": {"name": "adam", "ema": 0.9},
    "schedule": {"name": "plateau", "peak": 1.0e-3, "patience": 1},
    "epochs": 5,
    "batch": {"per_device": 4},
    "checkpoints": {"keep": 2, "average": True, "steps": 3},
    "runtime": {"deterministic": True},
    "tracking": {"wandb": "disabled"},
}


def write(root: Path, name: str, **changes: Any) -> Path:
    path = root / "experiments/phantom" / f"{name}.yaml"
    path.write_text(json.dumps({**TINY, **changes}))  # JSON is YAML
    return path


def weights(folder: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            arrays[name] = entry[()]

    with h5py.File(folder / "best.weights.h5") as file:
        file.visititems(add)
    return arrays


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_identical(first: Path, second: Path) -> None:
    """Assert that weights agree to the last bit, and metrics in everything but what was measured."""
    left, right = weights(first), weights(second)
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.tobytes() == right[name].tobytes(), name
    metrics = [[{k: v for k, v in row.items() if k not in MEASURED} for row in rows(run)] for run in (first, second)]
    assert metrics[0] == metrics[1]


def states(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "state").glob("at-*"))


@pytest.mark.parametrize(
    ("kills", "tiny"),
    [([True], True), pytest.param([True, False, True, True, False], False, marks=pytest.mark.slow)],
    ids=["once", "five times"],
)
def test_a_killed_training_ends_with_the_same_bits(phantom_records: Path, kills: list[bool], tiny: bool) -> None:
    """SIGKILL at random moments: the last resume ends with the same weights as a run without kills."""
    optimizer = {"name": "radam", "ema": 0.9, "accumulate": 2, "clipnorm": 1.0}
    assert_kills_change_nothing(phantom_records, f"{len(kills)}", kills, tiny, optimizer=optimizer)


# A mask network on mixed crops, whose validation and predictions see the whole input.
CROPS: dict[str, Any] = {
    "task": "mask",
    "model": {"name": "unet", "encoder": "mobilenet", "batchnorm_momentum": 0.9},
    "input": {"size": 64, "crop": 32, "crop_positives": 0.8},
    "augment": [
        "hflip",
        "noise",
        {"jpeg": {"p": 0.5}},
        {"mixup": {"p": 0.2}},
        {"cutmix": {"p": 0.4}},
        {"copy_paste": {"p": 0.5, "feather": 1.0}},
    ],
    "tta": ["hflip", {"rotate": 90}],
    "loss": {"bce": 1, "dice": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("predict", ["full", "tiles"])
def test_a_killed_training_on_mixed_crops_ends_with_the_same_bits(phantom_records: Path, predict: str) -> None:
    changes = {**CROPS, "input": {**CROPS["input"], "predict": predict}}
    assert_kills_change_nothing(phantom_records, predict, [True, False], True, **changes)


def assert_kills_change_nothing(
    phantom_records: Path, suffix: str, kills: list[bool], tiny: bool, **changes: Any
) -> None:
    """Train without and with kills, and compare weights and metrics.

    Args:
        phantom_records: Root of the project.
        suffix: End of the experiments' names.
        kills: Kills: after the next state (True) or at any moment.
        tiny: Whether tiny encoders are used.
        changes: Changes of the experiment.
    """
    whole, killed = (write(phantom_records, f"{name}{suffix}", **changes) for name in ("whole", "killed"))
    started = time.monotonic()
    done = gatemask("train", whole, "--quick", "--fold", 0, root=phantom_records, tiny=tiny)
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = time.monotonic() - started
    python = TINY_GATEMASK if tiny else ("-m", "gatemask")
    rng = random.Random(time.time_ns())
    runs = phantom_records / "runs/phantom-quick"
    folder = runs / killed.stem / "fold0"
    for after_progress in kills:
        command = ("train", killed, "--quick", "--fold", 0)
        with Path(os.devnull).open("w") as nowhere:
            process = start_python(*python, *command, root=phantom_records, stdout=nowhere, stderr=nowhere)
        if after_progress:
            before = states(folder)
            while process.poll() is None and states(folder) == before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, seconds / 8))
        else:  # at any moment
            time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.wait()
    done = gatemask("train", killed, "--quick", "--fold", 0, "--json", root=phantom_records, tiny=tiny)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["epoch"] for row in rows(folder)] == list(range(5))
    assert_identical(runs / whole.stem / "fold0", folder)
    assert not (folder / "state").exists()


def source_of_copies(root: Path) -> None:
    """Prepare a source whose images are all copies of the competition's."""
    from gatemask.data.extra_sources import make_sources

    project = Project(root, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    path = project.source_file("again")
    path.parent.mkdir(exist_ok=True)
    labels = comp.labels.model_dump(mode="json")
    path.write_text(
        json.dumps({"raw": str(project.data / "raw"), "train": {"images": "train/**/*.dcm"}, "labels": labels})
    )
    make_sources(project, comp)


@pytest.fixture
def with_source(phantom_records: Path, tmp_path: Path) -> Path:
    """Return the root of a project with the source 'again'."""
    root = tmp_path / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("runs", "dist"))
    source_of_copies(root)
    return root


@pytest.mark.usefixtures("tiny_encoders")
def test_sources_are_trained_on_and_counted(with_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.input import pipeline
    from gatemask.training.train import train

    seen: dict[int, set[str]] = {}  # images by epoch
    original = pipeline.training_batches

    def watched(examples: Sequence[Any], exp: Experiment, layout: object, order: np.ndarray, *rest: Any) -> object:
        seen[rest[1]] = {examples[index].image_id for index in order}
        return original(examples, exp, layout, order, *rest)

    monkeypatch.setattr(pipeline, "training_batches", watched)
    project = Project(with_source, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    data = {"extra": [{"source": "again", "weight": 0.5}]}
    exp = Experiment.model_validate({**TINY, "name": "extra", "data": data, "sampling": {}, "epochs": 2})
    result = train(project, comp, exp, [0]).folds[0]
    assert result.extra_images == {"again": result.train_images}
    assert result.extra_copies == {"again": result.validation_images}
    drawn = [{name for name in seen[epoch] if name.startswith("again/")} for epoch in (0, 1)]
    assert sum(map(len, drawn)) >= result.train_images - 2 * 3, "both epochs together draw all but parts of batches"
    assert not drawn[0] & drawn[1]
    own = {name for ids in seen.values() for name in ids if "/" not in name}
    assert {name.removeprefix("again/") for ids in drawn for name in ids} <= own, "a copy of a validation image"
    again = train(project, comp, exp, [0]).folds[0]
    assert again.current


@pytest.mark.slow
def test_a_killed_training_on_sources_ends_with_the_same_bits(with_source: Path) -> None:
    data = {"extra": [{"source": "again", "weight": 0.4}]}
    whole, killed = (write(with_source, f"{name}_extra", data=data) for name in ("whole", "killed"))
    done = gatemask("train", whole, "--quick", "--fold", 0, root=with_source, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = with_source / "runs/phantom-quick/killed_extra/fold0"
    for _ in range(2):
        with Path(os.devnull).open("w") as nowhere:
            command = ("train", killed, "--quick", "--fold", 0)
            process = start_python(*TINY_GATEMASK, *command, root=with_source, stdout=nowhere, stderr=nowhere)
        before = states(folder)
        while process.poll() is None and states(folder) == before:
            time.sleep(0.02)
        process.kill()
        process.wait()
    done = gatemask("train", killed, "--quick", "--fold", 0, root=with_source, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_identical(folder.parents[1] / "whole_extra/fold0", folder)


@pytest.mark.slow
def test_weights_do_not_depend_on_workers_even_if_they_and_the_training_are_killed(phantom_records: Path) -> None:
    """0, 1, 2 and 5 workers; workers and the training are killed at random moments, and another number resumes."""
    augment = ["hflip", {"affine": {"rotate": 10}}, {"mixup": {"p": 0.5}}]
    rng = random.Random(time.time_ns())
    runs = phantom_records / "runs/phantom-quick"

    def command(name: str, workers: int) -> tuple[object, ...]:
        runtime = {"deterministic": True, "workers": workers}
        return ("train", write(phantom_records, name, augment=augment, runtime=runtime), "--quick", "--fold", 0)

    done = gatemask(*command("threads", 0), root=phantom_records, tiny=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for workers in (1, 2, 5):
        name, killed = f"workers{workers}", 0
        with Path(os.devnull).open("w") as nowhere:
            arguments = (*TINY_GATEMASK, *command(name, workers))
            process = start_python(*arguments, root=phantom_records, stdout=nowhere, stderr=nowhere)
        before = states(runs / name / "fold0")
        while process.poll() is None and (killed < 3 or states(runs / name / "fold0") == before):
            if found := worker_processes(process.pid):
                os.kill(rng.choice(found), signal.SIGKILL)
                killed += 1
            time.sleep(rng.uniform(0, 1))
        assert killed >= 3
        process.kill()
        process.wait()
        done = gatemask(*command(name, 6 - workers), root=phantom_records, tiny=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert_identical(runs / "threads/fold0", runs / name / "fold0")


def worker_processes(parent: int) -> list[int]:
    """Return the workers of a training: its children that run nothing else."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            state, number = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            if state != "Z" and int(number) == parent and b"gatemask.input.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.usefixtures("tiny_encoders")
def test_hours_stop_the_training_and_the_next_call_resumes(
    phantom_records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gatemask import cli

    path = write(phantom_records, "hours", epochs=3, checkpoints={"keep": 1}, runtime={}, hours=1)
    folder = phantom_records / "runs/phantom-quick/hours/fold0"
    monkeypatch.setenv("GATEMASK_ROOT", str(phantom_records))

    def command() -> tuple[dict[str, Any], str]:
        with contextlib.suppress(SystemExit):
            cli.main(["train", str(path), "--quick", "--fold", "0", "--json"])
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    def clock() -> float:
        return time.monotonic() + (3600 if (folder / "metrics.jsonl").exists() else 0)

    with monkeypatch.context() as late:
        late.setattr("gatemask.training.time_budget.time", SimpleNamespace(monotonic=clock))
        result, log = command()
    assert result["stopped"] is True
    assert not result["folds"]
    assert "2 of 3 epochs" in result["left"]["0"]
    assert "Run the same command again" in log
    before = rows(folder)
    assert len(before) == 1
    _, log = command()
    assert "resumes at epoch 2" in log
    assert [row["epoch"] for row in rows(folder)] == list(range(3))
    assert rows(folder)[:1] == before


@pytest.fixture()
def trained(phantom_records: Path, tiny_encoders: None):
    """Train in this process."""
    from gatemask.training.train import train

    project = Project(phantom_records, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)

    def run(name: str, folds: list[int] | None = (0,), **changes: Any) -> tuple[dict[str, Any], Path]:
        exp = Experiment.model_validate({**TINY, "runtime": {}, "epochs": 2, "name": name, **changes})
        return train(project, comp, exp, folds).as_dict(), project.fold(name, 0)

    return run


def test_a_nan_loss_names_the_images_and_keeps_the_state(trained, monkeypatch, phantom_records) -> None:
    from gatemask.training import fold_run, state

    events: list[Any] = []
    monkeypatch.setattr(fold_run, "notify", lambda _, event, comp: events.append(event))
    with pytest.raises(GatemaskError, match="Loss became NaN") as caught:
        trained(
            "nan",
            optimizer={"name": "sgd"},
            schedule={"name": "warmup_hold_decay", "peak": 1e38, "hold": 1, "start": 1e-3, "warmup": 1},
            epochs=3,
        )
    text = str(caught.value)
    assert "epoch 2, step" in text
    named = re.search(r"step (\d+), images (.*)\n", text)
    step, ids = int(named[1]) - 1, named[2].split(", ")
    assert ids == batch_ids(phantom_records, epoch=1, step=step)
    (event,) = events
    assert (event.kind, event.experiment, event.fold) == ("loss_not_finite", "nan", 0)
    assert event.message == f"In epoch 2, step {step + 1}."
    _, progress = state.load_state(phantom_records / "runs/phantom-quick/nan/fold0/state")
    assert progress.epoch == 1 and progress.step in (0, 3, 6)


def batch_ids(root: Path, epoch: int, step: int) -> list[str]:
    """Return the images of a batch of fold 0, computed independently."""
    import pandas as pd

    from gatemask.data import records
    from gatemask.input import pipeline

    project = Project(root, "phantom", quick=True)
    frame = pd.read_csv(project.folds)
    examples = records.read_records(project.records(64), list(frame["image_id"][frame["fold"] != 0]))
    exp = Experiment.model_validate({**TINY, "name": "any", "epochs": 3})
    order = pipeline.epoch_order(examples, exp, 4, epoch, seed=0)
    return [examples[i].image_id for i in order[step * 4 : step * 4 + 4]]


@pytest.mark.usefixtures("tiny_encoders")
@pytest.mark.parametrize(
    ("name", "changes", "trained", "validated"),
    [
        ("five", {}, (4, 1), []),
        pytest.param("crops", CROPS, (4, 32, 32, 1), [(4, 64, 64, 1)] * 2, marks=pytest.mark.slow),
    ],
    ids=["gate", "crops"],
)
def test_five_folds_trace_the_step_once(
    phantom_records: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    trained: tuple[int, ...],
    validated: list[tuple[int, ...]],
) -> None:
    import pandas as pd

    from gatemask.builders import metrics, step
    from gatemask.training.train import train

    shapes, measured = [], []
    original, update = step.TrainingModel.compute_loss, metrics.BestThresholdDice.update_state

    def noted(self, y_true, y_pred, sample_weight=None):
        measured.append(tuple(y_pred.shape))
        return update(self, y_true, y_pred, sample_weight)

    monkeypatch.setattr(metrics.BestThresholdDice, "update_state", noted)

    def counted(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        shapes.append([tuple(output.shape) for output in y_pred.values()])
        return original(self, x, y, y_pred, sample_weight, training)

    monkeypatch.setattr(step.TrainingModel, "compute_loss", counted)
    project = Project(phantom_records, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    kept = project.folds.read_text()
    frame = pd.read_csv(project.folds)
    five = Project(phantom_records, "phantom", quick=True)
    # A group may not be split over folds: number the folds by group.
    frame["fold"] = frame["group"].astype("category").cat.codes % 5
    try:
        frame.to_csv(project.folds, index=False)
        exp = Experiment.model_validate({**TINY, **changes, "runtime": {}, "epochs": 2, "name": name})
        result = train(five, comp, exp)
    finally:
        project.folds.write_text(kept)
    assert len(result.folds) == 5
    assert len(shapes) == 1, f"traced {len(shapes)} times"
    assert shapes[0] == [trained], "static shapes"
    assert measured == validated, "one trace of the validation, dice and dice_positives"


def test_rates_by_step_resume_within_an_epoch(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of several legs and of different lengths; legs of another length change nothing."""
    from gatemask.builders import optimizers, step
    from gatemask.training.fold_run import FoldRun

    recipe = {
        "epochs": 3,
        "batch": {"per_device": 2},
        "sampling": {"positives": [0.7, 0.4]},
        "optimizer": {"name": "adam", "accumulate": 2},
        "schedule": {"name": "cosine", "warmup": 1, "peak": 1e-3, "per": "step"},
        "checkpoints": {"keep": 1, "steps": 2},
    }
    traces, rates, legs = [], [], []
    compute_loss, set_rates, train_leg = step.TrainingModel.compute_loss, optimizers.set_rates, FoldRun._train_leg
    monkeypatch.setattr(step.TrainingModel, "compute_loss", lambda *a, **b: traces.append(1) or compute_loss(*a, **b))
    monkeypatch.setattr(optimizers, "set_rates", lambda o, leg: rates.append(leg) or set_rates(o, leg))
    _, whole = trained("steps_whole", **recipe)
    assert len(traces) == 1
    lengths = [row["steps"] for row in rows(whole)]
    assert len(set(lengths)) > 1, "epochs differ in length"
    flat = [rate for leg in rates for rate in leg]
    assert len(flat) == sum(lengths)
    ends = np.cumsum(lengths) - 1
    assert [row["learning_rate"] for row in rows(whole)] == [flat[end] for end in ends]
    assert all(len(set(leg)) == len(leg) for leg in rates), "every step has a rate of its own"

    def stopping(self, *arguments):
        legs.append(arguments)
        if len(legs) == 5:
            raise StoppedError
        return train_leg(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FoldRun, "_train_leg", stopping)
        with pytest.raises(StoppedError):
            trained("steps_parts", **recipe)
    assert not states(whole.with_name("fold0").parent.parent / "steps_parts/fold0")[-1].endswith("-00000.h5")
    # In the middle of an epoch, with legs of another length: the same steps have the same rates.
    _, parts = trained("steps_parts", **{**recipe, "checkpoints": {"keep": 1, "steps": 3}})
    left, right = weights(whole), weights(parts)
    assert all(array.tobytes() == right[name].tobytes() for name, array in left.items())
    assert [row["learning_rate"] for row in rows(whole)] == [row["learning_rate"] for row in rows(parts)]


def test_a_batch_that_was_found_trains_like_a_fixed_one(trained, monkeypatch) -> None:
    """Trials change neither weights nor seeds, and the other folds take the batch of the first one."""
    from gatemask.training import batch_size

    _, fixed = trained("fixed_batch")
    result, found = trained("found_batch", batch={"per_device": "auto"})
    assert_identical(fixed, found)
    record = json.loads((found.parent / "batch.json").read_text())
    # 32 images per epoch keep eight updates.
    assert (record["per_device"], record["devices"], result["folds"]["0"]["batch"]) == (4, 1, 4)
    assert [trial["per_device"] for trial in record["tried"]] == [4]
    assert 0 < record["tried"][0]["gigabytes"] < record["gigabytes"]
    assert Stamp.load(found / "result.json").made_from["batch"] == "4 x 1"
    monkeypatch.setattr(batch_size, "search", None)
    assert trained("found_batch", batch={"per_device": "auto"})[0]["current"]


def test_frozen_layers_change_only_after_the_thaw(trained, monkeypatch) -> None:
    from gatemask.training.fold_run import FoldRun

    weights_by_epoch = []
    original = FoldRun._close_epoch

    def recording(self, *arguments):
        network = self.trainer.models.network
        encoder = {v.path: np.array(v) for layer in network.encoder.layers for v in layer.weights}
        head = np.array(network.model.trainable_variables[-1])
        weights_by_epoch.append((encoder, head))
        return original(self, *arguments)

    monkeypatch.setattr(FoldRun, "_close_epoch", recording)
    trained(
        "frozen",
        epochs=3,
        freeze={"epochs": 2},
        optimizer={"name": "adamw", "weight_decay": 0.1},
        schedule={"name": "constant", "peak": 1e-3},
    )
    (first, head1), (second, head2), (third, _) = weights_by_epoch
    assert all((first[name] == second[name]).all() for name in first), "BatchNorm's statistics are frozen too"
    assert (head1 != head2).any()
    moved = [name for name in first if (second[name] != third[name]).any()]
    assert len(moved) > len(first) * 0.9


class StoppedError(Exception):
    pass


@pytest.fixture()
def stopped(trained, phantom_records: Path, monkeypatch: pytest.MonkeyPatch):
    """Train until an epoch begins, and return the folder of the fold."""
    from gatemask.training.fold_run import FoldRun

    def run(name: str, epoch: int, **changes: Any) -> Path:
        original = FoldRun._train_epoch

        def stopping(self, progress):
            if progress.epoch == epoch:
                raise StoppedError
            return original(self, progress)

        with monkeypatch.context() as patch:
            patch.setattr(FoldRun, "_train_epoch", stopping)
            with pytest.raises(StoppedError):
                trained(name, **changes)
        return Project(phantom_records, "phantom", quick=True).fold(name, 0)

    return run


def test_a_frozen_training_resumes_across_the_thaw(trained, stopped) -> None:
    """After the last frozen epoch, the optimizer of all layers starts fresh, as it does without the stop."""
    recipe = {"epochs": 3, "freeze": {"epochs": 2}, "runtime": {}}
    _, whole = trained("thaw_whole", **recipe)
    stopped("thaw_parts", 2, **recipe)
    _, parts = trained("thaw_parts", **recipe)
    assert_identical(whole, parts)


def test_schedule_free_weights_resume_and_their_average_is_kept(trained, stopped, monkeypatch) -> None:
    from gatemask.training import state

    recipe = {
        "epochs": 2,
        "freeze": {"epochs": 1},
        "optimizer": {"name": "schedulefreeadamw", "weight_decay": 0.01, "layer_decay": 0.5},
        "schedule": {"name": "constant", "peak": 0.01, "warmup": 1, "per": "step"},
        "checkpoints": {"keep": 1, "steps": 3},
    }
    kept, trained_weights = {}, {}
    save_best, save_state = state.save_best_weights, state.save_state

    def recording_best(folder, weights, epoch, row):
        kept[epoch] = {weight.path: np.array(weight) for weight in weights}
        save_best(folder, weights, epoch, row)

    def recording_state(folder, model, progress):
        trained_weights[progress.epoch, progress.step] = {v.path: np.array(v) for v in model.trainable_variables}
        save_state(folder, model, progress)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_best_weights", recording_best)
        patch.setattr(state, "save_state", recording_state)
        _, whole = trained("free_whole", **recipe)
    epoch = max(kept)
    after = trained_weights[epoch + 1, 0]
    assert any((after[name] != kept[epoch][name]).any() for name in after), "the average, not the weights"
    stopped("free_parts", 1, **recipe)
    _, parts = trained("free_parts", **recipe)
    assert_identical(whole, parts)


def test_another_number_of_devices_does_not_resume(trained, stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatemask.training.trainer import Trainer

    stopped("sizes", 1)
    monkeypatch.setattr(Trainer, "batch", 8)
    with pytest.raises(GatemaskError, match="another batch size"):
        trained("sizes")


@pytest.mark.parametrize("log", [None, '{"epoch": 0, "loss": 1}\n{"epo'], ids=["lost", "edited and torn"])
def test_a_log_that_was_lost_or_edited_decides_nothing(trained, stopped, log: str | None, capsys) -> None:
    folder = stopped("lost_log" if log is None else "torn_log", 2, epochs=3)
    before = rows(folder)
    (folder / "metrics.jsonl").unlink() if log is None else (folder / "metrics.jsonl").write_text(log)
    result, _ = trained(folder.parent.name, epochs=3)
    assert "differs from the state" in capsys.readouterr().err
    assert rows(folder)[:2] == before
    assert result["folds"]["0"]["epochs"] == len(rows(folder)) == 3


def test_a_training_survives_the_loss_of_its_states(trained, stopped, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"epochs": 3, "checkpoints": {"keep": 1}}
    folder = stopped("lost", 2, **recipe)
    damaged = sorted((folder / "state").glob("at-*.h5"))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert len(damaged) == 2
    result, _ = trained("lost", **recipe)
    assert capsys.readouterr().err.count("cannot be read") == 2
    assert result["folds"]["0"]["epochs"] == 3
    assert not (folder / "state").exists()


def test_without_its_best_weights_a_training_ends_with_its_last(trained, monkeypatch, phantom_records, capsys) -> None:
    from gatemask.training.fold_run import FoldRun

    def stop(self, progress):
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(FoldRun, "finish", stop)
        trained("bare")
    folder = phantom_records / "runs/phantom-quick/bare/fold0"
    for path in (folder / "state").glob("best-*.h5"):
        path.write_bytes(b"?")
    result, _ = trained("bare")
    messages = capsys.readouterr().err
    assert "cannot be read" in messages
    assert "the last epoch is used" in messages
    assert result["folds"]["0"]["best_epochs"] == [1]


@pytest.fixture()
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any training."""
    from gatemask.training.fold_run import FoldRun

    def train(self):
        raise AssertionError("the fold is trained again")

    monkeypatch.setattr(FoldRun, "train", train)


def test_a_trained_fold_is_chosen_and_predicted_again(trained, request, capsys: pytest.CaptureFixture[str]) -> None:
    recipe: dict[str, Any] = {"epochs": 3, "checkpoints": {"keep": 2}}
    first, folder = trained("again", **recipe)
    request.getfixturevalue("no_training")
    weights_before, oof = (folder / "best.weights.h5").read_bytes(), (folder / "oof.csv").read_bytes()

    viewed, _ = trained("again", tta=["hflip"], **recipe)
    assert "tta" in capsys.readouterr().err
    assert (folder / "oof.csv").read_bytes() != oof
    assert (folder / "best.weights.h5").read_bytes() == weights_before
    assert viewed["folds"]["0"]["score"] == first["folds"]["0"]["score"]
    trained("again", **recipe)
    assert (folder / "oof.csv").read_bytes() == oof
    capsys.readouterr()

    single, _ = trained("again", **{**recipe, "checkpoints": {"keep": 1}})
    assert "checkpoints.keep: 2, now 1" in capsys.readouterr().err
    assert single["folds"]["0"]["best_epochs"] == [first["folds"]["0"]["best_epoch"]]
    assert single["folds"]["0"]["score"] == pytest.approx(first["folds"]["0"]["best_single"], abs=1e-6)
    averaged, _ = trained("again", **recipe)
    assert averaged["folds"]["0"]["best_epochs"] == first["folds"]["0"]["best_epochs"]
    assert averaged["folds"]["0"]["score"] == first["folds"]["0"]["score"]
    trained("again", **{**recipe, "checkpoints": {"keep": 3}})
    assert "Weights of 2 epochs were kept" in capsys.readouterr().err
    assert trained("again", **{**recipe, "checkpoints": {"keep": 3}})[0]["current"]


def test_edited_files_of_a_trained_fold_are_made_again(trained, request, capsys: pytest.CaptureFixture[str]) -> None:
    recipe: dict[str, Any] = {"epochs": 3, "checkpoints": {"keep": 2}}
    _, folder = trained("again", **recipe)
    request.getfixturevalue("no_training")
    capsys.readouterr()
    for name in ("oof.csv", "best.weights.h5", "config.yaml"):
        before = weights(folder) if name == "best.weights.h5" else (folder / name).read_bytes()
        (folder / name).write_bytes(b"edited")
        trained("again", **recipe)
        assert f"{name} is missing or differs" in capsys.readouterr().err
        if isinstance(before, dict):
            assert all((weights(folder)[key] == value).all() for key, value in before.items())
        else:
            assert (folder / name).read_bytes() == before
    (folder / "metrics.jsonl").unlink()
    assert trained("again", **recipe)[0]["current"]


def test_lost_weights_are_not_trained_again_without_asking(trained, request, phantom_records: Path) -> None:
    _, folder = trained("sizes")
    request.getfixturevalue("no_training")
    (folder / "best.weights.h5").write_bytes(b"?")
    oof = (folder / "oof.csv").read_bytes()
    (folder / "kept").exists() and shutil.rmtree(folder / "kept")
    with pytest.raises(GatemaskError, match="weights of a trained fold are missing or damaged") as caught:
        trained("sizes")
    assert "Restore the file" in str(caught.value)
    assert (folder / "oof.csv").read_bytes() == oof


def test_the_best_epochs_are_averaged_and_scored_again(trained) -> None:
    result, folder = trained("averaged", epochs=4, checkpoints={"keep": 3, "average": True})
    fold = result["folds"]["0"]
    assert len(fold["best_epochs"]) == 3
    scores = [row["auc"] for row in rows(folder)]
    assert fold["best_single"] == max(scores)
    assert fold["best_epoch"] == scores.index(max(scores))
    assert 0 <= fold["score"] <= 1
    assert {"auc", "sensitivity", "specificity", "val_loss"} <= set(fold)


def test_the_tables_of_a_fold_agree_with_its_maps(trained, phantom_records: Path) -> None:
    from gatemask.data.truth import Masks
    from gatemask.masks.frame import resize_map
    from gatemask.masks.metrics import dice_of_masks
    from gatemask.oof.store import MapReader
    from gatemask.oof.tables import Tables

    result, folder = trained(
        "small",
        task="mask",
        model={"name": "unet", "encoder": "resnet18", "filters": [16, 16, 8, 8, 8], "batchnorm_momentum": 0.9},
        loss={"bce": 1, "dice": 1},
    )
    tables, reader = Tables.load(folder / "tables.npz"), MapReader([folder / "oof.h5"])
    truth = Masks(phantom_records / "data/phantom-quick/masks.csv", (256, 256))
    assert sorted(reader.ids) == list(tables.ids)
    fold = result["folds"]["0"]
    cut = round(fold["threshold"] * 255)
    naive = [dice_of_masks(truth[i][:, :, 0], resize_map(reader[i], (256, 256))[:, :, 0] >= cut) for i in tables.ids]
    assert fold["dice_full"] == pytest.approx(np.mean(naive), abs=1e-9)
    reader.close()


def test_another_monitor_does_not_train_again(trained, request) -> None:
    mask = {
        "task": "mask",
        "model": {"name": "unet", "encoder": "resnet18", "filters": [16, 16, 8, 8, 8], "batchnorm_momentum": 0.9},
        "loss": {"bce": 1, "dice": 1},
        "checkpoints": {"keep": 2},
    }
    constant = {"schedule": {"name": "constant", "peak": 1e-3}}
    result, folder = trained("monitored", **mask, **constant)
    request.getfixturevalue("no_training")
    other, _ = trained("monitored", **mask, **constant, monitor="dice_positives")
    fold, history = other["folds"]["0"], rows(folder)
    assert result["folds"]["0"]["monitor"] == "dice"
    assert fold["monitor"] == "dice_positives"
    assert fold["best_single"] == max(row["dice_positives"] for row in history)
    assert fold["score"] == fold["dice_positives"]


def test_tta_apart_keeps_each_view(trained) -> None:
    from gatemask.oof.store import MapReader

    _, folder = trained(
        "apart",
        task="mask",
        model={"name": "unet", "encoder": "resnet18", "filters": [16, 16, 8, 8, 8], "batchnorm_momentum": 0.9},
        loss={"bce": 1, "dice": 1},
        tta=["hflip"],
        tta_apart=True,
    )
    averaged = MapReader([folder / "oof.h5"])
    views = [MapReader([folder / "oof-views.h5"], view, 2) for view in (0, 1)]
    assert averaged.ids == views[0].ids
    for name in averaged.ids:
        plain, mirrored = (view[name].astype(int) for view in views)
        assert plain.shape == averaged[name].shape
        assert np.abs(averaged[name] - (plain + mirrored) / 2).max() <= 1
    assert {"oof.h5", "oof-views.h5"} <= set(json.loads((folder / "result.json").read_text())["outputs"])


def test_training_starts_from_another_run_at_another_size(trained) -> None:  # after tests that share a network
    mask = {
        "task": "mask",
        "model": {"name": "unet", "encoder": "resnet18", "filters": [16, 16, 8, 8, 8], "batchnorm_momentum": 0.9},
        "loss": {"bce": 1, "dice": 1},
    }
    _, small = trained("small", **mask)
    unchanged = {
        "schedule": {"name": "constant", "peak": 1e-12, "floor": 0.0},
        "optimizer": {"name": "sgd"},
        "epochs": 1,
    }
    larger = {**mask, "input": {"size": 64}, "model": {**mask["model"], "weights": "run:small"}, **unchanged}
    result, large = trained("large", **larger)
    old, new = weights(small), weights(large)
    assert old.keys() == new.keys()
    kernels = [name for name in old if old[name].ndim == 4]
    assert all(np.allclose(old[name], new[name], atol=1e-6) for name in kernels)
    assert {"dice_full", "threshold"} <= set(result["folds"]["0"])


SEVERAL = """
import json, os, sys
from pathlib import Path
from gatemask.config import Experiment, load_competition
from gatemask.project import Project
from gatemask.training import trainer
from gatemask.training.train import train
project = Project(Path(os.environ["GATEMASK_ROOT"]), "phantom", quick=True)
comp = load_competition(project.experiments, quick=True)
for settings in json.load(sys.stdin):
    train(project, comp, Experiment.model_validate(settings), [0])
    network = trainer.COMPILED.models.network
    print(settings["name"], len(network.model.variables[0].value.sharding.device_set), "devices hold the weights")
"""
# An input that fails at its second batch.
DAMAGED = """
import numpy as np
from gatemask.errors import GatemaskError
from gatemask.input.keras_input import keras_input, original_errors
def damaged():
    yield np.zeros((8, *network.model.input.shape[1:]), np.uint8), np.zeros((8, 1), np.float32), np.ones(8, np.float32)
    raise GatemaskError("An image is damaged.", where="i4")
try:
    with original_errors():
        trainer.COMPILED.models.evaluator.evaluate(keras_input(damaged, [], 2), verbose=0)
except GatemaskError as error:
    print(type(error).__name__, error.short())
"""
DECODER = {"encoder": "resnet18", "filters": [16, 8, 8, 8, 8], "batchnorm_momentum": 0.9, "dropout": 0.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "gate": {
        "task": "gate",
        "model": {"name": "gate", "encoder": "resnet18", "batchnorm_momentum": 0.9, "dropout": 0.0},
    },
    "unet": {"task": "mask", "model": {"name": "unet", **DECODER}, "loss": {"bce": 1, "dice": 1}},
    "unetpp": {"task": "mask", "model": {"name": "unetpp", **DECODER}, "loss": {"bce": 1, "dice": 1}},
}
# Relative tolerances of loss and val_loss in the first and second epoch: sums over a batch are added in another order,
# and each BatchNorm propagates the rounding.
NOISE = (1e-5, 1e-4, 1e-3, 5e-3)


# Networks take minutes to compile.
@pytest.mark.parametrize(
    ("names", "tiny"), [(("gate",), True), pytest.param(tuple(NETWORKS), False, marks=pytest.mark.slow)]
)
def test_eight_devices_train_as_one_does(phantom_records: Path, names: Sequence[str], tiny: bool) -> None:
    """Data-parallel JAX: the same global batch gives the same losses on eight simulated devices and on one of them.

    Neither the trainings nor their predictions import TensorFlow.
    """
    recipe = {
        **TINY,
        "input": {"size": 64},  # at 32 px, the last BatchNorms average 8 numbers and amplify rounding
        "epochs": 2,
        "optimizer": {"name": "sgd"},  # Adam turns noise around 0 into full steps
        "schedule": {"name": "constant", "peak": 1e-4},
    }
    settings = [
        {
            **recipe,
            **NETWORKS[name],
            "name": f"{name}_on_{devices}_{'tiny' if tiny else 'whole'}",
            # Eight updates per epoch leave one image per device.
            "batch": {"per_device": "auto" if devices == 8 else 8},
            "runtime": {"backend": "jax", "devices": devices},
        }
        for devices in (8, 1)
        for name in names
    ]
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {quickly}", "JAX_PLATFORMS": "cpu"}
    env = {**environment(phantom_records), **flags, "KERAS_BACKEND": "jax"}
    code = REFUSE + (INSTALL if tiny else "") + SEVERAL + (DAMAGED if tiny else "") + REQUIRE_UNUSED
    command, given = [sys.executable, "-c", code], json.dumps(settings)
    done = subprocess.run(command, env=env, input=given, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [f"{exp['name']} {exp['runtime']['devices']} devices hold the weights" for exp in settings]
    assert done.stdout.splitlines() == [*lines, *(["GatemaskError An image is damaged."] if tiny else [])]
    for words in ("8 x cpu by DataParallel", "1 x cpu by one device"):
        assert words in done.stderr
    runs = phantom_records / "runs/phantom-quick"
    for exp in settings[: len(names)]:
        found = json.loads((runs / exp["name"] / "batch.json").read_text())
        assert (found["per_device"], found["devices"], found["backend"]) == (1, 8, "jax")
        assert 0 < found["tried"][0]["gigabytes"] < found["gigabytes"]
    losses = [
        [row[key] for row in rows(runs / exp["name"] / "fold0") for key in ("loss", "val_loss")] for exp in settings
    ]
    for name, of_eight, of_one in zip(names, losses, losses[len(names) :], strict=False):
        for left, right, noise in zip(of_eight, of_one, NOISE, strict=True):
            assert left == pytest.approx(right, rel=noise), name
