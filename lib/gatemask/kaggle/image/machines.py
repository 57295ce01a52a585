"""Choose the machine of an experiment's training kernels."""

from __future__ import annotations

from gatemask.config import Competition, Experiment
from gatemask.config.machines import Machine, machine, machines
from gatemask.errors import GatemaskError


def machine_for(comp: Competition, exp: Experiment) -> Machine:
    """Return the machine for an experiment: that of competition.yaml, unless the experiment requires another kind.

    Raises:
        GatemaskError: The experiment trains folds side by side, which the machine cannot.
    """
    default, kind = machine(comp.kaggle.accelerator), exp.runtime.accelerator
    chosen = default if kind in ("auto", default.kind) else next(m for m in machines().values() if m.kind == kind)
    if exp.runtime.folds == "parallel" and chosen.kind == "tpu":
        raise GatemaskError(
            "The chips of a TPU train one fold together: folds cannot be trained side by side there.",
            where=f"runtime.folds of {exp.name}",
            received=f"parallel on {chosen.name}",
            expected="parallel on a machine with several GPUs, or sequence",
            do="Set runtime.accelerator: gpu, or runtime.folds: sequence.",
        )
    return chosen
