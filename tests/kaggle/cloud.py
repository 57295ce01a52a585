"""A stand-in for Kaggle's kernels, datasets, submissions and quotas, which remembers: what is pushed runs, what is
uploaded mounts, what is submitted gets scores.

    @pytest.fixture
    def cloud(tmp_path, monkeypatch):
        with stand_in(tmp_path, monkeypatch) as cloud:
            yield cloud

The real command then talks to it; other processes are led there by `cloud.environment(home)`. What is told here as
Kaggle's way was seen in the command's source or in public reports; what nobody knows is kept plain. Faults are queued
by the tests and used up one a request.
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
    """Answers that are not the right ones.

    Args:
        method: the API's method, or "blob", "output-file", "log-stream".
        status: of the answer; None leaves the right answer as it is, but for what follows.
        body: sent with it; a dictionary as JSON, text as HTML.
        headers: sent with it.
        times: how many requests meet it.
        hang_s: seconds before anything is answered.
        break_off: the connection closes: before an answer, or half way through a file or a stream.
        short: a file ends half way as if that were all.
        after: the work is done, and only then comes the wrong answer.
        when: whether it is meant for this request.
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
        ref: owner/slug.
        version: its number.
        request: what SaveKernel was asked.
        source: the script.
        folder: everything of this run lies below it.
        timeout_s: after which it is killed.
        queue: how many more requests for its status are answered with QUEUED.
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
        """Stands for /kaggle, with input/ and working/."""
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
        """What it printed so far, as Kaggle tells it."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = text.splitlines(keepends=True)
        if not self.ended and lines and not lines[-1].endswith("\n"):
            lines.pop()
        return [{"stream_name": "stdout", "time": 0.1 * n, "data": line} for n, line in enumerate(lines)]


@dataclass
class Version:
    """One version of a kernel. Pushed while an earlier one waits in the queue, it shares that one's run."""

    number: int
    request: dict[str, Any]
    source: str
    run: Run

    def __getattr__(self, name: str) -> Any:
        """State, code, output and log are the run's."""
        if name in ("state", "code", "message", "output", "log", "kaggle", "ended"):
            return getattr(self.run, name)
        raise AttributeError(name)


