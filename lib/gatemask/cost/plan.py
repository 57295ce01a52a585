"""`gatemask plan`: estimate parameters, memory, steps and hours of an experiment before it is pushed.

Hours are a roofline estimate, see gatemask.cost.devices: expect the right order of magnitude. The duration of an
epoch that has run is shown next to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.console import say, table
from gatemask.cost.devices import Device, kaggle_t4, kaggle_tpu, seconds_per_image, this_machine
from gatemask.cost.memory import NetworkSize, keep_network_size, plan_batch
from gatemask.cost.network import count_forward_pass
from gatemask.cost.tile_counts import count_tiles
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.cost import ExperimentPlan, SessionPlan
from gatemask.training.fold_inputs import TrainingInputs, with_record_size

STEP_PASSES = 3  # cost of a training step in forward passes: one forward, about two backward
STARTUP_S = 240  # imports, first compilation, reading the records


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images, or of tiles, of an experiment; `train` to `last_epoch` are those of the first fold."""

    folds: int
    train: int
    validation: int
    first_epoch: int
    last_epoch: int

    @property
    def shortest_epoch(self) -> int:
        return min(self.first_epoch, self.last_epoch)


def plan_experiment(project: Project, comp: Competition, exp: Experiment) -> ExperimentPlan:
    """Estimate the cost of an experiment.

    Args:
        project: Project whose split, if it exists already, gives the number of images.
        comp: Competition.
        exp: Experiment.
    """
    size = _network_size(exp, comp)
    keep_network_size(project, comp, exp, size)
    images = count_images(project, comp, exp)
    precision = exp.runtime.precision
    devices = [kaggle_tpu(precision), kaggle_t4(2, precision), this_machine()]
    plan: dict[str, object] = {
        "experiment": exp.name,
        "parameters": size.parameters,
        "gigaflops": round(size.work.flops / 1e9, 2),
        "epochs": exp.epochs,
        "sessions": [plan_session(device, exp, size, images) for device in devices],
        "measured": _measured_epoch(project, exp),
    }
    if (found := TrainingInputs(project, comp, exp).found_batch) is not None:
        plan["batch"] = f"{found}, found on {found.devices} x {found.accelerator}"
    if images is not None:
        plan |= {
            "folds": images.folds,
            "train_images": images.train,
            "validation_images": images.validation,
            "images_first_epoch": images.first_epoch,
            "images_last_epoch": images.last_epoch,
        }
        if comp.tiles is not None:
            plan["tiled"] = True
    else:
        plan["note"] = f"Steps and hours need folds: gatemask data prepare, then gatemask folds make {project.comp}."
    records = project.records(with_record_size(comp, exp).records.size)
    if not (records / "index.json").exists():
        plan["records"] = f"not made yet: {records.name}"
    return ExperimentPlan.model_validate(plan)


