"""The project's folder: found from the current folder or GATEMASK_ROOT, and named in the message if it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.project import Project, find_root, open_experiment, open_project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "experiments" / "comp").mkdir(parents=True)
    (tmp_path / "experiments" / "comp" / "competition.yaml").touch()
    return tmp_path


def test_records_are_kept_by_their_size(tmp_path: Path) -> None:
    project = Project(tmp_path, "comp")
    names = [project.records(size).name for size in (512, (512, 512), (256, 1600))]
    assert names == ["records-512", "records-512", "records-256x1600"]


@pytest.mark.parametrize(("name", "word"), [("nowhere", "is not a folder"), ("experiments", "has no folder")])
def test_a_wrong_root_is_named_with_a_way_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, word: str
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("GATEMASK_ROOT", str(root / name))
    with pytest.raises(GatemaskError) as caught:
        find_root()
    for text in ("GATEMASK_ROOT", str(root / name), word, "unset it"):
        assert text in str(caught.value)
    monkeypatch.setenv("GATEMASK_ROOT", "")
    assert find_root() == root


@pytest.mark.parametrize("name", ["x-quick", "audit", ".hidden"])
def test_folders_that_collide_are_rejected_by_every_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GATEMASK_ROOT", str(root))
    folder = root / "experiments" / name
    folder.mkdir()
    for file in ("competition.yaml", "unet.yaml"):
        (folder / file).touch()
    with pytest.raises(GatemaskError, match="cannot be called"):
        open_project(name)
    with pytest.raises(GatemaskError, match="cannot be called"):
        open_experiment(f"{name}/unet")
    assert open_project("comp").comp == "comp"


def test_paths_inside_the_project_are_kept_relative_to_it(tmp_path: Path) -> None:
    project = Project(tmp_path / "root", "comp")
    assert project.relative(tmp_path / "root" / "a" / "b") == "a/b"
    assert project.relative(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
