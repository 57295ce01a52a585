"""The report is made at every point of a competition, and says what comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.report import page as report
from gatemask.report.inputs import Inputs
from gatemask.report.page import make_page, write_report
from gatemask.report.pictures import Pictures
from gatemask.results.report import ReportResult
from tests.report.pages import Page
from tests.report.small_project import GATE, MASK, again, epochs, finish, small_project

pytestmark = pytest.mark.integration

LATER = ["Tuning", "Gate", "Ensemble", "Leaderboard", "Submission"]


def write(inputs: Inputs) -> tuple[ReportResult, Page]:
    result = write_report(inputs.project, inputs.comp, inputs.ensemble)
    text = Path(result.report).read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(picture.get("alt") or picture.get("aria-label") for picture in parsed.pictures)
    return result, parsed


def test_a_page_from_the_first_epoch_on(tmp_path: Path) -> None:
    inputs = small_project(tmp_path)
    result, page = write(inputs)
    assert result.missing == ["Experiments", "Curves", *LATER[:3], "Gallery", "Worst cases", *LATER[3:]]
    assert "gatemask train tiles/" in page.sections["curves"]
    assert "No leak: 18 images" in page.sections["folds"]
    epochs(inputs, 0, 1)
    result, page = write(again(inputs))
    assert not result.current
    assert result.missing == [*LATER[:3], "Gallery", "Worst cases", *LATER[3:]]
    assert "6 of 6 folds of the ensemble are left to train" in page.sections["tuning"]
    assert "gatemask train tiles/gate --fold 0,1,2" in page.sections["tuning"]
    assert "gatemask train tiles/unet --fold 0" in page.sections["gallery"]
    finish(inputs, 0)
    result, page = write(again(inputs))
    assert result.missing == ["Tuning", "Gate", *LATER[3:]]
    assert "masks of unet alone, fold 0" in page.sections["gallery"]
    assert "0 of" not in page.sections["experiments"]
    assert "images per second" in " ".join(str(picture.get("aria-label")) for picture in page.pictures)
    assert result.problems == []
    for name in (MASK, GATE):
        for fold in range(3):
            finish(inputs, fold, name)
    result, page = write(again(inputs))
    assert result.missing == ["Tuning", "Gate", *LATER[3:]]
    assert "masks of unet alone, folds 0, 1, 2" in page.sections["gallery"]
    assert "gatemask oof-tune tiles" in page.sections["tuning"]


@pytest.mark.parametrize("changes", [{"tiles": {"size": 64, "overlap": 16}}, {"objects": {}}], ids=["tiles", "objects"])
def test_tiles_and_objects_have_a_gallery_after_one_fold(tmp_path: Path, changes: dict[str, object]) -> None:
    inputs = small_project(tmp_path, **changes)
    finish(inputs, 0)
    result, page = write(inputs)
    assert result.missing == ["Tuning", "Gate", *LATER[3:]]
    assert "masks of unet alone, fold 0" in page.sections["gallery"]
    assert result.problems == []


def test_a_page_is_made_again_only_if_something_changed(tmp_path: Path) -> None:
    inputs = small_project(tmp_path)
    epochs(inputs, 0, 1)
    assert not write(inputs)[0].current
    assert write(again(inputs))[0].current
    epochs(inputs, 0, 2)
    assert not write(again(inputs))[0].current


def test_damaged_files_are_listed_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = small_project(tmp_path)
    folder = finish(inputs, 0)
    whole = (folder / "oof.h5").read_bytes()
    (folder / "oof.h5").write_bytes(whole[:-200])
    (inputs.project.fold(MASK, 1)).mkdir()
    (inputs.project.fold(MASK, 1) / "result.json").write_text("{")
    result, page = write(again(inputs))
    assert {"Gallery", "Worst cases"} <= set(result.missing)
    assert any("oof.h5" in problem for problem in result.problems)
    assert any("unet fold 1" in problem for problem in result.problems)
    shown = capsys.readouterr().err
    assert all(problem in " ".join(shown.split()) or problem in shown for problem in result.problems)
    assert "curves" in page.sections and "loss" in page.sections["curves"]
    (folder / "oof.h5").write_bytes(whole)
    (inputs.project.fold(MASK, 1) / "result.json").unlink()
    repaired, _ = write(again(inputs))
    assert not repaired.current, "a page with problems is made again"
    assert repaired.problems == []
    assert "Gallery" not in repaired.missing


def test_a_fault_in_a_section_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = small_project(tmp_path)

    def broken(*_: object) -> str:
        raise ZeroDivisionError("by <nothing>")

    section = report.SECTIONS[1]._replace(body=broken)
    monkeypatch.setattr(report, "SECTIONS", [report.SECTIONS[0], section, *report.SECTIONS[2:]])
    page, missing = make_page(inputs, Pictures())
    assert "Folds and leaks" in missing
    assert "ZeroDivisionError: by &lt;nothing&gt;" in page


def test_a_small_limit_drops_images_and_says_so(tmp_path: Path) -> None:
    inputs = small_project(tmp_path)
    finish(inputs, 0)
    whole, _ = make_page(again(inputs), Pictures())
    limit = len(whole) - 100_000
    pictures = Pictures(limit)
    page, _ = make_page(again(inputs), pictures)
    assert pictures.left_out
    assert len(page.encode()) < limit
    assert "pictures are left out to keep this page below 8 MB" in page
    assert len(page) < len(whole)


def test_the_policy_names_the_hashes_of_style_and_script(tmp_path: Path) -> None:
    page, _ = make_page(small_project(tmp_path), Pictures())
    for text in (report._style(), report._script()):
        assert text in page
        assert report._source(text) in page
