"""`gatemask ensemble`: the members that will be shipped, with their shares and hashes, the rule and the score.

runs/<comp>/ensemble/ensemble.yaml   members and everything that inference needs to know
runs/<comp>/ensemble/result.json     written last
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatemask.config.schema import Competition, Ensemble, Experiment, Members
from gatemask.data.folds import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.files import (
    fingerprint,
    is_current,
    read_json,
    read_yaml,
    sha256,
    stamped_result,
    write_stamp,
    write_yaml,
)
from gatemask.masks import rule as rules
from gatemask.project import Project
from gatemask.tuning import tune

SCORES = ("cross_fitted", "in_sample", "all_empty")


def select(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Take all folds of each experiment, or its best n by the fold's own score, as ensemble.yaml says."""
    folder = project.runs / "ensemble"
    tuned = tune.require_current(project, comp, ensemble)
    inputs = _made_from(project, comp, ensemble)
    if is_current(folder / "result.json", inputs):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    runs = _runs(project, ensemble)
    gates = _members(project, comp, ensemble.gate, runs, shares(ensemble.gate, tuned))
    masks = _members(project, comp, ensemble.mask, runs, shares(ensemble.mask, tuned))
    for member in masks:
        if weights := _view_weights(ensemble, tuned).get(member["experiment"]):
            member["view_weights"] = weights
    chosen = {
        "competition": _facts(comp),
        "score": {key: tuned[key] for key in SCORES},
        "rule": asdict(rules.load(project.tuned / "rule.yaml")),
        "gate": gates,
        "mask": masks,
    }
    output = write_yaml(folder / "ensemble.yaml", chosen)
    result = {
        "gates": len(gates),
        "masks": len(masks),
        "cross_fitted": tuned["cross_fitted"],
        "members": [m["name"] for m in [*gates, *masks]],
    }
    return write_stamp(folder / "result.json", inputs, result, [output], started)


def require_current(project: Project, comp: Competition, ensemble: Ensemble) -> Path:
    """ensemble.yaml as chosen, or an error where it is missing or older than rule or runs."""
    tune.require_current(project, comp, ensemble)
    stamp = project.runs / "ensemble" / "result.json"
    do = f"Run gatemask ensemble {project.comp}."
    if not stamp.exists():
        raise GatemaskError("No ensemble was chosen yet.", where=stamp, do=do)
    if not is_current(stamp, _made_from(project, comp, ensemble)):
        raise GatemaskError("The ensemble is older than its rule or its runs.", where=stamp, do=do)
    return stamp.with_name("ensemble.yaml")


def shares(part: Members, tuned: dict[str, Any]) -> list[float]:
    """The weight of each experiment.

    Args:
        part: the gates, or the mask networks.
        tuned: the result of oof-tune, which holds the mask networks' weights where they were tuned.
    """
    if part.weights == "tuned":
        return [float(sum(views)) for views in _by_experiment(tuned)]
    return [1.0] * len(part.experiments) if part.weights == "equal" else list(part.weights)


def _by_experiment(tuned: dict[str, Any]) -> list[list[float]]:
    """The tuned weights of each mask experiment's views; of most experiments there is but one."""
    flat = iter(tuned["weights"])
    return [[next(flat) for _ in range(views)] for views in tuned["views"]]


def _view_weights(ensemble: Ensemble, tuned: dict[str, Any]) -> dict[str, list[float]]:
    """By mask experiment, where its views were weighed and do not weigh the same."""
    if ensemble.mask.weights != "tuned":
        return {}
    by_name = zip(ensemble.mask.experiments, _by_experiment(tuned), strict=True)
    return {name: weights for name, weights in by_name if len(set(weights)) > 1}


def _made_from(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    runs, tuned = _runs(project, ensemble), read_json(project.tuned / "result.json")
    return {
        "settings": fingerprint([ensemble.model_dump(exclude={"quick", "tune"}), _facts(comp)]),
        "rule": sha256(project.tuned / "rule.yaml"),
        "score": fingerprint([tuned[key] for key in SCORES]),
        "weights": fingerprint([shares(part, tuned) for part in (ensemble.gate, ensemble.mask)]),
        "views": fingerprint(_view_weights(ensemble, tuned)),
        "runs": fingerprint([run["outputs"] for folds in runs.values() for run in folds]),
    }


def _runs(project: Project, ensemble: Ensemble) -> dict[str, list[dict[str, Any]]]:
    return {name: _folds(project, name) for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]}


def weights_file(project: Project, member: dict[str, Any]) -> Path:
    return project.fold(member["experiment"], member["fold"]) / "best.weights.h5"


def _facts(comp: Competition) -> dict[str, Any]:
    """What the offline kernel has to know of the competition."""
    test = comp.test or comp.train
    return {
        "name": comp.name,
        "image": comp.image.model_dump(mode="json"),
        "test_images": test.images,
        "classes": comp.classes,
        "submission": comp.submission.model_dump(mode="json"),
    }


def _folds(project: Project, name: str) -> list[dict[str, Any]]:
    known = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    stamps = [project.fold(name, fold) / "result.json" for fold in known]
    if missing := [stamp for stamp in stamps if not stamp.exists()]:
        raise GatemaskError(
            "A fold is not trained yet.", where=missing[0].parent, do=f"Run gatemask train {project.comp}/{name}."
        )
    return [read_json(stamp) for stamp in stamps]


def _members(
    project: Project, comp: Competition, part: Members, runs: dict[str, list[dict[str, Any]]], weights: list[float]
) -> list[dict[str, Any]]:
    """The entries of ensemble.yaml; experiments of weight 0 are not among them."""
    members = []
    for name, weight in zip(part.experiments, weights, strict=True):
        best = sorted(runs[name], key=lambda run: (-run["score"], run["fold"]))
        taken = best if part.folds == "all" else best[: part.folds]
        for run in sorted(taken, key=lambda run: run["fold"]) if weight else ():
            why = "all folds" if part.folds == "all" else f"among its best {part.folds}"
            members.append(_member(project, comp, name, run, why, weight / len(taken)))
    return members


def _member(
    project: Project, comp: Competition, name: str, run: dict[str, Any], why: str, weight: float
) -> dict[str, Any]:
    folder = project.fold(name, run["fold"])
    exp = Experiment.model_validate(read_yaml(folder / "config.yaml"))
    return {
        "name": f"{name}-fold{run['fold']}",
        "experiment": name,
        "fold": run["fold"],
        "weight": weight,
        "score": run["score"],
        "why": why,
        "sha256": run["outputs"]["best.weights.h5"],
        "task": exp.task,
        "size": exp.input.size,
        "records": exp.input.records or comp.records.size,
        **_tta(exp),
        "model": exp.model.model_dump(mode="json"),
    }


def _tta(exp: Experiment) -> dict[str, Any]:
    """Test-time augmentation as the YAML has it; `augment:` goes with it where views are drawn from that."""
    found: dict[str, Any] = {"tta": [view.model_dump(mode="json", exclude_defaults=True) for view in exp.tta]}
    if any(view.random for view in exp.tta):
        found["augment"] = [step.model_dump(mode="json", exclude_none=True) for step in exp.augment]
    return found