@dataclass
class Entry:
    """A submission.

    Args:
        ref: its number.
        request: what CreateCodeSubmission was asked.
        file: the version's own file, where the hidden test is not played.
        date: when.
        wait: how many more requests for the list show it as pending.
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
    """Public and private score where a test does not care: numbers that change with the file."""
    digest = hashlib.sha256(file.read_bytes()).digest()
    return round(0.5 + digest[0] / 1000, 5), round(0.5 + digest[1] / 1000, 5)


def run_script(run: Run) -> int:
    """The runner that stands in for Kaggle's machine: this Python, an empty environment, ended at the time limit."""
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
    """What the service holds, how it behaves, and what it was asked.

    Args:
        folder: files lie below it.
        datasets: owner/slug -> versions, the first first; tests may put some there.
        kernels: owner/slug -> versions.
        competitions: slug -> files, those whose rules are accepted.
        processing: how many requests for a dataset's status are answered with pending after each new version.
        queueing: how many requests for a kernel's status are answered with QUEUED after a push.
        hours: allowed in a week.
        used: of them, by runs so far.
        runner: runs a kernel's script in a thread and returns its exit code.
        variables: set for the scripts besides.
        layout: "new" (/kaggle/input/datasets/OWNER/SLUG) or "old" (/kaggle/input/SLUG).
        killed_word: what a run becomes that is killed at its time limit.
        dropped: names of files that are accepted, but missing from the version.
        stale: datasets whose old version stays current.
        failing: datasets that cannot be processed.
        entries: submissions by competition, the first first.
        score: public and private score of a submission's file; a ValueError says why it cannot be scored.
        scoring: how many requests for the list show a new submission as pending.
        daily: submissions that are allowed a day.
        key_valid: whether the credentials are accepted.
        token: an access token that is accepted too.
        asked: every request: its method, and what it held.
        errors: of this stand-in itself; a test that finds one here has found a bug in it.
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
        """Leads the real command here, and nowhere else."""
        return Kaggle(port=self.port).environment(home)

    def uploaded(self) -> Iterator[tuple[str, bytes]]:
        """Everything that ever reached the service: requests by method, with sources and metadata; files by name."""
        yield from list(self._bodies)
        for token, (name, _) in list(self._blobs.items()):
            if (path := self.blob(token)).exists():
                yield f"blob {name}", path.read_bytes()

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def runs(self) -> list[Run]:
        """Every session, each once."""
        found = {id(version.run): version.run for versions in self.kernels.values() for version in versions}
        return list(found.values())

    def close(self) -> None:
        """End every run."""
        self.closed.set()
        for run in self.runs():
            run.stop.set()
        for thread in list(self._threads):
            thread.join(10)

    # --- for the HTTP side --------------------------------------------------------------------------------------

    def note(self, method: str, request: dict[str, Any], body: bytes) -> Fault | None:
        """Write down what is asked, and take the fault that was laid for it."""
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
        """The right answer of an API method; all of them are answered one after another."""
        with self.lock:
            known = getattr(self, f"_{method}", None)
            if known is None:
                raise RefusalError(404, f"no such method: {method}")
            answer: dict[str, Any] = known(request)
            return answer

    def latest(self, owner: str, slug: str) -> Version:
        """The version that a request means: the newest, or the one whose number follows the slug."""
        name, _, number = slug.partition("/")
        versions = self.kernels.get(f"{owner}/{name}", [])
        if not versions or (number and not 1 <= int(number) <= len(versions)):
            raise RefusalError(403, "Permission 'kernels.get' was denied")
        return versions[int(number or 0) - 1]

    def blob(self, token: str) -> Path:
        return self.folder / "blobs" / token

    # --- datasets -----------------------------------------------------------------------------------------------

    def current(self, ref: str) -> int:
        """The number of the version that is current; 0 before the first is processed."""
        versions = self.datasets.get(ref, [])
        late = ref in self._pending or ref in self.stale or ref in self.failing
        return max(len(versions) - late, 0)

    def _dataset(self, request: dict[str, Any]) -> str:
        ref = f"{request['ownerSlug']}/{request['datasetSlug']}"
        if ref not in self.datasets:
            raise RefusalError(403, "Permission 'datasets.get' was denied")
        return ref

    def _StartBlobUpload(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        token = f"token-{len(self._blobs)}"  # what has its default, such as the size 0, is left out of a request
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
        self._pending.pop(ref, None)  # only now is the new version current
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
        if error := self._why_not(run, request, fresh=waiting is None):
            return {"error": error}
        version = Version(len(versions) + 1, request, request.get("text", ""), run)
        self.kernels.setdefault(ref, []).append(version)
        if run.queue == 0 and waiting is None:
            self._begin(run)
        return {
            "ref": f"/code/{ref}",
            "url": f"https://www.kaggle.com/code/{ref}",
            "versionNumber": version.number,
            **self._invalid(request),
        }

    def _new_run(self, ref: str, number: int, request: dict[str, Any]) -> Run:
        folder = self.folder / "kernels" / ref.replace("/", "--") / f"v{number}"
        limit = float(request.get("sessionTimeoutSeconds") or 9 * 3600)
        source = request.get("text", "")
        return Run(ref, number, request, source, folder, limit, self.queueing, dict(self.variables))

    def _why_not(self, run: Run, request: dict[str, Any], fresh: bool) -> str | None:
        kind = run.machine
        busy = sum(not other.ended and other.machine == kind for other in self.runs())
        if len(request.get("text", "").encode()) >= SOURCE_LIMIT:
            return "The kernel source must be smaller than 1 megabyte."
        if fresh and busy >= SESSIONS[kind]:
            return f"Maximum batch {kind} session count of {SESSIONS[kind]} reached."
        if kind in self.hours and self.used[kind] >= self.hours[kind]:
            return f"Your weekly {kind} quota of {self.hours[kind]:.0f} hours is exceeded."
        return None

    def _invalid(self, request: dict[str, Any]) -> dict[str, list[str]]:
        found = {
            "invalidDatasetSources": [s for s in request.get("datasetDataSources", []) if s not in self.datasets],
            "invalidCompetitionSources": [
                s for s in request.get("competitionDataSources", []) if s not in self.competitions
            ],
            "invalidKernelSources": [s for s in request.get("kernelDataSources", []) if s not in self.kernels],
        }
        return {name: sources for name, sources in found.items() if sources}

    def _begin(self, run: Run) -> None:
        run.state = "RUNNING"
        self._mount(run)
        thread = threading.Thread(target=self._go, args=(run,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _mount(self, run: Run) -> None:
        """Lay out /kaggle: copies of what is current now."""
        run.output.mkdir(parents=True)
        new, source = self.layout == "new", run.kaggle / "input"
        source.mkdir()
        for ref in run.request.get("datasetDataSources", []):
            if number := self.current(ref):
                lay_out(self.datasets[ref][number - 1], source / (f"datasets/{ref}" if new else ref.split("/")[1]))
        for ref in run.request.get("kernelDataSources", []):
            done = [v for v in self.kernels.get(ref, []) if v.run.state == "COMPLETE"]
            if done:
                shutil.copytree(done[-1].run.output, source / (f"notebooks/{ref}" if new else ref.split("/")[1]))
        for slug in run.request.get("competitionDataSources", []):
            if slug in self.competitions:
                lay_out(self.competitions[slug], source / (f"competitions/{slug}" if new else slug))

    def _go(self, run: Run) -> None:
        started = time.monotonic()
        try:
            code, failure = self.runner(run), None
        except Exception as error:  # a runner of the test's own
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
        asked, ref = version.request, version.run.ref
        kept = ["language", "kernelType", "isPrivate", "enableGpu", "enableTpu", "enableInternet", "machineShape"]
        kept += ["datasetDataSources", "kernelDataSources", "competitionDataSources", "modelDataSources"]
        metadata = {name: asked[name] for name in kept if name in asked}
        metadata |= {"id": 1, "ref": ref, "slug": ref.split("/")[1], "title": asked.get("newTitle") or ref}
        metadata["currentVersionNumber"] = len(self.kernels[ref])
        blob = {"source": version.source, "slug": ref.split("/")[1]}
        return {
            "metadata": metadata,
            "blob": {**blob, "language": asked["language"], "kernelType": asked["kernelType"]},
        }

    def _ListKernelSessionOutput(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.latest(request["userName"], request["kernelSlug"]).run
        log = "\n,".join(json.dumps(event) for event in run.events())
        found = sorted(path for path in run.output.rglob("*") if path.is_file()) if run.ended else []
        base = f"http://files.localhost/output/{run.ref}/{run.version}"
        names = [path.relative_to(run.output).as_posix() for path in found]
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
        # Versions that share a run are one to Kaggle too: only the number that ran has an output.
        if version.state != "COMPLETE" or not (file := version.output / request.get("fileName", "")).is_file():
            raise RefusalError(400, f"Version {version.number} of {kernel} has no output {request.get('fileName')}.")
        if self._left(slug) < 1:
            told = f"Submission not allowed: Your team has used its daily Submission allowance ({self.daily}) today, "
            raise RefusalError(400, told + "please try again tomorrow UTC (9.6 hours from now).")
        entries = self.entries.setdefault(slug, [])
        date = datetime(2026, 11, 25, 12, tzinfo=UTC) + timedelta(minutes=len(entries))
        told = date.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        number = 41000000 + sum(map(len, self.entries.values()))
        entries.append(Entry(number, request, file, told, self.scoring))
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
        """Score it, if its time has come; the hidden test is the visible one."""
        if entry.wait > 0:
            entry.wait -= 1
        elif entry.status == "PENDING":
            try:
                entry.scores, entry.status = self.score(entry.file), "COMPLETE"
            except ValueError as error:
                entry.error, entry.status = str(error), "ERROR"

    # --- the account --------------------------------------------------------------------------------------------

    def _GetAcceleratorQuotaStatistics(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        told: dict[str, Any] = {"quotaRefreshTime": self.refresh}
        for kind, hours in self.hours.items():
            used = f"{int(self.used[kind] * 3600)}s"
            told[f"{kind.lower()}Quota"] = {"timeUsed": used, "totalTimeAllowed": f"{int(hours * 3600)}s"}
        return told

    def _IntrospectToken(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"active": request.get("token") == self.token and self.key_valid, "username": OWNER}


def page(items: list[dict[str, Any]], request: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The items that are asked for, and the token of those that follow; Kaggle gives 20 where no number is told."""
    start, size = int(request.get("pageToken") or 0), int(request.get("pageSize") or 20)
    return items[start : start + size], str(start + size) if start + size < len(items) else ""


def unpacked(name: str, content: Path) -> Files:
    """An uploaded file as Kaggle keeps it: an archive becomes a folder of its name."""
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


def lay_out(files: Files, folder: Path) -> None:
    """Copies of the files, which nobody may write to."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        path.chmod(0o444)


@contextmanager
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A new service, to which the real command is led in this process; nobody waits between tries."""
    cloud = Cloud(folder / "cloud")
    with serve(cloud):
        for name in [name for name in os.environ if name.startswith("KAGGLE") or name == "XDG_CONFIG_HOME"]:
            monkeypatch.delenv(name)
        for name, value in cloud.environment(folder / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("gatemask.kaggle.client.cli.PAUSES", (0.0, 0.0))
        yield cloud
    assert cloud.errors == []
