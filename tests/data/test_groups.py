"""Images that any source connects share a group."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatemask.config import Groups
from gatemask.data import groups
from gatemask.errors import GatemaskError


def test_sources_and_copies_are_joined() -> None:
    by_patient = {"a": "p2", "b": "p2", "c": "p1"}
    by_study = {"c": "s1", "d": "s1"}
    joined = groups.join_groups(list("abcdefg"), [by_patient, by_study], [("b", "c"), ("f", "g")])
    assert joined == {"a": "p1", "b": "p1", "c": "p1", "d": "p1", "e": "e", "f": "f", "g": "f"}


def test_a_patient_named_like_another_image_does_not_absorb_it() -> None:
    joined = groups.join_groups(["7", "x", "y"], [{"x": "7", "y": "7"}], [])
    assert joined["x"] == joined["y"] != joined["7"]


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("123"), max_size=8),
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=6),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter(names: dict[str, str], copies: list[tuple[str, str]], random: object) -> None:
    ids = list("abcdefgh")
    before = groups.join_groups(ids, [names], copies)
    random.shuffle(ids)  # type: ignore[attr-defined]
    random.shuffle(copies)  # type: ignore[attr-defined]
    assert groups.join_groups(ids, [names], copies) == before
    for first, second in copies:
        assert before[first] == before[second]


def test_near_copies_are_credible_while_few() -> None:
    twins = [(f"{n}", f"{n}'") for n in range(100)]
    chain = [(f"{n}", f"{n + 1}") for n in range(40)]
    assert groups.credible(twins, 500)
    assert not groups.credible(chain, 500)
    assert groups.credible(chain, 5000)


def test_a_table_names_groups_by_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("Kaggle_ID,NIH_ID\na,00000013_001.png\nb,00000013_002.png\nc,00000014_000.png\n")
    settings = Groups(file="g.csv", id="Kaggle_ID", column="NIH_ID", prefix=8)
    (source,) = groups.group_sources(settings, tmp_path, [])
    assert [source(name, {}) for name in "abcd"] == ["00000013", "00000013", "00000014", ""]


def test_an_optional_table_may_be_absent(tmp_path: Path) -> None:
    assert groups.group_sources(Groups(file="g.csv", optional=True), tmp_path, []) == []
    with pytest.raises(GatemaskError, match="table does not exist"):
        groups.group_sources(Groups(file="g.csv"), tmp_path, [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"regex": "("}, "not a regular expression"),
        ({"regex": "^abc"}, "no parenthesis"),
        ({"file": "two.csv"}, r"in two groups[\s\S]*row 3, image a"),
        ({"file": "two.csv", "column": "groop"}, "Did you mean 'group'"),
    ],
)
def test_invalid_sources_are_rejected(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    (tmp_path / "two.csv").write_text("image_id,group\na,1\na,2\n")
    with pytest.raises(GatemaskError, match=words):
        groups.group_sources(Groups.model_validate(settings), tmp_path, [])
