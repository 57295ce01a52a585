"""Typed calls of the kaggle command for kernels, datasets, submissions and quotas; each output is read for failures.

The command's exit code is 0 even when a push is refused, sources are dropped or a file is not uploaded. Each call here
either did what it says or raises KaggleError, whose `kind` says what happened. One thing it cannot detect: the command
may save an error page in place of a file of `kernel_output`.

Calls that only read are retried where that can help. Calls that change something are not, unless Kaggle asks for fewer
requests: after a broken connection the outcome is unclear, so the caller must check first (see `reconcile`).
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gatemask.files import fresh_folder
from gatemask.kaggle.client.cli import (
    RETRIED,
    KaggleError,
    explain,
    has_credentials,
    kaggle,
    printable,
    printed,
    start,
    stop,
)

ONLY_BUSY = frozenset({"busy"})  # the one failure after which certainly nothing was done
TRANSFER_LIMIT_S = 6 * 3600.0  # gigabytes of weights over a slow line
PAGE = 200
KERNEL_STATUSES = {
    "NEW_SCRIPT": "queued",
    "QUEUED": "queued",
    "RUNNING": "running",
    "COMPLETE": "complete",
    "ERROR": "error",
    "CANCEL_REQUESTED": "cancelling",
    "CANCEL_ACKNOWLEDGED": "cancelled",
}
ENDED = ("complete", "error", "cancelled", "absent")  # statuses after which a session prints and writes nothing more
DATASET_STATUSES = {"ready": "ready", "failed": "error", "deleted": "absent"}  # all others mean pending
METADATA = "dataset-metadata.json"
# Files of a dataset folder that the command omits silently.
NOT_UPLOADED = {"datapackage.json", "kernel-metadata.json", "model-metadata.json", "model-instance-metadata.json"}
NOT_UPLOADED |= {f"dataset-cover-image{suffix}" for suffix in (".png", ".jpg", ".jpeg", ".webp")}
ANSI = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])"


class KernelStatus(NamedTuple):
    """Status of a kernel's latest session.

    Args:
        word: "queued", "running", "complete", "error", "cancelling", "cancelled" or "absent".
        message: Kaggle's reason for an error, if it gives one.
    """

    word: str
    message: str | None = None


class DatasetStatus(NamedTuple):
    """Status of a dataset.

    Args:
        word: "ready", "pending", "error" or "absent".
        version: Number of the current version; a newer one that is still pending does not count.
    """

    word: str
    version: int | None = None


class Submission(NamedTuple):
    """A submission of this account's team, as Kaggle lists it.

    Args:
        ref: Number of the submission.
        date: Time of the submission, ISO 8601 in UTC.
        description: Message that it was submitted with.
        status: "pending", "complete" or "error".
        public: Public score, if shown.
        private: Private score, if shown: usually after the competition's end.
    """

    ref: int | None
    date: str
    description: str
    status: str
    public: float | None = None
    private: float | None = None


class Quota(NamedTuple):
    """This week's hours of one kind of accelerator.

    Args:
        used_h: Hours used.
        total_h: Hours allowed.
        refresh: Beginning of the next week, ISO 8601 in UTC.
    """

    used_h: float
    total_h: float
    refresh: str


# --- kernels ----------------------------------------------------------------------------------------------------


def push_kernel(folder: Path, timeout_s: int) -> int:
    """Push the kernel in `folder`, which starts a session, and return the number of its new version.

    Args:
        folder: Folder with script and kernel-metadata.json.
        timeout_s: Session limit, in seconds.

    Raises:
        KaggleError: Kind "slug" before anything is pushed; "sources" after a version was made without some of its
            sources (`version` is its number); "slots", "quota" or "push" where Kaggle refuses it. After "network",
            "server" or "other" the push may have arrived: `kernel_source` shows whether it did.
    """
    about = f"the kernel {_ref(folder, 'kernel-metadata.json')}"
    _check_title(folder, about)
    output = kaggle("kernels", "push", "-p", str(folder), "-t", str(timeout_s), about=about, retry_on=ONLY_BUSY)
    if refusal := re.search(r"Kernel push error: (.*)", output, re.DOTALL):
        raise _push_error(refusal[1].strip(), about, folder)
    number = re.search(r"Kernel version (\d+) successfully pushed", output)
    version = int(number[1]) if number else None
    if dropped := re.findall(r"not valid (\w+) sources? and could\s+not\s+be added to the kernel: (.*)", output):
        raise KaggleError(
            "Kaggle dropped some of the kernel's sources and made a version without them.",
            kind="sources",
            version=version,
            where=about,
            received="; ".join(f"{kind}: {', '.join(_names(names))}" for kind, names in dropped),
            expected="sources that exist, are ready, and are open to this account",
            do=f"Version {version} runs now and will miss them. Correct the names, wait until datasets are ready, and "
            "push again.",
        )
    if version is None:  # kind "other": a version may have been made
        raise _unreadable("kaggle kernels push", about, output)
    return version


def _check_title(folder: Path, about: str) -> None:
    """Raise if the title does not become the slug: the push would then go to another kernel."""
    try:
        from slugify import slugify  # which the command uses; it warns, and pushes nevertheless
    except ImportError:
        return
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    title, slug = metadata.get("title"), str(metadata.get("id", "")).split("/")[-1]
    if title and slugify(title) != slug.lower():
        raise KaggleError(
            "The kernel's title does not match its slug.",
            kind="slug",
            where=f"{folder / 'kernel-metadata.json'}",
            received=f"title {title!r}, which becomes {slugify(title)}",
            expected=f"a title that becomes {slug}",
            do="Make title and id match.",
        )


def _push_error(text: str, about: str, folder: Path) -> KaggleError:
    explained = explain(text, about, ["kernels", "push", "-p", str(folder)])
    if explained.kind in ("slots", "quota"):
        return explained
    return KaggleError(
        "Kaggle refuses the kernel.",
        kind="push",
        where=about,
        received=printable(text)[:300],
        do="Fix the cause and push again; nothing runs.",
    )


def kernel_status(ref: str) -> KernelStatus:
    """Return the status of the kernel's latest session."""
    try:
        output = kaggle("kernels", "status", ref, about=f"the kernel {ref}")
    except KaggleError as error:
        _raise_unless_absent(error, ref)
        return KernelStatus("absent")
    match = re.search(r'has status "(?:\w+\.)?(\w+)"', output)
    word = KERNEL_STATUSES.get(match[1].upper()) if match else None
    if word is None:
        raise _unreadable("kaggle kernels status", f"the kernel {ref}", output)
    message = re.search(r'Failure message: "(.*)"', output, re.DOTALL)
    return KernelStatus(word, message[1] if message else None)


