"""Print the result of `gatemask oof-tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatemask.config import metric_title
from gatemask.console import say, table
from gatemask.masks.metrics import guide
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ALL_EMPTY, CandidateSummary, MemberSelection, TunedResult, Weighing

ALWAYS = ("gate", "upper", "lower", "min_area")  # other numbers are shown only where some rule uses them


def print_tuned(result: TunedResult) -> None:
    """Print each candidate and reference rule, the shipped one first; then each fold or class, and the weights."""
    if result.current:
        say("Current: nothing to do.")
    if result.classes:
        _print_candidates(result)
        _print_classes(result)
    else:
        _print_rules(result)
    if result.exact_gap is not None:
        say(f"Optuna's {result.trials} trials came within {result.exact_gap:.6f} of the exact optimum.")
    if result.masks_alone is not None and result.gate_weights:
        say(
            f"Masks alone, without a gate: {result.masks_alone:.4f} cross-fitted; "
            f"the tuned gate passes {result.passing:.1%} of the images."
        )
    if result.weighing:
        shares = ", ".join(f"{share:.3f}" for share in result.weights)
        say(f"weights of the mask members: {shares} ({_weighing_text(result.weighing)})")
    if guide(result.metric) != result.metric and (result.weighing or result.selection.made()):
        say(f"The scores of weights are those of their guide, the mean {metric_title(guide(result.metric))}.")
    for kind, selection in result.selection.made().items():
        say(f"{kind}s taken: {_selection_text(selection)}")
    if result.warning:
        say(f"warning: {result.warning}")


def _print_rules(result: TunedResult) -> None:
    scored = _scored(result)
    numbers = used_numbers([candidate.rules[0] for candidate in scored.values()])
    rows: list[list[object]] = [
        [name, candidate.cross_fitted, candidate.in_sample, *_candidate_cells(name, candidate.rules[0], numbers)]
        for name, candidate in scored.items()
    ]
    for fold, part in result.per_fold.items():
        rows.append([f"fold {fold}", part.score, "", *_candidate_cells(result.shipped, part.rules[0], numbers)])
    table(_title(result), ["rule", "cross-fitted", "in-sample", *numbers], rows)
    say("* is shipped. Each fold is scored by a rule tuned on the other folds.")


def _print_candidates(result: TunedResult) -> None:
    """Print the scores of all candidates, and of each fold, without their rules: there is one per class."""
    rows: list[list[object]] = [
        [name, candidate.cross_fitted, candidate.in_sample] for name, candidate in _scored(result).items()
    ]
    rows += [[f"fold {fold}", part.score, ""] for fold, part in result.per_fold.items()]
    table(_title(result), ["rules", "cross-fitted", "in-sample"], rows)
    say("* is shipped. Each fold is scored by rules tuned on the other folds.")


def _print_classes(result: TunedResult) -> None:
    scores: list[list[object]] = [
        [part.name, part.positives, part.cross_fitted, *part.ci95, part.in_sample, part.all_empty]
        for part in result.classes
    ]
    columns = ["class", "masks", "cross-fitted", "from", "to", "in-sample", "all empty"]
    table("Each class, with its 95 % interval", columns, scores)
    numbers = used_numbers(result.rules)
    rules: list[list[object]] = [
        [part.name, *_candidate_cells(result.shipped, part.rule, numbers)] for part in result.classes
    ]
    table("The shipped rule of each class", ["class", *numbers], rules)


def used_numbers(rules: Sequence[RuleValues]) -> list[str]:
    """Return the names of the numbers that tables show: the usual ones, and others that some rule uses."""
    return [name for name in RuleValues.model_fields if name in ALWAYS or any(getattr(rule, name) for rule in rules)]


def _title(result: TunedResult) -> str:
    low, high = result.ci95
    return (
        f"{metric_title(result.metric)} of {result.images} images, {result.positives} with a mask: "
        f"{result.cross_fitted:.4f} cross-fitted, 95 % from {low:.4f} to {high:.4f}"
    )


def _scored(result: TunedResult) -> dict[str, CandidateSummary]:
    """Return all rules by the names that are printed, the shipped one first."""
    scored = {f"{result.shipped} *": result.candidates[result.shipped]}
    return scored | {name: rule for name, rule in result.candidates.items() if name != result.shipped} | result.beside


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
