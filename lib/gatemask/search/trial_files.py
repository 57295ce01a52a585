"""The YAMLs of trials: ordinary experiments that extend the searched one.

experiments/<comp>/trials/<experiment>-t<number>.yaml   -q<number> of a quick search
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import JsonValue

from gatemask.config import Experiment, load_experiment, read_experiment
from gatemask.config.merging import REPLACED_ENTIRELY, Document, YamlMapping
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.project import TRIALS, Project
from gatemask.search.space import Space, Values
from gatemask.yaml12 import dump_yaml

OF_THE_FILE = ("name", "quick", "search")  # keys that a trial does not take over from the searched experiment


def trial_letter(project: Project) -> str:
    """Return the letter of a trial's name. Quick trials have their own, because their values differ."""
    return "q" if project.quick else "t"


def trial_name(project: Project, experiment: str, number: int) -> str:
    """Return the name of a trial.

    >>> trial_name(Project(Path(), "phantom"), "unet_b0", 7)
    'unet_b0-t007'
    """
    return f"{experiment}-{trial_letter(project)}{number:03d}"


def write_trial(project: Project, space: Space, number: int, values: Values) -> tuple[Path, Experiment]:
    """Write the YAML of a trial, unless it exists, and return its path and experiment.

    Raises:
        GatemaskError: The YAML exists and says something else.
    """
    name = trial_name(project, space.exp.name, number)
    expected = space.experiment(values, name)
    path = project.experiments / TRIALS / f"{name}.yaml"
    if not path.exists():
        write_text(path, _text(project, space, path, number, values))
    exp = load_experiment(path, quick=project.quick)
    if _comparable(exp) != _comparable(expected):
        raise GatemaskError(
            "The YAML of a trial differs from the parameters in the study.",
            where=path,
            received=", ".join(f"{key}={json.dumps(value)}" for key, value in values.items()) + " in the study",
            do="Copy your changes to a YAML of your own, and delete this one: it is written again.",
        )
    return path, exp


def _comparable(exp: Experiment) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = exp.model_dump(mode="json", exclude={"quick", "search"})
    return fields


def _text(project: Project, space: Space, path: Path, number: int, values: Values) -> str:
    full = read_experiment(space.path)
    child = _changes(full, space.with_values(full, values))
    merged = full.copy()
    merged.extend(Document(child), quiet=True)
    quick = merged.section("quick")
    if quick is not None:
        shrunk = merged.copy()
        shrunk.extend(quick, quiet=True)
        wanted = space.with_values(read_experiment(space.path, quick=True), values)
        if changes := _changes(shrunk, wanted):
            child["quick"] = changes
    folders = path.relative_to(project.root).as_posix()
    quickly = " ARGS=--quick" if project.quick else ""
    header = f"# make train EXP={folders}{quickly}\n# Trial {number} of gatemask search {project.comp}/{space.exp.name}"
    body = dump_yaml({"extends": f"../{space.path.name}", **child, "search": None}, flow_style=None)
    return f"{header}{' --quick' if project.quick else ''}\n{body}"


def _changes(before: Document, after: Document) -> YamlMapping:
    """Return what a YAML that extends `before` must say to become `after`."""
    kept = {key: value for key, value in after.values.items() if key not in OF_THE_FILE}
    return _differences(before.values, kept)


def _differences(before: YamlMapping, after: YamlMapping) -> YamlMapping:
    changes: YamlMapping = {}
    for key, value in after.items():
        old = before.get(key)
        if key in before and json.dumps(old) == json.dumps(value):  # 1 and true are equal, but differ
            continue
        merges = isinstance(old, dict) and isinstance(value, dict) and key not in REPLACED_ENTIRELY
        if merges and isinstance(old, dict) and isinstance(value, dict) and old.get("name") == value.get("name"):
            changes[key] = _differences(old, value)
        else:
            changes[key] = value
    return changes
