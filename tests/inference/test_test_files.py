"""The kernel makes ids like the manifest: two files or rows of one id never share a mask."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gatemask.config.path_patterns import path_pattern
from gatemask.data.ids import IdRule
from gatemask.errors import GatemaskError
from gatemask.inference import test_set
from gatemask.inference.test_set import TestSet
from gatemask.kaggle.submit.hidden_names import hidden_name
from gatemask.results.ensemble import CompetitionFacts
from tests.inference.fake_networks import SUBMISSION, KaggleFolders, make_kaggle_folders

NAMES = [f"case{case}/s{number}" for case in (0, 1) for number in (0, 1)]
TEMPLATE = {"test_images": "test/{case}/{slice}.png", "test_id": "{case}_{slice}"}


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolders:
    """Return folders whose test images have two names in two folders."""
    folders = make_kaggle_folders(tmp_path / "kaggle")
    for number, name in enumerate(NAMES):
        (folders.test / f"{name}.png").parent.mkdir(exist_ok=True)
        shutil.move(folders.image(number), folders.test / f"{name}.png")
    for path in folders.test.glob("*.png"):
        path.unlink()
    folders.write_sample(NAMES)
    return folders


def opened(kaggle: KaggleFolders, degraded: list[str], forgive: bool = False, **facts: object) -> TestSet:
    changed = {**kaggle.ensemble.competition.model_dump(), "submission": SUBMISSION, **facts}
    return test_set.open_test_set(kaggle.competition, CompetitionFacts.model_validate(changed), degraded, forgive)


@pytest.mark.parametrize(
    "facts", [TEMPLATE, {"test_images": "test/**/*.png", "test_id": r"(case\d+)/(s\d+)"}], ids=["template", "regex"]
)
@pytest.mark.parametrize("written", ["{}", "{}.png", "test/{}.PNG", "id"])
def test_ids_include_the_folder(kaggle: KaggleFolders, facts: dict[str, str], written: str) -> None:
    kaggle.write_sample([name.replace("/", "_") if written == "id" else written.format(name) for name in NAMES])
    test_set = opened(kaggle, [], **facts)
    assert test_set.ids == [name.replace("/", "_") for name in NAMES]
    for image_id, name in zip(test_set.ids, NAMES, strict=True):
        assert test_set.files[image_id].files == (kaggle.test / f"{name}.png",)


def test_files_and_rows_of_one_id_are_rejected(kaggle: KaggleFolders) -> None:
    with pytest.raises(GatemaskError, match=r"Several files have one id[\s\S]*2 such ids, the first s0"):
        opened(kaggle, [], test_images="test/*/*.png")
    with pytest.raises(GatemaskError, match=r"Several rows of the sample submission have one id[\s\S]*case0/s0, case1"):
        opened(kaggle, [], test_images="test/case0/*.png")


def test_in_the_hidden_rerun_they_stay_empty(kaggle: KaggleFolders) -> None:
    degraded: list[str] = []
    kaggle.write_sample([*NAMES, "case2/s2"])
    test_set = opened(kaggle, degraded, forgive=True, test_images="test/*/*.png")
    assert test_set.files == {}
    assert [row.name for row in test_set.table.rows] == [*NAMES, "case2/s2"]
    assert "2 ids belong to several files" in degraded[0]
    assert "2 ids belong to several rows" in degraded[1]
    degraded.clear()
    test_set = opened(kaggle, degraded, forgive=True, test_images="test/case0/*.png")
    assert test_set.files == {}, "s0 of the file may be of either row"


def test_a_sample_of_other_ids_is_rejected(kaggle: KaggleFolders) -> None:
    kaggle.write_sample([f"{name}_mask".replace("/", "_") for name in NAMES])
    with pytest.raises(GatemaskError, match=r"rows of the sample submission and test images[\s\S]*suffix"):
        opened(kaggle, [], **TEMPLATE)
    degraded: list[str] = []
    assert len(opened(kaggle, degraded, forgive=True, **TEMPLATE).table.rows) == 4
    assert "do not match" in degraded[0]


# --- the hidden test set of a rehearsal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (IdRule("test/*.dcm"), "test/1.2.3.dcm"),
        (IdRule("**/ISIC_*_x.png"), "a/b/ISIC_7_x.png"),
        (IdRule("test/[0-9]*.png"), "test/7.png"),
        (IdRule("test/{case}/{slice}.png", "{case}_{slice}"), "test/c1/s1.png"),
        (IdRule("test/{case}/{case}_*/{slice}.png", "{case}_{slice}"), "test/c1/c1_d1/s1.png"),
        (IdRule("test/{case}/*.png", "{case}_{stem}"), "test/c1/s1.png"),
        (IdRule("test/{id}/image.png"), "test/p1/image.png"),
        (IdRule("test/**/*.png", r"(case\d+)/(s\d+)"), "test/case1/s17.png"),
        (IdRule("test/**/*.png", r"([a-f]+)/([a-f]+)\."), "test/cab/bed.png"),
    ],
)
def test_hidden_names_fit_the_patterns_under_other_ids(rule: IdRule, name: str) -> None:
    taken: set[str] = {rule.of_file(name)}
    for copy in range(3):
        hidden = hidden_name(rule, rule.of_file(name), name, copy, taken)
        assert hidden.image_id == rule.of_file(hidden.name) not in taken
        assert path_pattern(rule.images).readings(hidden.name)
        assert hidden.name.endswith(name[name.rindex(".") :])
        taken.add(hidden.image_id)


def test_an_id_without_an_open_part_cannot_be_hidden() -> None:
    rule = IdRule("test/*.png", "(only)")
    with pytest.raises(GatemaskError, match="No other name was found"):
        hidden_name(rule, "only", "test/only.png", 0, set())
