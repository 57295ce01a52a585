"""`gatemask submit`: upload the package, run its kernel, check its output, submit its version, wait for the score.

    dist/<comp>/kaggle/<slug>/              the dataset as it is uploaded: links
    dist/<comp>/kaggle/<slug>-inference/    the kernel as it is pushed: owned by this account, with a mark in its log
    runs/<comp>/submissions/                records, submitted files, image scores: see `submission_records`

A submission passes through these states, and one step leads from each to the next:

    packaged -> pushing -> running -> ran -> submitting -> submitted -> scored

A state is recorded before anything is done for it. A command that was killed at any time is run again and continues
from there; requests that may have reached Kaggle are looked up first, so nothing is pushed or submitted twice.
"""

from __future__ import annotations

import ast
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import copy_file, fresh_folder, read_json_object, sha256, write_json, write_text
from gatemask.kaggle.client import account, api, cli, datasets, reconcile
from gatemask.kaggle.client.cli import KaggleError, printable
from gatemask.kaggle.client.polling import DOUBTFUL_ATTEMPTS, OUTPUT_ATTEMPTS, poll, tolerant
from gatemask.kaggle.submit import outdated, package, rehearse, submission_records
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.results.submission import InferenceReport, SubmissionRecord, SubmissionResult
from gatemask.secrets.guard import refuse_secrets_in
from gatemask.stage import Stamp, outputs_unchanged
from gatemask.submission import check
from gatemask.submission.reading import read_masks
from gatemask.tracking.send_results import send_at_once

REPORT = "inference.json"
LIMIT_S = 9 * 3600  # Kaggle's session limit for such a kernel
MAX_PUSHES = 2  # of one package: the second if the first found an older version of the dataset
LIST_ATTEMPTS = 3  # requests for the list of submissions when it is unclear whether one was made


@dataclass(frozen=True)
class SubmitOptions:
    """Options of `gatemask submit`.

    Args:
        force: Submit without a rehearsal, and although something went wrong in the kernel. Default: False.
        poll_s: Pause between two requests to Kaggle, in seconds. Default: 30.
        message: Text added to the description on Kaggle. Default: none.
        wait: Wait for the score; otherwise the next call asks for it. Default: True.
        allow_dirty: Accept files changed since the last commit. Default: False.
    """

    force: bool = False
    poll_s: float = 30.0
    message: str | None = None
    wait: bool = True
    allow_dirty: bool = False


def submit_package(project: Project, comp: Competition, ensemble: Ensemble, opts: SubmitOptions) -> SubmissionResult:
    """Submit the present package, or continue a submission of it that was interrupted.

    Args:
        project: Project with the package.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml. Its `as_trained` allows members whose YAML has changed.
        opts: Options.

    Raises:
        GatemaskError: The package or its rehearsal is missing, the YAMLs have changed since it was made, Kaggle refuses
            something, the kernel failed, or its output must not be submitted.
    """
    if comp.kaggle.competition is None:
        raise GatemaskError(
            "competition.yaml does not name the competition on Kaggle.",
            where=project.experiments / "competition.yaml",
            received="no kaggle.competition",
            expected="its name as in https://www.kaggle.com/competitions/NAME",
        )
    fingerprint = require_intact_package(project, comp)
    with account.exclusive(project):
        record = _unfinished_record(project, fingerprint, opts)
        if record is None or (record.state == "packaged" and record.pushes == 0):  # nothing has left this machine yet
            notes = outdated.require_present_settings(project, comp, ensemble, package.package_stamp(project))
            record = record or _new_record(project, comp, fingerprint, opts, notes)
        current = record.submitted
        submission_records.keep_image_scores(project, record)
        Submitter(project, comp, record, opts).run()
    send_at_once(project, [submission_records.record_path(project, record)])
    return SubmissionResult(current=current, record=record)


