"""`gatemask runs show` and `gatemask runs diff`: one experiment in full, and two side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import JsonValue

from gatemask.errors import GatemaskError, nearest
from gatemask.files import is_locked
from gatemask.results.runs import Curve, ExperimentRun, FoldRun, RunDetails, RunDifference
from gatemask.runs.facts import Found
from gatemask.runs.listing import Listing
from gatemask.tracking.run_folder import fold_lock, read_readable_metrics


def show_run(listing: Listing, name: str) -> RunDetails:
    """Return all about one experiment.

    Raises:
        GatemaskError: The experiment does not exist.
    """
    found = require_experiment(listing, name)
    rows = {row.name: row for row in listing.run_list().experiments}
    return RunDetails(experiment=rows[name], runs=_folds(listing, found), settings=_settings(found))


def compare_runs(listing: Listing, first: str, second: str) -> RunDifference:
    """Compare settings, scores and curves of two experiments.

    Raises:
        GatemaskError: One of them does not exist, or both are the same.
    """
    if first == second:
        raise GatemaskError("An experiment does not differ from itself.", received=first)
    sides = [require_experiment(listing, name) for name in (first, second)]
    before, after = (_settings(side) for side in sides)
    changed = {
        key: (before.get(key), after.get(key)) for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    }
    changed.pop("name", None)
    curves = {side.name: curve for side in sides if (curve := _curve(listing, side)) is not None}
    common = tuple(f for f in listing.scorer.folds_of(first) if f in listing.scorer.folds_of(second))
    fields: dict[str, object] = {"first": first, "second": second, "settings": changed, "curves": curves}
    try:
        fields |= _scores(listing, first, second, common)
    finally:
        listing.cache.save()
    return RunDifference.model_validate(fields)


def require_experiment(listing: Listing, name: str) -> Found:
    """Return an experiment that has a YAML or a run.

    Raises:
        GatemaskError: There is none of this name.
    """
    if name in listing.found:
        return listing.found[name]
    close = nearest(name, listing.found)
    raise GatemaskError(
        f"Unknown experiment '{name}'.",
        where=listing.project.experiments,
        expected=_some(sorted(listing.found)),
        do=f"Did you mean '{close}'?" if close else f"gatemask runs {listing.project.comp} lists all experiments.",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} others" if len(names) > 12 else "") or "none"


def _folds(listing: Listing, found: Found) -> tuple[FoldRun, ...]:
    return tuple(
        FoldRun(
            fold=fold,
            state="finished"
            if facts.finished
            else "training"
            if is_locked(fold_lock(listing.project.fold(found.name, fold)))
            else "unfinished",
            epochs_done=facts.epochs,
            score=facts.score,
            hours=facts.seconds / 3600,
            images_per_s=facts.images_per_s,
            commit=facts.commit,
            kernel=facts.kernel,
        )
        for fold, facts in found.folds.items()
    )


def _settings(found: Found) -> dict[str, JsonValue]:
    settings: dict[str, JsonValue] = json.loads(found.settings.values) if found.settings else {}
    return settings


def _scores(listing: Listing, first: str, second: str, common: tuple[int, ...]) -> dict[str, object]:
    scorer = listing.scorer
    if scorer.task(first) != scorer.task(second):
        return {"problems": ("Gates and mask networks have no common score.",)}
    if not common:
        return {"problems": ("No fold is finished in both.",)}
    wanted = [(name, common) for name in (first, second)]
    scorer.score_all(wanted)
    known = [scorer.score(item) for item in wanted]
    problems = tuple(
        f"{name}: {score}" for (name, _), score in zip(wanted, known, strict=True) if isinstance(score, str)
    )
    if problems:
        return {"folds": common, "problems": problems}
    difference = scorer.difference(wanted[0], wanted[1])
    fields: dict[str, object] = {"first_score": known[0], "second_score": known[1], "folds": common}
    return {**fields, **(dict(difference) if difference else {})}


def _curve(listing: Listing, found: Found) -> Curve | None:
    """Return the mean curves of an experiment's folds, as far as all that got there logged them."""
    monitor = found.settings.monitor if found.settings else ""
    folds = [read_readable_metrics(listing.project.fold(found.name, fold) / "metrics.jsonl") for fold in found.folds]
    longest = max(map(len, folds), default=0)
    if not longest:
        return None

    def means(key: str) -> tuple[float, ...]:
        epochs = (
            [rows[epoch][key] for rows in folds if len(rows) > epoch and key in rows[epoch]] for epoch in range(longest)
        )
        return tuple(sum(values) / len(values) for values in epochs if values)

    return Curve(loss=means("loss"), score=means(monitor))


def best_name(rows: Sequence[ExperimentRun]) -> str:
    """Return the name of the best of some rows: of those with the most finished folds, the one with the best score.

    Mask networks come before gates.

    Raises:
        GatemaskError: None of them has a score.
    """
    from gatemask.runs.listing import best_of

    scored = [row for row in rows if row.score is not None]
    task = "mask" if any(row.task == "mask" for row in scored) else "gate"
    best = best_of({row.name: row.score for row in scored if row.task == task})
    if best is None:
        raise GatemaskError(
            "No experiment has a score.",
            received=f"{len(rows)} experiments",
            expected="one with a finished fold",
            do="Train one, or relax --where.",
        )
    return best
