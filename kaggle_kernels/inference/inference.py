"""Submission kernel: check the dataset, install the shipped wheels, predict, write submission.csv.

It runs offline and needs only Python, pip and the packages of Kaggle's image. Inputs are found by marker files below
/kaggle/input, since the depth of mounts depends on the kind of source. GATEMASK_KAGGLE names another folder in place
of /kaggle, for rehearsals.

Run as a saved version, it rejects anything that differs from what was packaged: nothing is lost then. In the hidden
rerun a crash would score nothing, so the first thing it writes is a complete fallback, the sample submission. The
prediction runs in a child process, which may run out of memory or be killed; only a complete file replaces the
fallback. inference.json reports what went wrong.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

STARTED = time.monotonic()
KAGGLE = Path(os.environ.get("GATEMASK_KAGGLE", "/kaggle"))
WORKING = KAGGLE / "working"
PACKAGES = Path(os.environ.get("TMPDIR", "/tmp")) / "gatemask-packages"
RERUN = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))
# Filled in by `gatemask package`.
SAMPLE = ""  # name of the sample submission
NAME = "submission.csv"  # name of the file to write
HOURS = 9.0  # Kaggle's time limit
LAST_S = 180.0  # before that limit: a child that still runs has missed its own time limit, and is killed
SUBMISSION = WORKING / NAME
UNFINISHED = (".room", ".tmp-*")  # files that a killed child may leave
SUMS = "SHA256SUMS"
PR_SET_PDEATHSIG = 1


# --- the fallback -------------------------------------------------------------------------------------------


def write_fallback() -> str | None:
    """Write the sample submission as submission.csv, completely or not at all; return why that was impossible."""
    sample = find_sample()
    if sample is None:
        return "No sample submission was found to fall back to."
    try:
        write_whole(SUBMISSION, sample.read_bytes())
    except OSError as error:
        return f"The fallback, a copy of {sample.name}, could not be written to {WORKING}: {error.strerror}."
    return None


def find_sample() -> Path | None:
    """Return the sample submission: the file of that name, else the one with "sample" in its name nearest the top."""
    inputs = KAGGLE / "input"
    for depth in range(1, 5) if SAMPLE else ():  # a search through all folders takes minutes if there are many
        for folder in sorted(inputs.glob("/".join(["*"] * depth))):
            if (folder / SAMPLE).is_file():
                return folder / SAMPLE
    tables = sorted(inputs.glob(f"**/*{SUBMISSION.suffix}"), key=lambda path: (len(path.parts), path))
    named = [path for path in tables if SAMPLE and path.as_posix().endswith(f"/{SAMPLE}")]
    return next(iter(named + [path for path in tables if "sample" in path.name.lower()]), None)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a full disk never leaves a part of it."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- the prediction, in a process of its own ------------------------------------------------------------------


def predict_in_child() -> dict:
    """Predict in a child process and return its report, or {"failure": reason} however it ended.

    The child is forked before anything heavy is imported.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        run_child(writing)
    os.close(writing)
    text, in_time = read_until(reading, STARTED + max(HOURS * 3600 - LAST_S, HOURS * 2700))
    os.close(reading)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not in_time:
        return {"failure": f"The prediction did not end within {HOURS:g} hours, and was stopped."}
    with contextlib.suppress(ValueError):
        return json.loads(text)
    if code >= 0:
        return {"failure": f"The prediction ended with exit code {code}, without a report."}
    cause = "; memory probably ran out" if -code in (signal.SIGKILL, signal.SIGABRT) else ""
    return {"failure": f"The prediction was ended by {signal.Signals(-code).name} (signal {-code}){cause}."}


def run_child(writing: int) -> None:
    """Predict, write the report as JSON to the file number `writing`, and end this process."""
    try:
        with contextlib.suppress(Exception):  # Linux only: if the kernel is killed, so is its child
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):  # when memory runs out, Linux kills the child rather than its parent
            Path("/proc/self/oom_score_adj").write_text("1000")
        report = attempt()
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(writing, "w") as pipe:
            json.dump(report, pipe)
    finally:
        os._exit(0)


def attempt() -> dict:
    """Predict, and return the report, or {"failure": reason}."""
    try:
        return predict()
    except SystemExit as error:
        return {"failure": str(error)}
    except BaseException as error:
        traceback.print_exc()
        kind = "" if hasattr(error, "details") else f"{type(error).__name__}: "
        return {"failure": " ".join(f"{kind}{error}".split())}


