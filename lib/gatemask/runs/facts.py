"""Read YAMLs and runs. Each is read again only after one of its files has changed; a damaged one costs its own row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from gatemask.config.flat import flatten_steps
from gatemask.console import progress
from gatemask.errors import GatemaskError
from gatemask.project import DOCUMENTS, Project
from gatemask.runs.cache import FoldFacts, RunCache, Settings, SplitFacts, YamlFacts
from gatemask.runs.scan import STAMP, FoundFold, find_runs, find_yamls, names_in, signature
from gatemask.stage import Stamp, load_document

if TYPE_CHECKING:
    from gatemask.config import Experiment

PREDICTIONS = frozenset(("oof.csv", "oof.h5", "oof-views.h5", "tables.npz"))
MADE_FROM = frozenset(("settings", "selection", "prediction", "folds", "records"))
DIGEST = 32  # digits of a hash that are kept


class RunStamp(Stamp):
    """What a fold's result.json says, as far as it is shown; stamps of earlier versions may lack any of it."""

    epochs: int | None = None
    score: float | None = None
    monitor: str | None = None
    seconds_training: float | None = None


@dataclass
class Found:
    """All that is known about an experiment from its files.

    Args:
        name: Name of the experiment.
        yaml: Facts of its YAML; None if there is none.
        folds: Facts of its runs, by fold.
        settings: Settings that it was trained with, or those of its YAML.
        problems: What is wrong with its files.
    """

    name: str
    yaml: YamlFacts | None = None
    folds: dict[int, FoldFacts] = field(default_factory=dict)
    settings: Settings | None = None
    problems: list[str] = field(default_factory=list)


def gather(project: Project, cache: RunCache) -> dict[str, Found]:
    """Return all experiments that have a YAML or a run, by name."""
    yamls, runs = find_yamls(project), find_runs(project)
    experiments = {path: signed for path, signed in yamls.items() if path.name not in DOCUMENTS}
    old_yamls = _stale_yamls(project, experiments, yamls, cache)
    old_folds = _stale_folds(runs, cache)
    for work in _with_bar([*old_yamls, *old_folds]):
        if isinstance(work, Path):
            cache.facts.yamls[work.name] = read_yaml_facts(project, work)
        else:
            name, fold = work
            cache.facts.folds[f"{name}/{fold}"] = read_fold_facts(project, name, fold, runs[name][fold], cache)
        cache.changed()
    _forget(cache, {path.name for path in experiments}, {f"{name}/{fold}" for name in runs for fold in runs[name]})
    return _joined(experiments, runs, cache)


def _with_bar(work: list[Path | tuple[str, int]]) -> Iterator[Path | tuple[str, int]]:
    return progress(work, "reading runs") if len(work) > 1 else iter(work)


def _stale_yamls(
    project: Project, experiments: Mapping[Path, str], yamls: Mapping[Path, str], cache: RunCache
) -> list[Path | tuple[str, int]]:
    by_name = {str(path): signed for path, signed in yamls.items()}
    suffix = "|".join(project.overrides)

    def is_stale(path: Path, signed: str) -> bool:
        known = cache.facts.yamls.get(path.name)
        if known is None:
            return True
        others = [by_name.get(file) or signature([Path(file)]) for file in known.extends]
        return known.signature != "|".join([signed, *others, suffix])

    return [path for path, signed in experiments.items() if is_stale(path, signed)]


def _stale_folds(runs: Mapping[str, Mapping[int, FoundFold]], cache: RunCache) -> list[Path | tuple[str, int]]:
    known = cache.facts.folds
    return [
        (name, fold)
        for name, folds in runs.items()
        for fold, found in folds.items()
        if (old := known.get(f"{name}/{fold}")) is None or old.signature != found.signature
    ]


def _forget(cache: RunCache, yamls: set[str], folds: set[str]) -> None:
    for facts, present in ((cache.facts.yamls, yamls), (cache.facts.folds, folds)):
        for gone in set(facts) - present:
            del facts[gone]
            cache.changed()
    used = {facts.settings for facts in cache.facts.folds.values()}
    for unused in set(cache.facts.settings) - used:
        del cache.facts.settings[unused]
        cache.changed()


def _joined(
    experiments: Mapping[Path, str], runs: Mapping[str, Mapping[int, FoundFold]], cache: RunCache
) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for path in experiments:
        facts = cache.facts.yamls[path.name]
        row = found.setdefault(facts.name, Found(facts.name))
        if row.yaml is not None:
            row.problems.append(f"{path.name}: another YAML has the name {facts.name}, too")
            continue
        row.yaml, row.settings = facts, facts.settings
        row.problems += [facts.problem] if facts.problem else []
    for name, folds in runs.items():
        row = found.setdefault(name, Found(name))
        row.folds = {fold: cache.facts.folds[f"{name}/{fold}"] for fold in folds}
        kept = (cache.facts.settings.get(facts.settings or "") for facts in row.folds.values())
        row.settings = next(filter(None, kept), row.settings)
        if row.yaml is None:
            row.problems.append("its YAML no longer exists")
    return dict(sorted(found.items()))


# --- YAMLs -------------------------------------------------------------------------------------------------


