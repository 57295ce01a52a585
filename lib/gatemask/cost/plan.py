"""`gatemask plan`: what an experiment costs before it is pushed: parameters, memory, steps, hours.

Hours are a roofline estimate (Williams 2009): a step takes as long as its arithmetic at the device's peak, or as its
reading and writing at the memory's bandwidth, whichever is more, divided by the share of either that training gets in
practice. Take it for an order of magnitude; an epoch that ran is shown beside it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.console import say, table
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.training.trainer import reads

# What training gets of a peak, and what a step costs in forward passes: one forward, and about two backward, in
# arithmetic as in what layers put out and is written or read.
ATTAINED, STEP = 0.4, 3
STARTUP_S = 240  # import, first compilation, records into memory


@dataclass(frozen=True)
class Device:
    """One kind of session.

    Args:
        name: as people say it.
        count: devices a session has.
        gigabytes: memory of one device.
        teraflops: of one, in 10^12 operations a second, at the experiment's precision.
        bandwidth: of one's memory, in 10^9 bytes a second.
        hours_a_week: free on Kaggle; None where nobody counts.
    """

    name: str
    count: int
    gigabytes: float
    teraflops: float
    bandwidth: float
    hours_a_week: int | None


def sessions(precision: str) -> list[Device]:
    """Kaggle's sessions (vendors' data sheets), and this machine, measured."""
    short = precision != "float32"
    # A TPU multiplies float32 as bfloat16 unless it is told otherwise.
    tpu = Device("TPU v5e-8", 8, 16, 197.0 if short else 98.0, 819, 20)
    return [tpu, t4(2, precision), this_machine()]


def t4(count: int, precision: str) -> Device:
    """Kaggle's GPUs, which know float16 and no bfloat16."""
    return Device(f"{count} x T4", count, 15, 65.0 if precision == "float16" else 8.1, 320, 30)


def seconds_an_image(device: Device, flops: float, outputs: float, precision: str, passes: float = 1) -> float:
    """The roofline of one image on one device.

    Args:
        device: its peaks.
        flops: of a forward pass.
        outputs: numbers that layers put out in a forward pass.
        precision: of the layers.
        passes: what is done, in forward passes.
    """
    bytes_each = 4 if precision == "float32" else 2
    arithmetic, traffic = flops / (device.teraflops * 1e12), outputs * bytes_each / (device.bandwidth * 1e9)
    return passes * max(arithmetic, traffic) / ATTAINED


def plan(project: Project, comp: Competition, exp: Experiment) -> dict[str, Any]:
    """Work out what an experiment costs.

    Args:
        project: its fold file, if there is one yet, gives the steps.
        comp: channels and classes.
        exp: the experiment.

    Returns:
        parameters, gigaflops (a forward pass of one image), images by fold where folds are made, and `sessions`: for
        each kind of device batch, steps an epoch, gigabytes needed, minutes an epoch, hours a fold and of all folds.
    """
    facts = _network_facts(exp, comp)
    images = _images(project, exp)
    found = {
        "experiment": exp.name,
        "parameters": facts["parameters"],
        "gigaflops": round(facts["flops"] / 1e9, 2),
        "epochs": exp.epochs,
        **images,
        "sessions": [_session(device, exp, facts, images) for device in sessions(exp.runtime.precision)],
        "measured": _measured(project, exp),
    }
    if not images:
        found["note"] = f"Steps and hours need folds: gatemask data prepare, then gatemask folds make {project.comp}."
    records = project.records(reads(comp, exp).records.size)
    if not (records / "index.json").exists():
        found["records"] = f"not made yet: {records.name}"
    return found


def show(found: dict[str, Any]) -> None:
    """The plan for people."""
    say(f"{found['experiment']}: {found['parameters'] / 1e6:.1f} M parameters, {found['gigaflops']} Gflop an image")
    if "train_images" in found:
        seen = found["images_first_epoch"], found["images_last_epoch"]
        shown = f"{seen[0]}" if seen[0] == seen[1] else f"{seen[0]} (first) to {seen[1]} (last)"
        say(f"{found['train_images']} training images in fold 0, {shown} of them an epoch; {found['epochs']} epochs")
    columns = ["session", "batch", "steps an epoch", "GB a device", "minutes an epoch", "hours a fold", "all folds"]
    rows = [[_cell(row.get(key)) for key in _COLUMNS] for row in found["sessions"]]
    table("Estimate", columns, rows)
    for key in ("measured", "note", "records"):
        if found.get(key):
            say(f"{key}: {found[key]}")


