"""A disk that fills up while later stages write: each whole command fails with a sentence, and then goes through."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gatemask.kaggle.image import sandbox
from gatemask.report.page import Made
from tests.conftest import Loop
from tests.full_disk import limited_files
from tests.test_disk_full import run

pytestmark = pytest.mark.integration

# Each command with the files that its folder below runs/ loses before. costs.json stays, since it takes networks.
STAGES: dict[str, tuple[str, list[str]]] = {
    "oof-tune": ("tuned", ["*"]),
    "ensemble": ("ensemble", ["result.json", "ensemble.yaml", "*.png"]),
    "rehearse": ("rehearsal", ["*"]),
    "report": ("report", ["*"]),
}


@pytest.fixture
def root(phantom_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished project, without slow figures, and with a kernel that writes what it wrote before."""
    shutil.copytree(phantom_loop.root, tmp_path / "project", ignore=shutil.ignore_patterns("*.lock"))
    written = phantom_loop.runs / "rehearsal/kaggle/working"

    def rehearsed(command: list[str], kaggle: Path, folder: Path, *_: Any, **__: Any) -> int:
        shutil.copytree(written, kaggle / "working", dirs_exist_ok=True, copy_function=shutil.copy)
        (folder / "log.txt").write_text("predicted before\n")
        return 0

    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path / "project"))
    monkeypatch.setattr("gatemask.tuning.figures.write_figures", lambda *_: [])
    monkeypatch.setattr("gatemask.report.page._make", lambda section, *_: Made(section, "", True))
    monkeypatch.setattr(sandbox, "isolation", lambda: ([], "no network"))
    monkeypatch.setattr(sandbox, "make_image", lambda *_, **__: (Path("python"), []))
    monkeypatch.setattr(sandbox, "run", rehearsed)
    return tmp_path / "project"


@pytest.mark.parametrize("stage", STAGES)
def test_a_later_stage_survives_a_full_disk(stage: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, patterns = STAGES[stage]
    folder = root / "runs/phantom-quick" / name
    command = f"{stage} phantom --quick"

    def remove() -> None:
        for path in {path for pattern in patterns for path in folder.glob(pattern)}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    remove()
    assert run(command) == 0, capsys.readouterr().err
    made = outputs(folder)
    remove()
    for size in (0, max(made.values()) - 1):
        capsys.readouterr()
        with limited_files(size):
            code = run(command)
        shown = capsys.readouterr()
        assert (code, shown.out) == (1, ""), shown.err
        assert "error: The file is larger than the system allows.\n  where:    " in shown.err, shown.err
        assert not (folder / "result.json").exists()
        assert not list(folder.rglob(".tmp-*"))
        left = outputs(folder)
        whole = {path: length for path, length in left.items() if path != "study.log"}  # it grows, and resumes
        assert whole.items() <= made.items(), "a file is there as a whole, or not at all"
    assert run(command) == 0
    assert outputs(folder).keys() == made.keys()
    assert run(command) == 0
    assert "Current: nothing to do." in capsys.readouterr().err


def outputs(folder: Path) -> dict[str, int]:
    """Return the size of each file, without stamps (which hold durations) and what Kaggle's stand-in holds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: size for name, size in names.items() if name != "result.json" and not name.startswith("kaggle/")}
