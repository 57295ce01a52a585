"""The commands of docs/tutorial/nuclei.md, in order, on tiles like the nuclei."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, gatemask, write_tiles

PAGE = (ROOT / "docs/tutorial/nuclei.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def of_gatemask(command: str) -> list[str]:
    """Return the arguments of gatemask that a make command would run."""
    # Options of the make that runs the tests, such as ARGS, are not meant for the command.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS")
    }
    words = [*shlex.split(command), "--dry-run"]
    dry = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    [line] = [line for line in dry.stdout.splitlines() if "bin/gatemask" in line]
    return shlex.split(line)[1:]


@pytest.mark.integration
@pytest.mark.trains
def test_the_tutorial(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "nuclei")
    (tmp_path / "project/experiments").mkdir(parents=True)
    (tmp_path / "project/folds").mkdir()
    assert [command.split()[1] for command in COMMANDS] == ["new", "loop", "loop", "check-submission", "push"]
    for command in COMMANDS[:-1]:  # the last one needs an account
        arguments = of_gatemask(command.replace("path/to/nuclei", str(tiles)).replace("runs/nuclei2/", "RUNS/"))
        arguments = [word.replace("RUNS/", f"{tmp_path}/project/runs/nuclei2-quick/") for word in arguments]
        if arguments[0] != "new":
            arguments = [word for word in arguments if word != "--quick"] + ["--quick"]
        done = gatemask(*arguments, root=tmp_path / "project", tiny=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    assert "Everything was current" in _again(tmp_path)


def _again(tmp_path: Path) -> str:
    return gatemask("loop", "nuclei2", "--quick", root=tmp_path / "project", tiny=True).stderr