def read_until(reading: int, end: float) -> tuple[str, bool]:
    """Return all text that arrives, and whether its end arrived before the clock shows `end`."""
    parts = []
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (part := os.read(reading, 1 << 16)):
            return b"".join(parts).decode(errors="replace"), True
        parts.append(part)
    return "", False


def predict() -> dict:
    """Write the submission, and return the report; raises an error or exits where it cannot continue."""
    dataset = find_dataset()
    faults = damaged_files(dataset)
    if faults and not RERUN:
        listed = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        sys.exit(f"The attached dataset is not the one that was packaged: {listed}")
    if fault := faults.get("ensemble.yaml"):  # even if it can be parsed: another rule would give other masks
        sys.exit(f"ensemble.yaml {fault}.")
    install([path for path in sorted(dataset.glob("*.whl")) if path.name not in faults])
    from gatemask.inference.runner import find_competition, predict_test_set
    from gatemask.results.ensemble import ShippedEnsemble

    ensemble = ShippedEnsemble.load(dataset / "ensemble.yaml")
    competition = find_competition(KAGGLE / "input", dataset, ensemble.competition)
    report = predict_test_set(ensemble, dataset, competition, WORKING, faults, forgive=RERUN, started=STARTED)
    return {**report.as_dict(), "packages": str(PACKAGES)}


def find_dataset() -> Path:
    """Return the folder that holds ensemble.yaml and SHA256SUMS."""
    for depth in range(1, 6):
        for marker in sorted((KAGGLE / "input").glob("/".join(["*"] * depth) + f"/{SUMS}")):
            if (marker.parent / "ensemble.yaml").is_file():
                return marker.parent
    sys.exit(f"No gatemask dataset below {KAGGLE / 'input'}: attach the dataset written by `gatemask package`.")


def damaged_files(dataset: Path) -> dict[str, str]:
    """Return the files that are missing, differ from their hash, or have none, with the fault of each."""
    faults, listed = {}, set()
    for line in (dataset / SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or "/" in name or "\0" in name:
            faults[SUMS] = "is damaged"
            continue
        listed.add(name)
        if not (dataset / name).is_file():
            faults[name] = "is missing"
        elif sha256(dataset / name) != digest:
            faults[name] = "is damaged"
    for path in dataset.iterdir():
        if path.suffix in (".h5", ".whl", ".yaml") and path.name not in listed:
            faults[path.name] = f"is not listed in {SUMS}"
    return faults


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # it cannot be read
        return ""


def install(wheels: list[Path]) -> None:
    """Install the shipped wheels in a folder of their own; Kaggle's packages are not changed.

    Those for one version of Python are decoders, which few images need: without them the others are predicted.
    """
    universal = [path for path in wheels if path.name.endswith("-none-any.whl")]
    if code := pip_install(universal):
        sys.exit(f"The shipped wheels could not be installed: pip ended with exit code {code}.")
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    decoders = [path for path in wheels if tag in path.name]
    if len(wheels) > len(universal) and (not decoders or pip_install(decoders)):
        print("No shipped decoder of compressed DICOM files could be installed.", file=sys.stderr)
    sys.path.insert(0, str(PACKAGES))


def pip_install(wheels: list[Path]) -> int:
    """Install wheels, and return pip's exit code."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-index", "--no-deps", "--target", str(PACKAGES), "--upgrade"]
    return subprocess.run([*pip, *options, *map(str, wheels)]).returncode


# --- the report -----------------------------------------------------------------------------------------------


def main() -> None:
    no_fallback = write_fallback() if RERUN else None
    try:
        report = predict_in_child()
    except OSError as error:  # no process can be started
        report = {"failure": f"The prediction could not be started: {error}"}
    for path in [path for pattern in UNFINISHED for path in WORKING.glob(pattern)]:
        path.unlink(missing_ok=True)
    if failure := report.get("failure"):
        if not RERUN:
            sys.exit(failure)
        if not SUBMISSION.exists():
            sys.exit(" ".join([failure, no_fallback or "There is no submission."]))
        # The file is the sample submission or, once the rows are known, one with empty masks.
        report = {"degraded": [f"No prediction was possible: {failure}"], "submission": None, "package": None}
    print(json.dumps(report))
    try:
        write_whole(WORKING / "inference.json", json.dumps(report, indent=2).encode())
    except OSError as error:  # a full disk: what counts is the submission, which exists
        print(f"inference.json could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
