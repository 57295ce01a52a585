"""The tables that describe a split, and the picker of balanced samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.data.split import pick_half_positive, read_manifest
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_json, write_text
from gatemask.project import Project


@pytest.mark.parametrize(
    ("labels", "count", "positions"),
    [
        ([0, 1, 0, 1, 0, 1], 4, [1, 3, 0, 2]),
        ([0, 1, 0, 1], 3, [1, 3, 0]),  # an odd count has one positive more
        ([0, 0, 0, 1], 4, [3, 0, 1, 2]),  # too few positives
        ([1, 1, 1, 0], 4, [0, 1, 2, 3]),  # too few negatives
        ([1, 0], 9, [0, 1]),
        ([], 2, []),
    ],
)
def test_half_of_the_picked_images_are_positive(labels: list[int], count: int, positions: list[int]) -> None:
    assert pick_half_positive(labels, count).tolist() == positions


HEADER = "image_id,path,split,group,label,mask_area,height,width"
ROWS = [f"tile{number},{number}.png,train,g,1,9,64,64" for number in range(4)]
SPOILED = {
    "a row less": "\n".join([HEADER, *ROWS[:-1]]) + "\n",
    "cut within a row": "\n".join([HEADER, *ROWS])[:-9],
    "cut within a number": "\n".join([HEADER, *ROWS])[:-1],
    "empty": "",
    "a header only": HEADER + "\n",
    "edited": "\n".join([HEADER, *ROWS]).replace(",1,9", ",0,0", 1) + "\n",
    "no table": "\x00\x01",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "tiles")
    write_text(project.data / "manifest.csv", "\n".join([HEADER, *ROWS]) + "\n")
    write_text(project.data / "masks.csv", "image_id,class,rle\ntile1,,0 9\ntile2,,4 9\n")
    outputs = {name: sha256(project.data / name) for name in ("manifest.csv", "masks.csv")}
    write_json(project.data / "manifest.json", {"outputs": outputs})
    return project


@pytest.mark.parametrize("damage", SPOILED)
def test_a_manifest_that_was_cut_short_or_edited_is_rejected(project: Project, damage: str) -> None:
    """A shorter manifest would train on fewer images without a word."""
    assert len(read_manifest(project)) == 4
    (project.data / "manifest.csv").write_text(SPOILED[damage])
    with pytest.raises(
        GatemaskError, match=r"not the one that gatemask wrote[\s\S]*manifest.csv[\s\S]*data prepare tiles"
    ):
        read_manifest(project)


@pytest.mark.parametrize("damage", ["cut within a row", "cut within a number", "empty", "no table"])
def test_a_manifest_without_a_hash_is_checked_by_its_contents(project: Project, damage: str) -> None:
    """In a Kaggle session, the stamp of the manifest lists no files."""
    write_json(project.data / "manifest.json", {"made_from": {}})
    content = SPOILED[damage].replace("64,6", "64,") if damage == "cut within a number" else SPOILED[damage]
    (project.data / "manifest.csv").write_text(content)
    with pytest.raises(GatemaskError, match=r"manifest cannot be read[\s\S]*manifest.csv"):
        read_manifest(project)


@pytest.mark.parametrize(
    "content", ["image_id,class,rle\ntile1,,0 9\n", "", None, "image_id,class,rle\ntile1,,0 9\ntile2,,4"]
)
def test_masks_that_were_cut_short_are_rejected(project: Project, content: str | None) -> None:
    """The missing masks would count as empty."""
    path = project.data / "masks.csv"
    assert Masks(path, (64, 64)).encoded("tile2").classes == (("4 9",),)
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(GatemaskError, match=r"not the one that gatemask wrote[\s\S]*masks.csv"):
        Masks(path, (64, 64))
