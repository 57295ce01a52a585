"""`gatemask rehearse`: run the packaged kernel as the hidden rerun will.

    runs/<comp>/rehearsal/kaggle/input/datasets/<owner>/<slug>/   the dataset, as Kaggle mounts it
    runs/<comp>/rehearsal/kaggle/input/competitions/<slug>/       test images and sample submission under other ids
    runs/<comp>/rehearsal/kaggle/working/submission.csv           the kernel's submission
    runs/<comp>/rehearsal/submission.csv                          the same for the visible test images; if only some
                                                                  were taken, part-of-submission.csv
    runs/<comp>/rehearsal/log.txt
    runs/<comp>/rehearsal/result.json                             written last

The kernel runs in a process that sees only the packages of Kaggle's image, without gatemask and the shipped wheels,
and no network. The visible test set is replaced by one with unknown ids, in another order, and of another size. Its
submission is checked as strictly as Kaggle does, and translated back to the visible ids.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gatemask.config import METRIC_TITLES, Competition
from gatemask.console import say, table
from gatemask.data.ids import test_rule
from gatemask.data.joins import IdList, join_ids
from gatemask.data.labels import Masks
from gatemask.data.manifest import read_test_images
from gatemask.data.raw_folder import raw_folder
from gatemask.data.submission_format import Row, SubmissionFormat, SubmissionTable
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object, sha256
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.submit.hidden_names import HiddenName, hidden_name
from gatemask.kaggle.submit.package import require_package
from gatemask.project import Project
from gatemask.results.submission import InferenceReport, KernelRun, RehearsalResult, SubmissionSummary
from gatemask.stage import Outputs, Stage, Stamp
from gatemask.submission import check

TIME_LIMIT_S = 9 * 3600
MAX_IMAGES = 300  # enough to measure the time per image
REPEATED = 3  # images that the hidden test set contains twice
ROW_BYTES = 2_000  # memory that one more row needs
AGAIN = "package and rehearse again"


def rehearse_submission(
    project: Project, comp: Competition, most: int = MAX_IMAGES, image: bool = False
) -> RehearsalResult:
    """Run the kernel in a stand-in for Kaggle, and check its submission.

    Args:
        project: Project with the package.
        comp: Competition.
        most: Maximum number of test images; the time for all is extrapolated. Default: 300.
        image: Whether to use the package versions of Kaggle's image, where they can be installed. Default: False.

    Raises:
        GatemaskError: The kernel failed, or did not write a valid submission.
    """
    stage = Stage("rehearse", _stamp_path(project), _made_from(project, comp, most, image), RehearsalResult)
    return stage.run(lambda: _Rehearsal(project, comp, stage.stamp.parent).run(most, image))


def require_rehearsal(project: Project, comp: Competition) -> None:
    """Verify that the present package was rehearsed.

    Raises:
        GatemaskError: Nothing is packaged, or the package was not rehearsed.
    """
    package = require_package(project, comp)
    stamp, do = _stamp_path(project), f"Run gatemask rehearse {project.comp}."
    if not stamp.exists():
        raise GatemaskError("The package was not rehearsed.", where=stamp, do=do)
    if Stamp.load(stamp).made_from.get("package") != package:
        raise GatemaskError("The rehearsal belongs to another package.", where=stamp, do=do)


def _stamp_path(project: Project) -> Path:
    return project.runs / "rehearsal" / "result.json"


def _made_from(project: Project, comp: Competition, most: int, image: bool) -> dict[str, object]:
    tables = (project.data / "manifest.csv", project.folds, *_truth_files(project))
    return {
        "package": require_package(project, comp),
        "tables": [sha256(path) for path in tables if path.exists()],
        "sample": _sample_hash(project, comp),
        "metric": comp.metric,
        "images": most,
        "versions of the image": image,
    }


class _Expected(NamedTuple):
    """Time and memory for the hidden test set, on this machine."""

    images: int
    seconds: float
    peak_megabytes: int


@dataclass(frozen=True)
class _Rehearsal:
    """One rehearsal.

    Args:
        project: Project with the package.
        comp: Competition.
        folder: Folder of the rehearsal's files.
    """

    project: Project
    comp: Competition
    folder: Path

    @property
    def kaggle(self) -> Path:
        """Folder in place of /kaggle."""
        return self.folder / "kaggle"

    @property
    def competition(self) -> Path:
        """Folder in which the competition is mounted."""
        return self.kaggle / "input" / "competitions" / (self.comp.kaggle.competition or self.comp.name)

    @property
    def kernel_submission(self) -> Path:
        return self.kaggle / "working" / "submission.csv"

    def run(self, most: int, image: bool) -> tuple[RehearsalResult, Outputs]:
        """Mount a hidden test set, run the kernel, check its submission and translate it; arguments as above."""
        project, comp = self.project, self.comp
        _empty_folder(self.folder)
        all_images = read_test_images(project, comp)
        images = all_images.head(most)
        python = sandbox.python_of_image_versions() if image else None
        visible_ids = self.mount(images)
        run = self._run_kernel(python)
        hidden_rows = check.expected_rows(self.competition, comp, list(visible_ids))
        summary = check.check_submission(self.kernel_submission, comp, hidden_rows)
        report = self._read_report()
        rows = check.expected_rows(raw_folder(project, comp), comp, list(images["image_id"]))
        # A submission for some of the images is incomplete, and its name says so.
        complete = len(images) == len(all_images)
        target = self.folder / ("submission.csv" if complete else "part-of-submission.csv")
        submission = self._translate_back(target, visible_ids, rows)
        result = self._result(run, summary, report, images=len(images), visible=len(all_images), submission=submission)
        return result, [submission]

    def mount(self, images: pd.DataFrame) -> dict[str, str]:
        """Make a folder that looks like /kaggle, without training images and labels.

        Args:
            images: Rows of the manifest.

        Returns:
            Visible ids by hidden id; the first few visible images occur twice.
        """
        metadata = self.project.dist / "dataset" / "dataset-metadata.json"
        do = f"Delete {self.project.dist}, then {AGAIN}."
        dataset_id = read_json_object(metadata, "id", do=do)["id"]
        dataset = self.kaggle / "input" / "datasets" / dataset_id
        shutil.copytree(self.project.dist / "dataset", dataset)
        (dataset / "dataset-metadata.json").unlink()  # Kaggle does not mount it
        raw = raw_folder(self.project, self.comp)
        paths = dict(zip(images["image_id"], images["path"], strict=True))
        hidden: dict[str, HiddenName] = {}
        for image_id, copy in [*((name, 0) for name in paths), *((name, 1) for name in list(paths)[:REPEATED])]:
            named = hidden_name(test_rule(self.comp), image_id, paths[image_id], copy, {*paths, *hidden})
            hidden[named.image_id] = named
        for named in hidden.values():
            source = raw / named.visible_name
            if not source.exists():
                do = "Restore the raw files, or name their folder with --data."
                raise GatemaskError("A test image is missing.", where=source, do=do)
            target = self.competition / named.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if sample := self.comp.submission.sample:
            self._write_sample(raw / sample, self.competition / sample, hidden)
        (self.kaggle / "working").mkdir()
        return {hidden_id: named.visible_id for hidden_id, named in hidden.items()}

    def _write_sample(self, source: Path, target: Path, hidden: Mapping[str, HiddenName]) -> None:
        """Write the sample submission of the hidden images: rows of the visible sample under other ids."""
        layout = SubmissionFormat.of(self.comp)
        sample = layout.read_sample(source)
        rows_of_image: dict[str, list[Row]] = {}
        for row in sample.rows:
            rows_of_image.setdefault(row.image_id, []).append(row)
        if rows_of_image:
            join_ids(
                IdList("rehearsed images", {named.visible_id for named in hidden.values()}),
                IdList("ids of the sample submission", rows_of_image, source),
                "Correct test.images, test.id, submission.id or submission.sample.",
            ).report("Images without a row are not predicted.")
        rows = [
            layout.rename_row(row, hidden_id, named.name)
            for hidden_id, named in sorted(hidden.items())
            for row in rows_of_image.get(named.visible_id, [])
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        SubmissionTable(layout, sample.header, rows).write(target, {})

    def _run_kernel(self, python: Path | None) -> KernelRun:
        prefix, isolation = sandbox.isolation()
        versions = " in the versions of its image" if python else ""
        say(f"rehearsal: {isolation}; only the packages of Kaggle's image{versions}")
        interpreter, hidden = sandbox.make_image(self.folder / "image", not prefix, python=python)
        started = time.monotonic()
        command = [*prefix, str(interpreter), str(self.project.dist / "kernel" / "inference.py")]
        code = sandbox.run(command, self.kaggle, self.folder, TIME_LIMIT_S, KAGGLE_IS_COMPETITION_RERUN="1")
        seconds = round(time.monotonic() - started, 1)
        sandbox.remove(self.folder / "image")
        sandbox.require_success(code, self.folder / "log.txt", AGAIN)
        return KernelRun(
            isolation=isolation,
            versions_of_the_image=python is not None,
            packages_hidden=hidden,
            kernel_seconds=seconds,
        )

    def _read_report(self) -> InferenceReport:
        """Read inference.json; a fault that the kernel survived fails the rehearsal."""
        path, log = self.kaggle / "working" / "inference.json", self.folder / "log.txt"
        if not path.exists():
            raise sandbox.kernel_failure(log, "no inference.json", AGAIN)
        try:
            report = InferenceReport.load(path)
        except GatemaskError as error:
            raise sandbox.kernel_failure(log, error.short(), AGAIN) from None
        if report.degraded:
            raise sandbox.kernel_failure(log, "; ".join(report.degraded[:5]), AGAIN)
        return report

    def _translate_back(self, target: Path, visible_ids: Mapping[str, str], rows: Sequence[Row]) -> Path:
        """Write the submission for the visible images; both copies of a repeated image must have the same masks."""
        source, encoded = self.kernel_submission, dict[tuple[str, int], str]()
        for line in check.read_lines(source, self.comp):
            key = visible_ids[line.row.image_id], line.row.class_index
            if encoded.setdefault(key, line.encoded) != line.encoded:
                raise GatemaskError(
                    "The kernel predicted different masks for two copies of an image.",
                    where=line.where,
                    received=key[0],
                )
        with source.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        predicted = [row for row in rows if (row.image_id, row.class_index) in encoded]
        return SubmissionTable(SubmissionFormat.of(self.comp), header, predicted).write(target, encoded)

    def _result(
        self,
        run: KernelRun,
        summary: SubmissionSummary,
        report: InferenceReport,
        *,
        images: int,
        visible: int,
        submission: Path,
    ) -> RehearsalResult:
        expected = self._extrapolate(run, report, summary.images, visible)
        truth = _truth(self.project, self.comp)
        score = {} if truth is None else {"submission_score": check.score_submission(submission, self.comp, truth)}
        return RehearsalResult(
            **dict(run),
            images=images,
            hidden_images=summary.images,
            rows=summary.rows,
            passed=report.passed,
            empty=report.empty,
            device=report.device,
            precision=report.precision,
            peak_megabytes=report.peak_megabytes,
            empty_share=summary.empty_share,
            train_empty_share=check.train_empty_share(self.project, self.comp),
            unreadable=sorted(report.unreadable),
            inference_seconds=report.seconds,
            test_images=expected.images,
            expected_seconds=expected.seconds,
            expected_peak_megabytes=expected.peak_megabytes,
            metric=self.comp.metric,
            submission=str(submission),
            **score,
        )

    def _extrapolate(self, run: KernelRun, report: InferenceReport, images: int, visible: int) -> _Expected:
        count = self.comp.kaggle.test_images or visible
        more = max(0, count - images)
        return _Expected(
            count,
            round(run.kernel_seconds + report.seconds_per_image * more, 1),
            round(report.peak_megabytes + ROW_BYTES * more / 1e6),
        )


def _empty_folder(folder: Path) -> None:
    """Remove everything except the lock that the stage holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink()


