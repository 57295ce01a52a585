"""The offline inference kernel: install the shipped wheels, check every file, predict, write submission.csv.

It runs without a network and asks nothing of Kaggle's image but Python, pip and the usual packages. Inputs are
found by marker files below /kaggle/input, since the depth of mounts differs from one kind of source to the next.
GATEMASK_KAGGLE names another folder in the place of /kaggle: the rehearsal's.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

KAGGLE = Path(os.environ.get("GATEMASK_KAGGLE", "/kaggle"))
PACKAGES = Path(os.environ.get("TMPDIR", "/tmp")) / "gatemask-packages"


def find_dataset() -> Path:
    """The folder that holds ensemble.yaml and SHA256SUMS."""
    for depth in range(1, 6):
        for marker in sorted((KAGGLE / "input").glob("/".join(["*"] * depth) + "/SHA256SUMS")):
            if (marker.parent / "ensemble.yaml").is_file():
                return marker.parent
    sys.exit(f"No gatemask dataset below {KAGGLE / 'input'}: attach the dataset that `gatemask package` made.")


def verify(dataset: Path) -> None:
    """Every file that SHA256SUMS lists is there and whole; say all that are not."""
    wrong = []
    for line in (dataset / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        path = dataset / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} is damaged")
    if wrong:
        sys.exit("The attached dataset is not the one that was packaged: " + "; ".join(wrong))


def install(dataset: Path) -> None:
    """The shipped wheels, and nothing else: Kaggle's own packages stay as they are."""
    wheels = [str(path) for path in sorted((dataset / "wheels").glob("*.whl"))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", str(PACKAGES), "--upgrade", *wheels], check=True)
    sys.path.insert(0, str(PACKAGES))


def main() -> None:
    dataset = find_dataset()
    verify(dataset)
    install(dataset)
    from gatemask.ensemble.predict import find_competition, submit

    competition = find_competition(KAGGLE / "input", dataset)
    result = submit(dataset / "ensemble.yaml", dataset / "weights", competition, KAGGLE / "working" / "submission.csv")
    result["packages"] = str(PACKAGES)
    (KAGGLE / "working" / "inference.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
