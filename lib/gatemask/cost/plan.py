"""`gatemask plan`: estimate parameters, memory, steps and hours of an experiment before it is pushed.

Hours are a roofline estimate, see gatemask.cost.devices: expect the right order of magnitude. The duration of an
epoch that has run is shown next to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.config import Competition, Experiment
from gatemask.config.machines import Machine, machine, machines
from gatemask.console import say, table
from gatemask.cost.devices import Device, devices_of, exchange_seconds, seconds_per_image, this_machine
from gatemask.cost.memory import NetworkSize, keep_network_size, plan_batch
from gatemask.cost.network import count_forward_pass
from gatemask.cost.tile_counts import count_tiles
from gatemask.errors import GatemaskError
from gatemask.input.sampling import ExtraPart
from gatemask.masks.tiling import input_tiles
from gatemask.project import Project
from gatemask.results.cost import ExperimentPlan, SessionPlan
from gatemask.training.fold_inputs import TrainingInputs, class_weights, extra_parts, with_record_size

STEP_PASSES = 3  # cost of a training step in forward passes: one forward, about two backward
STARTUP_S = 240  # imports, first compilation, reading the records
WORTH_SAYING = 0.05  # share of the hours that another setting must save to be advised


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
    size = network_size(exp, comp)
    keep_network_size(project, comp, exp, size)
    images = count_images(project, comp, exp)
    precision = exp.runtime.precision
    devices = [*(devices_of(planned, precision) for planned in _planned_machines(comp)), this_machine()]
    sessions = [plan_session(device, exp, size, images) for device in devices]
    plan: dict[str, object] = {
        "experiment": exp.name,
        "parameters": size.parameters,
        "gigaflops": round(size.work.flops / 1e9, 2),
        "epochs": exp.epochs,
        "sessions": sessions,
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
    if advice := advised_settings(comp, exp, sessions):
        plan["advice"] = advice
    class_weights(comp, exp)
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
    alone, together = device.alone(), device.of_a_fold(exp)
    batch = plan_batch(together, exp, size, None if images is None else images.shortest_epoch)
    needed = batch.needed / 1e9
    row: dict[str, object] = {
        "session": device.name,
        "machine": device.machine,
        "batch": str(batch),
        "gigabytes": round(needed, 2),
        "memory": f"{needed:.1f} of {device.gigabytes:.0f}" + ("" if batch.fits else " !"),
    }
    if not batch.fits:
        row["note"] = batch.note(device.name)
    if images is None:
        return SessionPlan.model_validate(row)
    steps, epoch_s = _epoch(together, exp, size, images)
    row |= {
        "steps": steps,
        "minutes_an_epoch": epoch_s / 60,
        "hours_a_fold": _fold_hours(exp, epoch_s),
        "hours_all_folds": _fold_hours(exp, _epoch(device, exp, size, images)[1]) * images.folds,
        "hours_a_week": device.hours_per_week,
    }
    if device.separable:
        rounds = math.ceil(images.folds / device.count)
        row["hours_side_by_side"] = _fold_hours(exp, _epoch(alone, exp, size, images)[1]) * rounds
    return SessionPlan.model_validate(row)


def _epoch(device: Device, exp: Experiment, size: NetworkSize, images: ImageCounts) -> tuple[int, float]:
    """Return the steps of an average epoch, and its duration in seconds, validation included."""
    drawn = (images.first_epoch + images.last_epoch) / 2
    batch = plan_batch(device, exp, size, images.shortest_epoch)
    steps = max(1, int(drawn) // (batch.per_device * device.count))
    image_s = seconds_per_image(device, size.work, exp.runtime.precision, STEP_PASSES)
    validated = images.validation * crops_per_input(exp) / STEP_PASSES
    computing_s = (drawn + validated) * image_s / device.count
    return steps, computing_s + steps * exchange_seconds(device, size.parameters)


def crops_per_input(exp: Experiment) -> float:
    """Return the work of predicting a whole input, in forward passes of what is trained on: 1 without crops."""
    whole, trained = exp.input.shape, exp.input.training_shape
    if exp.input.tile is not None:
        return len(input_tiles(whole, exp.input.tile))
    return math.prod(whole) / math.prod(trained)


def _fold_hours(exp: Experiment, epoch_s: float) -> float:
    return (exp.epochs * epoch_s + STARTUP_S) / 3600


def _planned_machines(comp: Competition) -> list[Machine]:
    """Return the machines with accelerators that every account has, and the competition's own."""
    offered = [m for m in machines().values() if m.kind != "cpu" and not m.for_competitions]
    own = machine(comp.kaggle.accelerator)
    return offered if own in offered or own.kind == "cpu" else [own, *offered]


def advised_settings(comp: Competition, exp: Experiment, sessions: Sequence[SessionPlan]) -> str | None:
    """Return settings that would train an experiment faster, in words; None if there are none.

    Args:
        comp: Competition, which names the machine.
        exp: Experiment.
        sessions: Its cost on each kind of session.
    """
    advice = _precision_advice(comp, exp), _folds_advice(comp, exp, sessions)
    return "; ".join(filter(None, advice)) or None


