"""The wheel and its declared dependencies, installed into an empty environment, run the whole loop."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatemask import __version__
from gatemask.shipped import SOURCE

NO_NETWORK = r"Could not find a version|No matching distribution|Connection|Network is unreachable|[Tt]imed? ?out|Retr"


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """The newest versions of the declared dependencies, in a folder with a space, an apostrophe and accents."""
    folder = tmp_path / "épreuve d'install"
    folder.mkdir()
    source = folder / "source"
    for name in ("lib", "kaggle_kernels", "experiments"):
        shutil.copytree(SOURCE / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "trials"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, source)
    hidden = ("GATEMASK", "PYTHON", "LC_", "LANG", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}

    def run(*command: object, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env={**environment, "LC_ALL": "C", "COLUMNS": "120"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=3000,
        )

    run(sys.executable, "-m", "venv", folder / "venv")
    programs = folder / "venv" / "bin"
    installed = run(programs / "python", "-m", "pip", "install", "--disable-pip-version-check", source)
    if installed.returncode and re.search(NO_NETWORK, installed.stderr):
        pytest.skip(f"pip cannot download the dependencies: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr[-3000:]
    shutil.rmtree(source)
    checked = run(programs / "python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout
    assert run(programs / "gatemask", "--version").stdout == f"gatemask {__version__}\n"
    made = run(programs / "gatemask", "init", "demo")
    assert made.returncode == 0, made.stderr
    done = run(programs / "gatemask", "loop", "phantom", "--quick", cwd=folder / "demo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("wandb is not installed") <= 3, "once per training"
    assert (folder / "demo/runs/phantom-quick/report/report.html").is_file()
    assert (folder / "demo/runs/phantom-quick/rehearsal/submission.csv").is_file()
