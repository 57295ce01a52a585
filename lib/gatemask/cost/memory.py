"""Predict which batch fits into the memory of a session, for `gatemask plan` and before a push.

runs/<comp>/<experiment>/network.json   size of the network, as `gatemask plan` counted it: push does not build networks
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from gatemask.builders.step_memory import StepMemory, StepValues, predict_step_memory
from gatemask.config import Competition, Experiment
from gatemask.cost.devices import Device, ForwardPass
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, read_json_object, write_json
from gatemask.project import Project
from gatemask.training.batch_size import LARGEST, largest_power_of_two
from gatemask.training.step_trial import CPU_SHARE, DEVICE_SHARE


@dataclass(frozen=True)
class NetworkSize:
    """Size of a network in training.

    Args:
        parameters: Number of parameters.
        values: Values that decide the memory of a training step.
        work: Work of a forward pass of one image.
    """

    parameters: int
    values: StepValues
    work: ForwardPass


@dataclass(frozen=True)
class PlannedBatch:
    """Batch of an experiment on the devices of a session.

    Args:
        per_device: Images per step and device; predicted where the YAML says `auto`.
        devices: Number of devices.
        predicted: Whether it was predicted.
        needed: Memory that a step needs per device, in bytes.
        limit: Memory that a step may use per device, in bytes.
        fitting: Largest power of two that fits, by the prediction.
    """

    per_device: int
    devices: int
    predicted: bool
    needed: float
    limit: float
    fitting: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.limit

    def __str__(self) -> str:
        return f"{'auto: ' if self.predicted else ''}{self.per_device} x {self.devices}"

    def note(self, session: str) -> str | None:
        """Return in words that a batch will probably not fit, or which one will be found; None if it fits.

        Args:
            session: Name of the session's devices.
        """
        size = f"{self.needed / 1e9:.3g} GB of {self.limit / 1e9:.3g} GB per device"
        if self.fits:
            return f"{session}: the batch will be about {self.per_device} x {self.devices}" if self.predicted else None
        if self.per_device == 1:
            return f"{session}: not even one image per step will probably fit: {size}"
        advice = f"{self.fitting} would" if self.fitting < self.per_device else "fewer may"
        return f"{session}: batch.per_device: {self.per_device} will probably not fit: {size}; {advice}"


def plan_batch(device: Device, exp: Experiment, size: NetworkSize, images: int | None) -> PlannedBatch:
    """Return the batch of an experiment on the devices of a session, with its predicted memory.

    Args:
        device: Devices that train a fold together.
        exp: Experiment.
        size: Size of its network.
        images: Number of images of an epoch; None if it is unknown.
    """
    memory, limit = _step_memory(device, exp, size), _limit(device)
    parts = device.count * (exp.optimizer.accumulate or 1)
    most = LARGEST if images is None else largest_power_of_two(images, parts)
    chosen = exp.batch.per_device
    per_device = memory.largest(limit, most) if chosen == "auto" else chosen
    fitting = memory.largest(limit, LARGEST)
    return PlannedBatch(per_device, device.count, chosen == "auto", memory.needed(per_device), limit, fitting)


def _step_memory(device: Device, exp: Experiment, size: NetworkSize) -> StepMemory:
    backend = exp.runtime.backend
    if backend == "auto":  # as gatemask.training.runtime chooses it
        backend = "jax" if device.name.startswith("TPU") else "tensorflow"
    return predict_step_memory(size.values, exp.runtime.precision, backend)


def _limit(device: Device) -> float:
    return device.gigabytes * 1e9 * (CPU_SHARE if "CPU" in device.name else DEVICE_SHARE)


def keep_network_size(project: Project, comp: Competition, exp: Experiment, size: NetworkSize) -> None:
    """Keep the size of an experiment's network for `push`."""
    write_json(_path(project, exp), {"structure": _structure(comp, exp), **asdict(size)})


def read_network_size(project: Project, comp: Competition, exp: Experiment) -> NetworkSize | None:
    """Return the size that a plan counted for the present structure; None if there is none."""
    path = _path(project, exp)
    if not path.exists():
        return None
    try:
        fields = read_json_object(path, "structure", "parameters", "values", "work")
        if fields["structure"] != _structure(comp, exp):
            return None
        return NetworkSize(fields["parameters"], StepValues(**fields["values"]), ForwardPass(**fields["work"]))
    except (GatemaskError, TypeError):  # only a hint is lost
        return None


def _path(project: Project, exp: Experiment) -> Path:
    return project.runs / exp.name / "network.json"


def _structure(comp: Competition, exp: Experiment) -> str:
    network = [
        exp.model.model_dump(mode="json", exclude={"weights"}),
        exp.input.crop or exp.input.size,
        exp.optimizer.model_dump(),
    ]
    return fingerprint([*network, comp.image.channels, comp.outputs, len(comp.classes), comp.exclusive])
