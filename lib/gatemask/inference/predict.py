"""Gate-first prediction: from test images to submission.csv with the members of an ensemble.yaml.

The gates see every image; the mask networks see only those whose averaged gate probability passes the rule. No
approximation: an image below the gate is empty whatever its map says. Each image is decoded once, goes through all
members, and is forgotten: memory does not grow with their number. This module is what the offline kernel runs, so it
needs nothing that Kaggle's image does not have.

A complete, empty submission is written before the first image, and replaced in the end. From then on nothing that is
wrong with an image, a member or the time costs more than itself: `degraded` says what happened.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatemask.config import Rle, Submission
from gatemask.console import progress, say
from gatemask.data.readers import list_images
from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, sha256, write_json
from gatemask.inference import networks
from gatemask.inference.budget import Budget
from gatemask.inference.images import Image, Images, stack
from gatemask.inference.networks import Member, Network
from gatemask.masks import rle
from gatemask.masks import rule as rules
from gatemask.masks.rule import Rule
from gatemask.parallel import cores, keep_freed_memory, single_threaded_opencv
from gatemask.submission.file_format import SubmissionFormat, SubmissionTable, reserve_disk_space

MARGIN_H = 0.25  # before the end of what Kaggle allows, where no time budget is given
UNREADABLE = 0.1  # a larger share of the images, and it is not the images
FINISHING = 64  # images whose masks may be in the making: memory is that of so many full-size maps


class Decided(NamedTuple):
    """What became of an image: its gate's probability, and what was made of its masks if it passed."""

    image_id: str
    gate: float
    made: Any


@dataclass
class Ensemble:
    """Members that are loaded, with the rule.

    Args:
        gates, masks: in the order in which they were taken; where time runs out, the last go first.
        networks: by member's name.
        rules: one a class.
        size: height and width of the masks.
        overlap: whether classes may share pixels.
        degraded: sentences on all that did not go as it should.
        may_drop: whether members may be dropped for time: asked for, it is nothing that went wrong.
    """

    gates: list[Member]
    masks: list[Member]
    networks: dict[str, Network]
    rules: list[Rule]
    size: tuple[int, int]
    overlap: bool = True
    degraded: list[str] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    may_drop: bool = False

    @property
    def lowest_gate(self) -> float:
        return min(rule.gate for rule in self.rules)

    def without(self, member: Member, why: str, image: int) -> None:
        """Go on without a member."""
        self.gates = [one for one in self.gates if one is not member]
        self.masks = [one for one in self.masks if one is not member]
        self.dropped.append({"name": member.name, "from_image": image, "why": why})
        say(f"{member.name} is dropped from image {image} on: {why}")


