"""Kernels, datasets, submissions and quotas through the kaggle command: typed calls, each output read for failures.

The command ends with 0 where a push is refused, where sources are dropped, where a file is not uploaded. Each call
here either did what it says or raises KaggleError, whose `kind` says what happened. What it cannot know: whether a file
of `kernel_output` is what the kernel wrote, since the command saves an error page as willingly.

Reading calls are tried again where that can help. Calls that change something are not, except where Kaggle asks for
fewer requests: after a broken connection nobody knows whether it happened, so the caller looks first.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
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

ONLY_BUSY = frozenset({"busy"})  # the one answer that says for sure that nothing was done
TRANSFER_S = 6 * 3600.0  # gigabytes of weights over a slow line
PAGE = 200
WORDS = {
    "NEW_SCRIPT": "queued",
    "QUEUED": "queued",
    "RUNNING": "running",
    "COMPLETE": "complete",
    "ERROR": "error",
    "CANCEL_REQUESTED": "cancelling",
    "CANCEL_ACKNOWLEDGED": "cancelled",
}
ENDED = ("complete", "error", "cancelled", "absent")  # statuses after which a session prints and writes nothing more
DATASET_WORDS = {"ready": "ready", "failed": "error", "deleted": "absent"}  # all others are on their way
# Files of a dataset's folder that the command keeps to itself, without a word.
METADATA = "dataset-metadata.json"
KEPT_BACK = {"datapackage.json", "kernel-metadata.json", "model-metadata.json", "model-instance-metadata.json"}
KEPT_BACK |= {f"dataset-cover-image{suffix}" for suffix in (".png", ".jpg", ".jpeg", ".webp")}
ANSI = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])"


class Status(NamedTuple):
    """Of a kernel's latest session.

    Args:
        word: queued, running, complete, error, cancelled or absent.
        message: Kaggle's reason for an error, where it tells one.
    """

    word: str
    message: str | None = None


class DatasetStatus(NamedTuple):
    """Of a dataset.

    Args:
        word: ready, pending, error or absent.
        version: the current one's number; a newer one that is still pending does not count.
    """

    word: str
    version: int | None = None


class Submission(NamedTuple):
    """One of this account's team, as its list shows it.

    Args:
        ref: its number.
        date: when it was made, ISO 8601 in UTC.
        description: what it was submitted with.
        status: pending, complete or error.
        public: score, where it is shown.
        private: score, where it is shown: mostly after the competition's end.
    """

    ref: int | None
    date: str
    description: str
    status: str
    public: float | None = None
    private: float | None = None


class Quota(NamedTuple):
    """Hours of one kind of accelerator in this week; `refresh` is when the next one begins (ISO, UTC)."""

    used_h: float
    total_h: float
    refresh: str


# --- kernels ----------------------------------------------------------------------------------------------------


def push_kernel(folder: Path, timeout_s: int) -> int:
    """Push the kernel in `folder`, which starts it, and return the number of its new version.

    Raises:
        KaggleError: kind "slug" before anything is pushed; "sources" after a version was made without some of its
            sources (`version` is its number); "slots", "quota" or "push" where Kaggle refuses it. After "network",
            "server" or "other" it may have happened: `kernel_source` tells.
    """
    about = f"the kernel {_ref(folder, 'kernel-metadata.json')}"
    _check_title(folder, about)
    output = kaggle("kernels", "push", "-p", str(folder), "-t", str(timeout_s), about=about, retry_on=ONLY_BUSY)
    if found := re.search(r"Kernel push error: (.*)", output, re.DOTALL):
        raise _push_error(found[1].strip(), about, folder)
    number = re.search(r"Kernel version (\d+) successfully pushed", output)
    version = int(number[1]) if number else None
    if dropped := re.findall(r"not valid (\w+) sources? and could\s+not\s+be added to the kernel: (.*)", output):
        raise KaggleError(
            "Kaggle dropped some of the kernel's sources, and made a version without them.",
            kind="sources",
            version=version,
            where=about,
            received="; ".join(f"{what}: {', '.join(_listed(names))}" for what, names in dropped),
            expected="names of what exists, is ready, and is open to this account",
            do=f"Version {version} runs now and will miss them. Mend the names, wait until datasets are ready, push "
            "again.",
        )
    if version is None:  # of kind "other": it may have happened
        raise _unclear("which version it made", about, output)
    return version


def _check_title(folder: Path, about: str) -> None:
    """A title that does not become the slug makes another kernel than the one that was named."""
    try:
        from slugify import slugify  # the command's own; it warns, and pushes all the same
    except ImportError:
        return
    metadata = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
    title, slug = metadata.get("title"), str(metadata.get("id", "")).split("/")[-1]
    if title and slugify(title) != slug.lower():
        raise KaggleError(
            "The kernel's title does not become its name.",
            kind="slug",
            where=f"{folder / 'kernel-metadata.json'}",
            received=f"title {title!r}, which becomes {slugify(title)}",
            expected=f"a title that becomes {slug}",
            do="Make title and id agree.",
        )


def _push_error(text: str, about: str, folder: Path) -> KaggleError:
    known = explain(text, about, ["kernels", "push", "-p", str(folder)])
    if known.kind in ("slots", "quota"):
        return known
    return KaggleError(
        "Kaggle refuses the kernel.",
        kind="push",
        where=about,
        received=printable(text)[:300],
        do="Mend what it says and push again; nothing runs.",
    )


def kernel_status(ref: str) -> Status:
    try:
        output = kaggle("kernels", "status", ref, about=f"the kernel {ref}")
    except KaggleError as error:
        _only_absent(error, ref)
        return Status("absent")
    found = re.search(r'has status "(?:\w+\.)?(\w+)"', output)
    word = WORDS.get(found[1].upper()) if found else None
    if word is None:
        raise _unclear("the status", f"the kernel {ref}", output)
    message = re.search(r'Failure message: "(.*)"', output, re.DOTALL)
    return Status(word, message[1] if message else None)


def _only_absent(error: KaggleError, ref: str) -> None:
    """Raise `error` unless the kernel is really absent.

    The command tells refused credentials (401) in the words of a kernel that is not there, in all but `pull`.
    """
    if error.kind != "absent":
        raise error
    with tempfile.TemporaryDirectory() as folder:
        kernel_source(ref, Path(folder))


def kernel_source(ref: str, folder: Path) -> tuple[str | None, int | None]:
    """The source that Kaggle holds, None where there is no such kernel, and its version's number if that is told.

    Its metadata are left in `folder`, which is emptied first. The command does not write the number there today; `ref`
    may be owner/name/NUMBER, to ask whether there is such a version, and what it holds.
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
    """Fetch all that the latest session left, its log included, into `folder`, which is emptied first.

    Returns:
        The files, sorted; none where there is no session yet. A file may hold an error page in place of its content.
    """
    fresh_folder(folder)
    size = str(PAGE)
    try:
        kaggle(
            *("kernels", "output", ref, "-p", str(folder), "-o", "--page-size", size),
            about=f"the output of {ref}",
            limit_s=TRANSFER_S,
        )
    except KaggleError as error:
        _only_absent(error, ref)
        fresh_folder(folder)  # half of an output is none
    return sorted(path for path in folder.rglob("*") if path.is_file())


