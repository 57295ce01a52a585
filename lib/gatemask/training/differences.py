"""Say in words how a trained fold differs from what the YAMLs and the data say now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gatemask.config import Experiment, load_run_config
from gatemask.config.flat import flatten
from gatemask.errors import GatemaskError

NAMES = {
    "batch": "another batch size",
    "weights": "other initial weights",
    "fold": "another fold",
    "folds": "another split",
    "records": "other records",
    "extra": "other extra images",
    "settings": "other settings",
    "selection": "another choice of epochs",
    "prediction": "other tta",
}


def differences(
    folder: Path, recorded: Mapping[str, object], wanted: Mapping[str, object], exp: Experiment | None
) -> list[str]:
    """Return the differences between a run and what it would be made from now; none where it is up to date.

    Args:
        folder: Folder of the run, whose config.yaml names the settings.
        recorded: Its `made_from`.
        wanted: Its `made_from` as it would be now. Only these entries are compared.
        exp: Experiment as it is now. Default: settings are not named.
    """
    found = [key for key, value in wanted.items() if recorded.get(key) != value]
    named = list(_changed_settings(folder, exp)) if exp and {"settings", "selection", "prediction"} & set(found) else []
    texts = [NAMES.get(key, key) for key in found if not named or key not in ("settings", "selection", "prediction")]
    return [*named, *texts]


def trained_experiment(folder: Path) -> Experiment | None:
    """Return the experiment as a run was trained; None if its config.yaml is missing or damaged."""
    try:
        return load_run_config(folder)
    except GatemaskError:
        return None


def _changed_settings(folder: Path, exp: Experiment) -> Iterator[str]:
    trained = trained_experiment(folder)
    if trained is None:
        return
    before, now = (flatten({**e.settings, "name": ""}) for e in (trained, exp))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield f"{key}: {_text(before.get(key))}, now {_text(now.get(key))}"


def _text(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