def decide(
    ensemble: Ensemble,
    images: Iterable[Image],
    total: int,
    budget: Budget,
    step: int,
    make: Callable[[np.ndarray], Any],
) -> Iterator[Decided]:
    """Decide image after image, with memory that does not depend on how many there are.

    Args:
        ensemble: loses members that fail, or for which there is no time.
        images: decoded ones.
        total: how many.
        budget: is told what everything took.
        step: images that are shown to the members together.
        make: of masks, bool (height, width, classes), what is wanted of them; runs in threads.
    """
    waiting: list[tuple[Image, float]] = []  # have passed, and wait until there are enough for a step
    finishing: deque[Future[Decided]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        for part in _parts(images, step):
            if budget.is_up():
                ensemble.degraded.append(f"Time was up after {budget.seen} of {total} images: the rest stays empty.")
                waiting = []
                break
            for image, gate in zip(part, _gates(ensemble, part, budget), strict=True):
                if image.readable and gate >= ensemble.lowest_gate and ensemble.masks:
                    waiting.append((image, gate))
                    budget.passed += 1
                else:
                    yield Decided(image.image_id, gate, None)
            budget.saw(len(part))
            while len(waiting) >= step:
                finishing += _show(ensemble, waiting[:step], budget, pool, make)
                waiting = waiting[step:]
                while len(finishing) > FINISHING:
                    yield finishing.popleft().result()
            _keep_to(ensemble, budget, total - budget.seen, len(waiting))
        if waiting:
            finishing += _show(ensemble, waiting, budget, pool, make)
        while finishing:
            yield finishing.popleft().result()


def _parts(images: Iterable[Image], step: int) -> Iterator[list[Image]]:
    part: list[Image] = []
    for image in images:
        part.append(image)
        if len(part) == step:
            yield part
            part = []
    if part:
        yield part


def _keep_to(ensemble: Ensemble, budget: Budget, images: int, waiting: int) -> None:
    """Say how far it is, and drop the members for which there is no time."""
    if line := budget.tell(images, waiting, ensemble.gates, ensemble.masks):
        say(line)
    if budget.limit_s is None or not images:
        return
    gates, masks = budget.fitting(images, waiting, ensemble.gates, ensemble.masks)
    for member in [*ensemble.masks[::-1], *ensemble.gates[::-1]]:
        if member not in gates and member not in masks:
            ensemble.without(member, "there is no time for it", budget.seen)
            if not ensemble.may_drop:
                ensemble.degraded.append(f"{member.name} is dropped from image {budget.seen} on, for want of time.")


def _gates(ensemble: Ensemble, part: list[Image], budget: Budget) -> list[float]:
    """The averaged gate probability of each image; 1 where no gate is left."""
    found = _predicted(ensemble, ensemble.gates, part, budget)
    if not found:
        return [1.0] * len(part)
    # In parts of the largest: equal shares are ones then, and their sum is as exact as a plain one.
    largest = max(member.share for member, _ in found)
    shares = [member.share / largest for member, _ in found]
    # Rounded as the out-of-fold file keeps it.
    values = [[round(float(value), 6) for value in said[:, 0]] for _, said in found]
    return [
        sum(share * value for share, value in zip(shares, of_image, strict=True)) / sum(shares)
        for of_image in zip(*values, strict=True)
    ]


def _show(
    ensemble: Ensemble,
    part: list[tuple[Image, float]],
    budget: Budget,
    pool: ThreadPoolExecutor,
    make: Callable[[np.ndarray], Any],
) -> list[Future[Decided]]:
    """Show images that have passed to the mask networks; averaging, enlarging and the rule go on in threads."""
    found = _predicted(ensemble, ensemble.masks, [image for image, _ in part], budget)
    shares = [member.share for member, _ in found]
    maps = [rules.as_uint8(said) for _, said in found]

    def finish(at: int) -> Decided:
        image, gate = part[at]
        if not maps:
            return Decided(image.image_id, gate, None)
        small = rules.average_maps([one[at] for one in maps], shares)
        full = rules.resize_map(small, ensemble.size)
        return Decided(image.image_id, gate, make(rules.apply_rules(ensemble.rules, gate, full, ensemble.overlap)))

    return [pool.submit(finish, at) for at in range(len(part))]


def _predicted(
    ensemble: Ensemble, listed: Sequence[Member], part: list[Image], budget: Budget
) -> list[tuple[Member, np.ndarray]]:
    """What each member says, in their order; one that fails, or says what is no number, is dropped."""
    batches = {look: stack(part, look) for look in {(one.records, one.size) for one in listed}}
    queues: dict[str | None, list[Member]] = {}
    for member in listed:
        queues.setdefault(ensemble.networks[member.name].device, []).append(member)

    def work(queue: list[Member]) -> dict[str, tuple[Any, str | None]]:
        return {one.name: _ask(ensemble, one, batches[one.records, one.size], budget) for one in queue}

    if len(queues) < 2:
        answers = work(list(listed))
    else:
        with ThreadPoolExecutor(len(queues)) as pool:
            answers = {name: said for done in pool.map(work, queues.values()) for name, said in done.items()}
    found = []
    for member in listed:
        said, wrong = answers[member.name]
        if wrong is None:
            found.append((member, said))
        else:
            ensemble.degraded.append(f"{member.name} failed: {wrong}.")
            ensemble.without(member, wrong, budget.seen)
    return found


def _ask(ensemble: Ensemble, member: Member, batch: np.ndarray, budget: Budget) -> tuple[Any, str | None]:
    """What a member says of a batch, and what is wrong with it."""
    from gatemask.builders.prediction import build_views, predict_averaged

    seen = build_views(member.tta, member.augment, member.size, member.view_weights)
    network = ensemble.networks[member.name]
    try:
        said: Any = budget.measure(member, len(batch), lambda: predict_averaged(network, batch, seen))
    except Exception as error:  # of its kernel, on this machine; the others may do
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return said, None if np.isfinite(said).all() else "it predicts what is no number"


# --- from folders to a file ---------------------------------------------------------------------------------


def run(
    dataset: Path,
    competition: Path,
    working: Path,
    damaged: Mapping[str, str] | None = None,
    forgive: bool = True,
    started: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Predict a test set: submission.csv, and inference.json with what happened.

    Args:
        dataset: as packaged: ensemble.yaml, `<member>.weights.h5`, SHA256SUMS.
        competition: folder with the test images, and the sample submission where there is one.
        working: for both files.
        damaged: files of the dataset that are not what was packaged, and what is wrong with each.
        forgive: go on without members that cannot be used, and without a sample; else that is an error.
        started: of the clock, when the kernel began: time budgets count from there.
        clock: seconds.

    Returns:
        What inference.json holds.

    Raises:
        GatemaskError: nothing to predict with or on; with `forgive` only where no row of a submission is known.
    """
    begun = clock()
    chosen = read_yaml(dataset / "ensemble.yaml")
    facts, settings = chosen["competition"], chosen.get("inference", {})
    damaged = damaged or {}
    degraded = [f"{name} {what}." for name, what in sorted(damaged.items())]
    files = test_files(competition, facts)
    table = _table(competition, facts, files, degraded, forgive)
    ids = list(dict.fromkeys(row.image_id for row in table.rows))
    output = working / "submission.csv"
    _begin(table, output, degraded, forgive)
    device = networks.accelerator()
    precision = networks.precision_for(settings.get("precision", "float32"), device)
    ensemble = _load(chosen, dataset, precision, damaged, degraded, forgive)
    ensemble.may_drop = settings.get("time_budget") is not None
    since = begun if started is None else started
    at_once = len({one.device for one in ensemble.networks.values()}) or 1
    budget = Budget(_limit_s(settings), since, chosen.get("passing_share", 0.5), clock, at_once)
    images = Images(files, facts["image"]["channels"], facts["image"]["window"], facts["image"]["size"])
    texts: dict[tuple[str, int], str] = {}
    try:
        _fill(texts, ensemble, images, ids, budget, Rle(**facts["submission"]["rle"]))
    except Exception as error:
        if not forgive:
            raise
        first = (str(error).splitlines() or [""])[0]
        degraded.append(f"It ended after {budget.seen} of {len(ids)} images: {type(error).__name__}: {first}")
    an_image = budget.an_image
    if len(images.unreadable) > UNREADABLE * len(ids):
        degraded.append(f"{len(images.unreadable)} of {len(ids)} images could not be read.")
    _end(table, output, texts, degraded)
    result = {
        **_told(table, ids, files, images, ensemble, budget, texts),
        "device": device,
        "precision": precision,
        "seconds": round(clock() - begun, 1),
        "seconds_per_image": round(an_image, 6),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "submission": sha256(output),
        "package": sha256(dataset / "SHA256SUMS"),
    }
    with suppress(OSError):  # the submission counts
        write_json(working / "inference.json", result)
    return result


def _limit_s(settings: Mapping[str, Any]) -> float | None:
    """Seconds after which the file has to be there: as was asked for, and before Kaggle ends the kernel in any case."""
    hours = [max(settings["hours"] - MARGIN_H, settings["hours"] / 2)] if settings.get("hours") else []
    hours += [settings["time_budget"]] if settings.get("time_budget") else []
    return 3600 * min(hours) if hours else None


def _begin(table: SubmissionTable, output: Path, degraded: list[str], forgive: bool) -> None:
    """Whatever happens from here on, a valid submission is there, and room for a better one."""
    try:
        table.write(output, {})
        reserve_disk_space(_room(output), len(table.rows))
    except OSError as error:
        raise GatemaskError(
            "Not enough disk space for the submission.", where=output, received=error.strerror or str(error)
        ) from None
    except GatemaskError as error:
        if not forgive:
            raise
        degraded.append(error.short())


def _end(table: SubmissionTable, output: Path, texts: dict[tuple[str, int], str], degraded: list[str]) -> None:
    _room(output).unlink(missing_ok=True)
    try:
        table.write(output, texts)
    except OSError as error:
        degraded.append(f"The submission could not be written, and an empty one is in its place: {error.strerror}.")


def _room(output: Path) -> Path:
    return output.with_name(".room")


def _told(
    table: SubmissionTable,
    ids: Sequence[str],
    files: dict[str, Path],
    images: Images,
    ensemble: Ensemble,
    budget: Budget,
    texts: dict[tuple[str, int], str],
) -> dict[str, Any]:
    """What inference.json says of images and members."""
    return {
        "images": len(ids),
        "rows": len(table.rows),
        "passed": budget.passed,
        "empty": len(table.rows) - len(texts),
        "extra": len(set(files) - set(ids)),
        "odd_sizes": images.odd,
        "unreadable": dict(sorted(images.unreadable.items())),
        "degraded": ensemble.degraded,
        "dropped": ensemble.dropped,
        "members": {
            name: {"images": one.images, "seconds_per_image": round(one.each, 6)} for name, one in budget.spent.items()
        },
    }


def find_competition(mounted: Path, dataset: Path) -> Path:
    """The folder below /kaggle/input with the test images; Kaggle's layouts differ in depth, so look for them."""
    facts = read_yaml(dataset / "ensemble.yaml")["competition"]
    sample = facts["submission"]["sample"]
    folders = [
        folder
        for depth in range(1, 5)
        for folder in sorted(mounted.glob("/".join(["*"] * depth)))
        if folder.is_dir() and dataset not in (folder, *folder.parents)
    ]
    # A sample says for certain where the root is; a pattern such as **/*.png would fit above it too.
    for folder in folders if sample else []:
        if (folder / sample).is_file():
            return folder
    for folder in folders:
        if any(list_images(folder, facts["test_images"])):
            return folder
    raise GatemaskError(
        "No test images were found.",
        where=mounted,
        expected=sample or facts["test_images"],
        do="Attach the competition as a source of the kernel.",
    )


def test_files(competition: Path, facts: dict[str, Any]) -> dict[str, Path]:
    """The test images by id."""
    return {path.stem: path for path in list_images(competition, facts["test_images"])}


def sample_table(competition: Path, facts: dict[str, Any]) -> SubmissionTable:
    """The rows of a submission, as the sample says; without one, each test image's, by name.

    Raises:
        GatemaskError: the sample is missing or cannot be understood.
    """
    layout = SubmissionFormat(Submission(**facts["submission"]), facts["classes"])
    if layout.settings.sample:
        return layout.read_sample(competition / layout.settings.sample)
    return _table_of_images(test_files(competition, facts), facts)


def _table_of_images(ids: Iterable[str], facts: dict[str, Any]) -> SubmissionTable:
    return SubmissionFormat(Submission(**facts["submission"]), facts["classes"]).table_of(sorted(ids))


def _table(
    competition: Path, facts: dict[str, Any], files: dict[str, Path], degraded: list[str], forgive: bool
) -> SubmissionTable:
    try:
        table = sample_table(competition, facts)
        if table.rows:
            return table
        wrong = GatemaskError("There is nothing to predict.", where=competition, received="not a single row")
    except GatemaskError as error:
        wrong = error
    if not forgive or not files:
        raise wrong
    degraded.append(f"{wrong.short()} The rows are those of the images that are there.")
    return _table_of_images(files, facts)


def _load(
    chosen: dict[str, Any], dataset: Path, precision: str, damaged: Collection[str], degraded: list[str], forgive: bool
) -> Ensemble:
    facts = chosen["competition"]
    channels, classes = facts["image"]["channels"], len(facts["classes"])
    batch = chosen.get("inference", {}).get("batch", "auto")

    def failed(member: Member, why: str) -> None:
        degraded.append(f"{member.name} cannot be loaded: {why}.")
        say(degraded[-1])

    loaded: dict[str, Network] = {}
    parts = []
    for kind, numbers in (("gate", 1), ("mask", classes)):
        listed = [one for one in networks.members(chosen[kind], dataset) if one.weights.name not in damaged]
        loaded |= networks.load(listed, numbers, channels, precision, batch, failed if forgive else None)
        parts.append([one for one in listed if one.name in loaded])
        if not parts[-1]:
            degraded.append(f"No {kind} network is left.")
    given = chosen["rule"] if isinstance(chosen["rule"], list) else [chosen["rule"]] * classes
    overlap = facts["submission"].get("overlap", True)
    size = (int(facts["image"]["size"][0]), int(facts["image"]["size"][1]))
    return Ensemble(parts[0], parts[1], loaded, [Rule(**one) for one in given], size, overlap, degraded)


def _fill(
    texts: dict[tuple[str, int], str],
    ensemble: Ensemble,
    images: Images,
    ids: Sequence[str],
    budget: Budget,
    flavour: Rle,
) -> None:
    """Add the masks that are not empty, as text by image and class."""
    looks = list(dict.fromkeys((one.records, one.size) for one in ensemble.gates))
    records = {one.records for one in [*ensemble.gates, *ensemble.masks]}
    step = max([one.batch for one in ensemble.networks.values()], default=networks.ON_CPU)

    def encoded(masks: np.ndarray) -> list[str]:
        return [rle.encode(masks[:, :, at], flavour) for at in range(masks.shape[2])]

    keep_freed_memory()
    budget.begin()
    with ThreadPoolExecutor(cores()) as pool, single_threaded_opencv():
        decoded = images.stream(ids, looks, records, pool, 2 * step)
        for one in progress(decide(ensemble, decoded, len(ids), budget, step, encoded), "images", len(ids)):
            for index, text in enumerate(one.made or ()):
                if text != flavour.empty:
                    texts[one.image_id, index] = text
    say(f"gate: {budget.passed} of {budget.seen} images pass")
