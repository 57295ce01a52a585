"""Results of checking, predicting, packaging, rehearsing and submitting."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, JsonValue, ValidationError

from gatemask.errors import GatemaskError
from gatemask.stage import CommandResult, StageResult


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


class FoldCheckResult(CommandResult):
    """Result of `gatemask submission check COMP --fold K`.

    Args:
        fold: Number of the fold.
        images: Number of its images.
        rows: Number of rows of the file: one per image and class, whatever the format.
        masks: Number of images and classes with a mask in the file.
        metric: Name of the metric.
        submission: Path of the file.
        score: Score of the masks that are read from the file.
        tuned: Score of the fold in tuning.
        notes: What the dialect of the file rests on, one sentence each.
    """

    fold: int
    images: int
    rows: int
    masks: int
    metric: str
    submission: str
    score: float
    tuned: float
    notes: list[str]


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
    """Contents of inference.json, which the submission kernel writes next to submission.csv.

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


class PredictionResult(StageResult):
    """Result of `gatemask predict`.

    Args:
        images: Number of images in the test set.
        rows: Number of rows of the submission.
        passed: Number of images that passed the gate.
        empty: Number of rows with an empty mask.
        shards: Number of shards.
        device: Device of the networks.
        precision: Precision of the layers.
        images_per_second: Images per second, from start to end.
        submission: Path of the submission.
    """

    paths = ("submission",)

    images: int
    rows: int
    passed: int
    empty: int
    shards: int
    device: str
    precision: str
    images_per_second: float
    submission: str


class PrecisionComparison(CommandResult):
    """Comparison of half precision with float32 on out-of-fold images.

    Args:
        precision: Precision of the kernel.
        images: Number of images.
        dice: Mean Dice in that precision.
        dice_float32: Mean Dice in float32.
        map_difference: Largest difference between probability maps, of 255.
        pixels_changed: Share of mask pixels that change.
    """

    precision: str
    images: int
    dice: float
    dice_float32: float
    map_difference: int
    pixels_changed: float


class PackageResult(StageResult):
    """Result of `gatemask package`.

    Args:
        dataset: Folder to upload as a dataset.
        kernel: Folder to push as a kernel.
        files: Number of files in both.
        megabytes: Size of both, in MB.
        precision: Comparison with float32; None if the kernel runs in float32.
    """

    paths = ("dataset", "kernel")

    dataset: str
    kernel: str
    files: int
    megabytes: float
    precision: PrecisionComparison | None


class KernelRun(CommandResult):
    """A run of a kernel in the sandbox.

    Args:
        isolation: How network and packages were isolated.
        versions_of_the_image: Whether packages had the versions of Kaggle's image.
        packages_hidden: Installed packages that Kaggle's image lacks, hidden from the kernel.
        kernel_seconds: Duration, in seconds.
    """

    isolation: str
    versions_of_the_image: bool
    packages_hidden: list[str]
    kernel_seconds: float


