"""Results of checking, predicting, packaging, rehearsing and submitting."""

from __future__ import annotations

from gatemask.stage import CommandResult


class SubmissionDifference(CommandResult):
    """Difference between a submission and an earlier one.

    Args:
        against: Path of the earlier submission.
        changed: Number of rows whose masks differ.
        emptied: Number of rows whose mask became empty.
        filled: Number of rows whose mask was empty before.
        agreement: Mean Dice between the two files.
    """

    against: str
    changed: int
    emptied: int
    filled: int
    agreement: float


class SubmissionSummary(CommandResult):
    """Contents of a valid submission.

    Args:
        rows: Number of rows.
        images: Number of images.
        empty: Number of rows with an empty mask.
        empty_share: Share of rows with an empty mask.
        in_order: Whether the rows have the order of the sample submission.
        megabytes: Size of the file, in MB.
    """

    rows: int
    images: int
    empty: int
    empty_share: float
    in_order: bool
    megabytes: float


class CheckResult(SubmissionSummary):
    """Result of `gatemask submission check`.

    Args:
        train_empty_share: Share of training images without a mask; None where it is not available.
        sha256: Hash of the file.
        notes: Observations that are allowed but unusual, one sentence each.
        difference: Difference to an earlier submission; not set where none was named.
    """

    train_empty_share: float | None
    sha256: str
    notes: list[str]
    difference: SubmissionDifference | None = None
