"""Predict a test set with the members of an ensemble, from folders to submission.csv.

This is what the offline kernel runs, so it needs only the packages of Kaggle's image. A complete, empty submission is
written before the first image and replaced at the end. From then on a fault of an image, a member or the time limit
costs no more than itself; `degraded` in inference.json says what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatemask.config import Inference, Rle
from gatemask.console import progress, say
from gatemask.data.mask_sizes import MaskSizes, common_size
from gatemask.data.readers import list_images
from gatemask.data.submission_format import Encoded
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_json
from gatemask.inference import networks
from gatemask.inference.budget import Budget
from gatemask.inference.decisions import Decider, Gates
from gatemask.inference.images import DecodedImage, FileSizes, InputSize, TestImageReader
from gatemask.inference.members import LoadedEnsemble
from gatemask.inference.networks import LoadedMember
from gatemask.inference.output import SubmissionFile
from gatemask.inference.test_set import TestSet, open_test_set
from gatemask.inference.tiles import TilePredictor
from gatemask.masks import rle
from gatemask.masks.frame import Frame, resize_map, restore_map
from gatemask.masks.rule import Rule, decide, decide_objects
from gatemask.masks.rule_files import of_values
from gatemask.parallel import cores, keep_freed_memory, peak_memory, single_threaded_opencv
from gatemask.results.ensemble import CompetitionFacts, ShippedEnsemble, ShippedMember
from gatemask.results.submission import InferenceReport, MemberTiming

MARGIN_H = 0.25  # hours before Kaggle's time limit, where no time budget is set
MAX_UNREADABLE = 0.1  # share of unreadable images above which the images are not to blame


def predict_test_set(
    ensemble: ShippedEnsemble,
    dataset: Path,
    competition: Path,
    working: Path,
    damaged: Mapping[str, str] | None = None,
    forgive: bool = True,
    started: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> InferenceReport:
    """Predict a test set, and write submission.csv (an archive: submission.zip) and inference.json.

    Args:
        ensemble: Contents of the dataset's ensemble.yaml.
        dataset: Packaged folder with `<member>.weights.h5` and SHA256SUMS.
        competition: Folder with the test images, and the sample submission where there is one.
        working: Folder for both files.
        damaged: Files of the dataset that differ from what was packaged, with the fault of each. Default: none.
        forgive: Continue without members that cannot be used, and without a sample submission, instead of raising an
            error. Default: True.
        started: Value of the clock when the kernel began; time limits count from there. Default: now.
        clock: Returns seconds. Default: `time.monotonic`.

    Raises:
        GatemaskError: Something needed is missing; with `forgive` only if no row of the submission is known.
    """
    begun = clock()
    damaged = damaged or {}
    degraded = [f"{name} {fault}." for name, fault in sorted(damaged.items())]
    facts = ensemble.competition
    test_set = open_test_set(competition, facts, degraded, forgive)
    reader = TestImageReader(test_set.files, facts.image, facts.tiles)
    sizes = MaskSizes.of(facts.image, FileSizes(reader))
    output = SubmissionFile(working / facts.submission.file_name, test_set.table, sizes)
    output.prepare(degraded, forgive)
    encoded, report = predict_images(
        ensemble, dataset, test_set, reader, degraded, damaged, forgive, begun if started is None else started, clock
    )
    output.replace(encoded, degraded)
    seconds = round(clock() - begun, 1)
    report = report.model_copy(update={"degraded": degraded, "seconds": seconds, "submission": sha256(output.path)})
    with suppress(OSError):  # what counts is the submission
        write_json(working / "inference.json", report.as_dict())
    return report


def predict_images(
    ensemble: ShippedEnsemble,
    dataset: Path,
    test_set: TestSet,
    reader: TestImageReader,
    degraded: list[str],
    damaged: Mapping[str, str],
    forgive: bool,
    started: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Encoded, InferenceReport]:
    """Predict the images of a test set.

    Args:
        ensemble, dataset, damaged, forgive, started, clock: As for `predict_test_set`.
        test_set: Images and rows.
        reader: Reader of the images.
        degraded: What went wrong so far, one sentence each; extended.

    Returns:
        The encoded masks that are not empty, by image id and class; and the report, without the submission's hash.
    """
    facts, settings = ensemble.competition, ensemble.inference or Inference()
    device = networks.accelerator()
    precision = networks.precision_for(settings.precision, device)
    loaded = _load_ensemble(ensemble, dataset, precision, damaged, degraded, forgive)
    budget = _budget(ensemble, loaded, started, clock)
    encoded = _predict_what_is_possible(facts, loaded, reader, test_set, budget, forgive)
    report = InferenceReport(
        **_counts(test_set, encoded, budget),
        odd_sizes=reader.odd_sizes,
        unreadable=dict(sorted(reader.unreadable.items())),
        degraded=degraded,
        dropped=loaded.dropped,
        members=_timings(budget),
        device=device,
        precision=precision,
        seconds_per_image=round(budget.seconds_per_image, 6),
        peak_megabytes=round(peak_memory() / 1e6),
        submission=None,
        package=sha256(dataset / "SHA256SUMS"),
    )
    return encoded, report


def _counts(test_set: TestSet, encoded: Encoded, budget: Budget) -> dict[str, int]:
    rows = test_set.table.rows
    return {
        "images": len(test_set.ids),
        "rows": len(rows),
        "passed": budget.passed,
        "empty": sum(row.key not in encoded for row in rows),
        "extra": len(set(test_set.files) - set(test_set.ids)),
    }


def _timings(budget: Budget) -> dict[str, MemberTiming]:
    return {
        name: MemberTiming(images=spent.images, seconds_per_image=round(spent.per_image, 6))
        for name, spent in budget.spent.items()
    }


# --- the test set -------------------------------------------------------------------------------------------


def find_competition(mounted: Path, dataset: Path, facts: CompetitionFacts) -> Path:
    """Return the folder with the test images. Kaggle's mounts differ in depth, so it is searched for.

    Args:
        mounted: Folder of all mounts, /kaggle/input.
        dataset: Folder of the packaged dataset, which is not searched.
        facts: Facts of the competition.

    Raises:
        GatemaskError: The competition is not mounted.
    """
    sample = facts.submission.sample
    folders = [
        folder
        for depth in range(1, 5)
        for folder in sorted(mounted.glob("/".join(["*"] * depth)))
        if folder.is_dir() and dataset not in (folder, *folder.parents)
    ]
    # The sample marks the root exactly; a pattern such as **/*.png would match above it too.
    for folder in folders if sample else []:
        if sample and (folder / sample).is_file():
            return folder
    for folder in folders:
        if any(list_images(folder, facts.test_images)):
            return folder
    mounts = [folder for folder in folders if folder.parent.name == "competitions"]
    if len(mounts) == 1:  # a test set that is entirely hidden
        return mounts[0]
    raise GatemaskError(
        "No test images were found.",
        where=mounted,
        expected=sample or facts.test_images,
        do="Attach the competition as a source of the kernel.",
    )


# --- the members --------------------------------------------------------------------------------------------


def _load_ensemble(
    ensemble: ShippedEnsemble,
    dataset: Path,
    precision: str,
    damaged: Collection[str],
    degraded: list[str],
    forgive: bool,
) -> LoadedEnsemble:
    facts, settings = ensemble.competition, ensemble.inference or Inference()

    def report_failure(member: ShippedMember, reason: str) -> None:
        degraded.append(f"{member.name} cannot be loaded: {reason}.")
        say(degraded[-1])

    def load(kind: str, members: Sequence[ShippedMember], outputs: int) -> dict[str, LoadedMember]:
        intact = [member for member in members if networks.weights_path(dataset, member).name not in damaged]
        on_failure = report_failure if forgive else None
        loaded = networks.load_members(
            intact,
            dataset,
            outputs,
            facts.image.channels,
            precision,
            settings.batch,
            on_failure,
            facts.exclusive,
            facts.outputs > len(facts.classes),
        )
        if members and not any(member.name in loaded for member in intact):
            degraded.append(f"No {kind} network is left.")
        return loaded

    loaded = {**load("gate", ensemble.gate, len(facts.classes)), **load("mask", ensemble.mask, facts.outputs)}
    return LoadedEnsemble(
        gates=[member for member in ensemble.gate if member.name in loaded],
        masks=[member for member in ensemble.mask if member.name in loaded],
        networks=loaded,
        rules=of_values(ensemble.class_rules),
        border=facts.outputs > len(facts.classes),
        degraded=degraded,
        may_drop=settings.time_budget is not None,
    )


def _limit_s(settings: Inference) -> float:
    """Return the seconds after which the submission must be written: the time budget, but before Kaggle's limit."""
    limit_h = max(settings.hours - MARGIN_H, settings.hours / 2)
    return 3600 * min(limit_h, settings.time_budget or limit_h)


