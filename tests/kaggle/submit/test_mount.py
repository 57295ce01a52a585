"""The hidden test set of a rehearsal: files and rows under unknown ids, which the kernel matches as on Kaggle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import read_sample
from gatemask.files import write_json, write_text
from gatemask.inference.test_files import list_test_files
from gatemask.kaggle.submit.rehearse import _Rehearsal
from gatemask.kaggle.submit.rehearsed_images import choose_images
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts
from tests.data.test_manifest import competition

TWO = {"classes": ["fish", "sugar"], "submission": {"sample": "sample.csv", "joined": "{id}.jpg_{class}"}}
REGEX = r"(case\d+)/scans/(slice_\d+)"


@pytest.mark.parametrize(
    ("test", "files", "rows", "more"),
    [
        ({"images": "test/*.jpg"}, ["a.jpg", "b.jpg"], [f"{i}.jpg_{c}" for i in "ab" for c in TWO["classes"]], TWO),
        (
            {"images": "test/{case}/{slice}.png", "id": "{case}_{slice}"},
            ["c1/s1.png", "c2/s1.png"],
            ["c1/s1", "c2/s1"],
            {},
        ),
        (
            {"images": "test/**/*.png", "id": REGEX},
            ["case1/scans/slice_01_2.png", "case2/scans/slice_01_2.png"],
            ["case1_slice_01", "case2_slice_01"],
            {},
        ),
    ],
    ids=["names and classes", "template", "regular expression"],
)
def test_hidden_files_and_rows_match(
    tmp_path: Path, test: dict[str, str], files: list[str], rows: list[str], more: dict[str, Any]
) -> None:
    for name in files:
        write_text(tmp_path / "raw/test" / name, "x")
    write_text(tmp_path / "raw/sample.csv", "\n".join(["ImageId,EncodedPixels", *(f"{row}," for row in rows)]) + "\n")
    project = Project(tmp_path, "tiles")
    write_json(project.dist / "dataset/dataset-metadata.json", {"id": "me/set"})
    comp = competition(**{"test": test, "folds": {"k": 2}, "submission": {"sample": "sample.csv"}, **more})
    rehearsal = _Rehearsal(project, comp, project.runs / "rehearsal")
    visible_ids = rehearsal.mount(choose_images(project, comp, most=300))
    assert len(visible_ids) == 4, "both images, and a copy of each"
    assert not set(visible_ids) & set(visible_ids.values())
    assert set(list_test_files(rehearsal.competition, CompetitionFacts.of(comp), [], forgive=False)) == set(visible_ids)
    table = read_sample(SubmissionFormat.of(comp), rehearsal.competition / "sample.csv")
    assert {row.image_id for row in table.rows} == set(visible_ids)
    assert len(table.rows) == 4 * len(comp.classes)


def mounted(tmp_path: Path, files: dict[str, str], comp: Competition) -> tuple[dict[str, str], Path]:
    """Mount a hidden test set; return the visible ids by hidden id, and its folder."""
    for name, text in files.items():
        write_text(tmp_path / "raw" / name, text)
    project = Project(tmp_path, "tiles")
    write_json(project.dist / "dataset/dataset-metadata.json", {"id": "me/set"})
    rehearsal = _Rehearsal(project, comp, project.runs / "rehearsal")
    return rehearsal.mount(choose_images(project, comp, most=2)), rehearsal.competition


def test_all_files_of_an_image_are_hidden_together(tmp_path: Path) -> None:
    images = {"red": "test/{case}/{id}_r.png", "green": "green/{case}-{id}.png"}
    picture = {"size": [8, 8], "channels": 2}
    records = {"format": "png"}
    section = {"images": images}
    comp = competition(image=picture, train=section, test=section, folds={"k": 2}, records=records, submission={})
    files = {f"test/c/{name}_r.png": f"red {name}" for name in "ab"} | {
        f"green/c-{name}.png": f"green {name}" for name in "ab"
    }
    visible, folder = mounted(tmp_path, files, comp)
    assert len(visible) == 4, "two images, each twice"
    sources = list_test_files(folder, CompetitionFacts.of(comp), [], forgive=False)
    assert set(sources) == set(visible)
    for hidden, source in sources.items():
        assert [path.read_text() for path in source.files] == [f"red {visible[hidden]}", f"green {visible[hidden]}"]


def test_volumes_are_hidden_as_a_whole(tmp_path: Path) -> None:
    section = {"images": "test/{case}/{slice}.png", "id": "{case}_{slice}", "stack": {"by": "slice", "around": 1}}
    picture = {"size": [8, 8], "channels": 3}
    comp = competition(image=picture, train=section, test=section, folds={"k": 2}, submission={})
    files = {f"test/{case}/{number}.png": f"{case} {number}" for case in ("c1", "c2") for number in (8, 9, 10)}
    visible, folder = mounted(tmp_path, files, comp)
    assert sorted(visible.values()) == sorted(2 * ["c1_8", "c1_9", "c1_10"]), "one volume of at least two slices"
    sources = list_test_files(folder, CompetitionFacts.of(comp), [], forgive=False)
    assert set(sources) == set(visible)
    neighbors = {"c1_8": [8, 8, 9], "c1_9": [8, 9, 10], "c1_10": [9, 10, 10]}
    for hidden, source in sources.items():
        expected = [f"c1 {number}" for number in neighbors[visible[hidden]]]
        assert [path.read_text() for path in source.files] == expected
