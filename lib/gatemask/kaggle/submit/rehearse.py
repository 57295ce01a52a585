"""`gatemask rehearse`: run the packaged kernel as the hidden rerun will, before Kaggle does.

    runs/<comp>/rehearsal/kaggle/input/datasets/<owner>/<slug>/   the dataset, as it is mounted
    runs/<comp>/rehearsal/kaggle/input/competitions/<slug>/       test images and sample submission, under other ids
    runs/<comp>/rehearsal/kaggle/working/submission.csv           as the kernel wrote it
    runs/<comp>/rehearsal/submission.csv                          the same for the visible test images; where not all of
                                                                  them were taken, part-of-submission.csv
    runs/<comp>/rehearsal/log.txt
    runs/<comp>/rehearsal/result.json                             written last

The kernel runs in a process of its own that sees only the packages of Kaggle's image, neither gatemask nor the
four wheels, and no network. In place of the visible test set it finds another one: of unknown ids, in another order,
and of another size. What it writes is checked as strictly as Kaggle would, and brought back to the visible ids.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd

from gatemask.config import Competition
from gatemask.console import say, table
from gatemask.data.labels import Masks
from gatemask.data.manifest import raw_folder, read_test_images
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, is_current, read_json, sha256, stamped_result, write_stamp
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.submit import package
from gatemask.masks.metrics import TITLES
from gatemask.project import Project
from gatemask.submission import check
from gatemask.submission.file_format import Row, SubmissionFormat, SubmissionTable

TIME_LIMIT_S = 9 * 3600
MOST = 300  # images: enough to know the time of one
MORE = 3  # images that the hidden test set has beyond the visible one: some of it, once more
TEXT_BYTES = 2_000  # that a row adds to the memory of a run


def rehearse(project: Project, comp: Competition, most: int = MOST, image: bool = False) -> dict[str, Any]:
    """Run the kernel in a stand-in for Kaggle and check its submission.

    Args:
        project, comp: what was packaged.
        most: test images that are taken; the time of all is worked out from theirs.
        image: with the package versions of Kaggle's image, where they can be installed.
    """
    folder = project.runs / "rehearsal"
    made_from = _made_from(project, comp, most, image)
    if is_current(folder / "result.json", made_from):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    fresh_folder(folder)
    everything = read_test_images(project, comp)
    test = everything.head(most)
    python = sandbox.python_of_image_versions() if image else None
    kaggle, names = _mount(project, comp, folder / "kaggle", test)
    ran = _run(project, folder, kaggle, python)
    there = check.expected_rows(_competition_folder(kaggle, comp), comp, list(names))
    found = check.check_submission(kaggle / "working" / "submission.csv", comp, there)
    inference = _account(kaggle, folder / "log.txt")
    visible = check.expected_rows(raw_folder(project, comp), comp, list(test["image_id"]))
    # Of some of the images it is no submission, and should not look like one.
    target = folder / ("submission.csv" if len(test) == len(everything) else "part-of-submission.csv")
    submission = _brought_back(kaggle / "working" / "submission.csv", target, comp, names, visible)
    result = {
        **ran,
        "images": len(test),
        "hidden_images": found.images,
        "rows": found.rows,
        **{key: inference[key] for key in ("passed", "empty", "device", "precision", "peak_megabytes")},
        "empty_share": found.empty_share,
        "train_empty_share": check.train_empty_share(project, comp),
        "unreadable": sorted(inference["unreadable"]),
        "inference_seconds": inference["seconds"],
        **_extrapolated(comp, inference, ran["kernel_seconds"], found.images, len(everything)),
        "metric": comp.metric,
        "submission": str(submission),
    }
    truth = _truth(project, comp)
    if truth is not None:
        result["submission_score"] = check.score_submission(submission, comp, truth)
    return write_stamp(folder / "result.json", made_from, result, [submission], started)


def show(result: dict[str, Any]) -> None:
    """The rehearsal for people."""
    if result.get("current"):
        say("Current: nothing to do.")
    named = {
        "isolation": "rehearsed with",
        "hidden_images": "images, under ids that nothing here knows",
        "passed": "passed the gate",
        "empty_share": "share of empty masks",
        "train_empty_share": "the same in training",
        "kernel_seconds": "seconds of the kernel",
        "peak_megabytes": "peak memory (MB)",
        "test_images": "images of the hidden test set",
        "expected_seconds": "seconds for those, on a machine such as this one",
        "expected_peak_megabytes": "peak memory for those (MB)",
        "submission_score": f"{TITLES.get(result['metric'], result['metric'])} of the submission",
        "submission": "submission",
    }
    rows = [[text, result[key]] for key, text in named.items() if result.get(key) is not None]
    if result["unreadable"]:
        rows.insert(3, ["unreadable, and left empty", ", ".join(result["unreadable"][:5])])
    table("Rehearsal", ["", ""], rows)


def require_current(project: Project, comp: Competition) -> dict[str, Any]:
    """The rehearsal of the present package.

    Raises:
        GatemaskError: nothing is packaged, or what is packaged was not rehearsed.
    """
    present = package.require_current(project, comp)
    stamp, do = project.runs / "rehearsal" / "result.json", f"Run gatemask rehearse {project.comp}."
    if not stamp.exists():
        raise GatemaskError("The package was not rehearsed.", where=stamp, do=do)
    if read_json(stamp)["made_from"]["package"] != present:
        raise GatemaskError("The rehearsal is of another package.", where=stamp, do=do)
    return read_json(stamp)


def _made_from(project: Project, comp: Competition, most: int, image: bool) -> dict[str, Any]:
    return {
        "package": package.require_current(project, comp),
        "tables": [
            sha256(path)
            for path in (project.data / "manifest.csv", project.folds, *_truth_files(project))
            if path.exists()
        ],
        "sample": _sample_hash(project, comp),
        "metric": comp.metric,
        "images": most,
        "versions of the image": image,
    }


# --- what it finds ------------------------------------------------------------------------------------------


def _competition_folder(kaggle: Path, comp: Competition) -> Path:
    return kaggle / "input" / "competitions" / (comp.kaggle.competition or comp.name)


def _mount(project: Project, comp: Competition, kaggle: Path, test: pd.DataFrame) -> tuple[Path, dict[str, str]]:
    """A folder that looks as /kaggle does: nothing of the training images or labels is in it.

    Returns:
        it, and the visible id of each hidden image; the last ones are there twice.
    """
    dataset_id = read_json(project.dist / "dataset" / "dataset-metadata.json")["id"]
    dataset = kaggle / "input" / "datasets" / dataset_id
    shutil.copytree(project.dist / "dataset", dataset)
    (dataset / "dataset-metadata.json").unlink()  # Kaggle keeps this one to itself
    competition, raw = _competition_folder(kaggle, comp), raw_folder(project, comp)
    path_of = dict(zip(test["image_id"], test["path"], strict=True))
    visible = list(path_of)
    around = _around((comp.test or comp.train).images)
    names = {_hidden(image_id, 0, around): image_id for image_id in visible}
    names |= {_hidden(image_id, 1, around): image_id for image_id in visible[:MORE]}
    for name, image_id in names.items():
        source = raw / path_of[image_id]
        target = competition / Path(path_of[image_id]).with_name(name + source.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise GatemaskError(
                "A test file is gone.", where=source, do="Bring the raw files back, or name them with --data."
            )
        shutil.copyfile(source, target)
    if comp.submission.sample:
        _write_sample(raw / comp.submission.sample, competition / comp.submission.sample, comp, names)
    (kaggle / "working").mkdir()
    return kaggle, names


def _hidden(image_id: str, copy: int, around: tuple[str, str]) -> str:
    """A name that nothing here has seen; in their order, names say nothing of the visible ids' order."""
    return f"{around[0]}hidden{hashlib.sha256(f'{image_id} {copy}'.encode()).hexdigest()[:16]}{around[1]}"