def _precision_advice(comp: Competition, exp: Experiment) -> str | None:
    """Return in words that the competition's machine does not compute in the precision of the experiment."""
    own, precision = machine(comp.kaggle.accelerator), exp.runtime.precision
    if own.kind == "cpu" or own.supports(precision) or exp.runtime.accelerator not in ("auto", own.kind):
        return None
    return f"{own.title} has no {precision}, which is as slow there as float32: set runtime.precision: float16"


def _folds_advice(comp: Competition, exp: Experiment, sessions: Sequence[SessionPlan]) -> str | None:
    """Return in words what another setting of the experiment would change on the competition's GPUs, or on T4s."""
    separable = [session for session in sessions if session.hours_side_by_side is not None]
    if not separable or exp.runtime.accelerator in ("tpu", "cpu"):
        return None
    session = next((one for one in separable if one.machine == comp.kaggle.accelerator), separable[0])
    hours = {"sequence": session.hours_all_folds, "parallel": session.hours_side_by_side}
    present, other = exp.runtime.folds, "sequence" if exp.runtime.folds == "parallel" else "parallel"
    present_h, other_h = hours[present], hours[other]
    if present_h is None or other_h is None or other_h > present_h * (1 - WORTH_SAYING):
        return None
    batch = ", with the batch of one device" if other == "parallel" else ", with the batch of all devices"
    return (
        f"on {session.session}, runtime.folds: {other} would train all folds in {other_h:.2f} h instead of "
        f"{present_h:.2f} h{batch}"
    )


def print_plan(plan: ExperimentPlan) -> None:
    """Print a plan as a table."""
    say(f"{plan.experiment}: {plan.parameters / 1e6:.1f} M parameters, {plan.gigaflops} Gflop per image")
    if plan.train_images is not None:
        first, last = plan.images_first_epoch, plan.images_last_epoch
        drawn = f"{first}" if first == last else f"{first} (first) to {last} (last)"
        kind = "tiles" if plan.tiled else "images"
        say(f"{plan.train_images} training {kind} in fold 0, {drawn} of them per epoch; {plan.epochs} epochs")
    columns = ["session", "batch", "steps/epoch", "GB/device", "minutes/epoch", "hours/fold", "all folds"]
    columns.append("side by side")
    rows = [
        [
            session.session,
            session.batch,
            "-" if session.steps is None else str(session.steps),
            session.memory,
            *map(_decimal, (session.minutes_an_epoch, session.hours_a_fold, session.hours_all_folds)),
            _decimal(session.hours_side_by_side),
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
        ("advice", plan.advice),
        ("records", plan.records),
    ):
        if text:
            say(f"{name}: {text}")


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def network_size(exp: Experiment, comp: Competition) -> NetworkSize:
    """Build the network of an experiment on the CPU, and return its size."""
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
    from gatemask.input.sampling import offered_images, sample_epoch

    inputs = TrainingInputs(project, comp, exp)
    images = read_manifest(project, "train").set_index("image_id", drop=False)
    if missing := [name for name in inputs.split["image_id"] if name not in images.index]:
        raise GatemaskError("Folds and manifest list different images.", where=project.folds, received=missing[0])
    images = images.loc[list(inputs.split["image_id"])]
    validates = (inputs.split["fold"] == inputs.folds[0]).to_numpy()
    tiles = count_tiles(images, comp)
    own = np.repeat(images["label"].to_numpy(int)[~validates], tiles[~validates])
    labels, extra = _with_sources(own, inputs)

    def images_of(epoch: int) -> int:
        offered = labels[offered_images(len(labels), extra, epoch, exp.seed * 1000)]
        rng = np.random.default_rng([exp.seed * 1000, epoch])
        return len(sample_epoch(offered, exp.sampling, epoch, exp.epochs, rng))

    first, last = images_of(0), images_of(exp.epochs - 1)
    return ImageCounts(len(inputs.folds), len(labels), int(tiles[validates].sum()), first, last)


def _with_sources(own: np.ndarray, inputs: TrainingInputs) -> tuple[np.ndarray, list[ExtraPart]]:
    """Return the labels of the first fold's training images with those of its sources, and where these are."""
    parts = inputs.extra_examples(inputs.folds[0])
    labels = [own, *(np.array([int(example.label > 0) for example in part.examples]) for part in parts)]
    return np.concatenate(labels), extra_parts(len(own), parts)


def _measured_epoch(project: Project, exp: Experiment) -> str | None:
    """Describe how long an epoch of this experiment took, where it has run before."""
    from gatemask.tracking.run_folder import read_readable_metrics

    for path in sorted((project.runs / exp.name).glob("fold*/metrics.jsonl")):
        if seconds := [row["seconds"] for row in read_readable_metrics(path) if "seconds" in row]:
            minutes = np.median(seconds) / 60
            return f"{minutes:.2f} minutes per epoch in {path.parent.name} ({len(seconds)} epochs)"
    return None
