"""`gatemask ensemble`: the members that will be shipped, with their shares and hashes, the rule and the score.

runs/<comp>/ensemble/ensemble.yaml   members and everything that inference needs to know
runs/<comp>/ensemble/selection.png   the path of greedy selection, where there was one
runs/<comp>/ensemble/costs.json      what networks cost, see gatemask.cost.kernel_time
runs/<comp>/ensemble/result.json     written last
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble, Experiment, Members
from gatemask.console import say, table
from gatemask.cost.kernel_time import KernelEstimate, count_test_images, estimate_kernel
from gatemask.data.split import HOLDOUT, read_folds
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
from gatemask.tuning.members import given_weights

PARTS = ("gate", "mask")
SCORES = ("cross_fitted", "in_sample", "all_empty")


def select(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Take all folds of each experiment that has weight, or its best n by the fold's own score, as ensemble.yaml says.

    The order of members is the order in which they matter, since a kernel that runs short of time drops the last ones:
    as greedy selection took them, else the best fold of each experiment before any second-best.
    """
    folder = project.runs / "ensemble"
    tuned = tune.require_current(project, comp, ensemble)
    inputs = _made_from(project, comp, ensemble)
    if is_current(folder / "result.json", inputs):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    runs, costs = _runs(project, ensemble), estimate_kernel(project, comp, ensemble)
    names = [_taken(ensemble, kind, tuned) for kind in PARTS]
    _keep_within(costs, ensemble, names, tuned["passing"])
    gates = _members(project, comp, ensemble, "gate", runs, tuned, costs.gate.seconds)
    masks = _members(project, comp, ensemble, "mask", runs, tuned, costs.mask.seconds)
    for member in masks:
        if weights := _view_weights(ensemble, tuned).get(member["experiment"]):
            member["view_weights"] = weights
    chosen = {
        "competition": facts(comp),
        "score": {key: tuned[key] for key in SCORES},
        "selection": {kind: _summary(found) for kind, found in tuned["selection"].items()},
        "rule": asdict(rules.load_rule(project.tuned / "rule.yaml")),
        "passing_share": tuned["passing"],
        "gate": gates,
        "mask": masks,
    }
    outputs = [write_yaml(folder / "ensemble.yaml", chosen), *_draw(folder, tuned)]
    result = {
        "gates": len(gates),
        "masks": len(masks),
        "cross_fitted": tuned["cross_fitted"],
        "members": [m["name"] for m in [*gates, *masks]],
        "weights": {m["name"]: m["weight"] for m in [*gates, *masks]},
        "why": {m["name"]: m["why"] for m in [*gates, *masks]},
        "selection": tuned["selection"],
        "test_images": costs.images,
        "predicted_minutes": costs.seconds(names[0], names[1], tuned["passing"]) / 60,
    }
    return write_stamp(folder / "result.json", inputs, result, outputs, started)


def _taken(ensemble: Ensemble, kind: str, tuned: dict[str, Any]) -> list[str]:
    """The experiments of a part that are shipped."""
    weights = shares(ensemble, kind, tuned)
    return [name for name, weight in zip(getattr(ensemble, kind).experiments, weights, strict=True) if weight]


def _keep_within(costs: KernelEstimate, ensemble: Ensemble, names: list[list[str]], passing: float) -> None:
    """Refuse an ensemble that breaks a cap; greedy selection makes one only where its final rule lets more pass."""
    for kind, part, cost, taken in (
        ("gate", ensemble.gate, costs.gate, names[0]),
        ("mask", ensemble.mask, costs.mask, names[1]),
    ):
        if cost.exceeds_cap(taken):
            raise GatemaskError(
                f"There are more networks than {kind}.members allows.",
                where="ensemble.yaml",
                received=f"{len(taken) * cost.folds}: {len(taken)} experiments, {cost.folds} folds of each",
                expected=f"at most {part.members}",
                do=f"Name fewer experiments, ship fewer folds ({kind}.folds), or set {kind}.weights: greedy.",
            )
    hours = costs.seconds(names[0], names[1], passing) / 3600
    if hours > costs.hours:
        raise GatemaskError(
            "The kernel would take longer than inference.hours.",
            where="ensemble.yaml",
            received=f"{hours:.2f} hours predicted for {costs.images} images, of which {passing:.0%} pass the gate",
            expected=f"at most {costs.hours:g}",
            do="Ship fewer folds (folds: 1) or experiments, fewer views (tta), or infer in float16.",
        )