def kernel_log(ref: str) -> str:
    """What the latest session printed so far; empty where it has not begun, or there is no such kernel."""
    try:
        output = kaggle("kernels", "logs", ref, about=f"the log of {ref}")
    except KaggleError as error:
        _only_absent(error, ref)
        return ""
    return plain_log(output.rstrip("\n"))


def plain_log(text: str) -> str:
    """A log as Kaggle keeps it, events as JSON, as the text that was printed, without colours."""
    events = sorted(_events(text), key=lambda event: event.get("time") or 0.0)
    return re.sub(ANSI, "", "".join(str(event.get("data", "")) for event in events) if events else text)


def _events(text: str) -> list[dict[str, Any]]:
    """The log's events: one JSON list, or one event a line; the list of a running session may lack its end."""
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
    """The lines that the session prints, as they come, until it ends.

    Raises:
        KaggleError: kind "absent" where there is nothing to follow, "network" where the connection does not come back.
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
        trouble = printed(errors)
    if code or "giving up" in trouble:
        raise explain(trouble, about, arguments)


# --- datasets ---------------------------------------------------------------------------------------------------


def dataset_status(ref: str) -> DatasetStatus:
    about = f"the dataset {ref}"
    try:
        output = kaggle("datasets", "status", ref, "--format", "json", about=about)
    except KaggleError as error:
        if error.kind != "absent":
            raise
        return _without_version(ref)
    found = _json(output, f"the status of {ref}")
    word = DATASET_WORDS.get(str(found.get("status")).lower(), "pending")
    return DatasetStatus(word, found.get("current_version_number") or None)  # 0 while the first is processed


def _without_version(ref: str) -> DatasetStatus:
    """Of a dataset that is just being made there is a status, but not yet anything else."""
    try:
        output = kaggle("datasets", "status", ref, about=f"the dataset {ref}")
    except KaggleError as error:
        if error.kind != "absent":
            raise
        return DatasetStatus("absent")
    return DatasetStatus(DATASET_WORDS.get(_last(output).lower(), "pending"))


def dataset_files(ref: str) -> dict[str, int]:
    """Names and sizes in bytes, as Kaggle holds them: archives are unpacked there."""
    found: dict[str, int] = {}
    token: list[str] = []
    while True:
        size = str(PAGE)
        arguments = ["datasets", "files", ref, "--format", "json", "--page-size", size, *token]
        output = kaggle(*arguments, about=f"the dataset {ref}")
        if not re.search(r"^No files found", output, re.MULTILINE):
            found |= {file["name"]: int(file["size"]) for file in _json(output, f"the files of {ref}")}
        following = re.search(r"^Next Page Token = (.+)$", output, re.MULTILINE)
        if following is None:
            return found
        token = ["--page-token", following[1].strip()]


def create_dataset(folder: Path) -> None:
    """Make a new, private dataset of the files in `folder`.

    Raises:
        KaggleError: kind "files" before anything is uploaded, for what the command would leave out; "dataset" where
            Kaggle refuses it; "upload" where it was made, but not of all files. After "network" or "server" it may have
            happened: `dataset_status` tells.
    """
    _upload(folder, "create")


def version_dataset(folder: Path, message: str) -> None:
    """Make a new version of a dataset, of the files in `folder` alone. Raises as `create_dataset` does."""
    _upload(folder, "version", "-m", message)


def _upload(folder: Path, *arguments: str) -> None:
    about = f"the dataset {_ref(folder, METADATA)}"
    names = {path.name for path in folder.iterdir()} - {METADATA}
    left_out = sorted(name for name in names if name in KEPT_BACK or not (folder / name).is_file())
    if left_out or not names:
        raise KaggleError(
            "The kaggle command would leave something out, or there is nothing to upload.",
            kind="files",
            where=folder,
            received=", ".join(left_out) or "no files",
            expected="plain files with names of their own; folders as zip files, which Kaggle unpacks",
        )
    with tempfile.TemporaryDirectory() as temporary:
        # Its note on a broken upload knows a file by size and second of change: after a kill it would take another
        # file's bytes for those of this one. With a folder of its own it finds no such note.
        output = kaggle(
            *("datasets", *arguments, "-p", str(folder)),
            about=about,
            retry_on=ONLY_BUSY,
            limit_s=TRANSFER_S,
            environment={"TMPDIR": temporary},
        )
    if found := re.search(r"Dataset (?:version )?creation error: (.*)", output, re.DOTALL):
        received = printable(found[1])[:300]
        raise KaggleError("Kaggle refuses the dataset.", kind="dataset", where=about, received=received)
    arrived = set(re.findall(r"Upload successful: (.+) \([^()]*\)\s*$", output, re.MULTILINE))
    if lost := sorted(names - arrived):
        raise KaggleError(
            "Not all files were uploaded, and a version was made without them.",
            kind="upload",
            where=about,
            received=f"without {', '.join(lost)}",
            do="Make another version as soon as this one is processed.",
        )
    if "is being created" not in output:
        raise _unclear("what became of the upload", about, output)


# --- submissions ------------------------------------------------------------------------------------------------


def submit(competition: str, ref: str, version: int, file: str, message: str) -> int | None:
    """Submit the output `file` of a kernel's version, which Kaggle runs once more on the hidden test for it.

    Returns:
        How many submissions are left today, where Kaggle tells it. The submission's number is not told: it is found by
        its message, in `submissions`.

    Raises:
        KaggleError: kind "limit", "rules", "login" or "unknown" where Kaggle refuses it. After "network", "server" or
            "other" it may have happened: `submissions` tells.
    """
    about = f"a submission to {competition}"
    arguments = ["competitions", "submit", competition, "-f", file, "-k", ref, "-v", str(version), "-m", message]
    output = kaggle(*arguments, about=about, retry_on=ONLY_BUSY)
    if "successfully submitted" not in output.lower():
        known = explain(output, about, arguments)
        raise known if known.kind in ("limit", "rules", "unknown") else _unclear("what it submitted", about, output)
    left = re.search(r"^(\d+) submissions? remaining today", output, re.MULTILINE)
    return int(left[1]) if left else None


def submissions(competition: str) -> list[Submission]:
    """The newest 200, the newest first: the command tells no way to those before."""
    about = f"the submissions to {competition}"
    size = str(PAGE)
    arguments = ["competitions", "submissions", competition, "--format", "json", "--page-size", size]
    output = kaggle(*arguments, about=about)
    if re.search(r"^No submissions found", output, re.MULTILINE):
        return []
    return [_submission(row) for row in _json(output, about)]


def _submission(row: dict[str, Any]) -> Submission:
    scores = _score(row.get("publicScore")), _score(row.get("privateScore"))
    status = str(row.get("status")).split(".")[-1].lower()  # an enum's member, printed
    return Submission(row.get("ref") or None, row.get("date") or "", row.get("description") or "", status, *scores)


def _score(text: Any) -> float | None:
    """Kaggle tells scores as text, and an empty one where there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


