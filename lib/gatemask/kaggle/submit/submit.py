"""`gatemask submit`: upload the package, run its kernel, look at its output, submit its version, wait for the score.

    dist/<comp>/kaggle/<slug>/              the dataset as it is uploaded: links
    dist/<comp>/kaggle/<slug>-inference/    the kernel as it is pushed: this account's, and with a mark in its log
    runs/<comp>/submissions/                what became of it, see `submissions`

The way is a row of states, and a step leads from each to the next:

    packaged -> pushing -> running -> ran -> submitting -> submitted -> scored

A state is on disk before anything is done for it. Killed at any moment, the same command goes on from where it
was; what may have reached Kaggle is looked for there first, so that nothing is pushed or submitted twice.
"""

from __future__ import annotations

import ast
import json
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gatemask.config import Competition
from gatemask.console import console, say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, is_current, read_json, read_yaml, sha256, write_json, write_text
from gatemask.kaggle.client import account as kaggle_account
from gatemask.kaggle.client import api, cli, datasets, reconcile, secret_scan
from gatemask.kaggle.client.api import ENDED
from gatemask.kaggle.client.cli import KaggleError, printable
from gatemask.kaggle.client.polling import DOUBTFUL_ATTEMPTS, OUTPUT_ATTEMPTS, tolerant
from gatemask.kaggle.submit import package, submission_records
from gatemask.kaggle.submit.submission_records import Record
from gatemask.project import Project

FILE, ACCOUNT = "submission.csv", "inference.json"
LIMIT_S = 9 * 3600  # that Kaggle lets such a kernel run
PUSHES = 2  # of one package: the second where the first found an older version of the dataset
LOOKS = 3  # at the list, for a submission of which nobody knows whether it was made


@dataclass(frozen=True)
class Options:
    """How to submit.

    Args:
        force: without a rehearsal, and though the kernel could not do all as it should.
        poll_s: seconds between two questions to Kaggle.
        message: told to Kaggle besides the local score.
        wait: for the score; else the next call looks for it.
        allow_dirty: though files were changed since the last commit.
    """

    force: bool = False
    poll_s: float = 30.0
    message: str | None = None
    wait: bool = True
    allow_dirty: bool = False


@dataclass
class Job:
    """What every step needs."""

    project: Project
    comp: Competition
    record: Record
    opts: Options

    def note(self, state: str, **facts: Any) -> None:
        """Write down a state, and what is known with it."""
        for name, value in {"message": None, **facts, "state": state}.items():
            setattr(self.record, name, value)
        submission_records.save(self.project, self.record)

    def fail(self, error: GatemaskError) -> GatemaskError:
        """Write down that this is the end of it; the error is to be raised."""
        self.note("failed", message=error.short())
        return error

    @property
    def kernel(self) -> str:
        assert self.record.ref is not None
        return self.record.ref


def submit(project: Project, comp: Competition, opts: Options) -> dict[str, Any]:
    """Submit the present package, or go on with what was begun of it.

    Returns:
        current (it had been submitted before), and the fields of a `Record`.

    Raises:
        GatemaskError: there is no package or rehearsal of it, Kaggle refuses something, the kernel failed, or what it
            wrote may not be submitted.
    """
    if comp.kaggle.competition is None:
        raise GatemaskError(
            "Nobody knows what to submit to.",
            where=project.experiments / "competition.yaml",
            received="no kaggle.competition",
            expected="its name as in https://www.kaggle.com/competitions/NAME",
        )
    name = _require_package(project, comp)
    with kaggle_account.exclusive(project):
        job = Job(project, comp, _known(project, name, opts) or _begin(project, comp, name, opts), opts)
        record, current = job.record, job.record.made
        if record.state == "packaged" and record.pushes == 0:
            _require_rehearsal(job)
        if record.state == "scored":
            submission_records.refresh(project, [record])
        while step := STEPS.get(record.state):
            before = record.state
            step(job)
            if record.state == before == "submitted":
                break
    return {"current": current, **asdict(record)}


def _known(project: Project, name: str, opts: Options) -> Record | None:
    """The submission of this package that is under way or done; one that failed is begun anew."""
    found = [record for record in submission_records.load(project) if record.package == name]
    if not found or (last := found[-1]).state != "failed":
        return found[-1] if found else None
    if last.made and not opts.force:
        raise GatemaskError(
            "This package was submitted already, and Kaggle could not score it.",
            where=f"https://www.kaggle.com/competitions/{last.competition}/submissions",
            received=last.description,
            do="Mend what it says, and package anew; --force submits the same package once more.",
        )
    return None


