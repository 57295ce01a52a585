"""How long the submission's kernel will predict, before it runs: the roofline of `gatemask plan`, forward passes only.

Take it for an order of magnitude: it knows networks and views, not how long images take to read.

runs/<comp>/ensemble/costs.json   forward passes by structure: to build a network takes seconds
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask import quiet
from gatemask.config import Competition, Ensemble, Experiment, Members
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.files import fingerprint, read_json, read_yaml, write_json
from gatemask.project import Project


@dataclass(frozen=True)
class Part:
    """The gates, or the mask networks.

    Args:
        seconds: that one network of each experiment takes for an image, with all its views.
        folds: networks of each experiment that are shipped.
        cap: most networks that may be shipped; None for any number.
    """

    seconds: Mapping[str, float]
    folds: int
    cap: int | None = None

    def an_image(self, names: Sequence[str]) -> float:
        """Seconds of an image through all networks of these experiments."""
        return self.folds * sum(self.seconds[name] for name in names)

    def too_many(self, names: Sequence[str]) -> bool:
        return self.cap is not None and len(names) * self.folds > self.cap


@dataclass(frozen=True)
class Kernel:
    """What the submission's kernel has to do, and how long it may.

    Args:
        gate: see every image.
        mask: see those that pass.
        images: of the hidden test.
        hours: that it may take.
    """

    gate: Part
    mask: Part
    images: int
    hours: float

    def seconds(self, gates: Sequence[str], masks: Sequence[str], passing: float) -> float:
        """Of a prediction by these experiments, where so large a share of the images passes the gates."""
        return self.images * (self.gate.an_image(gates) + passing * self.mask.an_image(masks))

    def refuse(self, gates: Sequence[str], masks: Sequence[str], passing: Callable[[], float]) -> str | None:
        """Why these experiments cannot be shipped, or None.

        Args:
            passing: only asked for where it matters, since to know it may take a pass over all maps.
        """
        for part, names, kind in ((self.gate, gates, "gates"), (self.mask, masks, "mask networks")):
            if part.too_many(names):
                return f"over the cap of {part.cap} {kind}"
        limit = self.hours * 3600
        if self.seconds(gates, masks, 1.0) <= limit or self.seconds(gates, masks, passing()) <= limit:
            return None
        return f"over {self.hours:g} hours"


def kernel(project: Project, comp: Competition, ensemble: Ensemble) -> Kernel:
    """The kernel of an ensemble, by the configurations with which its experiments were trained."""
    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    seconds = seconds_an_image(project, comp, ensemble, {name: _experiment(project, name) for name in names})
    parts = [
        Part({name: seconds[name] for name in part.experiments}, shipped_folds(project, part), part.members)
        for part in (ensemble.gate, ensemble.mask)
    ]
    return Kernel(parts[0], parts[1], count_images(project, comp), ensemble.inference.hours)


def shipped_folds(project: Project, part: Members) -> int:
    """Networks of each experiment of a part that are shipped."""
    known = len(_folds(project))
    return known if part.folds == "all" else min(part.folds, known)


def count_images(project: Project, comp: Competition) -> int:
    """Of the hidden test: as competition.yaml says, else as many as the visible test or the hold-out has."""
    if comp.kaggle.test_images:
        return comp.kaggle.test_images
    if comp.test is not None:
        return len(read_manifest(project, "test"))
    return int((read_folds(project)["fold"] == HOLDOUT).sum())


def seconds_an_image(
    project: Project, comp: Competition, ensemble: Ensemble, experiments: Mapping[str, Experiment]
) -> dict[str, float]:
    """Of one network of each experiment, by name: on one T4, or on this machine's CPU for kernels without a GPU."""
    from gatemask.cost import plan

    costs = _Costs(project.runs / "ensemble" / "costs.json")
    precision = ensemble.inference.precision
    if comp.kaggle.inference == "none":
        precision = "float32" if precision == "auto" else precision
        device = plan.Device(**costs.get("cpu", lambda: _peaks(plan.this_machine())))
    else:
        precision = "float16" if precision == "auto" else precision
        device = plan.t4(1, precision)
    found = {}
    for name, exp in experiments.items():
        classes = 1 if exp.task == "gate" else len(comp.classes)
        shape = [exp.input.size, comp.image.channels, classes]
        key = fingerprint([exp.model.model_dump(mode="json", exclude={"weights"}), *shape])
        facts = costs.get(key, lambda exp=exp, shape=shape: _forward_pass(exp, *shape))  # type: ignore[misc]
        once = plan.seconds_an_image(device, facts["flops"], facts["outputs"], precision)
        found[name] = once * (1 + sum(view.random or 1 for view in exp.tta))
    return found


class _Costs:
    """A small file of what takes long to find out, by key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = read_json(path) if path.exists() else {}

    def get(self, key: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self._known:
            self._known[key] = find()
            write_json(self._path, self._known)
        return self._known[key]


def _peaks(device: Any) -> dict[str, Any]:
    # Measured once: else the same ensemble would be over the cap on one day, and not on the next.
    return {**vars(device), "count": 1}


def _forward_pass(exp: Experiment, size: int, channels: int, classes: int) -> dict[str, int]:
    """flops and outputs of an image; Keras stays as it runs already, since only shapes matter."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    quiet.tensorflow()
    from gatemask.builders import models
    from gatemask.cost import plan

    return plan.forward_pass(models.build_network(exp.model, size, channels, classes).model)


def _experiment(project: Project, name: str) -> Experiment:
    return Experiment.model_validate(read_yaml(project.fold(name, _folds(project)[0]) / "config.yaml"))


def _folds(project: Project) -> list[int]:
    return sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