def plan_session(device: Device, exp: Experiment, size: NetworkSize, images: ImageCounts | None) -> SessionPlan:
    """Estimate the cost of an experiment on one kind of session.

    Args:
        device: Devices of the session.
        exp: Experiment.
        size: Size of its network.
        images: Its numbers of images; None before folds exist.
    """
    precision = exp.runtime.precision
    batch = plan_batch(device, exp, size, None if images is None else images.shortest_epoch)
    needed = batch.needed / 1e9
    row: dict[str, object] = {
        "session": device.name,
        "batch": str(batch),
        "gigabytes": round(needed, 2),
        "memory": f"{needed:.1f} of {device.gigabytes:.0f}" + ("" if batch.fits else " !"),
    }
    if not batch.fits:
        row["note"] = batch.note(device.name)
    if images is None:
        return SessionPlan.model_validate(row)
    image_s = seconds_per_image(device, size.work, precision, STEP_PASSES)
    drawn = (images.first_epoch + images.last_epoch) / 2
    epoch_s = (drawn + images.validation / STEP_PASSES) * image_s / device.count
    fold_hours = (exp.epochs * epoch_s + STARTUP_S) / 3600
    row |= {
        "steps": max(1, int(drawn) // (batch.per_device * device.count)),
        "minutes_an_epoch": epoch_s / 60,
        "hours_a_fold": fold_hours,
        "hours_all_folds": fold_hours * images.folds,
        "hours_a_week": device.hours_per_week,
    }
    return SessionPlan.model_validate(row)


def print_plan(plan: ExperimentPlan) -> None:
    """Print a plan as a table."""
    say(f"{plan.experiment}: {plan.parameters / 1e6:.1f} M parameters, {plan.gigaflops} Gflop per image")
    if plan.train_images is not None:
        first, last = plan.images_first_epoch, plan.images_last_epoch
        drawn = f"{first}" if first == last else f"{first} (first) to {last} (last)"
        kind = "tiles" if plan.tiled else "images"
        say(f"{plan.train_images} training {kind} in fold 0, {drawn} of them per epoch; {plan.epochs} epochs")
    columns = ["session", "batch", "steps/epoch", "GB/device", "minutes/epoch", "hours/fold", "all folds"]
    rows = [
        [
            session.session,
            session.batch,
            "-" if session.steps is None else str(session.steps),
            session.memory,
            *map(_decimal, (session.minutes_an_epoch, session.hours_a_fold, session.hours_all_folds)),
        ]
        for session in plan.sessions
    ]
    table("Estimate", columns, rows)
    for session in plan.sessions:
        if session.note:
            say(session.note)
    for name, text in (
        ("batch", plan.batch),
        ("measured", plan.measured),
        ("note", plan.note),
        ("records", plan.records),
    ):
        if text:
            say(f"{name}: {text}")


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _network_size(exp: Experiment, comp: Competition) -> NetworkSize:
    from gatemask.training import runtime

    on_cpu = {"accelerator": "cpu", "precision": "float32", "devices": 1}
    runtime.start_keras(exp.runtime.model_copy(update=on_cpu))
    from gatemask.builders import models, optimizers
    from gatemask.builders.step_memory import count_step_values

    network = models.network_for(exp, comp).model
    optimizer = optimizers.build_optimizer(exp.optimizer, 1e-3)
    optimizer.build(network.trainable_variables)
    return NetworkSize(network.count_params(), count_step_values(network, optimizer), count_forward_pass(network))


def count_images(project: Project, comp: Competition, exp: Experiment) -> ImageCounts | None:
    """Count the images of the first fold, and those its first and last epoch draw; None before folds exist.

    Of tiled images, tiles are counted, and all tiles of a positive image as positive: which are is known to records.
    """
    if not project.folds.exists():
        return None
    from gatemask.data.split import read_manifest
    from gatemask.input.sampling import sample_epoch

    inputs = TrainingInputs(project, comp, exp)
    images = read_manifest(project, "train").set_index("image_id", drop=False)
    if missing := [name for name in inputs.split["image_id"] if name not in images.index]:
        raise GatemaskError("Folds and manifest list different images.", where=project.folds, received=missing[0])
    images = images.loc[list(inputs.split["image_id"])]
    validates = (inputs.split["fold"] == inputs.folds[0]).to_numpy()
    tiles = count_tiles(images, comp)
    labels = np.repeat(images["label"].to_numpy(int)[~validates], tiles[~validates])
    first, last = (
        len(sample_epoch(labels, exp.sampling, epoch, exp.epochs, np.random.default_rng([exp.seed * 1000, epoch])))
        for epoch in (0, exp.epochs - 1)
    )
    return ImageCounts(len(inputs.folds), len(labels), int(tiles[validates].sum()), first, last)


def _measured_epoch(project: Project, exp: Experiment) -> str | None:
    """Describe how long an epoch of this experiment took, where it has run before."""
    from gatemask.tracking.run_folder import read_readable_metrics

    for path in sorted((project.runs / exp.name).glob("fold*/metrics.jsonl")):
        if seconds := [row["seconds"] for row in read_readable_metrics(path) if "seconds" in row]:
            minutes = np.median(seconds) / 60
            return f"{minutes:.2f} minutes per epoch in {path.parent.name} ({len(seconds)} epochs)"
    return None
