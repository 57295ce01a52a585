"""Wheels for offline kernels: the four packages that Kaggle's images lack, and decoders of DICOM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gatemask.console import say, say_command
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.shipped import shipped_folder

LIST = shipped_folder("kaggle_kernels") / "inference" / "wheels.txt"
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


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    say_command(command)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line]
        raise GatemaskError(
            f"pip {arguments[0]} failed.",
            received="; ".join(errors[-2:]) or done.stderr.strip()[-300:],
            do="Run make setup while there is a network; it downloads the wheels that are shipped.",
        )
