"""`gatemask oof-tune`: from the folds' out-of-fold predictions to a rule and a score to believe.

runs/<comp>/tuned/tables.npz      threshold tables of the averaged members
runs/<comp>/tuned/components.npz  only of a rule that looks at connected components
runs/<comp>/tuned/study.log       Optuna's journal
runs/<comp>/tuned/rule.yaml       what inference reads
runs/<comp>/tuned/*.png           what people look at
runs/<comp>/tuned/result.json     written last
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask.config import Competition, Ensemble
from gatemask.console import say, table
from gatemask.cost.kernel_time import count_test_images
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, is_current, locked, read_json, sha256, stamped_result, write_stamp
from gatemask.masks import rule as rules
from gatemask.masks.metrics import TITLES
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, all_empty_score
from gatemask.project import Project
from gatemask.tuning import members
from gatemask.tuning.members import Opened

if TYPE_CHECKING:
    from gatemask.oof.components import Components
    from gatemask.tuning.candidates import Candidate, Evidence
    from gatemask.tuning.member_selection import Maps
    from gatemask.tuning.optuna_search import Found

LEVELS = range(12, 256, 12)  # lower thresholds of component rules; each is one more look at every image
NUMBERS = ("gate", "upper", "lower", "min_area")  # of every rule; the others only where some rule uses them
JOURNAL = "study.log"
SCRATCH = "weights"  # tables of the weightings that were tried, while the search lasts


def tune(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Tune the rule of an ensemble on its out-of-fold predictions.

    Args:
        project: where things lie.
        comp: metric and size.
        ensemble: which gates and mask networks are averaged, and how to search.
    """
    folder = project.tuned
    with locked(folder / ".lock", "Another process is tuning this competition."):
        inputs = made_from(project, comp, ensemble)
        if is_current(folder / "result.json", inputs):
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            return {"current": True, **stamped_result(folder / "result.json")}
        started = time.monotonic()
        result, files = _tune(project, comp, ensemble, fingerprint(inputs))
        # The dashboard may write notes into the study: it has to be there, whatever its hash.
        outputs = {path: sha256(path) for path in files} | {folder / JOURNAL: None}
        result = write_stamp(folder / "result.json", inputs, result, outputs, started)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        return result


def _tune(project: Project, comp: Competition, ensemble: Ensemble, inputs: str) -> tuple[dict[str, Any], list[Path]]:
    from gatemask.tuning.candidates import candidates, choose, fixed
    from gatemask.tuning.member_selection import Maps
    from gatemask.tuning.reference_rules import known

    frame = read_folds(project)
    frame = frame[frame["fold"] != HOLDOUT]
    fold_of = {str(i): int(fold) for i, fold in zip(frame["image_id"], frame["fold"], strict=True)}
    group_of = dict(zip(frame["image_id"].astype(str), frame["group"].astype(str), strict=True))
    beside = {name: known(name, comp.image.size, project.root) for name in ensemble.tune.beside}
    with members.opened(project, comp, ensemble, fold_of) as predicted:
        maps = Maps(predicted, project.tuned / SCRATCH, inputs)
        weighed = _weigh(project, comp, ensemble, predicted, maps, inputs)
        levels = _levels(ensemble, beside)
        seen = _count(predicted.gated(weighed["gate_weights"]), maps, weighed["weights"], levels)
        others = _others(predicted, maps, weighed, seen, levels)
    tables = seen.tables
    found = candidates(seen, comp.metric, ensemble.tune, group_of, others)
    study = _study(project, comp, ensemble, seen, inputs)
    shipped = choose(found, ensemble.tune.ship)
    groups = np.array([group_of[i] for i in tables.ids])
    outputs = _write(project, comp, ensemble, seen, found, shipped, study)
    return {
        "images": len(tables),
        "positives": int((tables.truth.sum(axis=1) > 0).sum()),
        "groups": len(np.unique(groups)),
        "metric": comp.metric,
        **_scores(comp, ensemble, seen, found, shipped, study, groups),
        "candidates": {name: one.summary() for name, one in found.items()},
        "beside": {name: fixed(seen, comp.metric, grid, others).summary() for name, grid in beside.items()},
        **weighed,
    }, outputs