def _begin(project: Project, comp: Competition, named: str, opts: Options) -> Record:
    """A new record; nothing of it is on disk yet."""
    ensemble = read_yaml(project.dist / "dataset" / "ensemble.yaml")
    members = [*ensemble.get("gate", []), *ensemble.get("mask", [])]
    score, name = ensemble.get("score", {}), uuid.uuid4().hex[:12]
    told = [f"local {score['cross_fitted']:.4f}"] if "cross_fitted" in score else []
    told = [*told, f"{len(members)} members", *([printable(opts.message)[:200]] if opts.message else [])]
    assert comp.kaggle.competition is not None
    text = f"gatemask {name}: {', '.join(told)}"  # the name first: nobody knows how much of it Kaggle keeps
    record = Record(name, named, comp.kaggle.competition, text, kaggle_account.utc_now())
    record.sums = sha256(project.dist / "dataset" / "SHA256SUMS")
    record.local, record.in_sample, record.all_empty = map(score.get, ("cross_fitted", "in_sample", "all_empty"))
    record.members = [member["name"] for member in members]
    record.experiments = list(dict.fromkeys(member["experiment"] for member in members))
    return record


def _require_package(project: Project, comp: Competition) -> str:
    """The package's name; every file of it is as it was packaged.

    Raises:
        GatemaskError: it is missing, older than the ensemble or competition.yaml, or was changed.
    """
    name, stamp = package.require_current(project, comp), project.dist / "package.json"
    if not is_current(stamp, read_json(stamp)["made_from"]):
        raise GatemaskError(
            "Files of the package are gone, or not those that were packaged.",
            where=stamp,
            do=f"Run gatemask package {project.comp}.",
        )
    return name


def _require_rehearsal(job: Job) -> None:
    from gatemask.kaggle.submit import rehearse

    job.record.rehearsed = True
    try:
        rehearse.require_current(job.project, job.comp)
    except GatemaskError as error:
        job.record.rehearsed = False
        if not job.opts.force:
            why = "It finds in minutes what costs hours and a submission on Kaggle; --force goes without."
            details = {**error.details, "do": f"{error.details['do']} {why}"}
            raise GatemaskError(error.what, **details) from None  # type: ignore[arg-type]


# --- packaged, pushing -------------------------------------------------------------------------------------------


def _push(job: Job) -> None:
    """Have the dataset on Kaggle, and push the kernel that reads it."""
    project, record = job.project, job.record
    if _require_package(project, job.comp) != record.package:  # made while this one waited: it has not been rehearsed
        left = "Another package has been made since this one was begun."
        raise job.fail(GatemaskError(left, where=project.dist, do="Rehearse the new one, and submit it."))
    commit = kaggle_account.clean_commit(project, job.opts.allow_dirty)
    owner = kaggle_account.owner(job.comp)
    source = _dataset(project)
    _leave_others(job)
    version = datasets.ensure_uploaded(project, source, owner, job.opts.poll_s)
    push = uuid.uuid4().hex[:12]
    ref, folder = _write_kernel(project, owner, push)
    _wait_for_room(job, ref)
    facts = {"dataset": f"{owner}/{source.slug}", "dataset_version": version, "version": None, "word": None, "asked": 0}
    job.note("pushing", ref=ref, push=push, pushes=record.pushes + 1, commit=commit, **facts)
    sent = reconcile.push_and_reconcile(ref, push, folder, LIMIT_S)
    record.version = sent.version
    if sent.error:
        if sent.state == "running":  # without its dataset: it ends by itself
            raise job.fail(sent.error)
        job.note("pushing" if sent.state == "pushing" else "packaged", message=sent.error.short())
        raise sent.error
    job.note("running")
    say(f"{ref}: version {sent.version or 'not told'} is pushed with version {version} of {source.slug}")


def _leave_others(job: Job) -> None:
    """Submissions of earlier packages that never got to their end: their kernel and dataset are to be taken over."""
    for other in submission_records.load(job.project):
        left = Job(job.project, job.comp, other, job.opts)
        if other.state == "submitting":
            _find(left)
        if other.id != job.record.id and other.state in ("packaged", "pushing", "running", "ran"):
            left.note("failed", message=f"left for another package, in the state {other.state}")


