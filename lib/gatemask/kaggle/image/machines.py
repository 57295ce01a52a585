"""Machines that Kaggle offers to kernels, and their limits (as published in 2026)."""

from __future__ import annotations

from dataclasses import dataclass

from gatemask.config import Competition, Experiment


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Args:
        name: Name in competition.yaml; except for "none" also `machine_shape` in kernel-metadata.json.
        kind: "tpu", "gpu" or "cpu".
        devices: Minimum number of devices.
        hours: Session limit, in hours.
        at_once: Number of sessions of one account that may run at once.
        quota: Row of `kaggle quota` that counts its hours, if any.
    """

    name: str
    kind: str
    devices: int
    hours: float
    at_once: int
    quota: str | None


MACHINES = {
    "TpuV5E8": Machine("TpuV5E8", "tpu", 8, 9.0, 1, "TPU"),
    "NvidiaTeslaT4": Machine("NvidiaTeslaT4", "gpu", 1, 12.0, 2, "GPU"),
    "none": Machine("none", "cpu", 1, 12.0, 5, None),
}


def machine_for(comp: Competition, exp: Experiment) -> Machine:
    """Return the machine for an experiment: that of competition.yaml, unless the experiment requires another kind."""
    default = MACHINES[comp.kaggle.accelerator]
    kind = exp.runtime.accelerator
    if kind in ("auto", default.kind):
        return default
    return next(machine for machine in MACHINES.values() if machine.kind == kind)