def _scores(
    comp: Competition,
    ensemble: Ensemble,
    seen: Evidence,
    found: dict[str, Candidate],
    shipped: str,
    study: Found,
    groups: np.ndarray,
) -> dict[str, Any]:
    """The numbers of the shipped rule, the honest one first."""
    from gatemask.plots.gates import gate_numbers
    from gatemask.tuning.crossfit import interval

    best, exact = found[shipped], _exact(ensemble, found)
    return {
        "cross_fitted": best.fit.score,
        "ci95": interval(best.fit.worth, best.fit.weight, groups, ensemble.tune.bootstrap, ensemble.tune.seed),
        "in_sample": best.in_sample,
        "all_empty": all_empty_score(seen.tables, comp.metric),
        "shipped": shipped,
        "rule": asdict(best.rule),
        "passing": float((seen.tables.gate >= best.rule.gate).mean()),
        "per_fold": {
            str(fold): {"score": best.fit.by_fold[fold], "rule": asdict(rule)} for fold, rule in best.fit.rules.items()
        },
        "gate": gate_numbers(seen.tables, best.rule),
        "optuna": study.best,
        "exact_gap": None if exact is None else exact - study.best,
        "trials": len(study.values),
    }


def _weigh(
    project: Project, comp: Competition, ensemble: Ensemble, predicted: Opened, maps: Maps, inputs: str
) -> dict[str, Any]:
    """`weights` of the mask members, how many `views` of each are weighed, `gate_weights`, and how all were found.

    Masks are chosen first, behind the gates as given; then the gates, in front of the masks that were chosen.
    """
    gate, mask, settings = ensemble.gate, ensemble.mask, ensemble.tune
    found: dict[str, Any] = {
        "weights": members.given_weights(mask),
        "views": list(predicted.views),
        "weighing": None,
        "gate_weights": members.given_weights(gate),
        "selection": {"mask": None, "gate": None},
    }
    if mask.weights == "tuned":
        found |= _search_weights(project, comp, ensemble, predicted, inputs)
    if "greedy" not in (gate.weights, mask.weights):
        return found
    from gatemask.cost.kernel_time import estimate_kernel
    from gatemask.tuning.member_selection import select_gates, select_masks

    costs = estimate_kernel(project, comp, ensemble)
    if mask.weights == "greedy":
        # One gate at least will stand in front: time is kept for the cheapest.
        cheapest = min(gate.experiments, key=lambda name: costs.gate.seconds[name])
        gates = [cheapest] if gate.weights == "greedy" else _shipped(gate.experiments, found["gate_weights"])
        chosen = select_masks(maps, comp.metric, settings, costs, mask.experiments, gates)
        found["weights"], found["selection"]["mask"] = chosen["weights"], chosen
    if gate.weights == "greedy":
        whose = [name for name, views in zip(mask.experiments, predicted.views, strict=True) for _ in range(views)]
        masks = _shipped(whose, found["weights"])
        of_others = {fold: weights for fold, (weights, _) in _chosen_by_fold(found).items()}
        chosen = select_gates(
            predicted, maps, comp.metric, settings, costs, gate.experiments, masks, found["weights"], of_others
        )
        found["gate_weights"], found["selection"]["gate"] = chosen["weights"], chosen
    return found


def _shipped(names: Sequence[str], weights: Sequence[float]) -> list[str]:
    """Those that have any weight, each once."""
    return list(dict.fromkeys(name for name, weight in zip(names, weights, strict=True) if weight))


def _search_weights(
    project: Project, comp: Competition, ensemble: Ensemble, predicted: Opened, inputs: str
) -> dict[str, Any]:
    """`weights` of the mask members' views, and `weighing`: how they were found."""
    from gatemask.tuning.weight_search import search_weights

    found = search_weights(
        predicted.fold_of,
        predicted.readers,
        predicted.truth,
        predicted.gate.__getitem__,
        comp.metric,
        ensemble.tune.rule,
        ensemble.tune.weightings,
        ensemble.tune.seed,
        project.tuned / SCRATCH,
        inputs,
        equal=[1 / views for views in predicted.views for _ in range(views)],
    )
    return {"weights": found.pop("weights"), "weighing": found}


def _levels(ensemble: Ensemble, beside: Mapping[str, Sequence[Rule]]) -> list[int]:
    """The lower thresholds at which components have to be known, if any."""
    given = [rules.level(rule.lower) for grid in beside.values() for rule in grid if rule.by_component]
    return sorted({*(LEVELS if ensemble.tune.rule.by_component else ()), *given})