class RehearsalResult(StageResult, KernelRun):
    """Result of `gatemask rehearse`.

    Args:
        images: Number of visible test images taken.
        needed_images: Number of images that a complete submission for the visible test set has.
        on_training_images: Whether training images were taken, because the test set is entirely hidden.
        hidden_images: Number of images in the rehearsed test set.
        rows: Number of rows of its submission.
        passed: Number of images that passed the gate.
        empty: Number of rows with an empty mask.
        device: Device of the networks.
        precision: Precision of the layers.
        peak_megabytes: Peak memory, in MB.
        empty_share: Share of rows with an empty mask.
        train_empty_share: Share of training images without a mask; None where it is not available.
        unreadable: Images that could not be read.
        inference_seconds: Duration of prediction, in seconds.
        test_images: Number of images in the hidden test set.
        expected_seconds: Expected duration for those, on this machine, in seconds.
        expected_peak_megabytes: Expected peak memory for those, in MB.
        metric: Name of the competition's metric.
        submission: Path of the submission for the visible test images.
        submission_score: Score of that submission; not set where their masks are unknown.
        as_trained: Members whose YAML or data have changed since the package was made; not set where none has.
    """

    paths = ("submission",)

    images: int
    needed_images: int = 0
    on_training_images: bool = False
    hidden_images: int
    rows: int
    passed: int
    empty: int
    device: str
    precision: str
    peak_megabytes: int
    empty_share: float
    train_empty_share: float | None
    unreadable: list[str]
    inference_seconds: float
    test_images: int
    expected_seconds: float
    expected_peak_megabytes: int
    metric: str
    submission: str
    submission_score: float | None = None
    as_trained: list[str] = Field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the submission has all rows of the visible test set."""
        return self.on_training_images or self.images >= self.needed_images

    @property
    def advice(self) -> str | None:
        """What the submission lacks, and how to get a complete one; None where nothing is lacking."""
        if self.on_training_images:
            return (
                "The test set is hidden: training images were rehearsed in its place. The submission is what the saved "
                "version writes for the visible test set, without any mask."
            )
        if self.complete:
            return None
        return (
            f"The submission has {self.images} of {self.needed_images} images. For a complete one, run gatemask "
            f"rehearse with --images {self.needed_images}."
        )


class SubmissionRecord(BaseModel):
    """Record of a submission, from the package to its scores. Kept as runs/<comp>/submissions/<id>.json.

    Args:
        id: Id; part of the description on Kaggle.
        package: Fingerprint of the package, see `package.require_package`.
        competition: Name of the competition on Kaggle.
        description: Description on Kaggle.
        at: Time of the first step, ISO 8601 in UTC.
        sums: SHA-256 of the package's SHA256SUMS; the kernel reports that of the dataset it found.
        local: Cross-fitted score of the ensemble.
        in_sample: In-sample score of the ensemble.
        all_empty: Score of an all-empty submission on the training images.
        ensemble: SHA-256 of the ensemble.yaml that was packaged.
        experiments: Experiments of the members.
        members: Members of the ensemble.
        rehearsed: Whether this package was rehearsed.
        state: packaged, pushing, running, ran, submitting, submitted, scored or failed.
        commit: Commit of the project.
        ref: Kernel, as owner/slug.
        dataset: Dataset, as owner/slug.
        dataset_version: Version of the dataset at the push.
        push: Id of the last push; the kernel's source contains it, and its log.
        pushes: Number of pushes.
        version: Version of the kernel, once known.
        word: Kaggle's last status of the kernel.
        asked: Number of requests for the output that were in vain.
        submission_sha256: SHA-256 of the kernel's submission.csv for the visible test set.
        file: Name of the copy of it that is kept next to the record.
        images: Number of images in it.
        seconds: Duration of the kernel's prediction, in seconds.
        timings: Time of each member.
        degraded: What went wrong in the kernel, one sentence each.
        submission: Kaggle's number of the submission.
        submitted_at: Time of the submission, ISO 8601 in UTC.
        public: Public score.
        private: Private score.
        message: Reason for a failure.
    """

    id: str
    package: str
    competition: str
    description: str
    at: str
    sums: str | None = None
    local: float | None = None
    in_sample: float | None = None
    all_empty: float | None = None
    ensemble: str | None = None
    experiments: list[str] = Field(default_factory=list)
    members: list[str] = Field(default_factory=list)
    rehearsed: bool = False
    state: str = "packaged"
    commit: str | None = None
    ref: str | None = None
    dataset: str | None = None
    dataset_version: int | None = None
    push: str | None = None
    pushes: int = 0
    version: int | None = None
    word: str | None = None
    asked: int = 0
    submission_sha256: str | None = None
    file: str | None = None
    images: int | None = None
    seconds: float | None = None
    timings: dict[str, MemberTiming] = Field(default_factory=dict)
    degraded: list[str] = Field(default_factory=list)
    submission: int | None = None
    submitted_at: str | None = None
    public: float | None = None
    private: float | None = None
    message: str | None = None

    @property
    def submitted(self) -> bool:
        """Whether Kaggle has the submission."""
        return self.submitted_at is not None

    @property
    def board_scores(self) -> list[float]:
        """Leaderboard scores that Kaggle shows."""
        return [score for score in (self.public, self.private) if score is not None]


class SubmissionResult(CommandResult):
    """Result of `gatemask submit`.

    Args:
        current: Whether the package had been submitted before.
        record: Record of the submission.
    """

    current: bool
    record: SubmissionRecord

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the fields of the record as plain JSON values, `current` first."""
        return {"current": self.current, **self.record.model_dump(mode="json")}


class LeaderboardRow(CommandResult):
    """A submission in the table of `gatemask leaderboard`; fields as in `SubmissionRecord`.

    Args:
        members: Number of members.
        ranks: Rank of each score, by "local", "public" and "private"; None without a score.
    """

    id: str
    submitted_at: str | None
    ref: str | None
    version: int | None
    state: str
    experiments: list[str]
    local: float | None
    public: float | None
    private: float | None
    commit: str | None
    message: str | None
    members: int
    ranks: dict[str, int | None]


class RankCorrelation(CommandResult):
    """Spearman's rank correlation of local and leaderboard scores.

    Args:
        n: Number of submissions with both scores.
        rho: Rank correlation; None with fewer than three different scores on either side.
        by_chance: Probability that a random order agrees as well; None as `rho`.
        offset: Mean difference, local minus leaderboard; None as `rho`.
    """

    n: int
    rho: float | None = None
    by_chance: float | None = None
    offset: float | None = None


class LeaderboardResult(CommandResult):
    """Result of `gatemask leaderboard`.

    Args:
        submissions: Submissions, oldest first.
        correlation: Correlation with the local score, by "public" and "private".
        verdict: Whether the local score can be trusted, in one sentence.
        up_to_date: Whether Kaggle was asked for the scores.
        picture: Path of the figure; None before the first score.
    """

    submissions: list[LeaderboardRow]
    correlation: dict[str, RankCorrelation]
    verdict: str
    up_to_date: bool
    picture: str | None
