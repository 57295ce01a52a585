"""Print the result of `gatemask oof-tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatemask.config import METRIC_TITLES
from gatemask.console import say, table
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ALL_EMPTY, CandidateSummary, MemberSelection, TunedResult, Weighing

ALWAYS = ("gate", "upper", "lower", "min_area")  # other numbers are shown only where some rule uses them


def print_tuned(result: TunedResult) -> None:
    """Print one table, each candidate and reference rule, the shipped one first, then fold by fold; and the weights."""
    if result.current:
        say("Current: nothing to do.")
    _print_rules(result)
    if result.exact_gap is not None:
        say(f"Optuna's {result.trials} trials came within {result.exact_gap:.6f} of the exact optimum.")
    if result.masks_alone is not None:
        say(
            f"Masks alone, without a gate: {result.masks_alone:.4f} cross-fitted; "
            f"the tuned gate passes {result.passing:.1%} of the images."
        )
    if result.weighing:
        shares = ", ".join(f"{share:.3f}" for share in result.weights)
        say(f"weights of the mask members: {shares} ({_weighing_text(result.weighing)})")
    for kind, selection in result.selection.made().items():
        say(f"{kind}s taken: {_selection_text(selection)}")
    if result.warning:
        say(f"warning: {result.warning}")


def _print_rules(result: TunedResult) -> None:
    low, high = result.ci95
    title = (
        f"{METRIC_TITLES[result.metric]} of {result.images} images, {result.positives} with a mask: "
        f"{result.cross_fitted:.4f} cross-fitted, 95 % from {low:.4f} to {high:.4f}"
    )
    scored: dict[str, CandidateSummary] = {f"{result.shipped} *": result.candidates[result.shipped]}
    scored |= {name: rule for name, rule in result.candidates.items() if name != result.shipped} | result.beside
    numbers = [
        name
        for name in RuleValues.model_fields
        if name in ALWAYS or any(getattr(candidate.rule, name) for candidate in scored.values())
    ]
    rows: list[list[object]] = [
        [name, candidate.cross_fitted, candidate.in_sample, *_candidate_cells(name, candidate.rule, numbers)]
        for name, candidate in scored.items()
    ]
    for fold, part in result.per_fold.items():
        rows.append([f"fold {fold}", part.score, "", *_candidate_cells(result.shipped, part.rule, numbers)])
    table(title, ["rule", "cross-fitted", "in-sample", *numbers], rows)
    say("* is shipped. Each fold is scored by a rule tuned on the other folds.")


def _candidate_cells(name: str, rule: RuleValues, numbers: Sequence[str]) -> list[str]:
    """Return the numbers of a rule; none for the one that leaves every mask empty."""
    return ["" for _ in numbers] if name.removesuffix(" *") == ALL_EMPTY else _cells(rule, numbers)


def _cells(rule: RuleValues, numbers: Sequence[str]) -> list[str]:
    values: Mapping[str, float] = {name: getattr(rule, name) for name in numbers}
    return [f"{value:.3f}" if isinstance(value, float) else str(value) for value in values.values()]


def _weighing_text(weighing: Weighing) -> str:
    if weighing.cross_fitted is None:
        return "a single member"
    return f"cross-fitted {weighing.cross_fitted:.4f}, equal weights {weighing.equal_cross_fitted:.4f}"


def _selection_text(selection: MemberSelection) -> str:
    taken = ", ".join(f"{name} x {count}" for name, count in selection.counts.items() if count)
    best = selection.best_member
    return (
        f"{taken} (cross-fitted {selection.score:.4f}, chosen on other folds {selection.nested:.4f}, "
        f"{best.name} alone {best.score:.4f}, all equally {selection.equal:.4f})"
    )
