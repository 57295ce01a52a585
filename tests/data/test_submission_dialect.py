"""The dialect of submissions follows the labels; whatever contradicts it is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition, Rle
from gatemask.data.submission_dialect import contradictions, dialect_notes
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.submission.check import check_submission
from tests.data.test_manifest import competition
from tests.submission.test_check import expected, write

SIIM = {"offsets": "relative", "base": 0, "order": "row", "empty": "-1"}


def labeled(labels: dict[str, Any], submission: dict[str, Any] | None = None, **changes: Any) -> Competition:
    section = {"format": "rle", "file": "train.csv", "rle": labels}
    return competition(labels=section, image={"size": [4, 4], "channels": 1}, submission=submission or {}, **changes)


def test_keys_that_are_not_named_follow_the_labels() -> None:
    assert labeled(SIIM).submission.rle == labeled(SIIM).labels.rle == Rle.model_validate(SIIM)  # type: ignore[union-attr]
    partly = labeled(SIIM, {"rle": {"empty": ""}}).submission.rle
    assert partly == Rle.model_validate({**SIIM, "empty": ""})
    assert labeled({}, {"rle": SIIM}).submission.rle == Rle.model_validate(SIIM)
    assert competition().submission.rle == Rle(), "masks that are images reveal no dialect"
    again = Competition.model_validate(labeled(SIIM).model_dump())
    assert again.submission.rle == Rle.model_validate(SIIM)


def sample(folder: Path, *cells: str) -> str:
    write(folder, *(f"t{number},{cell}" for number, cell in enumerate(cells)), name="sample.csv")
    return "sample.csv"


def test_what_the_dialect_rests_on_is_reported(tmp_path: Path) -> None:
    (note,) = dialect_notes(labeled(SIIM), tmp_path)
    assert note.startswith("submission.rle follows labels.rle: relative offsets, first pixel 0, row order, '-1'")
    (note,) = dialect_notes(competition(), tmp_path)
    assert "images" in note and "absolute offsets, first pixel 1, column order, '' for an empty mask is assumed" in note
    assert dialect_notes(labeled(SIIM, {"rle": SIIM}), tmp_path) == []
    (note,) = dialect_notes(labeled(SIIM, {"rle": {**SIIM, "base": 1, "order": "column"}}), tmp_path)
    assert "(first pixel 1, column order) differs from labels.rle (first pixel 0, row order)" in note


@pytest.mark.parametrize("cells", [["-1", "-1"], ["-1", "1 4"], ["1 0", "1 0"], ["none", "none"]])
def test_a_marker_of_the_sample_that_the_dialect_lacks_is_reported(tmp_path: Path, cells: list[str]) -> None:
    named = Rle().model_dump()
    comp = labeled({}, {"rle": named, "sample": sample(tmp_path, *cells)})
    (note,) = dialect_notes(comp, tmp_path)
    assert f"has {cells[0]!r} for an empty mask, but submission.rle.empty is ''" in note
    same = labeled({"empty": cells[0]}, {"rle": {**named, "empty": cells[0]}, "sample": "sample.csv"})
    assert dialect_notes(same, tmp_path) == []
    # The sample settles a difference between labels and submission.
    other = labeled({"empty": ""}, {"rle": {**named, "empty": cells[0]}, "sample": "sample.csv"})
    assert dialect_notes(other, tmp_path) == []


@pytest.mark.parametrize("cells", [["1 1", "1 1"], []])
def test_a_sample_without_an_empty_mask_says_nothing(tmp_path: Path, cells: list[str]) -> None:
    comp = labeled({}, {"rle": Rle().model_dump(), "sample": sample(tmp_path, *cells)})
    assert dialect_notes(comp, tmp_path) == []


def test_a_sample_of_blanks_is_a_marker(tmp_path: Path) -> None:
    comp = labeled(SIIM, {"rle": SIIM, "sample": sample(tmp_path, "", "")})
    (note,) = dialect_notes(comp, tmp_path)
    assert "has '' for an empty mask, but submission.rle.empty is '-1'" in note


def discs(shape: tuple[int, int]) -> list[np.ndarray]:
    """Return discs, many of them cut by an edge of the image."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(30):
        mask = np.zeros(shape, np.uint8)
        for _ in range(2):
            center = int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0]))
            cv2.circle(mask, center, int(rng.integers(6, 20)), 1, -1)
        found.append(mask > 0)
    return found


@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
@pytest.mark.parametrize(
    ("change", "words"),
    [({"offsets": "relative"}, "offsets"), ({"base": 0}, "first pixel"), ({"order": "row"}, "order")],
)
def test_runs_in_another_dialect_are_recognized(shape: tuple[int, int], change: dict[str, Any], words: str) -> None:
    right = Rle()
    wrong = right.model_copy(update=change)
    masks = discs(shape)
    for written, read in ((right, wrong), (wrong, right)):
        texts = [rle.encode(mask, written) for mask in masks]
        assert contradictions(texts, written, shape) == []
        if "order" in change and shape[0] == shape[1]:
            continue  # a transposed square has the same runs
        (note,) = contradictions(texts, read, shape)
        assert words in note


def test_few_masks_prove_nothing() -> None:
    text = rle.encode(discs((64, 64))[0], Rle(offsets="relative", base=0))
    assert contradictions([text], Rle(), (64, 64)) == []
    assert contradictions([], Rle(), (64, 64)) == []
    assert contradictions(["", "x", "1 2 3"], Rle(), (64, 64)) == []


@pytest.mark.parametrize(
    ("dialect", "cell", "words"),
    [
        ({}, "9 2 3 4", "not sorted"),
        ({}, "3 4 5 2", "overlap"),
        ({}, "15 3", "past the end"),
        ({}, "0 3", "before the image"),
        ({}, "1 2 -9223372036854775808 3 5 1", "before the image"),
        ({}, "1\u00a02", "not ASCII"),
        ({}, "-1", "odd count"),
        (SIIM, "3 4 -2 2", "steps back"),
        (SIIM, "9 4 9 2", "past the end"),
        (SIIM, "", "blank"),
    ],
)
def test_a_mask_that_the_competition_reads_wrongly_is_rejected(
    tmp_path: Path, dialect: dict[str, Any], cell: str, words: str
) -> None:
    comp = labeled(dialect)
    good = "1 2"
    with pytest.raises(GatemaskError, match=words) as caught:
        check_submission(write(tmp_path, f"a,{good}", f"b,{cell}"), comp, expected(comp))
    assert "row 3" in str(caught.value)