def _count(predicted: Opened, maps: Maps, weights: list[float], levels: list[int]) -> Evidence:
    from gatemask.tuning.candidates import Evidence
    from gatemask.tuning.member_selection import regated

    known = maps.known(weights)
    tables = members.count(predicted, weights) if known is None else regated(known, predicted.gate.__getitem__)
    if not levels:
        return Evidence(tables)
    from gatemask.oof.components import count_components

    listed = count_components(
        predicted.fold_of, predicted.readers, predicted.truth, "components", tables, levels, weights
    )
    return Evidence(tables, listed)


def _chosen_by_fold(weighed: dict[str, Any]) -> dict[int, tuple[list[float], list[float]]]:
    """The weights of masks and gates that all folds but one chose, by that fold; nothing where all was given."""
    weighing, selection = weighed["weighing"], weighed["selection"]
    masks: dict[str, Any] = {}
    if selection["mask"]:
        masks = selection["mask"]["per_fold"]
    elif weighing and weighing["taken"]:
        masks = {fold: one["weights"] for fold, one in weighing["per_fold"].items()}
    gates = selection["gate"]["per_fold"] if selection["gate"] else {}
    return {
        int(fold): (masks.get(fold, weighed["weights"]), gates.get(fold, weighed["gate_weights"]))
        for fold in masks or gates
    }


def _others(
    predicted: Opened, maps: Maps, weighed: dict[str, Any], seen: Evidence, levels: list[int]
) -> dict[int, Evidence] | None:
    """The images as the weights that the other folds chose show them, by held-out fold: else the headline would have
    seen every fold in its weights."""
    chosen = _chosen_by_fold(weighed)
    counted = [(weighed["weights"], seen)]
    for masks, _ in chosen.values():
        if masks not in [known for known, _ in counted]:
            counted.append((masks, _count(predicted, maps, masks, levels)))
    found = {}
    for fold, (masks, gates) in chosen.items():
        evidence = next(one for known, one in counted if known == masks)
        found[fold] = evidence.behind(predicted.gated(gates).gate)
    return found or None


def _exact(ensemble: Ensemble, found: dict[str, Candidate]) -> float | None:
    """The best score that the study could have reached, where that is known."""
    return found["exact"].in_sample if "exact" in found and not ensemble.tune.rule.by_component else None


def _study(project: Project, comp: Competition, ensemble: Ensemble, seen: Evidence, inputs: str) -> Found:
    """Optuna on all images, kept for the dashboard, and to see what a sampler leaves behind."""
    from gatemask.tuning.candidates import starts
    from gatemask.tuning.optuna_search import search

    settings, counted = ensemble.tune, seen.searched(ensemble.tune)
    return search(
        counted,
        comp.metric,
        settings.rule,
        settings.sampler,
        settings.trials,
        settings.seed,
        project.tuned / JOURNAL,
        f"{project.label}-{inputs}",
        starts(counted, comp.metric, settings),
    )


def _write(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    seen: Evidence,
    found: dict[str, Candidate],
    shipped: str,
    study: Found,
) -> list[Path]:
    from gatemask.plots.thresholds import draw_all

    best, folder = found[shipped], project.tuned
    drawn = draw_all(
        folder,
        seen.tables,
        seen.counted,
        best.rule,
        comp.metric,
        best.fit.rules,
        best.fit.by_fold,
        best.fit.score,
        study.values,
        _exact(ensemble, found),
    )
    files = [seen.tables.save(folder / "tables.npz"), rules.save_rule(best.rule, folder / "rule.yaml"), *drawn]
    if best.rule.by_component:
        files.append(seen.counted.save(folder / "components.npz"))
    return files


def load_counted(project: Project, rule: Rule) -> Tables | Components:
    """What the tuned rule was scored on."""
    from gatemask.oof.components import Components

    if rule.by_component:
        return Components.load(project.tuned / "components.npz")
    return Tables.load(project.tuned / "tables.npz")


