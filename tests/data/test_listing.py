"""Globs of images: linked folders, loops of links, and files that are none of the images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatemask.data.listing import list_images
from gatemask.errors import GatemaskError


def names(root: Path, pattern: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_images(root, pattern)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a raw folder: images in it, in a subfolder, and in a folder elsewhere that a link leads to."""
    root, elsewhere = tmp_path / "raw", tmp_path / "disk2"
    for path in (root / "a.png", root / "s1/b.png", root / "s1/deep/c.png", elsewhere / "d.png", elsewhere / "x/e.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "s2").symlink_to(elsewhere, target_is_directory=True)
    return root


def test_linked_subfolders_are_searched(raw: Path) -> None:
    assert names(raw, "**/*.png") == ["a.png", "s1/b.png", "s1/deep/c.png", "s2/d.png", "s2/x/e.png"]
    assert names(raw, "*/*.png") == ["s1/b.png", "s2/d.png"]
    assert names(raw, "s2/**/*.png") == ["s2/d.png", "s2/x/e.png"]
    assert names(raw, "s1/**") == ["s1/b.png", "s1/deep/c.png"]
    assert names(raw, "**/x/e.png") == ["s2/x/e.png"]
    assert names(raw, "a.png") == ["a.png"]
    assert names(raw, "s[12]/?.png") == ["s1/b.png", "s2/d.png"]
    assert names(raw, "none/*.png") == names(raw, "a.png/*.png") == []


def test_links_in_a_loop_end(raw: Path) -> None:
    (raw / "s1/deep/up").symlink_to(raw, target_is_directory=True)
    (raw / "s1/self").symlink_to("self")
    expected = ["a.png", "s1/b.png", "s1/deep/c.png", "s2/d.png", "s2/x/e.png"]
    assert names(raw, "**/*.png") == expected, "nothing is listed twice"


def test_a_link_that_leads_nowhere_is_rejected(raw: Path) -> None:
    (raw / "gone.png").symlink_to(raw / "deleted.png")
    with pytest.raises(GatemaskError, match=r"leads nowhere[\s\S]*gone\.png[\s\S]*deleted\.png"):
        names(raw, "*.png")


def test_apple_double_files_and_folders_are_skipped(raw: Path) -> None:
    (raw / "._a.png").write_bytes(b"x")
    (raw / "folder.png").mkdir()
    assert names(raw, "*.png") == ["a.png"]


def test_hidden_and_checkpoint_folders_are_not_searched(raw: Path) -> None:
    for name in (".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/s1/b.png", "s1/.thumbs/c.png", ".hidden.png"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"x")
    assert names(raw, "**/*.png") == ["a.png", "s1/b.png", "s1/deep/c.png", "s2/d.png", "s2/x/e.png"]
    assert names(raw, "*/{name}.png") == ["s1/b.png", "s2/d.png"]
    assert names(raw, ".hidden.png") == [".hidden.png"], "a name that is given in full"


def test_an_absolute_glob_is_rejected(raw: Path) -> None:
    with pytest.raises(GatemaskError, match="absolute"):
        list_images(raw, "/data/*.png")


def test_names_that_are_not_utf8_are_rejected(raw: Path) -> None:
    """Such a name fits in no table, and other programs do not find its file."""
    try:
        (raw / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("the disk does not accept such a name")
    with pytest.raises(GatemaskError, match=r"not UTF-8[\s\S]*caf\\xe9.png[\s\S]*convmv"):
        list_images(raw, "*.png")
    folder = raw / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"")
    with pytest.raises(GatemaskError, match="not UTF-8"):
        list_images(raw, "**/*.tif")
    (raw / "café.bmp").write_bytes(b"")
    assert names(raw, "*.bmp") == ["café.bmp"]
