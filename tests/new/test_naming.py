"""Files become images, and paths become ids."""

from __future__ import annotations

import pytest

from gatemask.new.decisions import Decisions
from gatemask.new.files import count_suffixes, plain_glob
from gatemask.new.identity import find_naming
from gatemask.new.naming import Known, with_numbers


def naming(names: list[str], cells: list[str] | None = None, accept: bool = True):  # type: ignore[no-untyped-def]
    return find_naming(names, Known.of(cells or []), Decisions(accept))


def test_a_unique_name_is_the_id() -> None:
    found = naming(["train/a.png", "train/b.png"], ["a", "b"])
    assert (found.patterns, found.id) == ({"": "train/*.png"}, None)


@pytest.mark.parametrize(
    ("cells", "template"),
    [
        (["p1_s1", "p1_s2", "p2_s1", "p2_s2"], "{folder1}_s{number}"),
        (["p1-s1", "p1-s2", "p2-s1", "p2-s2"], "{folder1}-s{number}"),
        (["p1s1", "p1s2", "p2s1", "p2s2"], "{folder1}s{number}"),
        (["p1/s1.png", "p1/s2.png", "p2/s1.png", "p2/s2.png"], "{folder1}_s{number}"),
        ([], "{folder1}_s{number}"),  # nothing is known: names repeat, so the folder belongs to the id
    ],
)
def test_repeated_names_need_their_folder(cells: list[str], template: str) -> None:
    found = naming([f"t/p{p}/s{s}.png" for p in (1, 2) for s in (1, 2)], cells)
    assert found.id == template
    assert len({found.rule.of_file(f"t/p{p}/s{s}.png") for p in (1, 2) for s in (1, 2)}) == 4


def test_words_that_name_channels_make_one_image() -> None:
    names = [f"x/{one}_{word}.png" for one in ("a1", "b2") for word in ("blue", "green", "red")]
    found = naming(names)
    assert found.patterns == {word: f"x/{{id}}_{word}.png" for word in ("blue", "green", "red")}
    assert found.images(names) == ["x/a1_blue.png", "x/b2_blue.png"]


def test_words_are_no_channels_where_labels_name_each_file() -> None:
    names = [f"x/{one}_{word}.png" for one in ("a1", "b2") for word in ("red", "green")]
    assert naming(names, [name[2:-4] for name in names]).patterns == {"": "x/*.png"}


def test_labels_decide_about_other_words() -> None:
    names = [f"x/{one}_{word}.png" for one in ("a1", "b2") for word in ("up", "down")]
    assert list(naming(names, ["a1", "b2"]).patterns) == ["down", "up"]
    assert naming(names, [name[2:-4] for name in names]).patterns == {"": "x/*.png"}


def test_other_words_are_asked_about() -> None:
    names = [f"x/{one}_{word}.png" for one in ("a1", "b2") for word in ("up", "down")]
    decisions = Decisions(False)
    find_naming(names, Known.of([]), decisions)
    assert [question.topic for question in decisions.open] == ["files"]


def test_an_image_that_lacks_a_channel_is_not_merged() -> None:
    names = ["x/a_red.png", "x/a_green.png", "x/b_red.png"]
    assert naming(names).patterns == {"": "x/*.png"}


def test_numbers_are_slices_where_volumes_share_them() -> None:
    names = [f"x/v{volume}_{number:03d}.png" for volume in (1, 2) for number in range(5)]
    found = with_numbers(naming(names), names)
    assert found is not None
    assert (found.pattern, found.id, found.number) == ("x/{volume}_{number}.png", "{volume}_{number}", "number")


@pytest.mark.parametrize("names", [[f"x/tile{n:03d}.png" for n in range(9)], [f"x/a{n}_{n * 7}.png" for n in range(9)]])
def test_numbers_of_one_volume_are_no_slices(names: list[str]) -> None:
    assert with_numbers(naming(names), names) is None


def test_test_images_are_named_alike() -> None:
    names = [f"train/c{p}/s{s}.png" for p in (1, 2) for s in (1, 2)]
    other = naming(names).elsewhere(["data/test/c9/s1.png", "data/test/c9/s2.png"])
    assert (other.pattern, other.id) == ("data/test/{folder1}/s{number}.png", "{folder1}_s{number}")
    assert naming(["train/a.png", "train/b.png"]).elsewhere(["test/c.jpg"]).pattern == "test/*.jpg"


def test_globs_are_narrow() -> None:
    assert plain_glob(["a/1/x.png", "a/2/x.png"]) == "a/*/*.png"
    assert plain_glob(["a/x.png", "a/b/x.png"]) == "a/**/*.png"
    assert plain_glob(["a[1]/x.png", "a[1]/y.png"]) == "a[[]1]/*.png"
    assert count_suffixes(["a.png", "b.png", "c"]) == "2 .png, 1 no suffix"
