"""Ids from files and from cells: one rule, and both functions agree."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError

UID = "1.2.276.0.7230010.3.1.4.8323329.300.1517875162.258080"
ACCENT = "caf\u00e9"


@pytest.mark.parametrize(
    ("file", "image_id"),
    [
        ("a.png", "a"),
        ("deep/er/a.PNG", "a"),
        ("a.dcm.png", "a"),
        ("a.nii.gz", "a"),
        ("a.webp", "a"),
        (f"{UID}.dcm", UID),
        (UID, UID),
        ("scan.v2.tif", "scan.v2"),
        ("a .png", "a"),
        (" a.png", "a"),
        ("a.png ", "a"),
        ("images\\a.png", "a"),
        ("a b.png", "a b"),
        ("A.png", "A"),
        ("\ufeffa\u200b.png", "a"),
        (f"{unicodedata.normalize('NFD', ACCENT)}.png", ACCENT),
    ],
)
def test_a_file_and_the_cell_that_names_it_have_one_id(file: str, image_id: str) -> None:
    assert DEFAULT.of_file(file) == image_id
    for cell in (file, image_id, f"  {file}\u00a0", f"C:\\data\\{file}", f"/kaggle/input/{file}", f"{image_id}.JPG"):
        assert DEFAULT.of_cell(cell) == image_id, cell


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12))
def test_both_functions_agree_on_any_name(name: str) -> None:
    try:
        image_id = DEFAULT.of_file(f"train/{name}")
    except GatemaskError:
        return
    assert DEFAULT.of_cell(name) == DEFAULT.of_cell(image_id) == DEFAULT.of_file(image_id) == image_id


def test_the_extension_of_the_pattern_is_no_part_of_the_id() -> None:
    rule = IdRule("scans/*.xyz")
    assert rule.of_file("scans/a.XYZ") == rule.of_cell("a.xyz") == rule.of_cell("a") == "a"
    assert DEFAULT.of_file("a.xyz") == DEFAULT.of_cell("a.xyz") == "a.xyz"


TEMPLATE = IdRule("train/{case}/{slice}.png", "{case}_{slice}")
UW = IdRule("train/*/{day}/scans/slice_{number}_*_*_*_*.png", "{day}_slice_{number}")
REGEX = IdRule("train/**/*.png", r"(case\d+_day\d+)/scans/(slice_\d+)")
SCAN = "train/case123/case123_day20/scans/slice_0001_266_266_1.50_1.50.png"


@pytest.mark.parametrize(
    ("rule", "file", "image_id", "cells"),
    [
        (TEMPLATE, "train/c1/s1.png", "c1_s1", ["c1/s1", "c1/s1.png", "x/train/c1/s1.PNG", "c1\\s1", "c1_s1.png"]),
        (UW, SCAN, "case123_day20_slice_0001", [SCAN, SCAN.removeprefix("train/")]),
        (REGEX, SCAN, "case123_day20_slice_0001", [SCAN, "case123_day20/scans/slice_0001"]),
        (IdRule("train/{id}/image.png"), "train/p0/image.png", "p0", ["p0/image.png", "p0/image", "p0.png"]),
        (IdRule("{case}/*.png", "{case}-{stem}"), "c1/s.1.png", "c1-s.1", ["c1/s.1.png", "y/c1/s.1.png"]),
        (IdRule("**/{a}/{b}.png", "{a}_{b}"), "x/y/1/2.png", "1_2", ["1/2", "z/1/2.png"]),
    ],
)
def test_ids_from_paths_and_the_cells_that_name_them(rule: IdRule, file: str, image_id: str, cells: list[str]) -> None:
    assert rule.of_file(file) == image_id
    for cell in [image_id, *cells]:
        assert rule.of_cell(cell) == image_id, cell


def test_a_regular_expression_is_not_applied_to_ids() -> None:
    rule = IdRule("train/*.png", r"([^/]+)_[^_]*\.png$")
    assert rule.of_file("train/a_b_1.png") == "a_b"
    assert rule.of_cell("a_b") == "a_b"


@pytest.mark.parametrize(
    ("rule", "file", "words"),
    [
        (IdRule("{a}_{b}_*.png", "{a}-{b}"), "1_2_3_4.png", r"two ways[\s\S]*1_2-3 or 1-2"),
        (TEMPLATE, "train/s1.png", r"No id can be made[\s\S]*train/\{case\}/\{slice\}.png"),
        (IdRule("**/*.png", r"(case\d+)"), "a/b.png", "No id can be made"),
        (IdRule("**/*.png", r"(.*)\.png"), "a/b.png", "without slashes"),
    ],
)
def test_a_path_that_gives_no_clear_id_is_rejected(rule: IdRule, file: str, words: str) -> None:
    with pytest.raises(GatemaskError, match=words):
        rule.of_file(file)


def test_paths_of_a_table_that_become_one_id_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,x\ncase1/s1,1\ncase1/s1.png,2\ncase2/s1,3\n")
    table = read_table(tmp_path / "t.csv")
    with pytest.raises(GatemaskError, match=r"become one id[\s\S]*row 4[\s\S]*case1/s1 and case2/s1[\s\S]*\{case\}"):
        table.ids("id")
    assert table.ids("id", TEMPLATE) == ["case1_s1", "case1_s1", "case2_s1"]
