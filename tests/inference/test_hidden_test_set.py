"""A test set that is entirely hidden: the saved version writes what the sample shows, and ends normally."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.inference.runner import find_competition, predict_test_set
from gatemask.results.submission import InferenceReport
from tests.inference.fake_networks import FakeNetwork, KaggleFolders, make_kaggle_folders, use_fake_networks


@pytest.fixture
def folders(tmp_path: Path) -> KaggleFolders:
    made = make_kaggle_folders(tmp_path / "kaggle")
    for path in made.test.iterdir():
        path.unlink()
    made.write_sample([])
    return made


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    return use_fake_networks(monkeypatch)


def save_version(folders: KaggleFolders) -> InferenceReport:
    return predict_test_set(folders.ensemble, folders.dataset, folders.competition, folders.working, forgive=False)


def test_the_saved_version_writes_the_header(folders: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    report = save_version(folders)
    assert folders.submission.read_text() == "ImageId,EncodedPixels\n"
    assert (report.images, report.rows, report.degraded, report.unreadable) == (0, 0, [], {})
    assert InferenceReport.load(folders.working / "inference.json") == report
    assert not any(fake.predicted for fake in fakes.values())


def test_rows_without_images_keep_empty_masks(folders: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    folders.write_sample(["dummy1", "dummy2"])
    shutil.rmtree(folders.test)
    report = save_version(folders)
    assert folders.encoded == {"dummy1": "-1", "dummy2": "-1"}
    assert (report.rows, report.empty, report.degraded, report.unreadable) == (2, 2, [], {})


def test_without_a_sample_the_columns_are_those_of_the_settings(
    folders: KaggleFolders, fakes: dict[str, FakeNetwork]
) -> None:
    (folders.competition / "sample.csv").unlink()
    folders.change(competition={"submission": {"id": "id", "mask": "rle"}})
    facts = folders.ensemble.competition
    assert find_competition(folders.root / "input", folders.dataset, facts) == folders.competition
    save_version(folders)
    assert folders.submission.read_text() == "id,rle\n"


@pytest.mark.parametrize("rows", [[], ["i00"]])
def test_images_that_the_pattern_misses_are_no_hidden_test_set(
    folders: KaggleFolders, fakes: dict[str, FakeNetwork], rows: list[str]
) -> None:
    folders.write_sample(rows)
    folders.change(competition={"test_images": "test/*.png"})
    (folders.test / "i00.jpg").write_bytes(b"an image")
    with pytest.raises(GatemaskError, match=r"nothing to predict|do not match"):
        save_version(folders)
