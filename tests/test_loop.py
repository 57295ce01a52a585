"""The loop on phantoms: killed and resumed, current, with all outputs in place."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gatemask.files import sha256
from tests.conftest import Loop, stamps
from tests.conftest import gatemask as run_gatemask

pytestmark = pytest.mark.trains

gatemask = partial(run_gatemask, tiny=True)  # the loop was run with the tiny encoder
EXPERIMENTS = ["gate_r18", "unet_b0", "unetpp_b0"]


def test_finished_stages_are_not_repeated_after_a_kill(phantom_loop: Loop) -> None:
    after = stamps(phantom_loop.root)
    assert "runs/phantom-quick/gate_r18/fold1/result.json" in phantom_loop.killed_at
    assert "runs/phantom-quick/unet_b0/fold0/result.json" not in phantom_loop.killed_at
    for name, written in phantom_loop.killed_at.items():
        assert after[name] == written, f"{name} was made twice"


def test_killed_fold_resumes(phantom_loop: Loop) -> None:
    rows = [json.loads(line) for line in (phantom_loop.runs / "unet_b0/fold0/metrics.jsonl").open()]
    assert [row["epoch"] for row in rows] == [0, 1]


def test_summary_holds_the_most_important_numbers(phantom_loop: Loop) -> None:
    summary = json.loads((phantom_loop.runs / "summary.json").read_text())
    assert {
        "images",
        "positives",
        "cross_fitted",
        "ci95",
        "in_sample",
        "all_empty",
        "rule",
        "submission",
        "submission_score",
        "report",
        "seconds",
    } <= set(summary)
    assert set(summary["rule"]) == {"gate", "upper", "lower", "min_area", "min_component", "hysteresis"}
    assert Path(summary["submission"]).exists()
    assert Path(summary["report"]).exists()
    assert summary["all_empty"] == pytest.approx(1 - summary["positives"] / summary["images"])
    assert {key: value for key, value in phantom_loop.result.items() if key != "current"} == summary


def test_the_loop_imports_no_package_of_clusters_and_clouds(phantom_loop: Loop) -> None:
    imported = (phantom_loop.root / "modules.txt").read_text().split()
    assert "gatemask.loop" in imported
    unwanted = {
        "ray",
        "psycopg",
        "psycopg2",
        "sqlalchemy.dialects.postgresql",
        "fsspec",
        "s3fs",
        "gcsfs",
        "boto3",
        "sky",
    }
    assert unwanted & set(imported) == set()


def test_second_loop_does_nothing(phantom_loop: Loop) -> None:
    before, summary = stamps(phantom_loop.root), (phantom_loop.runs / "summary.json").read_text()
    done = gatemask("loop", "phantom", "--quick", "--json", root=phantom_loop.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["current"] is True
    assert "nothing was done" in done.stderr
    assert stamps(phantom_loop.root) == before
    assert (phantom_loop.runs / "summary.json").read_text() == summary


STAGES = [
    "data phantom",
    "data prepare",
    "folds make",
    "records make",
    "oof-tune",
    "ensemble",
    "package",
    "rehearse",
    "report",
]


@pytest.mark.parametrize("command", [*STAGES, "train"])
def test_each_stage_alone_is_current_after_the_loop(phantom_loop: Loop, command: str) -> None:
    target = "experiments/phantom/unet_b0.yaml" if command == "train" else "phantom"
    done = gatemask(*command.split(), target, "--quick", "--json", root=phantom_loop.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["current"] is True


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_folders_of_folds_are_complete(phantom_loop: Loop, name: str) -> None:
    for fold in (0, 1):
        folder = phantom_loop.runs / name / f"fold{fold}"
        oof = {"oof.csv"} if name == "gate_r18" else {"oof.h5", "tables.npz"}
        wanted = {"config.yaml", "environment.json", "metrics.jsonl", "best.weights.h5", "result.json"} | oof
        assert wanted == {p.name for p in folder.iterdir()} - {"wandb"}
        assert yaml.safe_load((folder / "config.yaml").read_text())["name"] == name
        assert json.loads((folder / "environment.json").read_text())["runtime"]["backend"] == "tensorflow"
        result = json.loads((folder / "result.json").read_text())
        assert result["outputs"]["best.weights.h5"] == sha256(folder / "best.weights.h5")


def test_each_image_has_one_out_of_fold_gate_prediction(phantom_loop: Loop) -> None:
    parts = [pd.read_csv(phantom_loop.runs / f"gate_r18/fold{fold}/oof.csv") for fold in (0, 1)]
    folds = pd.read_csv(phantom_loop.root / "folds/phantom-quick.csv")
    for fold, part in enumerate(parts):
        assert sorted(part["image_id"]) == sorted(folds["image_id"][folds["fold"] == fold])


def test_rehearsal_sees_only_what_kaggle_has(phantom_loop: Loop) -> None:
    result = json.loads((phantom_loop.runs / "rehearsal/result.json").read_text())
    assert {"gatemask", "segmentation-models", "efficientnet"} <= set(result["packages_hidden"])
    assert result["isolation"].startswith("no network")
    inference = json.loads((phantom_loop.runs / "rehearsal/kaggle/working/inference.json").read_text())
    assert "gatemask-packages" in inference["packages"]
    mounted = phantom_loop.runs / "rehearsal/kaggle/input/competitions"
    assert not list(mounted.rglob("train*")), "training images or labels were mounted"


def test_submission_has_each_test_id_once(phantom_loop: Loop) -> None:
    with open(phantom_loop.result["submission"]) as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    with (phantom_loop.data / "raw/sample_submission.csv").open() as file:
        sample = list(csv.DictReader(file))
    assert [row["ImageId"] for row in rows] == [row["ImageId"] for row in sample]
    assert list(rows[0]) == list(sample[0])


def test_package_hashes_match_and_it_holds_no_training_data(phantom_loop: Loop) -> None:
    dataset = phantom_loop.root / "dist/phantom-quick/dataset"
    listed = dict(reversed(line.split("  ")) for line in (dataset / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()}
    assert files - {"SHA256SUMS", "dataset-metadata.json"} == set(listed)
    assert all(sha256(dataset / name) == digest for name, digest in listed.items())
    wheels = {name.split("-")[0] for name in files if name.endswith(".whl")}
    assert "python_gdcm" in wheels  # phantoms are DICOM
    assert len(wheels) == 6
    metadata = json.loads((phantom_loop.root / "dist/phantom-quick/kernel/kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False
    assert metadata["id"].split("/")[1] == metadata["title"].replace(" ", "-")


def test_old_run_is_set_aside_when_settings_change(phantom_loop: Loop, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal", "dist"))
    changes = ["--set", "epochs=1", "--set", "seed=5"]
    done = gatemask("train", "phantom/gate_r18", "--quick", "--fold", 0, *changes, "--json", root=root)
    assert done.returncode == 0, done.stderr
    runs = root / "runs/phantom-quick/gate_r18"
    assert json.loads(done.stdout)["folds"]["0"]["epochs"] == 1
    old = (phantom_loop.runs / "gate_r18/fold0/result.json").read_text()
    assert (runs / "fold0.replaced1/result.json").read_text() == old
    for options, words in (([], "gate_r18 fold 0: epochs: 1, now 2"), (changes, "gate_r18 fold 1: epochs: 2, now 1")):
        mixed = gatemask("oof-tune", "phantom", "--quick", *options, root=root)
        assert mixed.returncode == 1
        assert words in mixed.stderr
    stale = gatemask("report", "phantom", "--quick", "--as-trained", "--json", root=root)
    assert stale.returncode == 0, stale.stderr
    page = json.loads(stale.stdout)
    assert "Tuning" in page["missing"]
    assert "tuned on other predictions" in Path(page["report"]).read_text()
    tuned = gatemask("oof-tune", "phantom", "--quick", "--as-trained", "--json", root=root)
    assert tuned.returncode == 0, tuned.stderr
    assert json.loads(tuned.stdout)["current"] is False, "new predictions, new rule"


@pytest.mark.parametrize(
    ("damage", "command", "words"),
    [
        ("unet_b0/fold1/result.json", ["oof-tune"], ["no out-of-fold predictions", "unet_b0", "fold1"]),
        ("tuned/result.json", ["ensemble"], ["No rule has been tuned", "gatemask oof-tune phantom"]),
        ("ensemble/result.json", ["package"], ["No ensemble", "gatemask ensemble phantom"]),
    ],
)
def test_error_names_the_command_of_a_missing_stage(
    phantom_loop: Loop, tmp_path: Path, damage: str, command: list[str], words: list[str]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal", "dist", "raw", "*.weights.h5"))
    (root / "runs/phantom-quick" / damage).unlink()
    done = gatemask(*command, "phantom", "--quick", root=root)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_predictions_from_another_split_are_rejected(phantom_loop: Loop, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal", "dist", "raw", "*.weights.h5"))
    path = root / "folds/phantom-quick.csv"
    frame = pd.read_csv(path, dtype=str)
    frame.assign(fold=frame["fold"].map({"0": "1", "1": "0"})).to_csv(path, index=False)
    done = gatemask("oof-tune", "phantom", "--quick", root=root)
    assert done.returncode == 1
    assert "trained on another split" in done.stderr


def test_greedy_selection_is_shown_in_the_report(phantom_loop: Loop, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal", "dist"))
    greedy = ["--set", "mask.weights=greedy", "--set", "gate.weights=greedy", "--set", "tune.rounds=4"]
    for command in ("oof-tune", "ensemble", "report"):
        done = gatemask(command, "phantom", "--quick", "--json", *greedy, root=root)
        assert done.returncode == 0, done.stderr[-3000:]
    runs = root / "runs/phantom-quick"
    tuned = json.loads((runs / "tuned/result.json").read_text())
    for selection in tuned["selection"].values():
        assert selection["score"] >= selection["best_member"]["score"]
    shipped = yaml.safe_load((runs / "ensemble/ensemble.yaml").read_text())
    assert {member["experiment"] for member in shipped["mask"]} == {
        name for name, weight in zip(EXPERIMENTS[1:], tuned["weights"], strict=True) if weight
    }
    assert all(member["why"].startswith("round") for member in shipped["mask"])
    assert all(member["seconds_per_image"] > 0 for member in shipped["mask"])
    assert (runs / "ensemble/selection.png").stat().st_size > 5000
    assert "<h3>Selection</h3>" in (runs / "report/report.html").read_text()
    again = gatemask("ensemble", "phantom", "--quick", *greedy, root=root)
    assert "masks, round by round" in again.stderr


def test_damaged_weights_fail_the_rehearsal(phantom_loop: Loop, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal"))
    dataset = root / "dist/phantom-quick/dataset"
    weights = dataset / "gate_r18-fold0.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = gatemask("rehearse", "phantom", "--quick", root=root)
    assert done.returncode == 1
    assert "gate_r18-fold0.weights.h5 is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "runs/phantom-quick/rehearsal/result.json").exists()
