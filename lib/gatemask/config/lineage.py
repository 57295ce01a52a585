"""What an experiment changes in the file that it extends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from gatemask.config.experiment import Experiment
from gatemask.config.flat import flatten
from gatemask.config.loading import extended_files, load_experiment, read_merged

NO_SETTINGS = ("name", "quick", "extends", "search")


class Lineage(NamedTuple):
    """An experiment and its parent.

    Args:
        experiment: The experiment.
        parent: Name of the file that its YAML extends; None if it extends none.
        changed: Values of the keys in which both differ, by dotted key: the parent's, then its own; None is not set.
    """

    experiment: Experiment
    parent: str | None
    changed: dict[str, tuple[JsonValue, JsonValue]]


def load_lineage(path: Path, *, quick: bool = False, overrides: Sequence[str] = ()) -> Lineage:
    """Load an experiment, and compare it with the file that it extends.

    Unlike `load_experiment`, this does not look for other files of the same name: the caller reads all of them.

    Raises:
        GatemaskError: The YAML, or one that it extends, is missing or invalid.
    """
    experiment = load_experiment(path, quick=quick, overrides=overrides, alone=True)
    files = extended_files(path)
    if not files:
        return Lineage(experiment, None, {})
    parent, child = (flatten(_settings(file)) for file in (files[0], path))
    changed = {
        key: (parent.get(key), child.get(key))
        for key in sorted({*parent, *child})
        if parent.get(key) != child.get(key) and key
    }
    return Lineage(experiment, files[0].name, changed)


def _settings(path: Path) -> dict[str, JsonValue]:
    return {key: value for key, value in read_merged(path).items() if key not in NO_SETTINGS}
