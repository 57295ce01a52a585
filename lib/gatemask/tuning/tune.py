"""`gatemask oof-tune`: from the folds' out-of-fold predictions to a rule and a score to believe.

runs/<comp>/tuned/tables.npz    threshold tables of the averaged members
runs/<comp>/tuned/study.log     Optuna's journal
runs/<comp>/tuned/rule.yaml     what inference reads
runs/<comp>/tuned/result.json   written last
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from gatemask.config.schema import Competition, Ensemble
from gatemask.data.folds import HOLDOUT, read_folds
from gatemask.data.labels import Masks
from gatemask.data.manifest import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, is_current, read_json, sha256, stamped_result, write_stamp
from gatemask.masks import rule as rules
from gatemask.oof.store import MapReader, read_gates
from gatemask.oof.tables import Tables, all_empty_score, count_maps, score
from gatemask.project import Project
from gatemask.tuning.search import cross_fit, search


def tune(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Tune the rule of an ensemble on its out-of-fold predictions.

    Args:
        project: where things lie.
        comp: metric and size.
        ensemble: which gates and mask networks are averaged, and how long to search.
    """
    folder, inputs = project.tuned, made_from(project, comp, ensemble)
    if is_current(folder / "result.json", inputs):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    frame = read_folds(project)
    fold_of = dict(zip(frame["image_id"], frame["fold"], strict=True))
    tables = build_tables(project, comp, ensemble, {k: v for k, v in fold_of.items() if v != HOLDOUT})
    trials, seed = ensemble.tune.trials, ensemble.tune.seed
    folder.mkdir(parents=True, exist_ok=True)
    best, in_sample = search(tables, comp.metric, trials, seed, folder / "study.log")
    cross_fitted, per_fold, _ = cross_fit(tables, comp.metric, trials, seed)
    outputs = [tables.save(folder / "tables.npz"), rules.save(best, folder / "rule.yaml")]
    result = {
        "images": len(tables),
        "positives": int((tables.truth.sum(axis=1) > 0).sum()),
        "cross_fitted": cross_fitted,
        "in_sample": in_sample,
        "all_empty": all_empty_score(tables, comp.metric),
        "rule": asdict(best),
        "trials": trials,
        "per_fold": {
            str(fold): {"score": score(tables.subset(tables.folds == fold), rule, comp.metric), "rule": asdict(rule)}
            for fold, rule in per_fold.items()
        },
    }
    return write_stamp(folder / "result.json", inputs, result, outputs, started)


def made_from(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Hashes of what decides the rule: settings, truth, and every member's out-of-fold predictions."""
    known = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    read_manifest(project)  # or an error that names the command
    experiments = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    members = [[ensemble.gate.experiments, ensemble.mask.experiments], ensemble.tune.model_dump()]
    return {
        "settings": fingerprint([members, comp.image.size, comp.metric]),
        "masks": sha256(project.data / "masks.csv"),
        "folds": sha256(project.folds),
        "predictions": fingerprint([_predictions(project, name, fold) for name in experiments for fold in known]),
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


def build_tables(project: Project, comp: Competition, ensemble: Ensemble, fold_of: dict[str, int]) -> Tables:
    """Average the members and count, image by image: memory does not grow with the size of the maps.

    Args:
        fold_of: the fold of each image that has to be there; members must hold exactly these.
    """
    folds = sorted(set(fold_of.values()))
    gates = [read_gates([project.fold(name, fold) / "oof.csv" for fold in folds]) for name in ensemble.gate.experiments]
    readers = [MapReader([project.fold(name, fold) / "oof.h5" for fold in folds]) for name in ensemble.mask.experiments]
    for name, ids in zip(
        [*ensemble.gate.experiments, *ensemble.mask.experiments],
        [*(set(gate) for gate in gates), *(reader.ids for reader in readers)],
        strict=True,
    ):
        _same_ids(name, ids, set(fold_of))
    truth = Masks(project.data / "masks.csv", comp.image.size)
    try:
        return count_maps(fold_of, readers, truth, "tables", lambda i: float(np.mean([gate[i] for gate in gates])))
    finally:
        for reader in readers:
            reader.close()


def _predictions(project: Project, name: str, fold: int) -> dict[str, str]:
    """Hashes of a fold's out-of-fold file, from its own stamp."""
    stamp = project.fold(name, fold) / "result.json"
    if not stamp.exists():
        raise GatemaskError(
            "A fold has no out-of-fold predictions yet.",
            where=stamp.parent,
            expected=f"{name}, fold {fold}",
            do=f"Run gatemask train {project.comp}/{name} --fold {fold}.",
        )
    result = read_json(stamp)
    if result["made_from"]["folds"] != sha256(project.folds):
        raise GatemaskError(
            "A fold was trained on another split than the present one.",
            where=stamp.parent,
            expected=f"a run made from {project.folds}",
            do=f"Run gatemask train {project.comp}/{name} again, or bring the fold file back.",
        )
    return {k: v for k, v in result["outputs"].items() if k.startswith("oof")}


def _same_ids(name: str, ids: set[str], expected: set[str]) -> None:
    if ids == expected:
        return
    missing, unknown = sorted(expected - ids), sorted(ids - expected)
    raise GatemaskError(
        "A member's predictions are not those of the folds.",
        where=name,
        received=f"{len(missing)} missing {missing[:1]}, {len(unknown)} unknown {unknown[:1]}",
        expected=f"each of {len(expected)} ids once",
        do=f"Train {name} again on the present folds.",
    )