def _budget(ensemble: ShippedEnsemble, loaded: LoadedEnsemble, started: float, clock: Callable[[], float]) -> Budget:
    devices = {network.device for network in loaded.networks.values()}
    limit_s = _limit_s(ensemble.inference or Inference())
    return Budget(limit_s, started, ensemble.passing_share, clock, len(devices) or 1)


# --- the masks ----------------------------------------------------------------------------------------------


def _predict_what_is_possible(
    facts: CompetitionFacts,
    ensemble: LoadedEnsemble,
    reader: TestImageReader,
    test_set: TestSet,
    budget: Budget,
    forgive: bool,
) -> dict[tuple[str, int], list[str]]:
    """Return the encoded masks that are not empty, by image id and class; with `forgive`, those before an error."""
    encoded: dict[tuple[str, int], list[str]] = {}
    total = len(test_set.ids)
    try:
        _predict_masks(encoded, facts, ensemble, reader, test_set, budget)
    except Exception as error:
        if not forgive:
            raise
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ensemble.degraded.append(f"Prediction ended after {budget.gated} of {total} images: {reason}")
    if len(reader.unreadable) > MAX_UNREADABLE * total:
        ensemble.degraded.append(f"{len(reader.unreadable)} of {total} images could not be read.")
    return encoded