_COLUMNS = ("session", "batch", "steps", "memory", "minutes_an_epoch", "hours_a_fold", "hours_all_folds")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _session(device: Device, exp: Experiment, facts: dict[str, Any], images: dict[str, Any]) -> dict[str, Any]:
    per_device, batch = exp.batch.per_device, exp.batch.per_device * device.count
    bytes_each = 4 if exp.runtime.precision == "float32" else 2
    image_s = seconds_an_image(device, facts["flops"], facts["outputs"], exp.runtime.precision, STEP)
    needed = (facts["held"] * 4 + facts["outputs"] * bytes_each * per_device) / 1e9
    row = {
        "session": device.name,
        "batch": f"{per_device} x {device.count}",
        "gigabytes": round(needed, 2),
        "memory": f"{needed:.1f} of {device.gigabytes:.0f}" + (" !" if needed > device.gigabytes else ""),
    }
    if not images:
        return row
    seen = (images["images_first_epoch"] + images["images_last_epoch"]) / 2
    epoch_s = (seen + images["validation_images"] / STEP) * image_s / device.count
    hours = (exp.epochs * epoch_s + STARTUP_S) / 3600
    return {
        **row,
        "steps": max(1, int(seen) // batch),
        "minutes_an_epoch": epoch_s / 60,
        "hours_a_fold": hours,
        "hours_all_folds": hours * images["folds"],
        "hours_a_week": device.hours_a_week,
    }


def _network_facts(exp: Experiment, comp: Competition) -> dict[str, Any]:
    """parameters; flops forward and numbers put out by layers, both of one image; held: weights, gradients, moments."""
    from gatemask.training import runtime

    runtime.start(exp.runtime.model_copy(update={"accelerator": "cpu", "precision": "float32", "devices": 1}))
    from gatemask.builders import models, optimizers

    network = models.build_network(exp.model, exp.input.size, comp.image.channels, len(comp.classes))
    weights = network.model.trainable_variables
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(weights)
    numbers = sum(int(np.prod(v.shape)) for v in [*network.model.variables, *weights, *optimizer.variables])
    return {"parameters": network.model.count_params(), "held": numbers, **forward_pass(network.model)}


def forward_pass(network: Any) -> dict[str, int]:
    """flops, and outputs (numbers that layers put out), of one image through a built Keras model."""
    import keras

    flops = outputs = 0
    for layer in network._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model) or not layer._inbound_nodes:
            continue
        shape = layer.output.shape
        made = int(np.prod(shape[1:]))
        outputs += made
        flops += 2 * _multiplications(layer, made)
    return {"flops": flops, "outputs": outputs}


def _multiplications(layer: Any, made: int) -> int:
    """Of one image, by the kernel's size; what is not a convolution or a matrix product counts as nothing."""
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    if type(layer).__name__ == "Conv2DTranspose":  # each input pixel is multiplied with the whole kernel
        source = layer.input.shape
        return int(np.prod(kernel.shape) * source[1] * source[2])
    if type(layer).__name__ == "DepthwiseConv2D":
        return made * int(np.prod(kernel.shape[:2]))
    return made * int(np.prod(kernel.shape[:-1]))


def _images(project: Project, exp: Experiment) -> dict[str, Any]:
    """Counts of fold 0, the first and the last epoch's, as sampling draws them; nothing before folds are made."""
    if not project.folds.exists():
        return {}
    from gatemask.data.split import read_manifest
    from gatemask.input.sampling import sample_epoch

    frame = read_folds(project)
    label = dict(read_manifest(project, "train")[["image_id", "label"]].itertuples(index=False))
    known = sorted(set(frame["fold"]) - {HOLDOUT})
    training = frame["image_id"][(frame["fold"] != known[0]) & (frame["fold"] != HOLDOUT)]
    if lacking := [name for name in training if name not in label]:
        raise GatemaskError("Folds and manifest are of different images.", where=project.folds, received=lacking[0])
    labels = np.array([label[name] for name in training])
    first, last = (
        len(sample_epoch(labels, exp.sampling, epoch, exp.epochs, np.random.default_rng([exp.seed * 1000, epoch])))
        for epoch in (0, exp.epochs - 1)
    )
    return {
        "folds": len(known),
        "train_images": len(training),
        "validation_images": int((frame["fold"] == known[0]).sum()),
        "images_first_epoch": first,
        "images_last_epoch": last,
    }


def _measured(project: Project, exp: Experiment) -> str | None:
    """How long an epoch took where this experiment already ran."""
    from gatemask.tracking.run_folder import read_metrics

    for path in sorted(Path(project.runs / exp.name).glob("fold*/metrics.jsonl")):
        if rows := read_metrics(path):
            seconds = [row["seconds"] for row in rows]
            return f"{np.median(seconds) / 60:.2f} minutes an epoch in {path.parent.name} ({len(rows)} epochs)"
    return None


def this_machine() -> Device:
    """A third of a second each for arithmetic and memory, by what numpy gets out of all cores."""
    a = np.ones((1024, 1024), np.float32)
    flops = 2 * 1024**3 * _rate(lambda: a @ a)
    block = np.ones(1 << 24, np.float32)
    into = np.empty_like(block)
    moved = 2 * block.nbytes * _rate(lambda: np.copyto(into, block))
    return Device("this machine's CPU", 1, _memory_gb(), flops / 1e12, moved / 1e9, None)


def _rate(work: Any) -> float:
    """Calls a second."""
    work()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < 0.3:
        work()
        calls += 1
    return calls / (time.perf_counter() - started)


def _memory_gb() -> float:
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
