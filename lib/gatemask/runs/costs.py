"""Seconds per image at inference, where the costs of a network's structure are known already."""

from __future__ import annotations

from collections.abc import Mapping

from gatemask.config import Competition, Ensemble
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.runs.cache import RunCache
from gatemask.runs.facts import Found
from gatemask.runs.scan import signature


def inference_seconds(
    project: Project, comp: Competition, ensemble: Ensemble, found: Mapping[str, Found], cache: RunCache
) -> dict[str, float]:
    """Return seconds per image of one fold's network, views included, of the experiments whose costs are known.

    `gatemask ensemble` counts the work of each structure it meets; nothing is counted here.
    """
    costs = project.runs / "ensemble" / "costs.json"
    if not costs.exists():
        return {}
    shared = fingerprint(
        [
            signature([costs, project.data / "manifest.csv"]),
            ensemble.inference.precision,
            comp.model_dump(mode="json", include={"image", "classes", "exclusive", "tiles", "objects", "kaggle"}),
        ]
    )
    seconds: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, experiment in found.items():
        digest = next((facts.settings for facts in experiment.folds.values() if facts.settings), None)
        key = f"{shared}-{digest}"
        if digest is None:
            continue
        if key not in cache.facts.seconds:
            missing[name] = key
        elif (known := cache.facts.seconds[key]) is not None:
            seconds[name] = known
    if missing:
        seconds |= _look_up(project, comp, ensemble, missing, found, cache, shared)
    return seconds


def _look_up(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    missing: Mapping[str, str],
    found: Mapping[str, Found],
    cache: RunCache,
    shared: str,
) -> dict[str, float]:
    from gatemask.config import Experiment, load_run_config
    from gatemask.cost.kernel_time import known_seconds
    from gatemask.errors import GatemaskError

    experiments: dict[str, Experiment] = {}
    for name in missing:
        fold = next(fold for fold, facts in found[name].folds.items() if facts.settings)
        try:
            experiments[name] = load_run_config(project.fold(name, fold))
        except GatemaskError:
            continue
    try:
        seconds = known_seconds(project, comp, ensemble, experiments)
    except GatemaskError:  # of a damaged file of costs, or a missing manifest of tiles
        seconds = {}
    facts = cache.facts.seconds
    for outdated in [key for key in facts if not key.startswith(shared)]:
        del facts[outdated]
    facts.update({key: seconds.get(name) for name, key in missing.items()})
    cache.changed()
    return seconds