def _wait_for_room(job: Job, ref: str) -> None:
    """Until no session of this kernel waits or runs: a push would change its source, but not what runs."""
    while (word := api.kernel_status(ref).word) in ("queued", "running", "cancelling"):
        if word != job.record.word:
            say(f"{ref}: an earlier version is {word}; waiting until it has ended")
            job.record.word = word
        time.sleep(job.opts.poll_s)


def _dataset(project: Project) -> datasets.Dataset:
    files = {path.name: path for path in sorted((project.dist / "dataset").iterdir()) if path.is_file()}
    files.pop(api.METADATA, None)  # of this account's dataset: written anew
    secret_scan.refuse_secrets({"ensemble.yaml": files["ensemble.yaml"].read_bytes()}, project.root)
    return datasets.Dataset(
        "submission", package.slug(project), files, {name: sha256(path) for name, path in files.items()}
    )


def _write_kernel(project: Project, owner: str, push: str) -> tuple[str, Path]:
    """A copy of the packaged kernel as this account's, with the push's name in it; returns ref and folder."""
    packaged = project.dist / "kernel"
    metadata = read_json(packaged / "kernel-metadata.json")
    own = package.slug(project)
    name = str(metadata["id"]).split("/")[-1]
    metadata["id"] = f"{owner}/{name}"
    named = [source if source.split("/")[-1] != own else f"{owner}/{own}" for source in metadata["dataset_sources"]]
    metadata["dataset_sources"] = named
    folder = fresh_folder(project.dist / "kaggle" / name)
    script = metadata["code_file"]
    source = marked((packaged / script).read_text(encoding="utf-8"), push)
    secret_scan.refuse_secrets({script: source.encode()}, project.root)
    write_text(folder / script, source)
    write_json(folder / "kernel-metadata.json", metadata)
    return metadata["id"], folder


def marked(source: str, push: str) -> str:
    """The script, which first of all prints the name of its push: an output can be told from that of an earlier one."""
    line = 0
    for number, node in enumerate(ast.parse(source).body):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        line = node.end_lineno or 0
    lines = source.splitlines(keepends=True)
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += "\n"
    return "".join([*lines[:line], f'print("{_mark(push)}", flush=True)\n', *lines[line:]])


def _mark(push: str) -> str:
    return f"gatemask push {push}"


def _settle(job: Job) -> None:
    """Find out what became of a push that was begun and never noted as done."""
    assert job.record.push is not None
    arrived = reconcile.push_arrived(job.kernel, job.record.push)
    say(f"{job.kernel}: an interrupted push {'is on Kaggle' if arrived else 'did not get to Kaggle'}")
    if arrived:
        job.note("running")
    else:
        job.note("packaged", pushes=job.record.pushes - 1)


def _number(job: Job) -> int | None:
    """Return the number of the version that holds this push, or None where it cannot be determined."""
    records = submission_records.load(job.project)
    newest = max(record.version or 0 for record in records if record.ref == job.kernel)
    return reconcile.find_version(job.kernel, _mark(str(job.record.push)), newest)


# --- running -----------------------------------------------------------------------------------------------------


def _run(job: Job) -> None:
    """Wait until the kernel has ended, and look at what it left."""
    record = job.record
    with console().status("waiting for Kaggle"):
        while record.state == "running":
            with tolerant():
                if record.version is None and (number := _number(job)) is None:
                    again = "Kaggle does not tell the number of the version that was pushed."
                    _push_again(job, KaggleError(again, where=job.kernel, do="Run it again."))
                    return
                elif record.version is None:
                    job.note("running", version=number)
                status = api.kernel_status(job.kernel)
                if status.word != record.word:
                    say(f"{job.kernel}: {status.word}" + (f", {status.message}" if status.message else ""))
                    job.note("running", word=status.word)
                if status.word in ENDED and _ended(job, status):
                    return
            time.sleep(job.opts.poll_s)


def _push_again(job: Job, error: GatemaskError) -> None:
    if job.record.pushes >= PUSHES:
        raise job.fail(error)
    say(f"{error.what} Pushing again.")
    job.note("packaged")