def made_from(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Hashes of what decides the rule: settings, truth, and every member's out-of-fold predictions."""
    read_folds(project)  # or an error that names the command
    read_manifest(project)
    files = [project.root / name for name in ensemble.tune.beside if name.endswith((".yaml", ".yml"))]
    parts = (ensemble.gate, ensemble.mask)
    taken: list[Any] = [[part.experiments, part.weights] for part in parts]
    if any(part.weights == "greedy" for part in parts):  # what the caps count decides what is taken
        images = count_test_images(project, comp)
        taken.append([[part.folds, part.members] for part in parts])
        taken.append([ensemble.inference.hours, ensemble.inference.precision, comp.kaggle.inference, images])
    if gone := [file for file in files if not file.is_file()]:
        raise GatemaskError("There is no such rule.", where=gone[0], do="Correct tune.beside in ensemble.yaml.")
    return {
        "settings": fingerprint([taken, ensemble.tune.model_dump(), comp.image.size, comp.metric]),
        "beside": fingerprint([sha256(file) for file in files]),
        "masks": sha256(project.data / "masks.csv"),
        "folds": sha256(project.folds),
        "predictions": fingerprint(members.predictions(project, ensemble)),
    }


def require_current(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """The tuned result, or an error where it is missing or was tuned on other predictions than those on disk."""
    stamp = project.tuned / "result.json"
    if not stamp.exists():
        raise GatemaskError("There is no tuned rule yet.", where=stamp, do=f"Run gatemask oof-tune {project.comp}.")
    if not is_current(stamp, made_from(project, comp, ensemble)):
        raise GatemaskError(
            "The rule was tuned on other predictions than those on disk.",
            where=stamp,
            do=f"Run gatemask oof-tune {project.comp}.",
        )
    return read_json(stamp)


def show(result: dict[str, Any]) -> None:
    """One table for people: each candidate and known rule, the shipped one first, and what it does fold by fold."""
    if result.get("current"):
        say("Current: nothing to do.")
    low, high = result["ci95"]
    title = (
        f"{TITLES[result['metric']]} of {result['images']} images, {result['positives']} with a mask: "
        f"{result['cross_fitted']:.4f} cross-fitted, 95 % from {low:.4f} to {high:.4f}"
    )
    rows = {f"{result['shipped']} *": result["candidates"][result["shipped"]]}
    rows |= {name: one for name, one in result["candidates"].items() if name != result["shipped"]} | result["beside"]
    parts = [one for one in result["rule"] if one in NUMBERS or any(row["rule"][one] for row in rows.values())]
    listed: list[list[Any]] = [
        [name, one["cross_fitted"], one["in_sample"], *_spelled(one["rule"], parts)] for name, one in rows.items()
    ]
    for fold, one in result["per_fold"].items():
        listed.append([f"fold {fold}", one["score"], "", *_spelled(one["rule"], parts)])
    listed.append(["all empty", result["all_empty"], result["all_empty"], *["" for _ in parts]])
    table(title, ["rule", "cross-fitted", "in-sample", *parts], listed)
    say("* is shipped. Each fold is scored by a rule of its own, tuned on the other folds.")
    if result["exact_gap"] is not None:
        say(f"Optuna's {result['trials']} trials came within {result['exact_gap']:.6f} of the exact optimum.")
    if result["weighing"]:
        shares = ", ".join(f"{share:.3f}" for share in result["weights"])
        say(f"weights of the mask members: {shares} ({_weighing(result['weighing'])})")
    for kind, found in result["selection"].items():
        if found:
            say(f"{kind}s taken: {_selected(found)}")
    if result["cross_fitted"] <= result["all_empty"]:
        say(
            "Predicting nothing at all would score as well or better: these predictions are not worth a submission yet."
        )


def _spelled(rule: dict[str, Any], parts: list[str]) -> list[str]:
    return [f"{rule[name]:.3f}" if isinstance(rule[name], float) else str(rule[name]) for name in parts]


def _weighing(found: dict[str, Any]) -> str:
    if found["cross_fitted"] is None:
        return "there is but one"
    return f"cross-fitted {found['cross_fitted']:.4f}, equal weights {found['equal_cross_fitted']:.4f}"


def _selected(found: dict[str, Any]) -> str:
    counts = found["rounds"][found["cut"] - 1]["counts"]
    taken = ", ".join(f"{name} x {count}" for name, count in counts.items() if count)
    best = found["best_member"]
    return (
        f"{taken} (cross-fitted {found['score']:.4f}, chosen on other folds {found['nested']:.4f}, "
        f"{best['name']} alone {best['score']:.4f}, all equally {found['equal']:.4f})"
    )


def as_tuned(project: Project, comp: Competition, ensemble: Ensemble) -> Ensemble:
    """The ensemble with the weights that greedy selection found in place of 'greedy', where they are current."""
    chosen = {part: getattr(ensemble, part) for part in ("gate", "mask") if getattr(ensemble, part).weights == "greedy"}
    try:
        selection = require_current(project, comp, ensemble)["selection"] if chosen else {}
    except GatemaskError:  # nothing was selected yet, or from other predictions
        return ensemble
    return ensemble.model_copy(
        update={name: part.model_copy(update={"weights": selection[name]["weights"]}) for name, part in chosen.items()}
    )
