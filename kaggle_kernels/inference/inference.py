"""Submission kernel: check the dataset, install the shipped wheels, predict, write submission.csv.

It runs offline and needs only Python, pip and the packages of Kaggle's image. Inputs are found by marker files below
/kaggle/input, since the depth of mounts depends on the kind of source. GATEMASK_KAGGLE names another folder in place
of /kaggle, for rehearsals.

Run as a saved version, it rejects anything that differs from what was packaged: nothing is lost then. In the hidden
rerun a crash would score nothing, so it continues with what is usable, or falls back to the sample submission;
inference.json reports what went wrong.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # read when keras is first imported
STARTED = time.monotonic()
KAGGLE = Path(os.environ.get("GATEMASK_KAGGLE", "/kaggle"))
PACKAGES = Path(os.environ.get("TMPDIR", "/tmp")) / "gatemask-packages"
SAMPLE = ""  # name of the sample submission, filled in by `gatemask package`
RERUN = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def find_dataset() -> Path:
    """Return the folder that holds ensemble.yaml and SHA256SUMS."""
    for depth in range(1, 6):
        for marker in sorted((KAGGLE / "input").glob("/".join(["*"] * depth) + "/SHA256SUMS")):
            if (marker.parent / "ensemble.yaml").is_file():
                return marker.parent
    sys.exit(f"No gatemask dataset below {KAGGLE / 'input'}: attach the dataset written by `gatemask package`.")


def damaged_files(dataset: Path) -> dict[str, str]:
    """Return the files listed in SHA256SUMS that are missing or damaged, with the fault of each."""
    faults = {}
    for line in (dataset / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        if not (dataset / name).is_file():
            faults[name] = "is missing"
        else:
            with (dataset / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    faults[name] = "is damaged"
    return faults


def install(dataset: Path) -> None:
    """Install the shipped wheels in a folder of their own; Kaggle's packages are not changed."""
    wheels = [str(path) for path in sorted(dataset.glob("*.whl"))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", str(PACKAGES), "--upgrade", *wheels], check=True)
    sys.path.insert(0, str(PACKAGES))


def predict() -> dict:
    """Write the submission, and return the report; raises an error or exits where it cannot continue."""
    dataset = find_dataset()
    faults = damaged_files(dataset)
    if faults and not RERUN:
        listed = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        sys.exit(f"The attached dataset is not the one that was packaged: {listed}")
    install(dataset)
    from gatemask.inference.runner import find_competition, predict_test_set
    from gatemask.results.ensemble import ShippedEnsemble

    ensemble = ShippedEnsemble.load(dataset / "ensemble.yaml")
    competition = find_competition(KAGGLE / "input", dataset, ensemble.competition)
    working = KAGGLE / "working"
    return predict_test_set(ensemble, dataset, competition, working, faults, forgive=RERUN, started=STARTED).as_dict()


def fall_back(why: str) -> dict:
    """Keep the submission that was written before, else copy the sample: valid, and better than a crash."""
    output = KAGGLE / "working" / "submission.csv"
    tables = sorted((KAGGLE / "input").glob("**/*.csv"), key=lambda path: len(path.parts))
    samples = [path for path in tables if SAMPLE and path.as_posix().endswith(f"/{SAMPLE}")]
    samples += [path for path in tables if "sample" in path.name.lower()]
    if not output.exists():
        if not samples:
            sys.exit("No sample submission was found to fall back to.")
        shutil.copyfile(samples[0], output)
    return {"degraded": [f"No prediction was possible: {why}"], "submission": None, "package": None}


def main() -> None:
    try:
        report = {**predict(), "packages": str(PACKAGES)}
    except (Exception, SystemExit) as error:
        if not RERUN:
            raise
        traceback.print_exc()
        report = fall_back(" ".join(str(error).split()) or type(error).__name__)
    print(json.dumps(report))
    try:
        (KAGGLE / "working" / "inference.json").write_text(json.dumps(report, indent=2))
    except OSError as error:  # a full disk: what counts is the submission, which exists
        print(f"inference.json could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