def _predict_masks(
    encoded: dict[tuple[str, int], list[str]],
    facts: CompetitionFacts,
    ensemble: LoadedEnsemble,
    reader: TestImageReader,
    test_set: TestSet,
    budget: Budget,
) -> None:
    """Add the encoded masks that are not empty to `encoded`, by image id and class index."""
    gate_sizes = list(dict.fromkeys(InputSize.of(member) for member in ensemble.gates))
    records = {member.records_shape for member in [*ensemble.gates, *ensemble.masks]}
    step = max([network.batch for network in ensemble.networks.values()], default=networks.BATCH_ON_CPU)
    tiles = None if facts.tiles is None else TilePredictor(ensemble, budget, facts.tiles, step)
    finisher = _Finisher(facts, ensemble.rules, test_set.table.format.dialect)
    keep_freed_memory()
    budget.start_images()
    decider = Decider(ensemble, budget, step, finisher.finish, tiles)
    ids, known = test_set.ids, None
    with ThreadPoolExecutor(cores()) as pool, single_threaded_opencv():
        if ensemble.by_quantile:
            images = reader.stream(ids, gate_sizes, records, pool, 2 * step)
            known = decider.rank(progress(images, "gates", len(ids)), len(ids))
            ids, gate_sizes = [image_id for image_id in ids if image_id in known], []
        images = reader.stream(ids, gate_sizes, records, pool, 2 * step)
        for decision in progress(decider.decide(images, len(ids), known), "images", len(ids)):
            for index, texts in enumerate(decision.encoded or ()):
                if texts:
                    encoded[decision.image_id, index] = list(texts)
    say(f"gate: {budget.passed} of {budget.gated} images pass")


@dataclass(frozen=True)
class _Finisher:
    """The way from the averaged map of an image to what its rows hold.

    Args:
        facts: Facts of the competition.
        rules: One rule per class.
        dialect: How masks are encoded.
    """

    facts: CompetitionFacts
    rules: Sequence[Rule]
    dialect: Rle

    def finish(self, image: DecodedImage, gates: Gates, averaged: np.ndarray) -> list[list[str]]:
        """Return the encoded masks, or objects, of each class: none of an empty mask."""
        facts = self.facts
        size = common_size(facts.image) or image.size
        if facts.tiles is None:
            full_map = restore_map(averaged, Frame(facts.records or size, facts.image.fit), image.size, size)
        else:
            full_map = resize_map(averaged, size)
        if facts.objects is None:
            masks = decide(self.rules, gates, full_map, facts.exclusive)
        else:
            label = decide_objects(self.rules, gates, full_map, facts.exclusive)
            if facts.submission.by_object:
                return [rle.encode_objects(label[:, :, index], self.dialect) for index in range(label.shape[2])]
            masks = label > 0
        texts = [rle.encode(masks[:, :, index], self.dialect) for index in range(masks.shape[2])]
        return [[text] if text != self.dialect.empty else [] for text in texts]
