"""The offline inference kernel: check every file, install the shipped wheels, predict, write submission.csv.

It runs without a network and asks nothing of Kaggle's image but Python, pip and the usual packages. Inputs are
found by marker files below /kaggle/input, since the depth of mounts differs from one kind of source to the next.
GATEMASK_KAGGLE names another folder in the place of /kaggle: the rehearsal's.

Saved as a version, it refuses whatever is not as it was packaged: nothing is lost then. In the hidden rerun a crash
scores nothing, so it goes on with what there is, and in the end with the sample submission; inference.json tells.
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
SAMPLE = ""  # of the competition: `gatemask package` fills it in
RERUN = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def find_dataset() -> Path:
    """The folder that holds ensemble.yaml and SHA256SUMS."""
    for depth in range(1, 6):
        for marker in sorted((KAGGLE / "input").glob("/".join(["*"] * depth) + "/SHA256SUMS")):
            if (marker.parent / "ensemble.yaml").is_file():
                return marker.parent
    sys.exit(f"No gatemask dataset below {KAGGLE / 'input'}: attach the dataset that `gatemask package` made.")


def damaged(dataset: Path) -> dict[str, str]:
    """Of the files that SHA256SUMS lists, those that are not there or not whole, and what is wrong with them."""
    wrong = {}
    for line in (dataset / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        if not (dataset / name).is_file():
            wrong[name] = "is missing"
        else:
            with (dataset / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    wrong[name] = "is damaged"
    return wrong


def install(dataset: Path) -> None:
    """The shipped wheels, and nothing else: Kaggle's own packages stay as they are."""
    wheels = [str(path) for path in sorted(dataset.glob("*.whl"))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", str(PACKAGES), "--upgrade", *wheels], check=True)
    sys.path.insert(0, str(PACKAGES))


def predict() -> dict:
    """The whole way; raises or ends where it cannot go on."""
    dataset = find_dataset()
    wrong = damaged(dataset)
    if wrong and not RERUN:
        listed = "; ".join(f"{name} {what}" for name, what in wrong.items())
        sys.exit(f"The attached dataset is not the one that was packaged: {listed}")
    install(dataset)
    from gatemask.inference.predict import find_competition, run

    competition = find_competition(KAGGLE / "input", dataset)
    return run(dataset, competition, KAGGLE / "working", wrong, forgive=RERUN, started=STARTED)


def fall_back(why: str) -> dict:
    """Whatever submission was written before, else the sample: it is valid, and scores more than a crash."""
    output = KAGGLE / "working" / "submission.csv"
    tables = sorted((KAGGLE / "input").glob("**/*.csv"), key=lambda path: len(path.parts))
    samples = [path for path in tables if SAMPLE and path.as_posix().endswith(f"/{SAMPLE}")]
    samples += [path for path in tables if "sample" in path.name.lower()]
    if not output.exists():
        if not samples:
            sys.exit("Not even a sample submission is there.")
        shutil.copyfile(samples[0], output)
    return {"degraded": [f"No prediction was possible: {why}"], "submission": None, "package": None}


def main() -> None:
    try:
        result = {**predict(), "packages": str(PACKAGES)}
    except (Exception, SystemExit) as error:
        if not RERUN:
            raise
        traceback.print_exc()
        result = fall_back(" ".join(str(error).split()) or type(error).__name__)
    print(json.dumps(result))
    try:
        (KAGGLE / "working" / "inference.json").write_text(json.dumps(result, indent=2))
    except OSError as error:  # of a full disk: the submission is there, and that is what counts
        print(f"inference.json could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
