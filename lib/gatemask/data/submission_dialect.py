"""Compare the dialect of submissions with everything that reveals it: the labels, the sample, and the runs themselves.

A submission in the wrong dialect is a valid file with a score near zero, so every difference is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.config import Competition, Rle, RleLabels
from gatemask.data import rle_dialect
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import read_sample_masks

WORDS = {"offsets": "{} offsets", "base": "first pixel {}", "order": "{} order", "empty": "{!r} for an empty mask"}
FEWEST_RUNS = 3  # relative offsets of two runs may ascend by chance
FEWEST_MASKS = 5


def describe(dialect: Rle, keys: Sequence[str] = tuple(WORDS)) -> str:
    """Return a dialect in words.

    >>> describe(Rle())
    "absolute offsets, first pixel 1, column order, '' for an empty mask"
    """
    return ", ".join(WORDS[key].format(getattr(dialect, key)) for key in WORDS if key in keys)


def dialect_notes(comp: Competition, raw: Path) -> list[str]:
    """Return what the dialect of submissions rests on, and what contradicts it, one sentence each.

    Args:
        comp: competition.yaml.
        raw: The raw folder, with the sample submission where there is one.

    Raises:
        GatemaskError: The sample submission cannot be read.
    """
    if comp.submission.archive is not None:  # files of pixels have no dialect
        return []
    written = comp.submission.rle
    marker = _marker_of_sample(comp, raw)
    notes = []
    unnamed = [key for key in WORDS if key not in written.model_fields_set]
    if isinstance(comp.labels, RleLabels):
        if unnamed:
            notes.append(f"submission.rle follows labels.rle: {describe(written, unnamed)}.")
        differing = [key for key in WORDS if getattr(written, key) != getattr(comp.labels.rle, key)]
        if marker == written.empty and "empty" in differing:
            differing.remove("empty")  # the sample decides
        if differing:
            notes.append(
                f"submission.rle ({describe(written, differing)}) differs from labels.rle "
                f"({describe(comp.labels.rle, differing)}): verify on the competition's page which one it scores."
            )
    elif unnamed:
        notes.append(
            f"The labels are images and submission.rle does not name every key: {describe(written, unnamed)} is "
            "assumed. Verify it on the competition's page, and name it in competition.yaml."
        )
    if marker is not None and marker != written.empty:
        notes.append(
            f"The sample submission has {marker!r} for an empty mask, but submission.rle.empty is {written.empty!r}: "
            f'set submission: {{rle: {{empty: "{marker}"}}}}, unless the competition accepts both.'
        )
    return notes


def contradictions(texts: Sequence[str], dialect: Rle, size: tuple[int, int]) -> list[str]:
    """Return what in the runs speaks against a dialect, one sentence each; only what chance does not explain.

    Args:
        texts: Masks of a submission, encoded; others than runs are ignored.
        dialect: The dialect that they should have.
        size: Height and width of the masks, in pixels.
    """
    encodings = [rle_dialect.parse_pairs(text) for text in texts if rle_dialect.RUNS.fullmatch(text)]
    several = [pairs for pairs in encodings if len(pairs) >= FEWEST_RUNS]
    notes = []
    if len(several) >= FEWEST_MASKS:
        offsets, reason = rle_dialect.guess_offsets(several)
        if offsets != dialect.offsets:
            notes.append(f"The runs seem to have {offsets} offsets, not {dialect.offsets}: {reason}.")
            return notes
    if (edges := rle_dialect.contradicting_edges(encodings, dialect, size)) is not None:
        notes.append(edges)
    return notes


def _marker_of_sample(comp: Competition, raw: Path) -> str | None:
    """Return the text for an empty mask in the sample submission; None where it shows none."""
    sample = comp.submission.sample
    if not sample or not (raw / sample).is_file():
        return None
    return rle_dialect.empty_marker(read_sample_masks(SubmissionFormat.of(comp), raw / sample))