def _raise_unless_absent(error: KaggleError, ref: str) -> None:
    """Raise `error` unless the kernel is really absent.

    Except in `pull`, the command reports refused credentials (401) in the same words as an absent kernel.
    """
    if error.kind != "absent":
        raise error
    with tempfile.TemporaryDirectory() as folder:
        kernel_source(ref, Path(folder))


def kernel_source(ref: str, folder: Path) -> tuple[str | None, int | None]:
    """Return the source that Kaggle holds and the number of its version.

    Args:
        ref: Kernel, as owner/slug; owner/slug/NUMBER asks for that version.
        folder: Folder for source and metadata; emptied first.

    Returns:
        The source, or None if there is no such kernel; and the number, if the metadata contain it. Today's command does
        not write it.
    """
    fresh_folder(folder)
    try:
        kaggle("kernels", "pull", ref, "-p", str(folder), "-m", about=f"the kernel {ref}")
    except KaggleError as error:
        if error.kind != "absent":
            raise
        return None, None
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    number = metadata.get("current_version_number", metadata.get("version_number"))
    with (folder / metadata["code_file"]).open(encoding="utf-8", newline="") as file:
        return file.read(), number


def kernel_output(ref: str, folder: Path) -> list[Path]:
    """Fetch all that the latest session left, its log included.

    Args:
        ref: Kernel, as owner/slug.
        folder: Folder for the files; emptied first.

    Returns:
        The files, sorted; none if there is no session yet. A file may hold an error page in place of its content.
    """
    fresh_folder(folder)
    size = str(PAGE)
    try:
        kaggle(
            *("kernels", "output", ref, "-p", str(folder), "-o", "--page-size", size),
            about=f"the output of {ref}",
            limit_s=TRANSFER_LIMIT_S,
        )
    except KaggleError as error:
        _raise_unless_absent(error, ref)
        fresh_folder(folder)  # part of an output is of no use
    return sorted(path for path in folder.rglob("*") if path.is_file())


def kernel_log(ref: str) -> str:
    """Return what the latest session has printed so far; empty if it has not begun or does not exist."""
    try:
        output = kaggle("kernels", "logs", ref, about=f"the log of {ref}")
    except KaggleError as error:
        _raise_unless_absent(error, ref)
        return ""
    return plain_log(output.rstrip("\n"))


def plain_log(text: str) -> str:
    """Return the printed text, without color codes, of a log as Kaggle keeps it: events as JSON."""
    events = sorted(_events(text), key=lambda event: event.get("time") or 0.0)
    return re.sub(ANSI, "", "".join(str(event.get("data", "")) for event in events) if events else text)