def _around(pattern: str) -> tuple[str, str]:
    """What the pattern of the test images wants before and after a star: they are found by it under any other name."""
    last = pattern.split("/")[-1]
    parts = re.split(r"[*?]|\[[^\]]*\]", last)
    return (parts[0], parts[-1].partition(".")[0]) if len(parts) > 1 else ("", "")


def _write_sample(source: Path, target: Path, comp: Competition, names: dict[str, str]) -> None:
    """The sample submission of the hidden images: the visible one's rows under other ids."""
    layout = SubmissionFormat.of(comp)
    sample = layout.read_sample(source)
    of_image: dict[str, list[Row]] = {}
    for row in sample.rows:
        of_image.setdefault(row.image_id, []).append(row)
    hidden = [
        layout.rename_row(row, name) for name, image_id in sorted(names.items()) for row in of_image.get(image_id, [])
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    SubmissionTable(layout, sample.header, hidden).write(target, {})


# --- running it, and what it left ---------------------------------------------------------------------------


def _run(project: Project, folder: Path, kaggle: Path, python: Path | None) -> dict[str, Any]:
    prefix, isolation = sandbox.isolation()
    versions = " in the versions of its image" if python else ""
    say(f"rehearsal: {isolation}; only the packages of Kaggle's image{versions}")
    inside, hidden = sandbox.make_image(folder / "image", not prefix, python=python)
    started = time.monotonic()
    command = [*prefix, str(inside), str(project.dist / "kernel" / "inference.py")]
    code = sandbox.run(command, kaggle, folder, TIME_LIMIT_S, KAGGLE_IS_COMPETITION_RERUN="1")
    seconds = round(time.monotonic() - started, 1)
    sandbox.remove(folder / "image")
    sandbox.require_success(code, folder / "log.txt", "package and rehearse again")
    return {
        "isolation": isolation,
        "versions_of_the_image": python is not None,
        "packages_hidden": hidden,
        "kernel_seconds": seconds,
    }


def _account(kaggle: Path, log: Path) -> dict[str, Any]:
    """inference.json; what was forgiven in the kernel is not forgiven here."""
    path = kaggle / "working" / "inference.json"
    if not path.exists():
        raise sandbox.kernel_failure(log, "no inference.json", "package and rehearse again")
    found: dict[str, Any] = json.loads(path.read_text())
    if wrong := found.get("degraded", ["the package is of an older gatemask"]):
        raise sandbox.kernel_failure(log, "; ".join(wrong[:5]), "package and rehearse again")
    return found


def _brought_back(source: Path, target: Path, comp: Competition, names: dict[str, str], visible: list[Row]) -> Path:
    """The submission of the visible images; those that were there twice have to have been decided alike."""
    texts: dict[tuple[str, int], str] = {}
    for line in check.read_lines(source, comp):
        key = names[line.row.image_id], line.row.class_index
        if texts.setdefault(key, line.encoded) != line.encoded:
            raise GatemaskError(
                "The kernel decided differently on two copies of one image.", where=line.where, received=key[0]
            )
    with source.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    listed = [row for row in visible if (row.image_id, row.class_index) in texts]
    return SubmissionTable(SubmissionFormat.of(comp), header, listed).write(target, texts)


def _extrapolated(
    comp: Competition, inference: dict[str, Any], kernel_s: float, images: int, visible: int
) -> dict[str, Any]:
    """Time and memory of the real test set, on a machine such as this one."""
    count = comp.kaggle.test_images or visible
    return {
        "test_images": count,
        "expected_seconds": round(kernel_s + inference["seconds_per_image"] * max(0, count - images), 1),
        "expected_peak_megabytes": round(inference["peak_megabytes"] + TEXT_BYTES * max(0, count - images) / 1e6),
    }


def _truth_files(project: Project) -> list[Path]:
    return [project.data / "test_masks.csv", project.data / "masks.csv"]


def _sample_hash(project: Project, comp: Competition) -> str | None:
    sample = comp.submission.sample and raw_folder(project, comp) / comp.submission.sample
    return sha256(sample) if sample and sample.exists() else None


def _truth(project: Project, comp: Competition) -> Masks | None:
    """Masks of the test images, where they are known."""
    of_test, of_training = _truth_files(project)
    if len(comp.classes) > 1:
        return None
    if of_test.exists():
        return Masks(of_test, comp.image.size)
    return Masks(of_training, comp.image.size) if comp.folds.holdout else None
