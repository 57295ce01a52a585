"""The codec restores masks in every dialect and rejects anything malformed."""

from __future__ import annotations

import csv
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gatemask.config import Rle
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from tests.conftest import SHARED, needs_siim

DIALECTS = st.builds(
    Rle,
    offsets=st.sampled_from(["absolute", "relative"]),
    base=st.sampled_from([0, 1]),
    order=st.sampled_from(["column", "row"]),
    empty=st.sampled_from(["", "-1"]),
)
MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))
SIIM = Rle(offsets="relative", base=0, order="column", empty="-1")


@settings(max_examples=300, deadline=None)
@given(MASKS, DIALECTS)
def test_encoded_masks_decode_to_the_same(mask: np.ndarray, dialect: Rle) -> None:
    text = rle.encode(mask, dialect)
    assert (rle.decode(text, mask.shape, dialect) == mask).all()
    assert (text == dialect.empty) == (not mask.any())


def test_a_mask_written_out_by_hand() -> None:
    mask = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    # Down the columns: 010 110 001, so runs at pixels 1, 3 to 4, and 8.
    assert rle.encode(mask, Rle(offsets="absolute", base=0)) == "1 1 3 2 8 1"
    assert rle.encode(mask, Rle(offsets="absolute", base=1)) == "2 1 4 2 9 1"
    assert rle.encode(mask, Rle(offsets="relative", base=0)) == "1 1 1 2 3 1"
    assert rle.encode(mask, Rle(offsets="absolute", base=0, order="row")) == "1 1 3 2 8 1"


@pytest.mark.parametrize(
    ("text", "dialect", "words"),
    [
        ("1 2 3", SIIM, "odd count"),
        ("1 x", SIIM, "not a whole number"),
        ("1.5 2", SIIM, "not a whole number"),
        ("1 0", SIIM, "without pixels"),
        ("1 -2", SIIM, "without pixels"),
        ("1 2 -1 2", SIIM, "steps back"),
        ("-3 2", SIIM, "before the image"),
        ("0 2", Rle(base=1), "before the image"),
        ("0 5 3 2", Rle(base=0), "overlap"),
        ("15 2", Rle(base=0), "past the end"),
        ("10 3 2 2", SIIM, "past the end"),
    ],
)
def test_malformed_text_is_rejected_with_its_place(text: str, dialect: Rle, words: str) -> None:
    with pytest.raises(GatemaskError, match=words) as caught:
        rle.decode(text, (4, 4), dialect, where="train.csv, row 7, image abc")
    assert "row 7, image abc" in str(caught.value)


HUGE = ["-9223372036854775808", "9223372036854775807", "9223372036854775806", "-" + "9" * 30, "9" * 30, str(2**62)]


@pytest.mark.parametrize("offsets", ["absolute", "relative"])
@pytest.mark.parametrize("huge", HUGE)
def test_numbers_out_of_range_are_rejected_before_any_arithmetic(huge: str, offsets: str) -> None:
    for position in range(6):
        words = ["1", "2", "4", "3", "9", "1"]
        words[position] = huge
        with pytest.raises(GatemaskError, match=r"past the end|before the image|steps back|without pixels"):
            rle.decode(" ".join(words), (4, 4), Rle.model_validate({"offsets": offsets, "base": 0}))
    # Three numbers whose sum wraps around to a valid one.
    with pytest.raises(GatemaskError):
        rle.decode("1 2 -9223372036854775808 3 5 1", (1024, 1024), Rle.model_validate({"offsets": offsets}))


def test_blanks_of_unicode_separate_numbers() -> None:
    expected = rle.decode("1 2 6 3", (4, 4))
    for blank in ("\u00a0", "\u2003", "\u3000", "\u2028", "\x0b", "\x1c", "\x85", " \u00a0\t"):
        assert (rle.decode(blank.join(["1", "2", "6", "3"]), (4, 4)) == expected).all(), ascii(blank)
        assert rle.is_empty(blank, Rle())


@pytest.mark.parametrize(
    "word", ["1\u200b", "\ufeff1", "１", "²", "1\x00", "\ud800", "-", "--1", "+1", "1_0", "1e3", "0x1"]
)
def test_words_that_only_look_like_numbers_are_rejected(word: str) -> None:
    for text in (f"{word} 2", f"1 {word}", f"1 2 {word} 3"):
        with pytest.raises(GatemaskError, match="not a whole number"):
            rle.decode(text, (4, 4))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0123456789- \t\u00a0x"), max_size=60), DIALECTS)
def test_any_cell_is_decoded_or_rejected(text: str, dialect: Rle) -> None:
    with suppress(GatemaskError):
        starts, lengths = rle.parse(text, (30, 40), dialect)
        assert lengths.sum() == rle.decode(text, (30, 40), dialect).sum() <= 1200
        assert (starts[1:] >= (starts + lengths)[:-1]).all()


def test_starts_out_of_order_are_sorted_when_absolute() -> None:
    assert (rle.decode("9 2 1 2", (4, 4)) == rle.decode("1 2 9 2", (4, 4))).all()


@needs_siim
def test_the_real_annotations_decode_to_the_known_areas() -> None:
    with (SHARED / "siim/stage_2_train.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["EncodedPixels"].strip() != "-1"]
    assert len(rows) == 3576
    masks: dict[str, np.ndarray] = {}
    for row in rows[::10]:
        mask = rle.decode(row["EncodedPixels"], (1024, 1024), SIIM, row["ImageId"])
        assert mask.any()
        assert rle.encode(mask, SIIM) == row["EncodedPixels"].strip()
        masks[row["ImageId"]] = mask
    assert max(mask.sum() for mask in masks.values()) <= 161421