def require_intact_package(project: Project, comp: Competition) -> str:
    """Return the package's fingerprint after verifying its files.

    Raises:
        GatemaskError: The package is missing, outdated or changed.
    """
    fingerprint, stamp = package.require_package(project, comp), package.package_stamp(project)
    if not outputs_unchanged(stamp):
        raise GatemaskError(
            "Files of the package are missing or have changed.", where=stamp, do=f"Run gatemask package {project.comp}."
        )
    return fingerprint


def _unfinished_record(project: Project, fingerprint: str, opts: SubmitOptions) -> SubmissionRecord | None:
    """Return the last record of this package, or None if there is none or it failed."""
    records = [record for record in submission_records.load_records(project) if record.package == fingerprint]
    if not records or records[-1].state != "failed":
        return records[-1] if records else None
    last = records[-1]
    if last.submitted and not opts.force:
        raise GatemaskError(
            "This package was submitted already, and Kaggle could not score it.",
            where=f"https://www.kaggle.com/competitions/{last.competition}/submissions",
            received=last.description,
            do="Fix the fault and package again; --force submits the same package once more.",
        )
    return None


def _new_record(
    project: Project, comp: Competition, fingerprint: str, opts: SubmitOptions, notes: Sequence[str]
) -> SubmissionRecord:
    """Return a new record, not saved yet; `notes` say how members differ from the YAMLs."""
    for note in notes:
        say(f"as trained: {note}")
    dataset = project.dist / "dataset"
    ensemble = ShippedEnsemble.load(dataset / "ensemble.yaml")
    score, record_id = ensemble.score, uuid.uuid4().hex[:12]
    parts = [f"local {score.cross_fitted:.4f}"] if score else []
    parts += [f"{len(ensemble.members)} members", *(["as trained"] if notes else [])]
    parts += [printable(opts.message)[:200]] if opts.message else []
    assert comp.kaggle.competition is not None
    return SubmissionRecord(
        id=record_id,
        package=fingerprint,
        competition=comp.kaggle.competition,
        description=f"gatemask {record_id}: {', '.join(parts)}",  # the id first, in case Kaggle truncates the text
        at=account.utc_now(),
        sums=sha256(dataset / "SHA256SUMS"),
        local=score.cross_fitted if score else None,
        in_sample=score.in_sample if score else None,
        all_empty=score.all_empty if score else None,
        ensemble=str(Stamp.load(package.package_stamp(project)).made_from["ensemble"]),
        members=[member.name for member in ensemble.members],
        experiments=list(dict.fromkeys(member.experiment for member in ensemble.members)),
    )


