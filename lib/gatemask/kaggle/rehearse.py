"""`gatemask rehearse`: run the packaged kernel as Kaggle will, before Kaggle does.

    runs/<comp>/rehearsal/kaggle/input/datasets/<owner>/<slug>/   the dataset, as it is mounted
    runs/<comp>/rehearsal/kaggle/input/competitions/<slug>/       test images and sample submission
    runs/<comp>/rehearsal/kaggle/working/submission.csv
    runs/<comp>/rehearsal/log.txt
    runs/<comp>/rehearsal/result.json                             written last

The kernel runs in a process of its own that sees only the packages of Kaggle's image, neither gatemask nor the
four wheels, and no network. What it writes is then checked as strictly as Kaggle would.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd

from gatemask.config.schema import Competition
from gatemask.console import say
from gatemask.data.folds import HOLDOUT, read_folds
from gatemask.data.labels import Masks
from gatemask.data.manifest import raw_folder, read_manifest
from gatemask.ensemble.predict import sample_ids
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, is_current, read_json, sha256, stamped_result, write_stamp
from gatemask.kaggle import check, sandbox
from gatemask.project import Project

TIME_LIMIT_S = 9 * 3600


def rehearse(project: Project, comp: Competition) -> dict[str, Any]:
    """Run the kernel in a stand-in for Kaggle and check its submission."""
    _require_package(project)
    folder = project.runs / "rehearsal"
    made_from = {
        "package": sha256(project.dist / "package.json"),
        "manifest": sha256(project.data / "manifest.csv"),
        "folds": sha256(project.folds),
        "truth": [sha256(path) for path in _truth_files(project) if path.exists()],
        "sample": _sample_hash(project, comp),
        "metric": comp.metric,
    }
    if is_current(folder / "result.json", made_from):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    fresh_folder(folder)
    test = test_images(project)
    kaggle = _mount(project, comp, folder / "kaggle", test)
    prefix, isolation = sandbox.isolation()
    say(f"rehearsal: {isolation}; only the packages of Kaggle's image")
    python, hidden = sandbox.make_image(folder / "image", refuse_sockets=not prefix)
    command = [*prefix, str(python), str(project.dist / "kernel" / "inference.py")]
    code = sandbox.run(command, kaggle, folder, TIME_LIMIT_S, KAGGLE_IS_COMPETITION_RERUN="1")
    sandbox.require_success(code, folder / "log.txt", "package and rehearse again")
    submission, inference = _results(kaggle)
    ids = sample_ids(_competition_folder(kaggle, comp), comp.submission.model_dump()) or sorted(test["image_id"])
    found = check.check(submission, comp, ids)
    trained = read_manifest(project, "train")
    result = {
        "isolation": isolation,
        "packages_hidden": hidden,
        "images": found["rows"],
        "passed": inference["passed"],
        "empty": found["empty"],
        "empty_share": found["empty_share"],
        "train_empty_share": round(1 - float(trained["label"].mean()), 4),
        "unreadable": inference["unreadable"],
        "inference_seconds": inference["seconds"],
        "metric": comp.metric,
        "submission": str(submission),
    }
    truth = _truth(project, comp)
    if truth is not None:
        result["submission_score"] = check.score(submission, comp, truth)
    sandbox.remove(folder / "image")
    return write_stamp(folder / "result.json", made_from, result, [submission], started)


def _require_package(project: Project) -> None:
    stamp = project.dist / "package.json"
    do = f"Run gatemask package {project.comp}."
    if not stamp.exists():
        raise GatemaskError("Nothing is packaged yet.", where=project.dist, do=do)
    if read_json(stamp)["made_from"]["ensemble"] != sha256(project.runs / "ensemble" / "ensemble.yaml"):
        raise GatemaskError("The package is older than the ensemble.", where=stamp, do=do)


def test_images(project: Project) -> pd.DataFrame:
    """Rows of the manifest that stand for the test: its test split, or the hold-out fold."""
    manifest = read_manifest(project)
    test = manifest[manifest["split"] == "test"]
    if len(test):
        return test
    folds = read_folds(project)
    return manifest[manifest["image_id"].isin(folds["image_id"][folds["fold"] == HOLDOUT])]


def _competition_folder(kaggle: Path, comp: Competition) -> Path:
    return kaggle / "input" / "competitions" / (comp.kaggle.competition or comp.name)


def _mount(project: Project, comp: Competition, kaggle: Path, test: pd.DataFrame) -> Path:
    """A folder that looks as /kaggle does: nothing of the training images or labels is in it."""
    dataset_id = read_json(project.dist / "dataset" / "dataset-metadata.json")["id"]
    dataset = kaggle / "input" / "datasets" / dataset_id
    shutil.copytree(project.dist / "dataset", dataset)
    (dataset / "dataset-metadata.json").unlink()  # Kaggle keeps this one to itself
    competition = _competition_folder(kaggle, comp)
    raw = raw_folder(project, comp)
    wanted = [*test["path"], *([comp.submission.sample] if comp.submission.sample else [])]
    for name in wanted:
        target = competition / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (raw / name).exists():
            raise GatemaskError(
                "A test file is gone.", where=raw / name, do="Bring the raw files back, or name them with --data."
            )
        shutil.copyfile(raw / name, target)
    (kaggle / "working").mkdir()
    return kaggle


def _results(kaggle: Path) -> tuple[Path, dict[str, Any]]:
    working = kaggle / "working"
    inference = json.loads((working / "inference.json").read_text()) if (working / "inference.json").exists() else {}
    return working / "submission.csv", inference


def _truth_files(project: Project) -> list[Path]:
    return [project.data / "test_masks.csv", project.data / "masks.csv"]


def _sample_hash(project: Project, comp: Competition) -> str | None:
    sample = comp.submission.sample and raw_folder(project, comp) / comp.submission.sample
    return sha256(sample) if sample and sample.exists() else None


def _truth(project: Project, comp: Competition) -> Masks | None:
    of_test, of_training = _truth_files(project)
    if of_test.exists():
        return Masks(of_test, comp.image.size)
    return Masks(of_training, comp.image.size) if comp.folds.holdout else None