# --- the account ------------------------------------------------------------------------------------------------


def quota(limit_s: float = 600, retry_on: frozenset[str] = RETRIED) -> dict[str, Quota]:
    """Hours used and allowed this week, by "TPU" and "GPU"; empty where Kaggle tells nothing."""
    output = kaggle("quota", "--format", "json", about="the quota", limit_s=limit_s, retry_on=retry_on)
    if "No quota information" in output:
        return {}
    rows = _json(output, "the quota")
    return {row["resource"]: Quota(_hours(row["used"]), _hours(row["total"]), row["refreshAt"] or "") for row in rows}


def _hours(text: str) -> float:
    return float(text.rstrip("h"))


def user(limit_s: float = 600, retry_on: frozenset[str] = RETRIED) -> str | None:
    """The account's name as the command knows it, whichever way it is told; None without credentials."""
    if not has_credentials():
        return None
    output = kaggle("config", "view", about="the account", limit_s=limit_s, retry_on=retry_on)
    found = re.search(r"^- username: (.+)$", output, re.MULTILINE)
    return None if found is None or found[1] == "None" else found[1].strip()


# --- reading what it prints -----------------------------------------------------------------------------------


def _ref(folder: Path, name: str) -> str:
    return str(json.loads((folder / name).read_text(encoding="utf-8")).get("id"))


def _json(output: str, about: str) -> Any:
    """The JSON value among the lines that were printed."""
    for found in re.finditer(r"^[\[{]", output, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(output, found.start())[0]
        except ValueError:
            continue
    raise _unclear(about, about, output)


def _listed(names: str) -> list[str]:
    """The names in a printed Python list."""
    return re.findall(r"'([^']*)'", names) or [names.strip()]


def _last(output: str) -> str:
    return printable(([line for line in output.splitlines() if line.strip()] or [""])[-1])[:300]


def _unclear(what: str, about: str, output: str) -> KaggleError:
    return KaggleError(
        f"The kaggle command did not tell {what} in words that are known here.",
        where=about,
        received=_last(output) or "nothing",
        do="Look at its version: 2.2.4 and 2.2.5 are known (kaggle --version).",
    )