@dataclass
class Submitter:
    """One submission on its way through its states.

    Args:
        project: Project with the package.
        comp: Competition.
        record: Record of the submission.
        opts: Options.
    """

    project: Project
    comp: Competition
    record: SubmissionRecord
    opts: SubmitOptions

    def run(self) -> None:
        """Take step after step until the submission is scored, or its score is not to be waited for."""
        record = self.record
        if record.state == "packaged" and record.pushes == 0:
            self._require_rehearsal()
        if record.state == "scored":
            submission_records.refresh_scores(self.project, [record])
        steps: dict[str, Callable[[], None]] = {
            "packaged": self.push,
            "pushing": self.settle_push,
            "running": self.wait_for_kernel,
            "ran": self.submit,
            "submitting": self.settle_submission,
            "submitted": self.wait_for_score,
        }
        while step := steps.get(record.state):
            before = record.state
            step()
            if record.state == before == "submitted":
                break

    def _save(self, state: str, **values: Any) -> None:
        """Record a state, with the values of other fields; an earlier message is cleared."""
        for name, value in {"message": None, **values, "state": state}.items():
            setattr(self.record, name, value)
        submission_records.save_record(self.project, self.record)

    def _fail(self, error: GatemaskError) -> GatemaskError:
        """Record that the submission failed, and return the error to raise."""
        self._save("failed", message=error.short())
        return error

    @property
    def kernel(self) -> str:
        """The kernel, as owner/slug."""
        assert self.record.ref is not None
        return self.record.ref

    @property
    def mark(self) -> str:
        """The line that the pushed kernel prints first."""
        return push_mark(str(self.record.push))

    def _require_rehearsal(self) -> None:
        self.record.rehearsed = True
        try:
            rehearse.require_rehearsal(self.project, self.comp)
        except GatemaskError as error:
            self.record.rehearsed = False
            if not self.opts.force:
                why = "A rehearsal finds in minutes what costs hours and a submission on Kaggle; --force skips it."
                details = {**error.details, "do": f"{error.details['do']} {why}"}
                raise GatemaskError(error.what, **details) from None  # type: ignore[arg-type]

    # --- packaged, pushing ----------------------------------------------------------------------------------------

    def push(self) -> None:
        """Upload the dataset, and push the kernel that reads it."""
        project, record = self.project, self.record
        if require_intact_package(project, self.comp) != record.package:  # made in the meantime, and not rehearsed
            newer = "Another package was made after this submission began."
            raise self._fail(GatemaskError(newer, where=project.dist, do="Rehearse and submit the new package."))
        commit = account.clean_commit(project, self.opts.allow_dirty)
        owner = account.owner(self.comp)
        dataset = _package_dataset(project)
        self._abandon_others()
        version = datasets.ensure_uploaded(project, dataset, owner, self.opts.poll_s)
        push_id = uuid.uuid4().hex[:12]
        ref, folder = _write_marked_kernel(project, owner, push_id)
        self._wait_for_earlier_version(ref)
        record.dataset, record.dataset_version = f"{owner}/{dataset.slug}", version
        record.version, record.word, record.asked = None, None, 0
        self._save("pushing", ref=ref, push=push_id, pushes=record.pushes + 1, commit=commit)
        outcome = reconcile.push_and_reconcile(ref, push_id, folder, LIMIT_S)
        record.version = outcome.version
        if outcome.error:
            if outcome.state == "running":  # without its dataset: that version ends by itself
                raise self._fail(outcome.error)
            state = "pushing" if outcome.state == "pushing" else "packaged"
            self._save(state, message=outcome.error.short())
            raise outcome.error
        self._save("running")
        pushed = f"version {outcome.version}" if outcome.version else "a version of unknown number"
        say(f"{ref}: pushed {pushed} with version {version} of {dataset.slug}")

    def _abandon_others(self) -> None:
        """Mark unfinished submissions of earlier packages as failed: this one takes over their kernel and dataset."""
        for record in submission_records.load_records(self.project):
            other = Submitter(self.project, self.comp, record, self.opts)
            if record.state == "submitting":
                other.settle_submission()
            if record.id != self.record.id and record.state in ("packaged", "pushing", "running", "ran"):
                other._save("failed", message=f"abandoned for another package, in the state {record.state}")

    def _wait_for_earlier_version(self, ref: str) -> None:
        """Wait until no session of the kernel is active: a push would change its source, but not the queued run."""

        def has_ended() -> bool:
            word = api.kernel_status(ref).word
            if word not in ("queued", "running", "cancelling"):
                return True
            if word != self.record.word:
                say(f"{ref}: an earlier version is {word}; waiting until it has ended")
                self.record.word = word
            return False

        poll(has_ended, self.opts.poll_s, "Waiting for an earlier version")

    def settle_push(self) -> None:
        """Find out whether an interrupted push arrived."""
        if reconcile.settle_push(self.kernel, str(self.record.push)):
            self._save("running")
        else:
            self._save("packaged", pushes=self.record.pushes - 1)

    # --- running --------------------------------------------------------------------------------------------------

    def wait_for_kernel(self) -> None:
        """Wait until the kernel has ended, and check its output."""

        def has_ended() -> bool:
            with tolerant():
                if self.record.version is None and not self._find_version():
                    return True
                status = api.kernel_status(self.kernel)
                if status.word != self.record.word:
                    say(f"{self.kernel}: {status.word}" + (f", {status.message}" if status.message else ""))
                    self._save("running", word=status.word)
                if status.word in api.ENDED:
                    self._take_output(status)
            return self.record.state != "running"

        poll(has_ended, self.opts.poll_s, "Waiting for the kernel")

    def _find_version(self) -> bool:
        """Find the number of the pushed version, or push again; return whether it was found."""
        records = submission_records.load_records(self.project)
        newest = max(record.version or 0 for record in records if record.ref == self.kernel)
        version = reconcile.find_version(self.kernel, self.mark, newest)
        if version is None:
            unknown = "The number of the pushed version could not be determined."
            self._push_again(KaggleError(unknown, where=self.kernel, do="Run it again."))
            return False
        self._save("running", version=version)
        return True

    def _push_again(self, error: GatemaskError) -> None:
        if self.record.pushes >= MAX_PUSHES:
            raise self._fail(error)
        say(f"{error.what} Pushing again.")
        self._save("packaged")

    def _take_output(self, status: api.KernelStatus) -> None:
        """Check and record the output, unless it is missing or belongs to an earlier version."""
        record, path = self.record, submission_records.record_path(self.project, self.record)
        folder = path.with_suffix(".fetched")
        report, fault = self._fetch(folder)
        log = self._log(folder)
        completed, absent = status.word == "complete", status.word == "absent"
        has_report = (folder / REPORT).exists()
        from_this_push = self.mark in log and (has_report or not completed) and not absent
        attempts = OUTPUT_ATTEMPTS if completed or absent else DOUBTFUL_ATTEMPTS
        if not from_this_push and record.asked < attempts:  # from an earlier version, or not there yet
            self._save("running", asked=record.asked + 1)
            return
        write_text(submission_records.submission_log_path(self.project, record), log)
        if not completed or not has_report:
            raise self._fail(self._kernel_failure(status, log))
        if report is None or fault:
            raise KaggleError(
                "The output of the kernel cannot be fetched completely.",
                kind="damaged",
                where=self.kernel,
                received=fault,
                do="Run it again later: Kaggle keeps the output. If that does not help, delete "
                f"{path}, and the kernel is run again.",
            )
        self._accept(report, folder / self.comp.submission.file_name)
        shutil.rmtree(folder, ignore_errors=True)

    def _kernel_failure(self, status: api.KernelStatus, log: str) -> KaggleError:
        """Return the error for a kernel that left nothing to submit."""
        completed = status.word == "complete"
        lines = [line for line in log.splitlines() if line.strip()]
        received = [f"no {REPORT}" if completed else status.message or status.word]
        received += ["last lines of its log: " + " | ".join(lines[-3:])[-500:]] if lines else []
        log_path = submission_records.submission_log_path(self.project, self.record)
        return KaggleError(
            f"The kernel completed, but did not write {REPORT}." if completed else "The kernel failed on Kaggle.",
            kind="kernel",
            where=f"{self.kernel}, version {self.record.version}",
            received="; ".join(received),
            do=f"See {log_path}; fix the fault, package, rehearse, and submit again.",
        )

    def _fetch(self, folder: Path) -> tuple[InferenceReport | None, str | None]:
        """Fetch the output, several times if it arrives damaged; return the kernel's report, and what is wrong.

        The kaggle command may save an error page under a file's name, and exit with 0.
        """
        pauses = iter(cli.PAUSES)
        while True:
            api.kernel_output(self.kernel, folder)
            report, fault = _read_output(folder, self.comp.submission.file_name)
            pause = next(pauses, None) if fault and (folder / REPORT).exists() else None
            if pause is None:
                return report, fault
            say(f"{self.kernel}: {fault}. Fetching again in {pause:.0f} s.")
            time.sleep(pause)

    def _log(self, folder: Path) -> str:
        path = folder / f"{self.kernel.split('/')[1]}.log"
        return api.plain_log(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""

    def _accept(self, report: InferenceReport, submission: Path) -> None:
        """Record the output if the kernel ran on this package and wrote a valid submission."""
        sums = str(self.record.sums)  # of this submission's package, whatever dist/ holds by now
        if report.package != sums:
            error = GatemaskError(
                "The kernel ran on another version of the dataset.",
                where=f"{self.kernel}, version {self.record.version}",
                received=f"SHA256SUMS {str(report.package)[:12]}",
                expected=f"{sums[:12]}, which is version {self.record.dataset_version} of {self.record.dataset}",
                do="Wait a few minutes, and submit again.",
            )
            return self._push_again(error)
        try:
            self._check(submission)
        except GatemaskError as error:
            raise self._fail(error) from None
        self.record.images, self.record.seconds = report.images, report.seconds
        self.record.timings, self.record.degraded = report.members, report.degraded
        path = submission_records.record_path(self.project, self.record)
        kept = copy_file(submission, path.with_suffix(submission.suffix))
        self._save("ran", submission_sha256=report.submission, file=kept.name)

    def _check(self, submission: Path) -> None:
        """Check a submission as strictly as Kaggle does if the visible test ids are known, else only its masks."""
        from gatemask.data.manifest import read_test_images
        from gatemask.data.raw_folder import raw_folder

        raw, manifest = raw_folder(self.project, self.comp), self.project.data / "manifest.json"
        sample = self.comp.submission.sample and (raw / self.comp.submission.sample).exists()
        sizes = check.visible_sizes(self.project, self.comp)
        if sample or manifest.exists():
            images = read_test_images(self.project, self.comp) if manifest.exists() else None
            files = {} if images is None else dict(zip(images["image_id"].astype(str), images["path"], strict=True))
            check.check_submission(submission, self.comp, check.expected_table(raw, self.comp, files), sizes)
            return
        say("There is neither a sample submission nor a manifest, so only the masks of the submission are checked.")
        for _ in read_masks(submission, self.comp, sizes):
            pass

    # --- ran, submitting, submitted ---------------------------------------------------------------------------------

    def submit(self) -> None:
        """Submit the version of the kernel."""
        record = self.record
        if record.degraded and not self.opts.force:
            path = submission_records.record_path(self.project, record)
            raise GatemaskError(
                "Something went wrong in the kernel, so its submission would be worse than tuned.",
                where=f"{record.ref}, version {record.version}",
                received="; ".join(record.degraded),
                do=f"--force submits it nevertheless; delete {path} to run the package again.",
            )
        assert record.version is not None
        self._save("submitting")
        try:
            name = self.comp.submission.file_name
            left = api.submit(record.competition, self.kernel, record.version, name, record.description)
        except KaggleError as error:
            if error.kind not in reconcile.UNCLEAR:
                self._save("ran", message=error.short())
                raise
            if not self._is_listed(1):  # it may still be on its way; the state `submitting` is settled later
                raise
            say(f"{record.competition}: the answer was unclear, but the submission was made")
            return
        self._save("submitted", submitted_at=account.utc_now())
        rest = "" if left is None else f"; {left} more today"
        say(f"{record.competition}: version {record.version} of {record.ref} is submitted{rest}")

    def settle_submission(self) -> None:
        """Find out whether an interrupted submission was made."""
        arrived = self._is_listed(LIST_ATTEMPTS)
        say(f"{self.record.competition}: an interrupted submission {'was' if arrived else 'was not'} made")
        if not arrived:
            self._save("ran")

    def _is_listed(self, attempts: int) -> bool:
        """Return whether Kaggle lists the submission; the list may lag behind."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(self.opts.poll_s)
            submissions = api.submissions(self.record.competition)
            if submission := submission_records.find_submission(self.record, submissions):
                date = submission.date or account.utc_now()
                self._save("submitted", submission=submission.ref, submitted_at=date)
                return True
        return False

    def wait_for_score(self) -> None:
        """Wait until Kaggle shows a score; without `wait`, ask once."""
        record, in_vain = self.record, 0

        def has_score() -> bool:
            nonlocal in_vain
            with tolerant():
                submission = submission_records.find_submission(record, api.submissions(record.competition))
                in_vain += submission is None or submission.status == "complete"  # the score may follow shortly
                if submission:
                    submission_records.update_record(record, submission)
                    submission_records.save_record(self.project, record)
            return record.state != "submitted" or in_vain >= OUTPUT_ATTEMPTS or not self.opts.wait

        poll(has_score, self.opts.poll_s, "Waiting for the score")
        page = f"https://www.kaggle.com/competitions/{record.competition}/submissions"
        if record.state == "failed":
            raise KaggleError(
                record.message or "", kind="scoring", where=page, received=record.description, do="See that page."
            )
        if record.state == "submitted" and in_vain:
            say(f"Kaggle shows no score yet: see {page}, and run the command again later.")


def _package_dataset(project: Project) -> datasets.Dataset:
    files = {path.name: path for path in sorted((project.dist / "dataset").iterdir()) if path.is_file()}
    files.pop(api.METADATA, None)  # written again for this account's dataset
    hashes = {name: sha256(path) for name, path in files.items()}
    return datasets.Dataset("submission", package.dataset_slug(project), files, hashes, owner=project.label)


def _write_marked_kernel(project: Project, owner: str, push_id: str) -> tuple[str, Path]:
    """Copy the packaged kernel for this account, with the push's mark in its script; return its ref and folder."""
    packaged = project.dist / "kernel"
    do = f"Delete {packaged.parent}, then package and rehearse again."
    metadata = read_json_object(packaged / "kernel-metadata.json", "id", "dataset_sources", "code_file", do=do)
    dataset, name = package.dataset_slug(project), str(metadata["id"]).split("/")[-1]
    metadata["id"] = f"{owner}/{name}"
    metadata["dataset_sources"] = [
        f"{owner}/{dataset}" if source.split("/")[-1] == dataset else source for source in metadata["dataset_sources"]
    ]
    folder = fresh_folder(project.dist / "kaggle" / name)
    script = metadata["code_file"]
    source = insert_mark((packaged / script).read_text(encoding="utf-8"), push_id)
    write_text(folder / script, source)
    write_json(folder / "kernel-metadata.json", metadata)
    refuse_secrets_in([folder], project.root)
    return metadata["id"], folder


def insert_mark(source: str, push_id: str) -> str:
    """Return the script with a first statement that prints the push's mark, which identifies its output."""
    line = 0
    for number, node in enumerate(ast.parse(source).body):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        line = node.end_lineno or 0
    lines = source.splitlines(keepends=True)
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += "\n"
    return "".join([*lines[:line], f'print("{push_mark(push_id)}", flush=True)\n', *lines[line:]])


def push_mark(push_id: str) -> str:
    """Return the line by which a push's source and log are recognized."""
    return f"gatemask push {push_id}"


def _read_output(folder: Path, submission: str) -> tuple[InferenceReport | None, str | None]:
    """Return the kernel's report, and what is wrong with the fetched files."""
    for name in (REPORT, submission):
        if not (folder / name).is_file():
            return None, f"{name} is missing"
    try:
        report = InferenceReport.load(folder / REPORT)
    except GatemaskError:
        return None, f"{REPORT} is not what the kernel wrote"
    intact = report.submission == sha256(folder / submission)
    return report, None if intact else f"{submission} is not what the kernel wrote"


def print_submission(result: SubmissionResult) -> None:
    """Print kernel, time and scores."""
    record = result.record
    if result.current:
        say("This package was submitted before.")
    say(f"{'kernel:':<16}{record.ref}, version {record.version}")
    say(f"{'submitted:':<16}{record.submitted_at or 'no'}, as {record.description}")
    for name in ("local", "public", "private"):
        score = getattr(record, name)
        text = "unknown" if score is None else f"{score:.4f}"
        say(f"{name + ':':<16}{'waiting' if record.state == 'submitted' and name != 'local' else text}")