def _ended(job: Job, status: api.KernelStatus) -> bool:
    """Whether the output that Kaggle shows is that of this push; then the record is on, or has failed."""
    record, target = job.record, submission_records.folder(job.project) / f"{job.record.id}.fetched"
    account, wrong = _fetch(job, target)
    log = _log(job, target)
    complete, whole = status.word == "complete", (target / ACCOUNT).exists() or status.word != "complete"
    own = _mark(str(record.push)) in log and whole and status.word != "absent"
    if not own and record.asked < (OUTPUT_ATTEMPTS if complete or status.word == "absent" else DOUBTFUL_ATTEMPTS):
        job.note("running", asked=record.asked + 1)  # an earlier version's, or none yet
        return False
    write_text(submission_records.log(job.project, record), log)
    if not complete or not whole:
        raise job.fail(_end(job, status, log, complete))
    if wrong:
        raise KaggleError(
            "The output of the kernel cannot be fetched whole.",
            kind="damaged",
            where=job.kernel,
            received=wrong,
            do="Run it again later: Kaggle keeps the output. If that does not help, delete "
            f"{submission_records.folder(job.project) / record.id}.json, and it is run anew.",
        )
    _judge(job, account, target / FILE)
    shutil.rmtree(target, ignore_errors=True)
    return True


def _end(job: Job, status: api.KernelStatus, log: str, complete: bool) -> KaggleError:
    """What a kernel came to that left nothing to be submitted."""
    lines = [line for line in log.splitlines() if line.strip()]
    words = [f"no {ACCOUNT}" if complete else status.message or status.word]
    words += ["its last words: " + " | ".join(lines[-3:])[-500:]] if lines else []
    return KaggleError(
        "The kernel ended well, but left no account of it." if complete else "The kernel failed on Kaggle.",
        kind="kernel",
        where=f"{job.kernel}, version {job.record.version}",
        received="; ".join(words),
        do=f"See {submission_records.log(job.project, job.record)}; mend, package, rehearse, and submit again.",
    )


def _fetch(job: Job, target: Path) -> tuple[dict[str, Any], str | None]:
    """The kernel's account of itself, and what is wrong with it or with the submission; fetched again if anything is.

    The kaggle command saves an error page under a file's name and says that all is well.
    """
    pauses = iter(cli.PAUSES)
    while True:
        api.kernel_output(job.kernel, target)
        account, wrong = _read(target)
        pause = next(pauses, None) if wrong and (target / ACCOUNT).exists() else None
        if pause is None:
            return account, wrong
        say(f"{job.kernel}: {wrong}. Fetching again in {pause:.0f} s.")
        time.sleep(pause)


def _read(target: Path) -> tuple[dict[str, Any], str | None]:
    for name in (ACCOUNT, FILE):
        if not (target / name).is_file():
            return {}, f"{name} is missing"
    try:
        account = json.loads((target / ACCOUNT).read_text(encoding="utf-8"))
        _, _, told = account["package"], account["images"], account["submission"]
    except (ValueError, KeyError, TypeError):
        return {}, f"{ACCOUNT} is not what the kernel wrote"
    return account, None if told == sha256(target / FILE) else f"{FILE} is not what the kernel wrote"


