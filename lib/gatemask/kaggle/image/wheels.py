"""Wheels for offline kernels: gatemask's own, built here, the four that Kaggle's images lack, and decoders of DICOM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256

SOURCE = Path(__file__).resolve().parents[4]
LIST = SOURCE / "kaggle_kernels" / "inference" / "wheels.txt"
DECODERS = LIST.with_name("decoders.txt")
KAGGLE_PYTHON = "312"  # of Kaggle's images
KAGGLE_PLATFORM = "manylinux_2_28_x86_64"
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


def decoders() -> list[Path]:
    """Return the wheels that decode compressed DICOM files, for Kaggle's Python and for this one, which rehearses.

    They are downloaded once, and verified by hash. Where that is impossible, a message says what follows.
    """
    pinned = set(re.findall(r"sha256:([0-9a-f]{64})", DECODERS.read_text()))
    found = []
    for version in dict.fromkeys((KAGGLE_PYTHON, "".join(map(str, sys.version_info[:2])))):
        tag = f"-cp{version}-"
        if not any(tag in path.name for path in _cached(pinned)):
            target = ["--python-version", version, "--platform", KAGGLE_PLATFORM, "--only-binary", ":all:"]
            options = ["--no-deps", "--require-hashes", "--retries", "1", *target]
            try:
                _pip("download", *options, "--dest", str(CACHE), "--requirement", str(DECODERS))
            except GatemaskError as error:
                where = "Kaggle" if version == KAGGLE_PYTHON else "the rehearsal"
                say(f"The decoder of compressed DICOM files for {where} cannot be downloaded: such images stay empty.")
                say(f"  {error.details['received']}")
        found += [path for path in _cached(pinned) if tag in path.name]
    return found


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
    code = (path for path in (SOURCE / "lib/gatemask").rglob("*.*") if path.parent.name != "__pycache__")
    files = [*code, *LIST.parents[1].rglob("*.*"), SOURCE / "pyproject.toml"]
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
