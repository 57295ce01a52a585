"""`gatemask rehearse`: run the packaged kernel as the hidden rerun will.

    runs/<comp>/rehearsal/kaggle/input/datasets/<owner>/<slug>/   the dataset, as Kaggle mounts it
    runs/<comp>/rehearsal/kaggle/input/competitions/<slug>/       test images and sample submission under other ids
    runs/<comp>/rehearsal/kaggle/working/submission.csv           the kernel's submission
    runs/<comp>/rehearsal/submission.csv                          the same for the visible test images; if only some
                                                                  were taken, part-of-submission.csv. An archive of
                                                                  masks is called submission.zip
    runs/<comp>/rehearsal/log.txt
    runs/<comp>/rehearsal/result.json                             written last

The kernel runs in a process that sees only the packages of Kaggle's image, without gatemask and the shipped wheels,
and no network. The visible test set is replaced by one with unknown ids, in another order, and of another size. Its
submission is checked as strictly as Kaggle does, and translated back to the visible ids.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gatemask.config import METRIC_TITLES, Competition, Ensemble
from gatemask.console import say, table
from gatemask.data.ids import test_rule
from gatemask.data.image_files import image_files
from gatemask.data.joins import IdList, join_ids
from gatemask.data.mask_sizes import MaskSizes, common_size
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.data.submission_dialect import dialect_notes
from gatemask.data.submission_format import Row, SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object, sha256
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.submit.hidden_files import hide_images
from gatemask.kaggle.submit.hidden_names import HiddenName
from gatemask.kaggle.submit.outdated import require_present_settings
from gatemask.kaggle.submit.package import package_stamp, require_package
from gatemask.kaggle.submit.rehearsed_images import RehearsedImages, choose_images
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.submission import InferenceReport, KernelRun, RehearsalResult, SubmissionSummary
from gatemask.stage import Outputs, Stage, Stamp
from gatemask.submission import check
from gatemask.submission.scoring import score_submission

TIME_LIMIT_S = 9 * 3600
MAX_IMAGES = 300  # enough to measure the time per image
ROW_BYTES = 2_000  # memory that one more row needs
ONE_PIXEL = (1, 1)  # size of masks in an archive for images that cannot be read
AGAIN = "package and rehearse again"


def rehearse_submission(
    project: Project, comp: Competition, ensemble: Ensemble, most: int | None = None, image: bool = False
) -> RehearsalResult:
    """Rehearse the package, unless the YAMLs have changed since it was made.

    Args:
        project: Project with the package.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml. Its `as_trained` allows members whose YAML has changed.
        most: Maximum number of test images, as for `rehearse_package`.
        image: Whether to use the package versions of Kaggle's image. Default: False.

    Raises:
        GatemaskError: The package is older than the YAMLs, the kernel failed, or it did not write a valid submission.
    """
    require_package(project, comp)
    notes = require_present_settings(project, comp, ensemble, package_stamp(project))
    for note in notes:
        say(f"as trained: {note}")
    result = rehearse_package(project, comp, most, image)
    return result.model_copy(update={"as_trained": notes}) if notes else result


def rehearse_package(
    project: Project, comp: Competition, most: int | None = None, image: bool = False
) -> RehearsalResult:
    """Run the kernel in a stand-in for Kaggle, and check its submission.

    Args:
        project: Project with the package.
        comp: Competition.
        most: Maximum number of test images; the time for all is extrapolated. Default: 300, or as many as the present
            rehearsal of this package has, if those are more.
        image: Whether to use the package versions of Kaggle's image, where they can be installed. Default: False.

    Raises:
        GatemaskError: The kernel failed, or did not write a valid submission.
    """
    most = most or _usual_number(project, comp, image)
    stage = Stage("rehearse", _stamp_path(project), _made_from(project, comp, most, image), RehearsalResult)
    return stage.run(lambda: _Rehearsal(project, comp, stage.stamp.parent).run(most, image))


def _usual_number(project: Project, comp: Competition, image: bool) -> int:
    """Return the number of images where none is asked for; a rehearsal of more images is not replaced."""
    stamp = _stamp_path(project)
    if stamp.exists():
        made_from = Stamp.load(stamp).made_from
        number = made_from.get("images")
        if isinstance(number, int) and number > MAX_IMAGES and made_from == _made_from(project, comp, number, image):
            return number
    return MAX_IMAGES


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
        return self.kaggle / "working" / self.comp.submission.file_name

    def run(self, most: int, image: bool) -> tuple[RehearsalResult, Outputs]:
        """Mount a hidden test set, run the kernel, check its submission and translate it; arguments as above."""
        project, comp = self.project, self.comp
        _empty_folder(self.folder)
        images = choose_images(project, comp, most)
        for note in dialect_notes(comp, raw_folder(project, comp)):
            say(f"note: {note}")
        python = sandbox.python_of_image_versions() if image else None
        visible_ids = self.mount(images)
        run = self._run_kernel(python)
        sizes = self._hidden_sizes(visible_ids, images.stand_ins)
        summary = check.check_submission(self.kernel_submission, comp, self._hidden_table(), sizes)
        report = self._read_report()
        _require_one_size(report, comp)
        self._require_readable(report, visible_ids)
        visible = check.expected_table(raw_folder(project, comp), comp, {} if images.stand_ins else images.paths)
        # A submission for some of the images is incomplete, and its name says so.
        target = self.folder / f"{'' if images.complete else 'part-of-'}{comp.submission.file_name}"
        submission = self._translate_back(target, visible_ids, visible, images.stand_ins)
        return self._result(run, summary, report, images, submission), [submission]

    def mount(self, images: RehearsedImages) -> dict[str, str]:
        """Make a folder that looks like /kaggle, without training images (unless they are rehearsed) and labels.

        Args:
            images: Images of the rehearsal.

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
        hidden = hide_images(self.comp, raw, images)
        for name, source in hidden.sources.items():
            target = self.competition / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if sample := self.comp.submission.sample:
            self._write_sample(raw / sample, self.competition / sample, hidden.names, images.stand_ins)
        (self.kaggle / "working").mkdir()
        return {hidden_id: named.visible_id for hidden_id, named in hidden.names.items()}

    def _write_sample(self, source: Path, target: Path, hidden: Mapping[str, HiddenName], stand_ins: bool) -> None:
        """Write the sample submission of the hidden images: rows of the visible sample under other ids."""
        layout = SubmissionFormat.of(self.comp)
        sample = read_sample(layout, source)
        rows_of_image: dict[str, list[Row]] = {}
        for row in sample.rows:
            rows_of_image.setdefault(row.image_id, []).append(row)
        if rows_of_image and not stand_ins and not self.comp.submission.by_object:
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
        if stand_ins:
            rows = list(table_of(layout, sorted(hidden)).rows)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(sample, rows=rows).write(target, {}, MaskSizes(common_size(self.comp.image), unknown=ONE_PIXEL))

    def _hidden_table(self) -> SubmissionTable:
        """Return the rows that the kernel's submission must have."""
        test = self.comp.test or self.comp.train
        files = {file.image_id: file.name for file in image_files(self.competition, test_rule(self.comp), test)}
        return check.expected_table(self.competition, self.comp, files)

    def _hidden_sizes(self, visible_ids: Mapping[str, str], stand_ins: bool) -> MaskSizes:
        """Return the sizes of the masks under hidden ids; an image that the manifest lacks has none."""
        known = (check.training_sizes if stand_ins else check.visible_sizes)(self.project, self.comp)
        sizes = {hidden: known[visible] for hidden, visible in visible_ids.items() if known.known(visible)}
        return MaskSizes(known.common, sizes)

    def _run_kernel(self, python: Path | None) -> KernelRun:
        prefix, isolation = sandbox.isolation()
        packages = "only the packages of Kaggle's image in its versions" if python else sandbox.packages_note()
        say(f"rehearsal: {isolation}; {packages}")
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

    def _require_readable(self, report: InferenceReport, visible_ids: Mapping[str, str]) -> None:
        """Raise if the kernel cannot read an image that can be read here, such as for want of a decoder."""
        if not (self.project.data / "manifest.json").exists():
            return
        listed = set(read_manifest(self.project)["image_id"])
        lost = {visible_ids[name]: reason for name, reason in report.unreadable.items() if visible_ids[name] in listed}
        if lost:
            image_id, reason = next(iter(lost.items()))
            raise GatemaskError(
                "The kernel cannot read test images that can be read here.",
                where=self.folder / "log.txt",
                received=f"{len(lost)} such images, the first {image_id}: {reason}",
                expected="images that Kaggle's packages, or those that are shipped, can decode",
                do=f"Their masks would be empty. Read the log, and {AGAIN}.",
            )

    def _translate_back(
        self, target: Path, visible_ids: Mapping[str, str], table: SubmissionTable, stand_ins: bool
    ) -> Path:
        """Write the submission for the visible images; both copies of a repeated image must have the same masks.

        Where training images stood in for a hidden test set, write what the saved version will: empty masks, if any.
        """
        comp, source = self.comp, self.kernel_submission
        sizes = replace(check.visible_sizes(self.project, comp), unknown=ONE_PIXEL)
        if stand_ins:
            return table.write(target, {}, sizes)
        hidden, hidden_sizes = self._hidden_table(), self._hidden_sizes(visible_ids, stand_ins)
        texts: dict[tuple[str, int], list[str]] = {}
        for line in check.read_lines(source, comp, hidden, hidden_sizes):
            texts.setdefault(line.row.key, [])
            if not rle.is_empty(line.encoded, table.format.dialect):
                texts[line.row.key].append(line.encoded)
        encoded = dict[tuple[str, int], list[str]]()
        for hidden_id, visible_id in visible_ids.items():
            for index in range(len(comp.classes)):
                masks = texts.get((hidden_id, index), [])
                if encoded.setdefault((visible_id, index), masks) != masks:
                    raise GatemaskError(
                        "The kernel predicted different masks for two copies of an image.",
                        where=source,
                        received=visible_id,
                    )
        rows, unlisted = ([row for row in part if row.key in encoded] for part in (table.rows, table.unlisted))
        return replace(table, rows=rows, unlisted=unlisted).write(target, encoded, sizes)

    def _result(
        self,
        run: KernelRun,
        summary: SubmissionSummary,
        report: InferenceReport,
        images: RehearsedImages,
        submission: Path,
    ) -> RehearsalResult:
        expected = self._extrapolate(run, report, summary.images, images.needed or len(images.paths))
        truth = None if images.stand_ins else _truth(self.project, self.comp)
        score: dict[str, float] = {}
        if truth is not None:
            folder = self.project.experiments
            score["submission_score"] = score_submission(submission, self.comp, truth, folder, list(images.paths))
        return RehearsalResult(
            **dict(run),
            images=len(images.paths),
            needed_images=images.needed,
            on_training_images=images.stand_ins,
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


def _require_one_size(report: InferenceReport, comp: Competition) -> None:
    """Raise if test images have another size: the competition reads their masks at that size."""
    if report.odd_sizes:
        raise GatemaskError(
            "Test images have another size than image.size, so their masks would be read wrongly.",
            where=f"{comp.name}, test images",
            received=f"{report.odd_sizes} such images",
            expected=f"{' x '.join(map(str, comp.image.size))} pixels each",
            do="Correct image.size, or set image.size: mixed. data/<comp>/problems.csv lists images of another size.",
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
    if (project.data / "test_masks.csv").exists():
        return Masks.of(project, comp, "test_masks.csv")
    return Masks.of(project, comp) if comp.folds.holdout else None


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
    if result.advice:
        say(result.advice)
