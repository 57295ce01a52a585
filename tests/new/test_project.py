"""`gatemask init` creates a project, also from an installed wheel, and never overwrites a file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatemask import __version__
from gatemask.cli import main
from gatemask.config import load_competition, load_ensemble
from gatemask.console import VERBOSE
from gatemask.errors import GatemaskError
from gatemask.faults import DEBUG
from gatemask.new.project import examples, init_project
from gatemask.shipped import SOURCE
from tests.conftest import ROOT


@pytest.mark.parametrize("example", examples())
def test_a_project_holds_a_valid_example_and_is_made_once(example: str, tmp_path: Path) -> None:
    first = init_project(tmp_path / "one", example)
    assert first.written > 5
    again = init_project(tmp_path / "one", example)
    assert (again.written, again.kept) == (0, first.written)
    assert load_competition(tmp_path / "one" / "experiments" / example).name == example
    assert (tmp_path / "one" / "folds").is_dir()
    rules = load_ensemble(tmp_path / "one" / "experiments" / example).tune.beside
    assert all((tmp_path / "one" / rule).is_file() for rule in rules)


def test_a_killed_init_is_completed(tmp_path: Path) -> None:
    written = init_project(tmp_path, "phantom").written
    (tmp_path / "experiments/phantom/base.yaml").unlink()
    (tmp_path / "Makefile").unlink()
    again = init_project(tmp_path, "phantom")
    assert (again.written, again.kept) == (2, written - 2)


def test_files_of_the_user_are_kept(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all:\n")
    with pytest.raises(GatemaskError, match="different content") as caught:
        init_project(tmp_path, "phantom")
    assert caught.value.details["where"] == tmp_path / "Makefile"
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
    with pytest.raises(GatemaskError, match="phantm") as caught:
        init_project(tmp_path, "phantm")
    assert "'phantom'" in str(caught.value.details["do"])


@pytest.mark.integration
def test_targets_of_a_project_are_those_of_a_clone(tmp_path: Path) -> None:
    init_project(tmp_path, "phantom")

    def targets(folder: Path) -> list[str]:
        shown = subprocess.run(["make", "help"], cwd=folder, capture_output=True, text=True, check=True).stdout
        return re.findall(r"^  make ([a-z-]+) ", shown, flags=re.MULTILINE)

    own = targets(tmp_path)
    assert len(own) > 30
    assert set(own) <= set(targets(ROOT))
    alone = {"PATH": os.environ["PATH"]}  # without what `make test` passes on
    for target in own[1:]:
        done = subprocess.run(
            ["make", "-n", target], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
        )
        assert re.fullmatch(r"gatemask [a-z].*\n", done.stdout)


def test_options_of_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (VERBOSE, DEBUG):
        monkeypatch.setenv(variable, "")  # so that it is restored

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    assert run("--version") == (0, f"gatemask {__version__}\n", "")
    code, _, errors = run("--verbose", "init", tmp_path / "x")
    assert code == 0
    assert re.search(r"^\d\d:\d\d:\d\d .*files written", errors, flags=re.MULTILINE)
    code, _, errors = run("--debug", "init", tmp_path / "x", "--example", "y")
    assert code == 1
    assert errors.startswith("Traceback")
    assert "init_project" in errors


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which gatemask is installed from a wheel, and its source tree is out of sight."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    copy = folder / "source"
    for name in ("lib", "kaggle_kernels", "experiments"):
        shutil.copytree(SOURCE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "trials"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy], check=True, timeout=300
    )
    shutil.rmtree(copy)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    # Before the environment's own packages, among which gatemask is an editable one.
    return {"PYTHONPATH": str(folder / "site"), "LC_ALL": "C", "LANG": "C"}


def installed_gatemask(installed: dict[str, str], *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GATEMASK", "PYTHON", "LC_"))}
    command = [sys.executable, "-m", "gatemask", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**kept, **installed}, capture_output=True, text=True, encoding="utf-8", timeout=1200
    )


@pytest.mark.integration
def test_an_installed_wheel_needs_no_source_tree(installed: dict[str, str], tmp_path: Path) -> None:
    done = installed_gatemask(installed, "--version", cwd=tmp_path)
    assert done.stdout == f"gatemask {__version__}\n", done.stderr
    done = installed_gatemask(installed, "init", "my prøject", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = "import gatemask, sys; from gatemask.kaggle.train import bundle; from gatemask.kaggle.image import own_wheel"
    code += ", wheels; print(gatemask.__file__, bundle.SCRIPT.exists(), wheels.LIST.exists(), sep='\\n')"
    code += "; print(own_wheel.build_own(__import__('pathlib').Path('out')).stat().st_size > 100_000)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **installed}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"{installed['PYTHONPATH']}/gatemask/__init__.py", *["True"] * 3], done.stderr


@pytest.mark.slow
def test_the_loop_of_an_installed_wheel(installed: dict[str, str], tmp_path: Path) -> None:
    done = installed_gatemask(installed, "init", "my prøject", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = installed_gatemask(installed, "loop", "phantom", "--quick", cwd=tmp_path / "my prøject")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "my prøject/runs/phantom-quick/report").is_dir()
