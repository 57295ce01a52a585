"""The commands of docs/tutorial/nuclei.md, in order, on tiles like the nuclei."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
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


def test_the_script_cuts_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("first", (300, 260)), ("second", (128, 130))):
        for kind in ("images", "masks"):
            (tmp_path / "stage1_train" / name / kind).mkdir(parents=True)
        folder = tmp_path / "stage1_train" / name
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((*size, 3), 90, np.uint8))
        for number in range(2):  # one file per nucleus
            mask = np.zeros(size, np.uint8)
            mask[10 * number : 10 * number + 5, :7] = 255
            cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    monkeypatch.chdir(tmp_path)
    [script] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(script, {})
    tiles = ["first_0_0", "first_0_128", "first_128_0", "first_128_128", "second_0_0"]
    assert [path.stem for path in sorted((tmp_path / "nuclei/images").iterdir())] == tiles
    assert (tmp_path / "nuclei/labels.csv").read_text().splitlines()[1] == "first_0_0,first"
    masks = [cv2.imread(str(tmp_path / f"nuclei/masks/{tile}.png"), cv2.IMREAD_UNCHANGED) for tile in tiles]
    assert [int((mask == 255).sum()) for mask in masks] == [70, 0, 0, 0, 70]
    assert {mask.shape for mask in masks} == {(128, 128)}
