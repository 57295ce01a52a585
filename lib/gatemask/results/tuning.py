"""Results of `gatemask oof-tune` (runs/<comp>/tuned/result.json) and `gatemask compare`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gatemask.results.rules import ClassRules, Frozen, RuleValues, WithRules
from gatemask.stage import CommandResult, StageResult

Kind = Literal["gate", "mask"]
Verdict = Literal["better", "worse", "cannot tell"]
# Candidates that are always scored: a rule that is not better than both has no use.
ALL_EMPTY, EVERYTHING_PASSES = "all-empty", "everything-passes"
# Where masks decide the score: found on masks, and the exact optimum of the mean Dice.
SEARCHED, MEAN_DICE = "searched", "mean-dice"
ABSOLUTE_GATE = "absolute-gate"  # scored beside a gate that is a share of images
CANDIDATES = ("exact", "median", "optuna", ABSOLUTE_GATE, ALL_EMPTY, EVERYTHING_PASSES, SEARCHED, MEAN_DICE)


class CandidateSummary(WithRules, Frozen):
    """A rule, or one per class, and its two scores.

    Args:
        cross_fitted: Score of the way to find the rule, found on all folds but one and scored on that one.
        in_sample: Score of the rule on the images it was found on.
        rule: Rule found on all images.
    """

    cross_fitted: float
    in_sample: float
    rule: ClassRules


class FoldRule(WithRules, Frozen):
    """The rule tuned on all other folds, or one per class, and its score on this fold."""

    score: float
    rule: ClassRules


class GateBand(Frozen):
    """The gate probabilities between which the gate is inconclusive; see `gatemask.tuning.gate_statistics.gate_band`.

    Args:
        low, high: Ends of the band; None where all images are of one kind.
        images: Number of inconclusive images.
        positives: Number of inconclusive images with a mask.
        share: Share of inconclusive images.
        decided: Number of images outside the band.
        missed: Number of decided images with a mask that the gate takes for empty.
        false_alarms: Number of decided empty images that the gate passes.
        sensitivity, specificity: Of the decided images; None where no image of that kind is decided.
    """

    low: float | None
    high: float | None
    images: int
    positives: int
    share: float | None
    decided: int
    missed: int
    false_alarms: int
    sensitivity: float | None
    specificity: float | None


class GateNumbers(Frozen):
    """Quality of the gate at the rule's cut.

    Args:
        sensitivity, specificity, accuracy, precision, f1: Shares in [0, 1]; 0 where the denominator is 0.
        auc: Area under the ROC curve; None where all images are of one kind.
        brier: Mean squared error of the probability.
        ece: Expected calibration error.
        band: Inconclusive band.
    """

    sensitivity: float
    specificity: float
    accuracy: float
    precision: float
    f1: float
    auc: float | None
    brier: float
    ece: float
    band: GateBand


class WeightingScore(Frozen):
    """A weighting of the mask members that was tried, and its in-sample score."""

    weights: list[float]
    in_sample: float


class FoldWeighting(WithRules, Frozen):
    """The weighting and the rule, or one per class, that all folds but one chose."""

    weights: list[float]
    rule: ClassRules


class Weighing(Frozen):
    """How the weights of the mask members were searched.

    Args:
        cross_fitted: Score of tuned weights, each fold scored by the choice of the others; None for a single member.
        equal_cross_fitted: Score of equal weights; None for a single member.
        taken: Whether the tuned weights replace equal ones.
        tried: Weightings that were scored.
        per_fold: Choice of all folds but one, by held-out fold.
    """

    cross_fitted: float | None
    equal_cross_fitted: float | None
    taken: bool
    tried: list[WeightingScore]
    per_fold: dict[str, FoldWeighting]


class SelectionRound(Frozen):
    """One round of greedy selection.

    Args:
        taken: Experiment that was taken.
        score: Cross-fitted score with it.
        scores: Score with each experiment that could have been taken.
        counts: How often each experiment has been taken after this round.
        refused: Why the other experiments could not be taken.
    """

    taken: str
    score: float
    scores: dict[str, float]
    counts: dict[str, int]
    refused: dict[str, str]


class BestMember(Frozen):
    """The best experiment alone."""

    name: str
    score: float


class MemberSelection(Frozen):
    """Greedy selection of the experiments of one kind.

    Args:
        rounds: Path of the selection.
        cut: Number of rounds that are kept.
        weights: Weight of each experiment, of sum 1, in the order of ensemble.yaml.
        best_member: Best experiment alone.
        equal: Score of all experiments with equal weights, whatever the caps.
        score: Cross-fitted score of what is kept.
        nested: The same with each fold scored by what the other folds selected.
        per_fold: Weights that all folds but one selected, by held-out fold.
        left_out: Why each experiment without weight was left out.
    """

    rounds: list[SelectionRound]
    cut: int
    weights: list[float]
    best_member: BestMember
    equal: float
    score: float
    nested: float
    per_fold: dict[str, list[float]]
    left_out: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How often each experiment was taken in the rounds that are kept."""
        return self.rounds[self.cut - 1].counts


class Selections(Frozen):
    """Greedy selections; None where the weights were given or searched otherwise."""

    mask: MemberSelection | None = None
    gate: MemberSelection | None = None

    def of(self, kind: Kind) -> MemberSelection | None:
        """Return the selection of gates or of mask networks."""
        return self.gate if kind == "gate" else self.mask

    def made(self) -> dict[Kind, MemberSelection]:
        """Return the selections that took place, masks first."""
        both: tuple[tuple[Kind, MemberSelection | None], ...] = (("mask", self.mask), ("gate", self.gate))
        return {kind: selection for kind, selection in both if selection is not None}


