"""Results of checking, predicting, packaging, rehearsing and submitting."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from gatemask.errors import GatemaskError
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


class MemberTiming(CommandResult):
    """Time a member took in the submission kernel.

    Args:
        images: Number of images it predicted.
        seconds_per_image: Seconds per image, all TTA views included.
    """

    images: int
    seconds_per_image: float


class DroppedMember(CommandResult):
    """A member that the kernel stopped using.

    Args:
        name: Name of the member.
        from_image: Number of images that had been through the gates by then.
        why: Reason.
    """

    name: str
    from_image: int
    why: str


class InferenceReport(CommandResult):
    """Contents of inference.json, which the submission kernel writes beside submission.csv.

    Args:
        images: Number of images in the test set.
        rows: Number of rows of the submission.
        passed: Number of images that passed the gate.
        empty: Number of rows with an empty mask.
        extra: Number of test images without a row in the sample submission.
        odd_sizes: Number of images of another size than competition.yaml states.
        unreadable: Images that could not be read, with the reason.
        degraded: What went wrong, one sentence each; empty if the submission is as good as it was tuned to be.
        dropped: Members that were dropped on the way.
        members: Time of each member.
        device: Device of the networks: cpu, gpu or tpu.
        precision: Precision of the layers.
        seconds: Duration of prediction, in seconds.
        seconds_per_image: Seconds per image, all members included.
        peak_megabytes: Peak memory, in MB.
        submission: SHA-256 of submission.csv; None where nothing was predicted.
        package: SHA-256 of the dataset's SHA256SUMS; None where nothing was predicted.
        packages: Folder of the installed wheels.
    """

    images: int = 0
    rows: int = 0
    passed: int = 0
    empty: int = 0
    extra: int = 0
    odd_sizes: int = 0
    unreadable: dict[str, str] = Field(default_factory=dict)
    degraded: list[str]
    dropped: list[DroppedMember] = Field(default_factory=list)
    members: dict[str, MemberTiming] = Field(default_factory=dict)
    device: str = ""
    precision: str = ""
    seconds: float = 0.0
    seconds_per_image: float = 0.0
    peak_megabytes: int = 0
    submission: str | None
    package: str | None
    packages: str | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read inference.json.

        Raises:
            GatemaskError: The file is not a kernel's report.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise GatemaskError(
                f"{path.name} is not a report of the kernel.",
                where=path,
                received=f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            ) from None
