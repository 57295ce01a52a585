"""Estimate the runtime of the submission kernel, by the roofline of `gatemask plan` with forward passes only.

Expect the right order of magnitude: networks, TTA views and tiles are counted, the time to read images is not.

runs/<comp>/ensemble/costs.json   forward passes by network structure, which take seconds to find out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gatemask import quiet
from gatemask.config import Competition, Ensemble, Experiment, Members, load_run_config
from gatemask.config.machines import machine
from gatemask.cost import devices
from gatemask.cost.devices import Device, ForwardPass
from gatemask.cost.tile_counts import count_tiles
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.files import fingerprint, read_json_object, write_json
from gatemask.masks.tiling import input_tiles
from gatemask.project import Project
from gatemask.training.fold_inputs import count_views


@dataclass(frozen=True)
class MemberCosts:
    """Costs of the gates, or of the mask networks, of an ensemble.

    Args:
        seconds: Seconds per image for one network of each experiment, all TTA views included.
        folds: Number of networks shipped of each experiment.
        cap: Largest number of networks that may be shipped; None for no limit.
    """

    seconds: Mapping[str, float]
    folds: int
    cap: int | None = None

    def seconds_per_image(self, experiments: Sequence[str]) -> float:
        """Return the time one image spends in all networks of the given experiments."""
        return self.folds * sum(self.seconds[name] for name in experiments)

    def exceeds_cap(self, experiments: Sequence[str]) -> bool:
        return self.cap is not None and len(experiments) * self.folds > self.cap


@dataclass(frozen=True)
class KernelEstimate:
    """Work of the submission kernel, and its limits.

    Args:
        gate: Costs of the gates, which see every image.
        mask: Costs of the mask networks, which see the images that pass the gates.
        images: Number of images in the hidden test set.
        hours: Time limit of the kernel, in hours.
    """

    gate: MemberCosts
    mask: MemberCosts
    images: int
    hours: float

    def seconds(self, gates: Sequence[str], masks: Sequence[str], passing: float) -> float:
        """Return the duration of the prediction.

        Args:
            gates: Experiments of the gates.
            masks: Experiments of the mask networks.
            passing: Share of images that pass the gates.
        """
        return self.images * (self.gate.seconds_per_image(gates) + passing * self.mask.seconds_per_image(masks))

    def excess(self, gates: Sequence[str], masks: Sequence[str], passing: Callable[[], float]) -> str | None:
        """Return the limit that these experiments exceed, in words; None if they fit.

        Args:
            gates: Experiments of the gates.
            masks: Experiments of the mask networks.
            passing: Returns the share of images that pass the gates. Called only if the answer depends on it, since
                it may take a pass over all maps.
        """
        for costs, names, kind in ((self.gate, gates, "gates"), (self.mask, masks, "mask networks")):
            if costs.exceeds_cap(names):
                return f"over the cap of {costs.cap} {kind}"
        limit = self.hours * 3600
        if self.seconds(gates, masks, 1.0) <= limit or self.seconds(gates, masks, passing()) <= limit:
            return None
        return f"over {self.hours:g} hours"


def estimate_kernel(project: Project, comp: Competition, ensemble: Ensemble) -> KernelEstimate:
    """Return the estimate for an ensemble, with its experiments as they were trained."""
    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    experiments = {name: _trained_experiment(project, name) for name in names}
    seconds = seconds_by_experiment(project, comp, ensemble, experiments)
    gate, mask = (
        MemberCosts({name: seconds[name] for name in part.experiments}, shipped_folds(project, part), part.members)
        for part in (ensemble.gate, ensemble.mask)
    )
    return KernelEstimate(gate, mask, count_test_images(project, comp), ensemble.inference.hours)


def shipped_folds(project: Project, members: Members) -> int:
    """Return the number of networks that are shipped of each experiment."""
    available = len(_folds(project))
    return available if members.folds == "all" else min(members.folds, available)


def count_test_images(project: Project, comp: Competition) -> int:
    """Return the number of images in the hidden test set.

    It is that of competition.yaml, or else the size of the visible test set, or of the hold-out.
    """
    if comp.kaggle.test_images:
        return comp.kaggle.test_images
    if comp.test is not None:
        return len(read_manifest(project, "test"))
    return int((read_folds(project)["fold"] == HOLDOUT).sum())


def seconds_by_experiment(
    project: Project, comp: Competition, ensemble: Ensemble, experiments: Mapping[str, Experiment]
) -> dict[str, float]:
    """Return the seconds per image of one network of each experiment, all TTA views and tiles included.

    The device is one GPU of the submission kernel, or the CPU of this machine where it has none.
    """
    cache = _CostsFile(project.runs / "ensemble" / "costs.json")
    precision, device = _device(comp, ensemble, cache)
    tiles = _mean_tiles(project, comp)
    return {
        name: devices.seconds_per_image(device, cache.forward_pass(exp, comp), precision) * count_views(exp) * tiles
        for name, exp in experiments.items()
    }


def known_seconds(
    project: Project, comp: Competition, ensemble: Ensemble, experiments: Mapping[str, Experiment]
) -> dict[str, float]:
    """Return the seconds per image of those experiments whose structure has been measured before; measure nothing."""
    cache = _CostsFile(project.runs / "ensemble" / "costs.json")
    if comp.kaggle.inference == "none" and not cache.knows_cpu:
        return {}
    known = {name: exp for name, exp in experiments.items() if cache.knows(exp, comp)}
    return seconds_by_experiment(project, comp, ensemble, known) if known else {}


def _device(comp: Competition, ensemble: Ensemble, cache: _CostsFile) -> tuple[str, Device]:
    """Return the precision of the submission kernel, and one of its devices."""
    precision = ensemble.inference.precision
    if comp.kaggle.inference == "none":
        return "float32" if precision == "auto" else precision, cache.cpu()
    precision = "float16" if precision == "auto" else precision
    return precision, devices.devices_of(machine(comp.kaggle.inference), precision).alone()


def _mean_tiles(project: Project, comp: Competition) -> float:
    """Return the mean number of tiles per test image, or per training image where a hold-out is the test set."""
    if comp.tiles is None:
        return 1.0
    return float(count_tiles(read_manifest(project, "train" if comp.test is None else "test"), comp).mean())


class _CostsFile:
    """Cache of facts that take long to find out. The CPU is measured only once, so that estimates are repeatable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = read_json_object(path) if path.exists() else {}

    def cpu(self) -> Device:
        if "cpu" not in self._entries:
            peaks = asdict(devices.this_machine())
            self._store("cpu", {("hours_a_week" if key == "hours_per_week" else key): peaks[key] for key in peaks})
        return Device(**{key: value for key, value in self._entries["cpu"].items() if key != "hours_a_week"})

    @property
    def knows_cpu(self) -> bool:
        """Whether the CPU has been measured."""
        return "cpu" in self._entries

    def knows(self, exp: Experiment, comp: Competition) -> bool:
        """Return whether the work of an experiment's network has been counted."""
        return self._key(exp, comp) in self._entries

    def forward_pass(self, exp: Experiment, comp: Competition) -> ForwardPass:
        key = self._key(exp, comp)
        if key not in self._entries:
            self._store(key, asdict(_count_forward_pass(exp, comp)))
        return ForwardPass(**self._entries[key])

    @staticmethod
    def _key(exp: Experiment, comp: Competition) -> str:
        outputs = comp.outputs if exp.task == "mask" else len(comp.classes) if exp.model.per_class else 1
        shape = [
            exp.input.size,
            comp.image.channels,
            outputs,
            *(["exclusive"] if comp.exclusive and exp.task == "mask" else []),
            *([f"tiles of {exp.input.tile}"] if exp.input.tile else []),
        ]
        return fingerprint([exp.model.model_dump(mode="json", exclude={"weights"}), *shape])

    def _store(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = entry
        write_json(self._path, self._entries)


def _count_forward_pass(exp: Experiment, comp: Competition) -> ForwardPass:
    # Only shapes matter, so any backend that is running already will do.
    quiet.keras()
    from gatemask.builders import models
    from gatemask.cost.network import count_forward_pass

    if exp.input.tile is None:
        return count_forward_pass(models.network_for(exp, comp, size=exp.input.shape).model)
    work = count_forward_pass(models.network_for(exp, comp).model)
    tiles = len(input_tiles(exp.input.shape, exp.input.tile))
    return ForwardPass(tiles * work.flops, tiles * work.outputs)


def _trained_experiment(project: Project, name: str) -> Experiment:
    return load_run_config(project.fold(name, _folds(project)[0]))


def _folds(project: Project) -> list[int]:
    return sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
