"""Results of `gatemask loop`; runs/<comp>/summary.json holds a LoopSummary."""

from __future__ import annotations

from pydantic import Field, JsonValue

from gatemask.results.rules import ClassRules
from gatemask.stage import CommandResult


class LoopSummary(CommandResult):
    """Contents of summary.json.

    Args:
        competition: Name of the competition, with `-quick` for a quick run.
        images: Number of images with out-of-fold predictions.
        positives: Number of those with a mask.
        metric: Name of the competition's metric.
        cross_fitted: Cross-fitted score of the shipped rule.
        ci95: 95 % interval of that score.
        in_sample: In-sample score of the shipped rule.
        all_empty: Score of predicting no mask for any image.
        rule: Shipped decision rule, or one per class.
        classes: Cross-fitted score of each class, where there are several.
        warning: Why that rule is of no use, in one sentence; not set where it is better than no rule.
        submission: Path of the rehearsed submission.
        submission_score: Score of that submission, where the labels of the test images are available.
        report: Path of the HTML report.
        seconds: Total duration of the stages, in seconds.
        stages: Duration of each stage, in seconds.
    """

    competition: str
    images: int
    positives: int
    metric: str
    cross_fitted: float
    ci95: tuple[float, float]
    in_sample: float
    all_empty: float
    rule: ClassRules
    classes: dict[str, float] = Field(default_factory=dict)
    warning: str | None = None
    submission: str
    submission_score: float | None = None
    report: str
    seconds: float
    stages: dict[str, float]


class LoopResult(LoopSummary):
    """Report of `gatemask loop` after its last stage.

    Args:
        current: Whether no stage had anything to do.
    """

    current: bool

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the fields as plain JSON values, `current` first."""
        return {"current": self.current, **self.model_dump(mode="json", exclude_unset=True, exclude={"current"})}


class StoppedLoop(CommandResult):
    """Report of `gatemask loop` if a time limit ended a training.

    Args:
        current: Always False.
        stopped: Name of the stage.
        left: Remaining work of each unfinished fold.
    """

    current: bool
    stopped: str
    left: dict[int, str]
