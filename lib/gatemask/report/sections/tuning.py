"""The tuned rule among its candidates, fold by fold, and how the score depends on its thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.pictures import Pictures
from gatemask.report.sections.tuned_figures import figures
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ALL_EMPTY, CandidateSummary, TunedResult

RULE_NOTE = (
    "An image is empty if its gate probability is below the gate, or if fewer than min_area pixels reach the upper "
    "threshold; else its mask is every pixel that reaches the lower one, without the connected components that are "
    "smaller than min_component. With quantile, the gate is the share of the images, or of a fold's in cross-fitting, "
    "that do not pass; absolute-gate has the best probability instead. Cross-fitting tunes on all folds but one and "
    "scores that one. Rules beside were given, not searched: where a name has several, the best on the tuned folds."
)
ON_MASKS_NOTE = (
    "The scores above are those of masks at full size, since counted pixels do not decide them. These curves come from "
    "counted pixels, each class by itself: a guide, not the score."
)


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return rules and thresholds.

    Raises:
        NotYet: No rule is tuned.
    """
    tuned = inputs.tuned
    if isinstance(tuned, NotYet):
        raise tuned
    parts = [rules(tuned), markup.heading("Thresholds")]
    if tuned.exact_gap is not None:
        gap = f"In-sample, the best of Optuna's {tuned.trials} trials is {tuned.exact_gap:.6f} below the exact optimum."
        parts.append(markup.paragraph(gap))
    if tuned.on_masks:
        parts.append(markup.paragraph(ON_MASKS_NOTE))
    parts += [figures(inputs, pictures, tuned, "Thresholds"), markup.heading("Masks by area")]
    parts.append(figures(inputs, pictures, tuned, "Masks"))
    return "".join(parts)


def rules(tuned: TunedResult) -> str:
    """Return the shipped rule among the candidates and the reference rules, then fold by fold."""
    if tuned.classes:
        return markup.paragraph(RULE_NOTE, "Each class has a rule of its own.") + _rules_by_class(tuned)
    candidates = _named(tuned.candidates, "candidate", tuned.shipped) | _named(tuned.beside, "beside", "")
    names = _shown_numbers([candidate.rules[0] for candidate in candidates.values()])
    rows = [
        [name, *_cells(candidate.rules[0], names, name), candidate.cross_fitted, candidate.in_sample]
        for name, candidate in candidates.items()
    ]
    folds = [
        [f"all but fold {fold}", *_cells(part.rules[0], names, tuned.shipped), f"fold {fold}", part.score]
        for fold, part in tuned.per_fold.items()
    ]
    return (
        markup.paragraph(RULE_NOTE)
        + markup.table(["rule", *names, "cross-fitted", "in-sample"], rows, "Rules")
        + markup.table(["tuned on", *names, "scored on", "score"], folds, "Rules of the folds")
    )


def _rules_by_class(tuned: TunedResult) -> str:
    candidates = _named(tuned.candidates, "candidate", tuned.shipped) | _named(tuned.beside, "beside", "")
    names = _shown_numbers(tuned.rules)
    scores: list[list[object]] = [
        [name, candidate.cross_fitted, candidate.in_sample] for name, candidate in candidates.items()
    ]
    classes: list[list[object]] = [
        [
            part.name,
            part.positives,
            part.cross_fitted,
            "{:.4f} to {:.4f}".format(*part.ci95),
            part.in_sample,
            part.all_empty,
            f"{part.passing:.1%}",
            *_cells(part.rule, names, tuned.shipped),
        ]
        for part in tuned.classes
    ]
    folds: list[list[object]] = [
        [f"all but fold {fold}", part.name, *_cells(chosen.rules[index], names), f"fold {fold}", chosen.score]
        for fold, chosen in tuned.per_fold.items()
        for index, part in enumerate(tuned.classes)
    ]
    heads = ["class", "with a mask", "cross-fitted", "95 %", "in-sample", "all empty", "pass the gate", *names]
    return (
        markup.table(heads, classes, "Rules of the classes")
        + markup.table(["rules", "cross-fitted", "in-sample"], scores, "Candidates")
        + markup.table(["tuned on", "class", *names, "scored on", "score of all classes"], folds, "Rules of the folds")
    )


def _shown_numbers(rules: Sequence[RuleValues]) -> list[str]:
    """Return the names of a rule's numbers that tables show: `split` only where a rule uses it."""
    return [name for name in RuleValues.model_fields if name != "split" or any(rule.split for rule in rules)]


def _named(candidates: Mapping[str, CandidateSummary], kind: str, shipped: str) -> dict[str, CandidateSummary]:
    """Return the rules by the names that the table shows, the shipped one first."""
    ordered = sorted(candidates, key=lambda name: name != shipped)
    return {f"{name} ({'shipped' if name == shipped else kind})": candidates[name] for name in ordered}


def _cells(rule: RuleValues, names: Sequence[str], rule_name: str = "") -> list[object]:
    if rule_name.startswith(ALL_EMPTY):
        return [None for _ in names]
    values = [getattr(rule, name) for name in names]
    return [("yes" if value else "no") if isinstance(value, bool) else value for value in values]
