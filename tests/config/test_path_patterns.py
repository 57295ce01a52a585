"""Globs with named parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatemask.config.path_patterns import as_glob, part_names, path_pattern
from tests.data.test_manifest import competition


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("masks/{id}*.png", "masks/*.png"),
        ("masks/{id}*_*.png", "masks/*_*.png"),
        ("{case}/**/{case}_{slice}.png", "*/**/*_*.png"),
        ("images/*.png", "images/*.png"),
    ],
)
def test_names_become_stars_that_pathlib_accepts(pattern: str, glob: str) -> None:
    assert as_glob(pattern) == glob


@pytest.mark.parametrize(
    ("pattern", "path", "readings"),
    [
        ("train/{case}/{slice}.png", "train/c1/s1.png", [{"case": "c1", "slice": "s1"}]),
        ("{case}/{case}_{day}/*.png", "c1/c1_d2/x.png", [{"case": "c1", "day": "d2"}]),
        ("{case}/{case}_{day}/*.png", "c1/c2_d2/x.png", []),
        ("**/{id}.png", "a/b/x.png", [{"id": "x"}]),
        ("**/{id}.png", "x.png", [{"id": "x"}]),
        ("{a}_{b}.png", "1_2_3.png", [{"a": "1_2", "b": "3"}, {"a": "1", "b": "2_3"}]),
        ("i[0-9]{n}?.png", "i7ab.png", [{"n": "a"}]),
        ("i[!0-9]{n}.png", "i7a.png", []),
        ("train/{case}/{slice}.png", "train/c1/deep/s1.png", []),
    ],
)
def test_readings_of_a_path(pattern: str, path: str, readings: list[dict[str, str]]) -> None:
    assert path_pattern(pattern).readings(path) == readings


def test_bindings_are_all_ways_with_known_texts() -> None:
    known = {"img1", "img10", "g1"}
    found = list(path_pattern("m/*{id}*.png").bindings("m/img10_0.png", lambda _, text: text in known))
    assert sorted(parts["id"] for parts in found) == ["g1", "img1", "img10"]


@given(st.text("ab_/", min_size=1, max_size=8), st.sampled_from(["{x}*.png", "{x}_*.png", "*/{x}.png", "{x}/{y}*.png"]))
def test_bindings_agree_with_the_filled_in_pattern(text: str, pattern: str) -> None:
    from fnmatch import fnmatchcase

    path = text + ".png"
    for parts in path_pattern(pattern).bindings(path, lambda _, value: True):
        filled = pattern
        for name in part_names(pattern):
            assert "/" not in parts[name]
            filled = filled.replace(f"{{{name}}}", parts[name])
        assert fnmatchcase(path, filled)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"images": "{case}/{slice}.png"}}, r"'id' must be set, e.g. id: '\{case\}_\{slice\}'"),
        ({"train": {"images": "{case}/*.png", "id": "{case}_{slice}"}}, r"id names \{slice\}, but"),
        ({"train": {"images": "{case}/*.png", "id": "x"}}, "needs named parts"),
        ({"train": {"images": "{case}/*.png", "id": "{case}/{stem}"}}, r"has no slash: write '\{case\}_\{stem\}'"),
        ({"train": {"images": "*.png", "id": "(case"}}, "not a regular expression"),
        ({"train": {"images": "*.png", "id": "(?:case)"}}, "no parenthesis that captures"),
        ({"labels": {"format": "png", "masks": "masks/*.png"}}, "must name the image"),
        ({"labels": {"format": "png", "masks": "masks/{case}.png"}}, r"names \{case\}, which is not a part"),
        (
            {"train": {"images": "*.png", "id": "(.*)"}, "test": {"images": "t/*.png"}, "folds": {"k": 2}},
            "test needs one too",
        ),
    ],
)
def test_invalid_rules_are_rejected(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        competition(**change)