def _events(text: str) -> list[Mapping[str, Any]]:
    """Return the log's events: one JSON list, or one event per line; a running session's list may lack its end."""
    try:
        events = json.loads(text)
    except ValueError:
        events = []
        for line in text.splitlines():
            try:
                events.append(json.loads(line.strip().lstrip("[,").rstrip("],")))
            except ValueError:
                continue
    return [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []


def follow_log(ref: str) -> Iterator[str]:
    """Yield the lines that the session prints, as they arrive, until it ends.

    Raises:
        KaggleError: Kind "absent" if there is nothing to follow, "network" if the connection does not come back.
    """
    about, arguments = f"the log of {ref}", ["kernels", "logs", ref, "-f"]
    with tempfile.TemporaryFile() as errors:
        process = start(arguments, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield re.sub(ANSI, "", line.decode("utf-8", "replace")).rstrip("\r\n")
            code = process.wait()
        finally:
            stop(process)
            if process.stdout is not None:
                process.stdout.close()
        error_output = printed(errors)
    if code or "giving up" in error_output:
        raise explain(error_output, about, arguments)


# --- datasets ---------------------------------------------------------------------------------------------------


def dataset_status(ref: str) -> DatasetStatus:
    """Return the status of a dataset."""
    about = f"the dataset {ref}"
    try:
        output = kaggle("datasets", "status", ref, "--format", "json", about=about)
    except KaggleError as error:
        if error.kind != "absent":
            raise
        return _status_without_version(ref)
    status = _json(output, "kaggle datasets status", about)
    word = DATASET_STATUSES.get(str(status.get("status")).lower(), "pending")
    return DatasetStatus(word, status.get("current_version_number") or None)  # 0 while the first is processed


def _status_without_version(ref: str) -> DatasetStatus:
    """Return the status of a dataset that is just being created: nothing else of it is known yet."""
    try:
        output = kaggle("datasets", "status", ref, about=f"the dataset {ref}")
    except KaggleError as error:
        if error.kind != "absent":
            raise
        return DatasetStatus("absent")
    return DatasetStatus(DATASET_STATUSES.get(_last_line(output).lower(), "pending"))


def dataset_files(ref: str) -> dict[str, int]:
    """Return names and sizes, in bytes, of a dataset's files as Kaggle holds them: archives are unpacked."""
    sizes: dict[str, int] = {}
    token: list[str] = []
    while True:
        size = str(PAGE)
        arguments = ["datasets", "files", ref, "--format", "json", "--page-size", size, *token]
        output = kaggle(*arguments, about=f"the dataset {ref}")
        if not re.search(r"^No files found", output, re.MULTILINE):
            sizes |= {file["name"]: int(file["size"]) for file in _json(output, "kaggle datasets files", ref)}
        next_page = re.search(r"^Next Page Token = (.+)$", output, re.MULTILINE)
        if next_page is None:
            return sizes
        token = ["--page-token", next_page[1].strip()]


def create_dataset(folder: Path) -> None:
    """Create a new, private dataset from the files in `folder`.

    Raises:
        KaggleError: Kind "files" before anything is uploaded, if the command would omit some; "dataset" if Kaggle
            refuses it; "upload" if it was created, but without some files. After "network" or "server" it may have been
            created: `dataset_status` shows whether it was.
    """
    _upload(folder, "create")


def version_dataset(folder: Path, message: str) -> None:
    """Create a new version of a dataset from the files in `folder` alone. Raises as `create_dataset` does."""
    _upload(folder, "version", "-m", message)


def _upload(folder: Path, *arguments: str) -> None:
    about = f"the dataset {_ref(folder, METADATA)}"
    names = {path.name for path in folder.iterdir()} - {METADATA}
    omitted = sorted(name for name in names if name in NOT_UPLOADED or not (folder / name).is_file())
    if omitted or not names:
        raise KaggleError(
            "There is nothing to upload, or the kaggle command would omit some files.",
            kind="files",
            where=folder,
            received=", ".join(omitted) or "no files",
            expected="plain files with other names; folders as zip files, which Kaggle unpacks",
        )
    with tempfile.TemporaryDirectory() as temporary:
        # The command resumes interrupted uploads and identifies a file by size and second of change, so that after a
        # kill it might continue with another file's bytes. In an empty folder it finds nothing to resume.
        output = kaggle(
            *("datasets", *arguments, "-p", str(folder)),
            about=about,
            retry_on=ONLY_BUSY,
            limit_s=TRANSFER_LIMIT_S,
            environment={"TMPDIR": temporary},
        )
    if refusal := re.search(r"Dataset (?:version )?creation error: (.*)", output, re.DOTALL):
        received = printable(refusal[1])[:300]
        raise KaggleError("Kaggle refuses the dataset.", kind="dataset", where=about, received=received)
    uploaded = set(re.findall(r"Upload successful: (.+) \([^()]*\)\s*$", output, re.MULTILINE))
    if lost := sorted(names - uploaded):
        raise KaggleError(
            "Some files were not uploaded, and a version was made without them.",
            kind="upload",
            where=about,
            received=f"without {', '.join(lost)}",
            do="Make another version as soon as this one has been processed.",
        )
    if "is being created" not in output:
        raise _unreadable(f"kaggle datasets {arguments[0]}", about, output)


# --- submissions ------------------------------------------------------------------------------------------------


def submit(competition: str, ref: str, version: int, file: str, message: str) -> int | None:
    """Submit an output file of a kernel's version, which Kaggle runs again on the hidden test set.

    Args:
        competition: Name of the competition on Kaggle.
        ref: Kernel, as owner/slug.
        version: Number of the version.
        file: Name of the output file.
        message: Description of the submission. Kaggle does not return the submission's number; this identifies it.

    Returns:
        Number of submissions left today, if Kaggle reports it.

    Raises:
        KaggleError: Kind "limit", "rules", "login" or "unknown" if Kaggle refuses it. After "network", "server" or
            "other" it may have been made: `submissions` shows whether it was.
    """
    about = f"a submission to {competition}"
    arguments = ["competitions", "submit", competition, "-f", file, "-k", ref, "-v", str(version), "-m", message]
    output = kaggle(*arguments, about=about, retry_on=ONLY_BUSY)
    if "successfully submitted" not in output.lower():
        error = explain(output, about, arguments)
        known = error.kind in ("limit", "rules", "unknown")
        raise error if known else _unreadable("kaggle competitions submit", about, output)
    left = re.search(r"^(\d+) submissions? remaining today", output, re.MULTILINE)
    return int(left[1]) if left else None


def submissions(competition: str) -> list[Submission]:
    """Return the newest 200 submissions, newest first; the command offers no way to older ones."""
    about = f"the submissions to {competition}"
    size = str(PAGE)
    arguments = ["competitions", "submissions", competition, "--format", "json", "--page-size", size]
    output = kaggle(*arguments, about=about)
    if re.search(r"^No submissions found", output, re.MULTILINE):
        return []
    return [_submission(row) for row in _json(output, "kaggle competitions submissions", about)]


def _submission(row: Mapping[str, Any]) -> Submission:
    scores = _score(row.get("publicScore")), _score(row.get("privateScore"))
    status = str(row.get("status")).split(".")[-1].lower()  # printed as an enum member
    return Submission(row.get("ref") or None, row.get("date") or "", row.get("description") or "", status, *scores)


def _score(text: Any) -> float | None:
    """Return a score, which Kaggle prints as text, empty if there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


# --- the account ------------------------------------------------------------------------------------------------


def quota(limit_s: float = 600, retry_on: frozenset[str] = RETRIED) -> dict[str, Quota]:
    """Return this week's hours by "TPU" and "GPU"; empty if Kaggle reports none.

    Args:
        limit_s: Time limit of one attempt, in seconds. Default: 600.
        retry_on: Kinds of failure after which to try again.
    """
    output = kaggle("quota", "--format", "json", about="the quota", limit_s=limit_s, retry_on=retry_on)
    if "No quota information" in output:
        return {}
    rows = _json(output, "kaggle quota", "the quota")
    return {row["resource"]: Quota(_hours(row["used"]), _hours(row["total"]), row["refreshAt"] or "") for row in rows}


def _hours(text: str) -> float:
    return float(text.rstrip("h"))


def user(limit_s: float = 600, retry_on: frozenset[str] = RETRIED) -> str | None:
    """Return the account's name as the command knows it; None without credentials.

    Args:
        limit_s: Time limit of one attempt, in seconds. Default: 600.
        retry_on: Kinds of failure after which to try again.
    """
    if not has_credentials():
        return None
    output = kaggle("config", "view", about="the account", limit_s=limit_s, retry_on=retry_on)
    match = re.search(r"^- username: (.+)$", output, re.MULTILINE)
    return None if match is None or match[1] == "None" else match[1].strip()


# --- parsing the output -----------------------------------------------------------------------------------


def _ref(folder: Path, name: str) -> str:
    return str(json.loads((folder / name).read_text(encoding="utf-8")).get("id"))


def _json(output: str, command: str, about: str) -> Any:
    """Return the JSON value among the printed lines."""
    for start_of_value in re.finditer(r"^[\[{]", output, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(output, start_of_value.start())[0]
        except ValueError:
            continue
    raise _unreadable(command, about, output)


def _names(names: str) -> list[str]:
    """Return the names in a printed Python list."""
    return re.findall(r"'([^']*)'", names) or [names.strip()]


def _last_line(output: str) -> str:
    return printable(([line for line in output.splitlines() if line.strip()] or [""])[-1])[:300]


def _unreadable(command: str, about: str, output: str) -> KaggleError:
    return KaggleError(
        f"Could not parse the output of `{command}`.",
        where=about,
        received=_last_line(output) or "nothing",
        do="Check the command's version: 2.2.4 and 2.2.5 are supported (kaggle --version).",
    )
