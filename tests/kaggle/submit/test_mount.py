"""The hidden test set of a rehearsal: files and rows under unknown ids, which the kernel matches as on Kaggle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.data.submission_format import SubmissionFormat
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
    table = SubmissionFormat.of(comp).read_sample(rehearsal.competition / "sample.csv")
    assert {row.image_id for row in table.rows} == set(visible_ids)
    assert len(table.rows) == 4 * len(comp.classes)