def _summary(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The selection in short, for ensemble.yaml."""
    if found is None:
        return None
    path = [f"{one['taken']} {one['score']:.4f}" for one in found["rounds"][: found["cut"]]]
    return {"path": path, **{key: found[key] for key in ("score", "nested", "equal", "best_member", "left_out")}}


def _draw(folder: Path, tuned: dict[str, Any]) -> list[Path]:
    """selection.png, where anything was selected."""
    if not any(tuned["selection"].values()):
        return []
    from gatemask.plots import style
    from gatemask.plots.selection import selection_path

    return [style.save(selection_path(tuned["selection"], tuned["metric"]), folder / "selection.png")]


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


def shares(ensemble: Ensemble, kind: str, tuned: dict[str, Any]) -> list[float]:
    """The weight of each experiment.

    Args:
        ensemble: as ensemble.yaml has it.
        kind: gate or mask.
        tuned: the result of oof-tune, which holds the weights that were searched.
    """
    part: Members = getattr(ensemble, kind)
    if part.weights == "tuned":
        return [float(sum(views)) for views in _by_experiment(tuned)]
    if part.weights == "greedy":
        return list(tuned["selection"][kind]["weights"])
    return given_weights(part)


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
        "settings": fingerprint([ensemble.model_dump(exclude={"quick", "tune", "inference"}), facts(comp)]),
        "kernel": fingerprint(
            [
                ensemble.inference.hours,
                ensemble.inference.precision,
                comp.kaggle.inference,
                count_test_images(project, comp),
            ]
        ),
        "rule": sha256(project.tuned / "rule.yaml"),
        "score": fingerprint([tuned[key] for key in SCORES]),
        "selection": fingerprint([tuned["selection"], tuned["passing"]]),
        "weights": fingerprint([shares(ensemble, kind, tuned) for kind in PARTS]),
        "views": fingerprint(_view_weights(ensemble, tuned)),
        "runs": fingerprint([run["outputs"] for folds in runs.values() for run in folds]),
    }


def _runs(project: Project, ensemble: Ensemble) -> dict[str, list[dict[str, Any]]]:
    return {name: _folds(project, name) for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]}


def weights_file(project: Project, member: dict[str, Any]) -> Path:
    return project.fold(member["experiment"], member["fold"]) / "best.weights.h5"


def facts(comp: Competition) -> dict[str, Any]:
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
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    kind: str,
    runs: dict[str, list[dict[str, Any]]],
    tuned: dict[str, Any],
    seconds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The entries of ensemble.yaml in order; experiments of weight 0 are not among them."""
    part, selected = getattr(ensemble, kind), tuned["selection"][kind]
    place = _order(part, selected)
    weights = dict(zip(part.experiments, shares(ensemble, kind, tuned), strict=True))
    members: dict[tuple[int, ...], dict[str, Any]] = {}
    for name in _taken(ensemble, kind, tuned):
        best = sorted(runs[name], key=lambda run: (-run["score"], run["fold"]))
        taken = best if part.folds == "all" else best[: part.folds]
        why = "all folds" if part.folds == "all" else f"among its best {part.folds}"
        why = f"{_rounds(selected, name)}; {why}" if selected else why
        for rank, run in enumerate(taken):
            one = _member(project, comp, name, run, why, weights[name] / len(taken), seconds[name])
            members[(place[name], rank) if selected else (rank, place[name])] = one
    return [members[key] for key in sorted(members)]


def _order(part: Members, selected: dict[str, Any] | None) -> dict[str, int]:
    """The place of each experiment: by the round that took it first, else as ensemble.yaml lists them."""
    names = [one["taken"] for one in selected["rounds"]] if selected else part.experiments
    return {name: at for at, name in enumerate(dict.fromkeys(names))}


def _rounds(selected: dict[str, Any], name: str) -> str:
    """What an experiment did for the ensemble, round by round."""
    said, before = [], None
    for number, one in enumerate(selected["rounds"][: selected["cut"]], start=1):
        if one["taken"] == name:
            change = f"alone {one['score']:.4f}" if before is None else f"{before:.4f} -> {one['score']:.4f}"
            said.append(f"round {number}: {change}")
        before = one["score"]
    return ", ".join(said)


def _member(
    project: Project, comp: Competition, name: str, run: dict[str, Any], why: str, weight: float, seconds: float
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
        "seconds_per_image": float(f"{seconds:.3g}"),
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


def show(result: dict[str, Any]) -> None:
    """For people: the path of each selection, the members, and how long they will take."""
    if result.get("current"):
        say("Current: nothing to do.")
    for kind, found in result["selection"].items():
        if found:
            _show_path(kind, found)
    rows = [[name, result["weights"][name], result["why"][name]] for name in result["members"]]
    table(f"{result['gates']} gates, {result['masks']} mask networks", ["member", "weight", "why"], rows)
    minutes, images = result["predicted_minutes"], result["test_images"]
    took = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.2g} seconds"
    say(f"cross-fitted {result['cross_fitted']:.4f}; predicted for {images} test images, reading aside: {took}")


def _show_path(kind: str, found: dict[str, Any]) -> None:
    names = list(found["rounds"][0]["counts"])
    rows: list[list[Any]] = []
    for number, one in enumerate(found["rounds"], start=1):
        scores = [one["scores"].get(name, "-") for name in names]
        rows.append([f"{number}{' *' if number == found['cut'] else ''}", one["taken"], one["score"], *scores])
    rows.append(["all equally", "", found["equal"], *["" for _ in names]])
    rows.append(["on other folds", "", found["nested"], *["" for _ in names]])
    title = f"{kind}s, round by round: what each experiment would have brought, cross-fitted"
    table(title, ["round", "taken", "score", *names], rows)
    say("* is the last round that is kept. On other folds: each fold's weights and rule were chosen without it.")
    for name, why in found["left_out"].items():
        say(f"{name} is left out: {why}")
