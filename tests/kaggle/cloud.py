"""A stateful stand-in for Kaggle: pushed kernels run, uploaded datasets are mounted, submissions are scored.

    @pytest.fixture
    def cloud(tmp_path, monkeypatch):
        with stand_in(tmp_path, monkeypatch) as cloud:
            yield cloud

The real kaggle command then talks to it; `cloud.environment(home)` directs other processes to it. Its behavior follows
the command's source and public reports, and is kept simple where Kaggle's is unknown. Tests queue faults; each request
uses up one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from slugify import slugify

from tests.kaggle.cloud_http import RefusalError, serve
from tests.kaggle.standin import KEY, OWNER, Kaggle

__all__ = [
    "KEY",
    "OWNER",
    "Cloud",
    "Entry",
    "Fault",
    "RefusalError",
    "Run",
    "Version",
    "run_script",
    "serve",
    "stand_in",
]

SESSIONS = {"TPU": 1, "GPU": 2, "CPU": 5}
SOURCE_LIMIT = 1_000_000


@dataclass
class Fault:
    """A wrong answer to a request.

    Args:
        method: Method of the API, or "blob", "output-file", "log-stream".
        status: HTTP status. None: the correct answer, changed only by the other fields.
        body: Body of the answer; a dictionary as JSON, text as HTML.
        headers: Headers of the answer.
        times: Number of requests that get it.
        hang_s: Delay before the answer, in seconds.
        break_off: Whether the connection closes: before an answer, or halfway through a file or a stream.
        short: Whether a file ends halfway, as if complete.
        after: Whether the request is carried out before the wrong answer.
        when: Returns whether a request gets it.
    """

    method: str
    status: int | None = 500
    body: dict[str, Any] | str = ""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    hang_s: float = 0.0
    break_off: bool = False
    short: bool = False
    after: bool = False
    when: Callable[[dict[str, Any]], bool] = lambda _: True


@dataclass
class Run:
    """One session of a kernel.

    Args:
        ref: Kernel, as owner/slug.
        version: Number of the version.
        request: Request of SaveKernel.
        source: The script.
        folder: Folder of all files of this run.
        timeout_s: Time limit, in seconds.
        queue: Number of further status requests answered with QUEUED.
    """

    ref: str
    version: int
    request: dict[str, Any]
    source: str
    folder: Path
    timeout_s: float
    queue: int
    variables: dict[str, str] = field(default_factory=dict)
    state: str = "QUEUED"
    code: int | None = None
    message: str | None = None
    timed_out: bool = False
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def kaggle(self) -> Path:
        """Stand-in for /kaggle, with input/ and working/."""
        return self.folder / "kaggle"

    @property
    def output(self) -> Path:
        return self.kaggle / "working"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def ended(self) -> bool:
        return self.state not in ("QUEUED", "RUNNING")

    @property
    def machine(self) -> str:
        shape = self.request.get("machineShape") or ""
        tpu = shape.startswith("Tpu") or (not shape and self.request.get("enableTpu"))
        gpu = shape.startswith("Nvidia") or (not shape and self.request.get("enableGpu"))
        return "TPU" if tpu else "GPU" if gpu else "CPU"

    def events(self) -> list[dict[str, Any]]:
        """Return what it has printed so far, in Kaggle's format."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = text.splitlines(keepends=True)
        if not self.ended and lines and not lines[-1].endswith("\n"):
            lines.pop()
        return [{"stream_name": "stdout", "time": 0.1 * n, "data": line} for n, line in enumerate(lines)]


@dataclass
class Version:
    """A version of a kernel. Pushed while an earlier one is queued, it shares that version's run."""

    number: int
    request: dict[str, Any]
    source: str
    run: Run

    def __getattr__(self, name: str) -> Any:
        """Return state, code, output or log of the run."""
        if name in ("state", "code", "message", "output", "log", "kaggle", "ended"):
            return getattr(self.run, name)
        raise AttributeError(name)


