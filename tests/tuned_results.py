"""Results of tuning, for tests that tune nothing."""

from __future__ import annotations

from typing import Any

from gatemask.results.rules import RuleValues
from gatemask.results.tuning import CandidateSummary, GateBand, GateNumbers, Selections, TunedResult

RULE = RuleValues(gate=0.5, upper=0.5, lower=0.5, min_area=1)


def tuned_result(**changes: Any) -> TunedResult:
    """Return the result of tuning one gate and one mask experiment, with some fields changed."""
    band = GateBand(
        low=None,
        high=None,
        images=0,
        positives=0,
        share=None,
        decided=0,
        missed=0,
        false_alarms=0,
        sensitivity=None,
        specificity=None,
    )
    numbers = dict.fromkeys(("sensitivity", "specificity", "accuracy", "precision", "f1", "brier", "ece"), 0.5)
    fields: dict[str, Any] = {
        "images": 6,
        "positives": 3,
        "groups": 6,
        "metric": "mean_dice",
        "cross_fitted": 0.8,
        "ci95": (0.7, 0.9),
        "in_sample": 0.9,
        "all_empty": 0.5,
        "shipped": "exact",
        "rule": RULE,
        "passing": 0.25,
        "masks_alone": 0.7,
        "per_fold": {},
        "gate": GateNumbers(**numbers, auc=None, band=band),
        "optuna": 0.85,
        "exact_gap": 0.05,
        "trials": 3,
        "candidates": {"exact": CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=RULE)},
        "beside": {},
        "weights": [1.0],
        "views": [1],
        "weighing": None,
        "gate_weights": [1.0],
        "selection": Selections(mask=None, gate=None),
    }
    return TunedResult(**{**fields, **changes})
