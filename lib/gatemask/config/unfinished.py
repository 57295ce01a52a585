"""Reject keys of competition.yaml and experiments that the pipeline does not support yet."""

from __future__ import annotations

from pathlib import Path

from gatemask.config.competition import Competition
from gatemask.config.experiment import Experiment
from gatemask.errors import GatemaskError


def require_supported(comp: Competition, where: Path) -> None:
    """Raise if a competition needs something that no stage supports yet."""
    mixed = comp.image.size == "mixed" or comp.image.scoring_size is not None or comp.image.fit != "stretch"
    needs = {
        "several classes": len(comp.classes) > 1 or comp.labels.names_classes,
        "ignored pixels": comp.has_ignored,
        "images of mixed sizes": mixed or not isinstance(comp.records.size, int),
        "tiles": comp.tiles is not None,
        "several files or slices per image": comp.image.channels not in (1, 3)
        or len(comp.train.sources) > 1
        or comp.train.stack is not None,
        "objects": comp.objects is not None,
        "metrics beyond pixel counts": comp.metric_options != {} or ":" in comp.metric,
    }
    _reject(needs, where)


def require_supported_experiment(exp: Experiment, where: Path) -> None:
    """Raise if an experiment needs something that no stage supports yet."""
    sizes = [exp.input.size, exp.input.records]
    _reject(
        {"rectangular inputs": any(isinstance(size, tuple) for size in sizes), "gates per class": exp.model.per_class},
        where,
    )


def _reject(needs: dict[str, bool], where: Path) -> None:
    if missing := [name for name, needed in needs.items() if needed]:
        raise GatemaskError(f"gatemask does not support {missing[0]} yet.", where=where)