@dataclass
class Entry:
    """A submission.

    Args:
        ref: Number of the submission.
        request: Request of CreateCodeSubmission.
        file: Output file of the version, which stands in for that of the hidden rerun.
        date: Time of the submission.
        wait: Number of further requests for the list that show it as pending.
    """

    ref: int
    request: dict[str, Any]
    file: Path
    date: str
    wait: int
    status: str = "PENDING"
    error: str | None = None
    scores: tuple[float | None, float | None] = (None, None)


def score_of_hash(file: Path) -> tuple[float | None, float | None]:
    """Return public and private scores that depend on the file's bytes, for tests that need no particular ones."""
    digest = hashlib.sha256(file.read_bytes()).digest()
    return round(0.5 + digest[0] / 1000, 5), round(0.5 + digest[1] / 1000, 5)


def run_script(run: Run) -> int:
    """Run the script in place of Kaggle's machine: this Python, a bare environment, killed at the time limit."""
    script = run.kaggle / "src/script.py"
    script.parent.mkdir()
    script.write_text(run.source, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(run.folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    environment |= {"GATEMASK_KAGGLE": str(run.kaggle), **run.variables}
    with run.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=run.output,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + run.timeout_s
        while process.poll() is None and time.monotonic() < deadline and not run.stop.wait(0.02):
            pass
        run.timed_out = process.poll() is None and not run.stop.is_set()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


Files = dict[str, bytes | Path]


@dataclass
class Cloud:
    """State and behavior of the service, and the requests it received.

    Args:
        folder: Folder of all files.
        datasets: Versions of each dataset, oldest first, by owner/slug; tests may add some.
        kernels: Versions of each kernel, oldest first, by owner/slug.
        competitions: Files of each competition whose rules are accepted, by slug.
        processing: Number of status requests answered with "pending" after each new version of a dataset.
        queueing: Number of status requests answered with QUEUED after each push.
        hours: Weekly quota of each machine, in hours.
        used: Hours of the quota used so far.
        runner: Runs a kernel's script in a thread and returns its exit code.
        variables: Further environment variables of the scripts.
        layout: "new" (/kaggle/input/datasets/OWNER/SLUG) or "old" (/kaggle/input/SLUG).
        killed_word: State of a run that was killed at its time limit.
        dropped: Names of files that are accepted but missing from the version.
        stale: Datasets whose old version remains current.
        failing: Datasets that cannot be processed.
        entries: Submissions of each competition, oldest first.
        score: Returns public and private score of a submission's file, or raises ValueError with the reason.
        scoring: Number of requests for the list that show a new submission as pending.
        daily: Number of submissions allowed per day.
        key_valid: Whether the credentials are accepted.
        token: Access token that is also accepted.
        asked: Method and content of every request.
        errors: Errors of this stand-in itself; they are bugs in it.
    """

    folder: Path
    datasets: dict[str, list[Files]] = field(default_factory=dict)
    kernels: dict[str, list[Version]] = field(default_factory=dict)
    competitions: dict[str, Files] = field(default_factory=dict)
    processing: int = 0
    queueing: int = 0
    hours: dict[str, float] = field(default_factory=lambda: {"TPU": 20.0, "GPU": 30.0})
    used: dict[str, float] = field(default_factory=lambda: {"TPU": 0.0, "GPU": 0.0})
    refresh: str = "2026-11-28T00:00:00Z"
    runner: Callable[[Run], int] = run_script
    variables: dict[str, str] = field(default_factory=dict)
    layout: str = "new"
    killed_word: str = "CANCEL_ACKNOWLEDGED"
    dropped: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    score: Callable[[Path], tuple[float | None, float | None]] = score_of_hash
    scoring: int = 0
    daily: int = 5
    key_valid: bool = True
    token: str = "KGAT_an-access-token-that-nobody-may-see"
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    port: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    closed: threading.Event = field(default_factory=threading.Event)
    _pending: dict[str, int] = field(default_factory=dict)
    _blobs: dict[str, tuple[str, int]] = field(default_factory=dict)
    _bodies: list[tuple[str, bytes]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    # --- for tests ------------------------------------------------------------------------------------------

    def environment(self, home: Path) -> dict[str, str]:
        """Return variables that direct the real command to this service, and nowhere else."""
        return Kaggle(port=self.port).environment(home)

    def uploaded(self) -> Iterator[tuple[str, bytes]]:
        """Yield all that ever reached the service: requests by method, with sources and metadata; files by name."""
        yield from list(self._bodies)
        for token, (name, _) in list(self._blobs.items()):
            if (path := self.blob(token)).exists():
                yield f"blob {name}", path.read_bytes()

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def runs(self) -> list[Run]:
        """Return every session once."""
        runs = {id(version.run): version.run for versions in self.kernels.values() for version in versions}
        return list(runs.values())

    def finish_processing(self) -> None:
        """Make each uploaded version of a dataset current at once, and later ones too.

        A killed command's last request may still be in progress, so this waits for its answer.
        """
        with self.lock:
            self.processing = 0
            self._pending.clear()

    def finish_queueing(self, run: Run) -> None:
        """Let the next status request of a queued session be its last in the queue."""
        with self.lock:
            run.queue = 1

    def close(self) -> None:
        """End every run."""
        self.closed.set()
        for run in self.runs():
            run.stop.set()
        for thread in list(self._threads):
            thread.join(10)

    # --- for the HTTP side --------------------------------------------------------------------------------------

    def note(self, method: str, request: dict[str, Any], body: bytes) -> Fault | None:
        """Record a request, and return the fault that is queued for it."""
        with self.lock:
            self.asked.append((method, request))
            if method != "blob":  # its bytes are on disk
                self._bodies.append((method, body))
            fault = next((f for f in self.faults if f.method == method and f.when(request)), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
            return fault

    def answer(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the correct answer of an API method. Requests are answered one at a time."""
        with self.lock:
            implementation = getattr(self, f"_{method}", None)
            if implementation is None:
                raise RefusalError(404, f"no such method: {method}")
            answer: dict[str, Any] = implementation(request)
            return answer

    def latest(self, owner: str, slug: str) -> Version:
        """Return the version that a request refers to: the newest, or the one whose number follows the slug."""
        name, _, number = slug.partition("/")
        versions = self.kernels.get(f"{owner}/{name}", [])
        if not versions or (number and not 1 <= int(number) <= len(versions)):
            raise RefusalError(403, "Permission 'kernels.get' was denied")
        return versions[int(number or 0) - 1]

    def blob(self, token: str) -> Path:
        return self.folder / "blobs" / token

    # --- datasets -----------------------------------------------------------------------------------------------

    def current(self, ref: str) -> int:
        """Return the number of the current version; 0 before the first is processed."""
        versions = self.datasets.get(ref, [])
        outdated = ref in self._pending or ref in self.stale or ref in self.failing
        return max(len(versions) - outdated, 0)

    def _dataset(self, request: dict[str, Any]) -> str:
        ref = f"{request['ownerSlug']}/{request['datasetSlug']}"
        if ref not in self.datasets:
            raise RefusalError(403, "Permission 'datasets.get' was denied")
        return ref

    def _StartBlobUpload(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        token = f"token-{len(self._blobs)}"  # requests omit default values, such as the size 0
        self._blobs[token] = (request["name"], int(request.get("contentLength", 0)))
        return {"token": token, "createUrl": f"http://files.localhost/blob/{token}"}

    def _CreateDataset(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ref = f"{request['ownerSlug']}/{request['slug']}"
        if request["ownerSlug"] != OWNER:
            raise RefusalError(403, "Permission 'datasets.create' was denied")
        if ref in self.datasets:
            return {"status": "error", "error": f"The slug {ref} is already in use."}
        self.datasets[ref] = []
        return self._take(ref, request.get("files", []))

    def _CreateDatasetVersion(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ref = self._dataset(request)
        if request["ownerSlug"] != OWNER or ref in self._pending:
            raise RefusalError(403, "Permission 'datasets.update' was denied")
        return self._take(ref, request["body"].get("files", []))

    def _take(self, ref: str, files: list[dict[str, Any]]) -> dict[str, Any]:
        version: Files = {}
        for file in files:
            name, size = self._blobs[file["token"]]
            content = self.blob(file["token"])
            if not content.exists() or content.stat().st_size != size:
                return {"status": "error", "error": f"{name} was not uploaded"}
            if name not in self.dropped:
                version |= unpacked(name, content)
        if not files:
            return {"status": "error", "error": "There are no files."}
        self.datasets[ref].append(version)
        if self.processing:
            self._pending[ref] = self.processing
        return {"status": "ok", "ref": ref, "url": f"https://www.kaggle.com/datasets/{ref}"}

    def _GetDatasetStatus(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ref = self._dataset(request)
        if self._pending.get(ref, 0) > 0:
            self._pending[ref] -= 1
            return {"status": "BLOBS_RECEIVED"}
        self._pending.pop(ref, None)  # the new version becomes current
        return {"status": "FAILED" if ref in self.failing else "READY"}

    def _GetDataset(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ref = self._dataset(request)
        return {"ref": ref, "title": ref, "isPrivate": True, "currentVersionNumber": self.current(ref) or None}

    def _ListDatasetFiles(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ref = self._dataset(request)
        number = request.get("datasetVersionNumber") or self.current(ref)
        if not 1 <= number <= len(self.datasets[ref]):
            raise RefusalError(404, "Not found")
        files = [{"name": n, "totalBytes": size_of(c)} for n, c in sorted(self.datasets[ref][number - 1].items())]
        shown, token = page(files, request)
        return {"datasetFiles": shown, "nextPageToken": token}

    # --- kernels ------------------------------------------------------------------------------------------------

    def _SaveKernel(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        owner = request["slug"].split("/")[0]
        if owner != OWNER:
            raise RefusalError(403, "Permission 'kernels.update' was denied")
        ref = request["slug"]
        if ref not in self.kernels and request.get("newTitle"):
            ref = f"{owner}/{slugify(request['newTitle'])}"
        versions = self.kernels.get(ref, [])
        waiting = versions[-1].run if versions and versions[-1].run.state == "QUEUED" else None
        run = waiting or self._new_run(ref, len(versions) + 1, request)
        if error := self._refusal(run, request, new_session=waiting is None):
            return {"error": error}
        version = Version(len(versions) + 1, request, request.get("text", ""), run)
        self.kernels.setdefault(ref, []).append(version)
        if run.queue == 0 and waiting is None:
            self._begin(run)
        return {
            "ref": f"/code/{ref}",
            "url": f"https://www.kaggle.com/code/{ref}",
            "versionNumber": version.number,
            **self._invalid_sources(request),
        }

    def _new_run(self, ref: str, number: int, request: dict[str, Any]) -> Run:
        folder = self.folder / "kernels" / ref.replace("/", "--") / f"v{number}"
        limit = float(request.get("sessionTimeoutSeconds") or 9 * 3600)
        source = request.get("text", "")
        return Run(ref, number, request, source, folder, limit, self.queueing, dict(self.variables))

    def _refusal(self, run: Run, request: dict[str, Any], new_session: bool) -> str | None:
        kind = run.machine
        busy = sum(not other.ended and other.machine == kind for other in self.runs())
        if len(request.get("text", "").encode()) >= SOURCE_LIMIT:
            return "The kernel source must be smaller than 1 megabyte."
        if new_session and busy >= SESSIONS[kind]:
            return f"Maximum batch {kind} session count of {SESSIONS[kind]} reached."
        if kind in self.hours and self.used[kind] >= self.hours[kind]:
            return f"Your weekly {kind} quota of {self.hours[kind]:.0f} hours is exceeded."
        return None

    def _invalid_sources(self, request: dict[str, Any]) -> dict[str, list[str]]:
        invalid = {
            "invalidDatasetSources": [s for s in request.get("datasetDataSources", []) if s not in self.datasets],
            "invalidCompetitionSources": [
                s for s in request.get("competitionDataSources", []) if s not in self.competitions
            ],
            "invalidKernelSources": [s for s in request.get("kernelDataSources", []) if s not in self.kernels],
        }
        return {name: sources for name, sources in invalid.items() if sources}

    def _begin(self, run: Run) -> None:
        run.state = "RUNNING"
        self._mount(run)
        thread = threading.Thread(target=self._execute, args=(run,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _mount(self, run: Run) -> None:
        """Make /kaggle, with copies of the current versions."""
        run.output.mkdir(parents=True)
        new_layout, source = self.layout == "new", run.kaggle / "input"
        source.mkdir()
        for ref in run.request.get("datasetDataSources", []):
            if number := self.current(ref):
                copy_read_only(
                    self.datasets[ref][number - 1], source / (f"datasets/{ref}" if new_layout else ref.split("/")[1])
                )
        for ref in run.request.get("kernelDataSources", []):
            done = [v for v in self.kernels.get(ref, []) if v.run.state == "COMPLETE"]
            if done:
                shutil.copytree(done[-1].run.output, source / (f"notebooks/{ref}" if new_layout else ref.split("/")[1]))
        for slug in run.request.get("competitionDataSources", []):
            if slug in self.competitions:
                copy_read_only(self.competitions[slug], source / (f"competitions/{slug}" if new_layout else slug))

    def _execute(self, run: Run) -> None:
        started = time.monotonic()
        try:
            code, failure = self.runner(run), None
        except Exception as error:  # of a runner that a test supplies
            code, failure = 1, f"{type(error).__name__}: {error}"
        with self.lock:
            if run.machine in self.used:
                self.used[run.machine] += (time.monotonic() - started) / 3600
            run.code = code
            if run.timed_out:
                run.message = "Your notebook was stopped because it exceeded the max allowed execution duration."
                run.state = self.killed_word
            elif code:
                run.message = failure or f"Your notebook exited with code {code}."
                run.state = "ERROR"
            else:
                run.state = "COMPLETE"

    def _GetKernelSessionStatus(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.latest(request["userName"], request["kernelSlug"]).run
        if run.state == "QUEUED":
            if run.queue <= 0:
                self._begin(run)
            run.queue -= 1
        return {"status": run.state, "failureMessage": run.message}

    def _GetKernel(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        version = self.latest(request["userName"], request["kernelSlug"])
        pushed, ref = version.request, version.run.ref
        kept = ["language", "kernelType", "isPrivate", "enableGpu", "enableTpu", "enableInternet", "machineShape"]
        kept += ["datasetDataSources", "kernelDataSources", "competitionDataSources", "modelDataSources"]
        metadata = {name: pushed[name] for name in kept if name in pushed}
        metadata |= {"id": 1, "ref": ref, "slug": ref.split("/")[1], "title": pushed.get("newTitle") or ref}
        metadata["currentVersionNumber"] = len(self.kernels[ref])
        blob = {"source": version.source, "slug": ref.split("/")[1]}
        return {
            "metadata": metadata,
            "blob": {**blob, "language": pushed["language"], "kernelType": pushed["kernelType"]},
        }

    def _ListKernelSessionOutput(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.latest(request["userName"], request["kernelSlug"]).run
        log = "\n,".join(json.dumps(event) for event in run.events())
        files = sorted(path for path in run.output.rglob("*") if path.is_file()) if run.ended else []
        base = f"http://files.localhost/output/{run.ref}/{run.version}"
        names = [path.relative_to(run.output).as_posix() for path in files]
        shown, token = page([{"fileName": n, "url": f"{base}/{n}?sig=signed"} for n in names], request)
        text = ("[" + log + "\n]" if run.ended else "[" + log) if log else ""
        return {"files": shown, "log": text, "nextPageToken": token}

    # --- submissions --------------------------------------------------------------------------------------------

    def _competition(self, request: dict[str, Any]) -> str:
        slug: str = request["competitionName"]
        if slug not in self.competitions:
            raise RefusalError(403, "You must accept this competition's rules before you'll be able to do this.")
        return slug

    def _CreateCodeSubmission(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        slug = self._competition(request)
        kernel = f"{request['kernelOwner']}/{request['kernelSlug']}"
        version = self.latest(request["kernelOwner"], f"{request['kernelSlug']}/{request.get('kernelVersion', 0)}")
        if version.request.get("enableInternet", True):
            raise RefusalError(400, "Your Notebook cannot use internet access in this competition.")
        # As on Kaggle, of versions that share a run only the one that ran has an output.
        if version.state != "COMPLETE" or not (file := version.output / request.get("fileName", "")).is_file():
            raise RefusalError(400, f"Version {version.number} of {kernel} has no output {request.get('fileName')}.")
        if self._left(slug) < 1:
            reason = f"Submission not allowed: Your team has used its daily Submission allowance ({self.daily}) today, "
            raise RefusalError(400, reason + "please try again tomorrow UTC (9.6 hours from now).")
        entries = self.entries.setdefault(slug, [])
        date = datetime(2026, 11, 25, 12, tzinfo=UTC) + timedelta(minutes=len(entries))
        printed_date = date.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        number = 41000000 + sum(map(len, self.entries.values()))
        entries.append(Entry(number, request, file, printed_date, self.scoring))
        return {"message": f"Successfully submitted to {slug}", "ref": number}

    def _left(self, slug: str) -> int:
        return self.daily - len(self.entries.get(slug, []))

    def _GetSubmissionLimits(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        slug = self._competition(request)
        made = len(self.entries.get(slug, []))
        return {"numToday": made, "numTotal": made, "numAllowedNow": max(0, self._left(slug))}

    def _ListSubmissions(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        entries = self.entries.get(self._competition(request), [])
        for entry in entries:
            self._grade(entry)
        rows = [
            {
                "ref": entry.ref,
                "date": entry.date,
                "fileName": entry.request["fileName"],
                "description": entry.request.get("submissionDescription"),
                "status": entry.status,
                "errorDescription": entry.error,
                "publicScore": "" if entry.scores[0] is None else f"{entry.scores[0]:.5f}",
                "privateScore": "" if entry.scores[1] is None else f"{entry.scores[1]:.5f}",
            }
            for entry in reversed(entries)
        ]
        shown, token = page(rows, request)
        return {"submissions": shown, "nextPageToken": token}

    def _grade(self, entry: Entry) -> None:
        """Score a submission that is no longer pending; the visible test set stands in for the hidden one."""
        if entry.wait > 0:
            entry.wait -= 1
        elif entry.status == "PENDING":
            try:
                entry.scores, entry.status = self.score(entry.file), "COMPLETE"
            except ValueError as error:
                entry.error, entry.status = str(error), "ERROR"

    # --- the account --------------------------------------------------------------------------------------------

    def _GetAcceleratorQuotaStatistics(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        answer: dict[str, Any] = {"quotaRefreshTime": self.refresh}
        for kind, hours in self.hours.items():
            used = f"{int(self.used[kind] * 3600)}s"
            answer[f"{kind.lower()}Quota"] = {"timeUsed": used, "totalTimeAllowed": f"{int(hours * 3600)}s"}
        return answer

    def _IntrospectToken(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"active": request.get("token") == self.token and self.key_valid, "username": OWNER}


def page(items: list[dict[str, Any]], request: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return a page of items and the token of the next page. Kaggle's default page holds 20."""
    start, size = int(request.get("pageToken") or 0), int(request.get("pageSize") or 20)
    return items[start : start + size], str(start + size) if start + size < len(items) else ""


def unpacked(name: str, content: Path) -> Files:
    """Return an uploaded file as Kaggle keeps it: an archive becomes a folder of the same name."""
    stem = next((name.removesuffix(end) for end in (".tar.gz", ".tgz", ".tar", ".zip") if name.endswith(end)), None)
    if stem is None:
        return {name: content}
    if name.endswith(".zip"):
        with zipfile.ZipFile(content) as archive:
            return {f"{stem}/{n}": archive.read(n) for n in archive.namelist() if not n.endswith("/")}
    with tarfile.open(fileobj=io.BytesIO(content.read_bytes())) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {f"{stem}/{m.name.removeprefix('./')}": tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def size_of(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def copy_read_only(files: Files, folder: Path) -> None:
    """Write read-only copies of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        path.chmod(0o444)


@contextmanager
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Yield a new service that the real command of this process talks to, without pauses between attempts."""
    cloud = Cloud(folder / "cloud")
    with serve(cloud):
        for name in [name for name in os.environ if name.startswith("KAGGLE") or name == "XDG_CONFIG_HOME"]:
            monkeypatch.delenv(name)
        for name, value in cloud.environment(folder / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("gatemask.kaggle.client.cli.PAUSES", (0.0, 0.0))
        yield cloud
    assert not cloud.errors, "\n".join(cloud.errors)
