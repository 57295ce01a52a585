"""Find the largest batch that fits, by trial on the device, for `batch: {per_device: auto}`.

A trial is the real training step on one batch of random numbers, with a power of two of images per device. The first
one is predicted from the layers of the network. All folds of an experiment train with the batch that was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from gatemask.console import say
from gatemask.errors import GatemaskError, OutOfMemoryError, is_out_of_memory
from gatemask.files import is_locked, locked
from gatemask.input.sampling import offered_images, sample_epoch
from gatemask.results.training import FoundBatch, TriedBatch
from gatemask.training.fold_inputs import TrainingInputs, fingerprints
from gatemask.training.found_batch import batch_path, write_found_batch

if TYPE_CHECKING:
    from gatemask.builders.step_memory import StepMemory
    from gatemask.training.trainer import Trainer

LARGEST = 256  # images per device
UPDATES = 8  # updates of the weights that an epoch has at least
DOUBT = 1.1  # a step that is expected to need up to this share of the limit is tried, where trying is safe
CAUTION = 4  # where running out of memory must be avoided, the first step is expected to need this part of the limit
LOCK_S = 3600.0  # for which another process may be finding the batch


def find_batch(inputs: TrainingInputs, fold: int) -> None:
    """Find and record the batch of an experiment that asks for it, unless it is recorded already.

    Args:
        inputs: Inputs of the experiment.
        fold: Fold that is about to be trained. Its weights must be reset afterwards.

    Raises:
        GatemaskError: Not even one image per device fits, or the memory of the device is unknown.
    """
    if inputs.exp.batch.per_device != "auto" or inputs.found_batch is not None:
        return
    name, path = inputs.exp.name, batch_path(inputs.project, inputs.exp.name)
    lock = path.with_name(f".{path.name}.lock")
    if is_locked(lock):
        say(f"{name}: waiting for another process, which is finding the batch")
    with locked(lock, f"Another process is finding the batch of {name}.", LOCK_S):
        if inputs.found_batch is None:
            from gatemask.training.trainer import Trainer

            trainer = Trainer(inputs)
            found = _try_batches(trainer, fold)
            write_found_batch(inputs.project, name, found)
            trainer.keep_for_found_batch()
            say(f"{name}: {found} images per step fit; all folds train with this batch")


def _try_batches(trainer: Trainer, fold: int) -> FoundBatch:
    from gatemask.builders.step_memory import count_step_values, predict_step_memory
    from gatemask.training.step_trial import StepTrial

    inputs, models, exp = trainer.inputs, trainer.models, trainer.exp
    devices, model = models.devices, models.training_models[False]
    trial = StepTrial(devices, model, exp, trainer.layout)
    values = count_step_values(models.network.model, model.optimizer)
    memory = predict_step_memory(values, exp.runtime.precision, devices.backend)
    most = largest_batch(inputs, fold, devices.count)
    say(f"{exp.name}: finding the batch; a step may use {trial.limit / 1e9:.3g} GB per device")
    best, tried = search(trial.needed, memory, trial.limit, most, trial.must_not_fail)
    trial.finish(best)
    return FoundBatch(
        per_device=best,
        devices=devices.count,
        accelerator=devices.accelerator,
        backend=devices.backend,
        gigabytes=round(trial.limit / 1e9, 3),
        tried=tuple(
            TriedBatch(per_device=images, gigabytes=None if math.isinf(size) else round(size / 1e9, 6))
            for images, size in tried.items()
        ),
        settings=fingerprints(exp)["settings"],
    )


def largest_batch(inputs: TrainingInputs, fold: int, devices: int) -> int:
    """Return the largest number of images per device to try, a power of two.

    An epoch of the fold keeps some updates of the weights.
    """
    exp, examples = inputs.exp, inputs.examples(fold)
    labels, extra = np.array([int(example.label > 0) for example in examples.training]), examples.extra_parts
    offered = labels[offered_images(len(labels), extra, 0, 0)]
    images = min(
        len(sample_epoch(offered, exp.sampling, epoch, exp.epochs, np.random.default_rng(0)))
        for epoch in (0, exp.epochs - 1)
    )
    return largest_power_of_two(images, devices * (exp.optimizer.accumulate or 1))


def largest_power_of_two(images: int, parts: int) -> int:
    """Return the largest number of images per device to try.

    Args:
        images: Images of the shortest epoch.
        parts: Number of devices, times the number of batches per update.

    >>> largest_power_of_two(1000, 1), largest_power_of_two(1000, 8), largest_power_of_two(10, 1)
    (64, 8, 1)
    """
    most = min(LARGEST, max(1, images // (UPDATES * parts)))
    return 1 << (most.bit_length() - 1)


def search(
    needed: Callable[[int], float], memory: StepMemory, limit: float, most: int, must_not_fail: bool = False
) -> tuple[int, dict[int, float]]:
    """Return the largest power of two of images that fits, and what each one that was tried needs, in bytes.

    Args:
        needed: Returns the bytes that a step of so many images needs, by trial; infinity where memory ran out.
        memory: Predicted memory.
        limit: Bytes that a step may use.
        most: Largest power of two to try.
        must_not_fail: Whether running out of memory must be avoided. Only steps that are expected to fit are tried
            then, the first of them small. Default: False.

    Raises:
        OutOfMemoryError: Not even one image fits.
    """
    tried: dict[int, float] = {}
    if must_not_fail and memory.needed(1) > limit:
        _refuse_one_image(memory.needed(1), limit)
    images = memory.largest(limit / CAUTION if must_not_fail else limit, most)
    while images:
        tried[images] = needed(images)
        say(f"  {images} per device: {describe_bytes(tried[images])}")
        images = _next_images(tried, memory, limit, most, must_not_fail)
    best = max((images for images, size in tried.items() if size <= limit), default=0)
    if not best:
        _refuse_one_image(tried[1], limit)
    return best, tried


def _next_images(tried: Mapping[int, float], memory: StepMemory, limit: float, most: int, must_not_fail: bool) -> int:
    """Return the number of images to try next; 0 if the largest that fits has been found."""
    fitting = [images for images, size in tried.items() if size <= limit]
    too_many = min((images for images, size in tried.items() if size > limit), default=2 * most)
    if not fitting:
        known = tried[too_many]
        images = too_many // 2
        per_image = (known - memory.fixed) / too_many
        while images > 1 and math.isfinite(known) and memory.fixed + images * per_image > limit:
            images //= 2
        return images
    *_, best = fitting = sorted(fitting)
    if len(fitting) == 1:
        least = memory.per_image if must_not_fail else memory.per_image / 2
        per_image = max((tried[best] - memory.fixed) / best, least)
    else:
        slope = (tried[best] - tried[fitting[-2]]) / (best - fitting[-2])
        per_image = max(slope, memory.per_image / 4)
    allowed = limit if must_not_fail else limit * DOUBT
    images = best
    while 2 * images < too_many and tried[best] + (2 * images - best) * per_image <= allowed:
        images *= 2
    return images if images > best else 0


def _refuse_one_image(size: float, limit: float) -> None:
    raise OutOfMemoryError(
        "The memory of the device does not suffice for a step of one image.",
        where="batch.per_device",
        received=describe_bytes(size),
        expected=f"at most {limit / 1e9:.3g} GB",
        do="Choose a smaller input.size or encoder, or half precision: runtime: {precision: bfloat16}.",
    )


def describe_bytes(size: float) -> str:
    """Return a size in words, such as "1.5 GB"; infinity means that memory ran out.

    >>> describe_bytes(1.5e9), describe_bytes(float("inf"))
    ('1.5 GB', 'out of memory')
    """
    return "out of memory" if math.isinf(size) else f"{size / 1e9:.3g} GB"


@contextmanager
def explained_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Raise an OutOfMemoryError that says what to do, in place of TensorFlow's and JAX's own errors."""
    try:
        yield
    except Exception as error:
        if isinstance(error, GatemaskError | MemoryError) or not is_out_of_memory(error):
            raise
        inputs, devices, found = trainer.inputs, trainer.models.devices, trainer.found
        if found is None:
            do = "Set batch.per_device to a smaller number, or to auto; or choose half precision or a smaller input."
        else:
            do = (
                f"Train on {found.devices} x {found.accelerator}, where this batch was found. Or delete "
                f"{batch_path(inputs.project, inputs.exp.name)} to find another: all folds are then trained again."
            )
        raise OutOfMemoryError(
            "The memory of the device does not suffice for this batch.",
            where=f"batch.per_device of {inputs.exp.name}",
            received=f"{trainer.batch // devices.count} images of {inputs.exp.input.size} px per device, on "
            f"{devices.count} x {devices.accelerator}",
            do=do,
        ) from error