def read_yaml_facts(project: Project, path: Path) -> YamlFacts:
    """Read an experiment's YAML; one that is invalid has a problem instead of settings."""
    from gatemask.config.lineage import load_lineage
    from gatemask.config.loading import extended_files

    extends: tuple[str, ...] = ()
    signed = _yaml_signature(project, path, extends)
    try:
        extends = tuple(map(str, extended_files(path)))
        signed = _yaml_signature(project, path, extends)  # before it is read: a later change must be noticed
        lineage = load_lineage(path, quick=project.quick, overrides=project.overrides)
    except GatemaskError as error:
        where = error.details["where"]
        problem = f"{where}: {error.short()}" if where else error.short()
        return YamlFacts(signature=signed, extends=extends, name=path.stem, problem=problem)
    exp = lineage.experiment
    return YamlFacts(
        signature=signed,
        extends=extends,
        name=exp.name,
        settings=settings_of(exp),
        parent=lineage.parent,
        changed=lineage.changed,
        made_from=_made_from(exp),
        records=_record_shape(exp),
    )


def _yaml_signature(project: Project, path: Path, extends: tuple[str, ...]) -> str:
    files = [path, *map(Path, extends)]
    return "|".join([*(signature([file]) for file in files), "|".join(project.overrides)])


def settings_of(exp: Experiment) -> Settings:
    """Return the settings of an experiment, flat."""
    from gatemask.training.fold_inputs import written_settings

    values = flatten_steps(written_settings(exp))
    return Settings(task=exp.task, epochs=exp.epochs, monitor=exp.monitor, values=json.dumps(values))


def _made_from(exp: Experiment) -> dict[str, str]:
    from gatemask.training.fold_inputs import fingerprints

    return fingerprints(exp)


def _record_shape(exp: Experiment) -> tuple[int, int] | None:
    from gatemask.config import both_sides

    return None if exp.input.records is None else both_sides(exp.input.records)


# --- runs --------------------------------------------------------------------------------------------------


def read_fold_facts(project: Project, name: str, fold: int, found: FoundFold, cache: RunCache) -> FoldFacts:
    """Read a run; what cannot be read is left out and named in `problems`."""
    folder, problems = project.fold(name, fold), []
    names = names_in(folder)
    stamp = RunStamp()
    finished = False
    for file in (STAMP, "begun.json"):
        if file in names:
            try:
                stamp, finished = load_document(RunStamp, folder / file), file == STAMP
            except GatemaskError as error:
                problems.append(f"fold {fold}: {file}: {error.short()}")
            break
    rows: list[dict[str, float]] = []
    try:
        from gatemask.tracking.run_folder import read_metrics

        rows = read_metrics(folder / "metrics.jsonl") if "metrics.jsonl" in names else []
    except GatemaskError as error:
        problems.append(f"fold {fold}: metrics.jsonl: {error.short()}")
    settings = None
    if "config.yaml" in names:
        try:
            settings = _read_settings(folder, cache)
        except GatemaskError as error:
            problems.append(f"fold {fold}: config.yaml: {error.short()}")
    trained = sum(row.get("seconds", 0.0) for row in rows)
    speeds = [row["images_per_s"] for row in rows if "images_per_s" in row]
    kernel, commit = _origin(folder, names)
    return FoldFacts(
        signature=found.signature,
        finished=finished,
        settings=settings,
        made_from={key: value for key, value in stamp.made_from.items() if key in MADE_FROM and isinstance(value, str)},
        digests={name: digest[:DIGEST] for name, digest in stamp.outputs.items() if digest and name in PREDICTIONS},
        epochs=stamp.epochs if stamp.epochs is not None else int(rows[-1]["epoch"]) + 1 if rows else 0,
        seconds=max(stamp.seconds, stamp.seconds_training or trained),
        score=stamp.score,
        monitor=stamp.monitor,
        images_per_s=median(speeds[1:] or speeds) if speeds else None,  # the first epoch compiles
        commit=commit,
        kernel=kernel,
        problems=tuple(problems),
    )


def _read_settings(folder: Path, cache: RunCache) -> str:
    """Return the hash of a config.yaml whose settings are known to the cache: folds share theirs."""
    from gatemask.config import load_run_config

    try:
        digest = hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise GatemaskError("It cannot be read.", received=error.strerror) from None
    if digest not in cache.facts.settings:
        cache.facts.settings[digest] = settings_of(load_run_config(folder))
    return digest


def _origin(folder: Path, names: Collection[str]) -> tuple[str | None, str | None]:
    """Return the kernel and the commit that trained a run, as far as they are known."""
    from gatemask.files import read_json

    for file in ("kaggle.json", "environment.json"):
        if file in names:
            try:
                record = read_json(folder / file)
            except GatemaskError:
                continue
            if isinstance(record, dict):
                kernel, commit = record.get("kernel"), record.get("commit")
                return kernel if isinstance(kernel, str) else None, commit if isinstance(commit, str) else None
    return None, None


# --- split -------------------------------------------------------------------------------------------------


def read_split(project: Project, cache: RunCache) -> SplitFacts:
    """Return the facts of the fold file; without folds if there is none, or it is damaged."""
    signed = signature([project.folds])
    if cache.facts.split.signature != signed:
        cache.facts.split = _read_split(project, signed)
        cache.changed()
    return cache.facts.split


def _read_split(project: Project, signed: str) -> SplitFacts:
    from gatemask.data.split import HOLDOUT, read_folds
    from gatemask.files import sha256

    if not project.folds.exists():
        return SplitFacts(signature=signed)
    try:
        folds = sorted({int(fold) for fold in read_folds(project)["fold"]} - {HOLDOUT})
        return SplitFacts(signature=signed, sha256=sha256(project.folds), folds=tuple(folds))
    except GatemaskError as error:
        return SplitFacts(signature=signed, problem=f"{project.folds.name}: {error.short()}")