def _truth_files(project: Project) -> list[Path]:
    return [project.data / "test_masks.csv", project.data / "masks.csv"]


def _sample_hash(project: Project, comp: Competition) -> str | None:
    sample = comp.submission.sample and raw_folder(project, comp) / comp.submission.sample
    return sha256(sample) if sample and sample.exists() else None


def _truth(project: Project, comp: Competition) -> Masks | None:
    """Return the masks of the test images where they are available."""
    test_masks, training_masks = _truth_files(project)
    if len(comp.classes) > 1:
        return None
    if test_masks.exists():
        return Masks(test_masks, comp.image.size)
    return Masks(training_masks, comp.image.size) if comp.folds.holdout else None


def print_rehearsal(result: RehearsalResult) -> None:
    """Print the rehearsal as a table."""
    if result.current:
        say("Current: nothing to do.")
    labels = {
        "isolation": "rehearsed with",
        "hidden_images": "images, under unknown ids",
        "passed": "passed the gate",
        "empty_share": "share of empty masks",
        "train_empty_share": "share of empty masks in training",
        "kernel_seconds": "duration of the kernel (s)",
        "peak_megabytes": "peak memory (MB)",
        "test_images": "images of the hidden test set",
        "expected_seconds": "duration for those, on this machine (s)",
        "expected_peak_megabytes": "peak memory for those (MB)",
        "submission_score": f"{METRIC_TITLES.get(result.metric, result.metric)} of the submission",
        "submission": "submission",
    }
    rows = [[label, getattr(result, name)] for name, label in labels.items() if getattr(result, name) is not None]
    if result.unreadable:
        rows.insert(3, ["unreadable, with empty masks", ", ".join(result.unreadable[:5])])
    table("Rehearsal", ["", ""], rows)
