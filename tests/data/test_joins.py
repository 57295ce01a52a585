"""Two lists of ids: what matches is reported, what (almost) does not is rejected, and repairs are suggested."""

from __future__ import annotations

import pytest

from gatemask.data.joins import IdJoin, IdList, find_repair, join_ids
from gatemask.errors import GatemaskError

IDS = [f"{number:06d}" for number in range(100, 124)]


def join(first: list[str], second: list[str], **options: bool) -> IdJoin:
    return join_ids(
        IdList("images", first),
        IdList("rows", second, "t.csv"),
        "Correct the table.",
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "cause"),
    [
        (["000100", "000101"], ["100", "101"], "Leading zeros"),
        (["img_007", "img_008"], ["img_7", "img_8"], "Leading zeros"),
        (["100", "101"], ["100.0", "101.0"], "decimal numbers"),
        (["000100", "000101"], ["100.0", "101.0"], "decimal numbers"),
        (["abc", "def"], ["ABC", "Def"], "letter case"),
        (["abc", "def"], ["abc.xyz", "def.xyz"], "extension"),
        (["s1", "s2"], ["case1_s1", "case2_s2"], "prefix"),
        (["train_s1", "train_s2"], ["s1", "s2"], "prefix"),
        (["s1", "s2"], ["s1_mask", "s2_mask"], "suffix"),
        (["\uff111", "\uff12\uff12"], ["11", "22"], "Unicode"),
        (["a\u20111", "b\u20112"], ["a-1", "b-2"], "Unicode"),
        (["a 1", "b 2"], ["a1", "b2"], "blanks"),
        (["a1", "b2"], ["'a1'", "'b2'"], "quotes"),
        (["a-1", "b-2"], ["a_1", "b_2"], "separators"),
        (["Img_001", "Img_002"], ["img-1.xyz", "img-2.xyz"], "Several things"),
    ],
)
def test_the_likely_repair_is_suggested_with_an_example(ours: list[str], theirs: list[str], cause: str) -> None:
    with pytest.raises(GatemaskError, match=f"{cause}[\\s\\S]*would match") as caught:
        join(ours, theirs)
    for example in (ours[0], theirs[0], "0 of 2 images", "0 of 2 rows", "t.csv"):
        assert example in str(caught.value)


def test_ids_that_have_nothing_in_common_get_no_advice() -> None:
    assert find_repair(["a1", "b2"], ["x7", "y9"]) is None
    with pytest.raises(GatemaskError, match=r"none: 0 of 2 images[\s\S]*Correct the table"):
        join(["a1", "b2"], ["x7", "y9"])


def test_an_empty_or_almost_empty_match_is_rejected() -> None:
    with pytest.raises(GatemaskError, match="none"):
        join(IDS, [])
    with pytest.raises(GatemaskError, match=r"almost none: 1 of 24 images match[\s\S]*1 of 24 rows match"):
        join(IDS, [IDS[0], *(f"x{number}" for number in range(23))])
    assert join([], IDS).share == 1, "there is nothing to match"


def test_a_short_table_that_matches_completely_is_accepted_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    found = join(IDS, IDS[:2])
    assert (found.share, found.first_only, found.second_only) == (1, IDS[2:], [])
    found.report("They are empty.")
    said = " ".join(capsys.readouterr().err.split())
    assert said == "2 of 24 images match, not 000102, 000103, 000104, ...; 2 of 2 rows match. They are empty."
    join(IDS, IDS).report()
    assert capsys.readouterr().err == ""


def test_half_of_the_ids_in_another_spelling_are_rejected() -> None:
    rows = [str(int(name)) if int(name) % 2 else name for name in IDS]
    with pytest.raises(GatemaskError, match=r"12 only in another spelling: 12 of 24[\s\S]*Leading zeros"):
        join(IDS, rows)
    assert join(IDS, rows, strict=False).repair is not None


def test_a_single_lookalike_is_only_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    found = join(IDS, ["100", *IDS[1:]])
    found.report()
    assert "Leading zeros were lost" in capsys.readouterr().err


def test_completeness_is_demanded_where_it_is_needed() -> None:
    with pytest.raises(GatemaskError, match="1 unknown ids, 2 missing ids"):
        join(IDS, ["other", *IDS[2:]], complete=True)
    assert join(IDS, IDS[::-1], complete=True).share == 1
