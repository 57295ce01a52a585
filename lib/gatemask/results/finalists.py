"""Result of `gatemask finalists` (runs/<comp>/finalists/result.json)."""

from __future__ import annotations

from pydantic import Field

from gatemask.results.rules import Frozen
from gatemask.stage import StageResult


class FinalistCandidate(Frozen):
    """A submission that may be chosen.

    Args:
        id: Id of the submission; "tuned" for the present rule, which was not submitted.
        label: Short name: the version of its kernel, or else the beginning of the id.
        local: Cross-fitted score on the training images.
        public: Public score; None where Kaggle shows none.
        private: Private score; None until the competition has ended.
        expected: Expected private score.
        sd: Standard deviation of the private score.
        interval: Scores between which it lies with a probability of 90 %.
        best: Probability of having the best private score of all candidates.
    """

    id: str
    label: str
    local: float
    public: float | None = None
    private: float | None = None
    expected: float
    sd: float
    interval: tuple[float, float]
    best: float


class FinalistPair(Frozen):
    """Two candidates.

    Args:
        first, second: Ids, the one with the higher expected score first.
        expected: Expected score of the better one.
        contains_best: Probability that one of them has the best private score of all candidates.
    """

    first: str
    second: str
    expected: float
    contains_best: float


class Alternative(FinalistPair):
    """A pair that a simple way of choosing takes.

    Args:
        gain: Expected score of the chosen pair's better one, minus that of this pair.
        chosen_better: Probability that the chosen pair's better one scores higher than this pair's.
        chosen_worse: Probability that it scores lower.
    """

    gain: float
    chosen_better: float
    chosen_worse: float


class LeftOut(Frozen):
    """A submission that is no candidate, and the reason."""

    id: str
    reason: str


class PrevalenceEstimate(Frozen):
    """Share of positive images in the test set.

    Args:
        local: Share among the training images.
        mean: Expected share in the test set.
        interval: Shares between which it lies with a probability of 90 %.
    """

    local: float
    mean: float
    interval: tuple[float, float]


class FinalistsResult(StageResult):
    """Result of `gatemask finalists`.

    Args:
        metric: Name of the metric.
        images: Number of training images that all candidates were scored on.
        groups: Number of groups of these images.
        public_images: Number of simulated public test images.
        private_images: Number of simulated private test images.
        draws: Number of simulated test sets.
        prevalence: Share of positive images.
        offset: Mean public score minus mean local score of the candidates; None without a public score.
        lasting: Standard deviation by which a candidate's score on any test images differs from its local score, for
            reasons other than these images; the offset that candidates share is not included.
        public_only: The same of what affects its public score alone.
        candidates: Candidates, highest expected score first.
        pair: The chosen pair.
        runners_up: The next best pairs.
        alternatives: Pairs that simple ways of choosing take, by name: "two best local", "two best public" and "best
            local, best public".
        left_out: Submissions that are no candidates.
        picture: Path of the figure.
    """

    paths = ("picture",)

    metric: str
    images: int
    groups: int
    public_images: int
    private_images: int
    draws: int
    prevalence: PrevalenceEstimate
    offset: float | None
    lasting: float
    public_only: float
    candidates: list[FinalistCandidate]
    pair: FinalistPair
    runners_up: list[FinalistPair]
    alternatives: dict[str, Alternative]
    left_out: list[LeftOut] = Field(default_factory=list)
    picture: str