def _log(job: Job, target: Path) -> str:
    path = target / f"{job.kernel.split('/')[1]}.log"
    return api.plain_log(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""


def _judge(job: Job, account: dict[str, Any], submission: Path) -> None:
    """Whether this is the output of the package, and a submission."""
    sums = str(job.record.sums)  # of the package that was begun with, whatever lies in dist/ by now
    if account["package"] != sums:
        error = GatemaskError(
            "The kernel ran on another version of the dataset.",
            where=f"{job.kernel}, version {job.record.version}",
            received=f"SHA256SUMS {str(account['package'])[:12]}",
            expected=f"{sums[:12]}, which is version {job.record.dataset_version} of {job.record.dataset}",
            do="Wait some minutes, and submit again.",
        )
        return _push_again(job, error)
    try:
        _check(job, submission)
    except GatemaskError as error:
        raise job.fail(error) from None
    facts = {name: account.get(name) for name in ("images", "seconds")}
    more = {"timings": account.get("members") or {}, "degraded": account.get("degraded") or []}
    job.note("ran", submission_sha256=account["submission"], **facts, **more)


def _check(job: Job, submission: Path) -> None:
    """As strictly as Kaggle will, where the ids of the visible test are known here."""
    from gatemask.data.manifest import raw_folder
    from gatemask.submission import check

    raw, manifest = raw_folder(job.project, job.comp), job.project.data / "manifest.json"
    sample = job.comp.submission.sample and (raw / job.comp.submission.sample).exists()
    if sample or manifest.exists():
        check.check_submission(
            submission, job.comp, check.expected_rows(raw, job.comp, _ids(job) if not sample else [])
        )
        return
    say("Neither the sample submission nor a manifest is here: only the masks of the kernel's file are looked at.")
    for _ in check.read_masks(submission, job.comp):
        pass


def _ids(job: Job) -> list[str]:
    from gatemask.data.manifest import read_test_images

    return list(read_test_images(job.project, job.comp)["image_id"])


# --- ran, submitting, submitted ----------------------------------------------------------------------------------


def _submit(job: Job) -> None:
    record = job.record
    if record.degraded and not job.opts.force:
        path = submission_records.folder(job.project) / f"{record.id}.json"
        raise GatemaskError(
            "The kernel could not do all as it should, so that this would not be worth a submission.",
            where=f"{record.ref}, version {record.version}",
            received="; ".join(record.degraded),
            do=f"--force submits it nevertheless; delete {path}, and the package is run anew.",
        )
    assert record.version is not None
    job.note("submitting")
    try:
        left = api.submit(record.competition, job.kernel, record.version, FILE, record.description)
    except KaggleError as error:
        if error.kind not in reconcile.UNCLEAR:
            job.note("ran", message=error.short())
            raise
        if not _listed(job, 1):  # perhaps it is still on its way: as `submitting` it is looked for again
            raise
        say(f"{record.competition}: the answer was not clear, but the submission is there")
        return
    job.note("submitted", submitted_at=kaggle_account.utc_now())
    rest = "" if left is None else f"; {left} more today"
    say(f"{record.competition}: version {record.version} of {record.ref} is submitted{rest}")


def _find(job: Job) -> None:
    """Find out whether a submission that was begun, and never noted as done, was made."""
    arrived = _listed(job, LOOKS)
    say(f"{job.record.competition}: an interrupted submission {'was' if arrived else 'was not'} made")
    if not arrived:
        job.note("ran")


def _listed(job: Job, looks: int) -> bool:
    """Whether the submission is in Kaggle's list, which may lag behind."""
    for look in range(looks):
        if look:
            time.sleep(job.opts.poll_s)
        found = submission_records.find(job.record, api.submissions(job.record.competition))
        if found:
            job.note("submitted", submission=found.ref, submitted_at=found.date or kaggle_account.utc_now())
            return True
    return False


def _score(job: Job) -> None:
    """Wait until Kaggle tells a score; without `wait`, look once."""
    record, in_vain, looked = job.record, 0, False
    page = f"https://www.kaggle.com/competitions/{record.competition}/submissions"
    with console().status("waiting for the score"):
        while record.state == "submitted" and in_vain < OUTPUT_ATTEMPTS and (job.opts.wait or not looked):
            if looked:
                time.sleep(job.opts.poll_s)
            looked = True
            with tolerant():
                found = submission_records.find(record, api.submissions(record.competition))
                in_vain += found is None or found.status == "complete"  # without a score: it may take another moment
                if found:
                    submission_records.take(record, found)
                    submission_records.save(job.project, record)
    if record.state == "failed":
        message = record.message or ""
        raise KaggleError(message, kind="scoring", where=page, received=record.description, do="Look there.")
    if record.state == "submitted" and in_vain:
        say(f"Kaggle shows no score yet: see {page}, and run it again later.")


STEPS: dict[str, Callable[[Job], None]] = {
    "packaged": _push,
    "pushing": _settle,
    "running": _run,
    "ran": _submit,
    "submitting": _find,
    "submitted": _score,
}


def show(result: dict[str, Any]) -> None:
    """What became of it, for people."""
    if result["current"]:
        say("This package was submitted before.")
    say(f"{'kernel:':<16}{result['ref']}, version {result['version']}")
    say(f"{'submitted:':<16}{result['submitted_at'] or 'no'}, as {result['description']}")
    for name in ("local", "public", "private"):
        told = "not told" if result[name] is None else f"{result[name]:.4f}"
        say(f"{name + ':':<16}{'waiting' if result['state'] == 'submitted' and name != 'local' else told}")
