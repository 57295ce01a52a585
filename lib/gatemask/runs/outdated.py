"""Say which runs differ from what their YAML and the split say now."""

from __future__ import annotations

import json

from gatemask.config.flat import Flat
from gatemask.runs.cache import RunCache, SplitFacts
from gatemask.runs.facts import Found

SHOWN = 3  # differences per run


def outdated_notes(found: Found, split: SplitFacts, cache: RunCache) -> list[str]:
    """Return what differs, one sentence for each kind of difference with its folds."""
    folds_by_note: dict[str, list[int]] = {}
    for fold, facts in found.folds.items():
        if split.folds and facts.finished and facts.made_from.get("folds") != split.sha256:
            folds_by_note.setdefault("trained on another split than the present one", []).append(fold)
        yaml = found.yaml
        if yaml is None or yaml.settings is None or not facts.made_from:
            continue
        if any(facts.made_from.get(key, value) != value for key, value in yaml.made_from.items()):
            trained = cache.facts.settings.get(facts.settings or "")
            changes = _changes(json.loads(trained.values), json.loads(yaml.settings.values)) if trained else ""
            folds_by_note.setdefault(changes or "trained with other settings than those of the YAML", []).append(fold)
    return [f"fold {', '.join(map(str, folds))}: {note}" for note, folds in folds_by_note.items()]


def _changes(trained: Flat, now: Flat) -> str:
    keys = [key for key in sorted({*trained, *now}) if trained.get(key) != now.get(key) and key != "name"]
    shown = [f"{key}: {_text(trained.get(key))}, now {_text(now.get(key))}" for key in keys[:SHOWN]]
    return "; ".join([*shown, *([f"{len(keys) - SHOWN} more keys"] if len(keys) > SHOWN else [])])


def _text(value: object) -> str:
    return "not set" if value is None else str(value)[:40]