class ClassResult(Frozen):
    """The shipped rule of one of several classes.

    Args:
        name: Name of the class.
        positives: Number of images with a mask of this class.
        cross_fitted: Cross-fitted score in this class.
        ci95: 95 % bootstrap interval of that score.
        in_sample: Score of its rule on the images it was tuned on.
        all_empty: Score of predicting nothing of this class.
        passing: Share of images that pass its gate.
        rule: Its rule.
        gate: Quality of its gate; None where all classes share one.
    """

    name: str
    positives: int
    cross_fitted: float
    ci95: tuple[float, float]
    in_sample: float
    all_empty: float
    passing: float
    rule: RuleValues
    gate: GateNumbers | None = None


class TunedMember(Frozen):
    """A fold of a member, as it was tuned on.

    Args:
        experiment: Name of the experiment.
        fold: Number of the fold.
        task: Task of the experiment.
        sha256: Hash of its weights; None if its stamp names none.
    """

    experiment: str
    fold: int
    task: Kind
    sha256: str | None = None


class TunedResult(WithRules, StageResult):
    """The tuned rule, its scores, and how it was found.

    Args:
        images: Number of images.
        positives: Number of images with a mask.
        groups: Number of groups.
        metric: Name in METRICS.
        cross_fitted: Cross-fitted score of the shipped rule, the headline.
        ci95: 95 % bootstrap interval of that score.
        in_sample: Score of the shipped rule on the images it was tuned on.
        all_empty: Score of predicting nothing at all.
        shipped: Name of the shipped candidate.
        rule: Shipped rule, or one per class.
        classes: Scores of each class, where there are several.
        on_masks: Whether scores are those of masks at full size; otherwise counted pixels decide them. Default: False.
        passing: Share of images that pass the tuned gate, for any class.
        masks_alone: Cross-fitted score of the mask networks without a gate.
        per_fold: Rule tuned on the other folds and its score, by held-out fold.
        gate: Quality of the gate; of several gates, that of the likeliest class.
        optuna: Best score of Optuna's trials, averaged over classes; None where masks decide the score.
        exact_gap: Exact optimum less that score; None where the exact optimum is not known.
        trials: Number of Optuna's trials, per class.
        candidates: Candidates by name.
        beside: Scores of the rules that `tune.beside` names.
        weights: Weights of the mask members' views.
        views: Number of views that are weighed apart, for each mask experiment.
        weighing: How `weights` were searched, where `mask.weights` is 'tuned'.
        gate_weights: Weight of each gate experiment.
        selection: Greedy selections.
        members: Folds of the members, gates first.
    """

    images: int
    positives: int
    groups: int
    metric: str
    cross_fitted: float
    ci95: tuple[float, float]
    in_sample: float
    all_empty: float
    shipped: str
    rule: ClassRules
    classes: list[ClassResult] = Field(default_factory=list)
    on_masks: bool = False
    passing: float
    masks_alone: float | None = None
    per_fold: dict[str, FoldRule]
    gate: GateNumbers
    optuna: float | None
    exact_gap: float | None
    trials: int
    candidates: dict[str, CandidateSummary]
    beside: dict[str, CandidateSummary]
    weights: list[float]
    views: list[int]
    weighing: Weighing | None
    gate_weights: list[float]
    selection: Selections
    members: list[TunedMember] = Field(default_factory=list)

    @property
    def warning(self) -> str | None:
        """Why the shipped rule is of no use, in one sentence; None where it is better than no rule."""
        if self.shipped == ALL_EMPTY:
            return (
                f"Predicting nothing at all scores best ({self.all_empty:.4f} cross-fitted), so the shipped rule "
                "leaves every mask empty: these predictions are not worth a submission yet."
            )
        if self.cross_fitted <= self.all_empty:
            return (
                f"Predicting nothing at all would score as well or better ({self.all_empty:.4f}) than the shipped rule "
                f"({self.cross_fitted:.4f} cross-fitted): these predictions are not worth a submission yet."
            )
        alone = self.candidates.get(EVERYTHING_PASSES)
        if self.shipped == EVERYTHING_PASSES:
            return (
                f"The gate does not help: masks alone score best ({self.cross_fitted:.4f} cross-fitted), so the "
                "shipped rule lets every image pass."
            )
        if alone is not None and any(rule.gate > 0 for rule in self.rules) and self.cross_fitted < alone.cross_fitted:
            return (
                f"Without a gate the masks would score better ({alone.cross_fitted:.4f}) than the shipped rule "
                f"({self.cross_fitted:.4f} cross-fitted)."
            )
        return None


class PairedComparison(Frozen):
    """Two scored sets of predictions of the same images.

    Args:
        first_score, second_score: Cross-fitted scores.
        difference: Second score less first.
        ci95: 95 % bootstrap interval of the difference.
        wilcoxon_p: Two-sided p-value of the signed-rank test on the images' scores.
        better, worse, equal: Number of images on which the second is.
        images: Number of images.
        groups: Number of groups.
        verdict: Whether the interval excludes 0, and on which side.
    """

    first_score: float
    second_score: float
    difference: float
    ci95: tuple[float, float]
    wilcoxon_p: float
    better: int
    worse: int
    equal: int
    images: int
    groups: int
    verdict: Verdict


class ComparisonResult(CommandResult, PairedComparison):
    """Result of `gatemask compare`.

    Args:
        first, second: What was compared: names of experiments joined by +.
        metric: Name in METRICS.
        classes: Comparison in each class, where there are several.
        gate, mask: 'compared', or the experiments on the other side; gate may be 'none'.
        seconds: Duration, in seconds.
    """

    first: str
    second: str
    metric: str
    classes: dict[str, PairedComparison] = Field(default_factory=dict)
    gate: str
    mask: str
    seconds: float
