"""The machines that Kaggle lends to kernels, and what it allows on them (as published in 2026)."""

from __future__ import annotations

from dataclasses import dataclass

from gatemask.config import Competition, Experiment


@dataclass(frozen=True)
class Machine:
    """One kind of machine.

    Args:
        name: as competition.yaml spells it; but for 'none' it is `machine_shape` in kernel-metadata.json.
        kind: tpu, gpu or cpu.
        devices: how many there must be at least.
        hours: a session's limit.
        at_once: sessions of one account that run side by side.
        quota: its row in `kaggle quota`, where its hours are counted.
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


def machine(comp: Competition, exp: Experiment) -> Machine:
    """The machine for an experiment: competition.yaml's, unless the experiment insists on another kind."""
    usual = MACHINES[comp.kaggle.accelerator]
    wanted = exp.runtime.accelerator
    if wanted in ("auto", usual.kind):
        return usual
    return next(one for one in MACHINES.values() if one.kind == wanted)
