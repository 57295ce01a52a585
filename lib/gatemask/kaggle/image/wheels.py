"""Wheels for offline kernels: gatemask's own, built here, and the four that Kaggle's images lack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256

SOURCE = Path(__file__).resolve().parents[4]
LIST = SOURCE / "kaggle_kernels" / "inference" / "wheels.txt"
# Next to their environment, where `make clean` does not delete them.
CACHE = Path(sys.prefix) / "wheels"


def missing_on_kaggle() -> list[str]:
    """Return the names of the packages in wheels.txt, as PyPI spells them."""
    return re.findall(r"^([A-Za-z0-9-]+)==", LIST.read_text(), flags=re.MULTILINE)


def shipped() -> list[Path]:
    """Return the four wheels, downloaded once and verified by hash. Only the first call needs a network."""
    pinned = set(re.findall(r"sha256:([0-9a-f]{64})", LIST.read_text()))
    if len(cached := _cached(pinned)) < len(pinned):
        _pip("download", "--no-deps", "--require-hashes", "--dest", str(CACHE), "--requirement", str(LIST))
        cached = _cached(pinned)
    return cached


def _cached(hashes: set[str]) -> list[Path]:
    return [path for path in sorted(CACHE.glob("*.whl")) if sha256(path) in hashes]


def build_own(folder: Path) -> Path:
    """Build gatemask's wheel from the running source tree. The same source gives the same bytes.

    Args:
        folder: Folder for the wheel.

    Raises:
        GatemaskError: gatemask does not run from a source tree, or pip failed.
    """
    if not (SOURCE / "pyproject.toml").exists():
        raise GatemaskError(
            "gatemask does not run from its source tree.",
            where=SOURCE,
            expected="pyproject.toml",
            do="Install it with make setup; a package ships the very code that trained.",
        )
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(SOURCE))
    return next(folder.glob("gatemask-*.whl"))


def source_fingerprint() -> str:
    """Return a fingerprint of gatemask's own code and the kernels' scripts."""
    files = [*(SOURCE / "lib").rglob("*.py"), *LIST.parents[1].rglob("*.*"), SOURCE / "pyproject.toml"]
    return fingerprint({p.relative_to(SOURCE).as_posix(): sha256(p) for p in files if p.is_file()})


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line]
        raise GatemaskError(
            f"pip {arguments[0]} failed.",
            received="; ".join(errors[-2:]) or done.stderr.strip()[-300:],
            do="Run make setup while there is a network; it downloads the wheels that are shipped.",
        )
