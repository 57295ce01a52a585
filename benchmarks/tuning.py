"""Benchmark of tuning on 12,000 out-of-fold maps, against working on the maps directly.

The competition is synthetic: smooth maps of 256 px in real oof.h5 files, one fifth of the images with a mask of
1024 px, gates with an AUC of 0.94. Each image is one of a few hundred maps, shifted and with its own brightness, so
areas differ between images. References are timed on a sample of images, levels or pairs of levels and scaled to all of
them; their names say `scaled`. References use one core, gatemask all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from timing import Row, interleaved, limit, row

from gatemask.data.truth import Annotation, Masks, write_masks
from gatemask.files import read_json, write_json
from gatemask.masks import frame, rle
from gatemask.masks import rule as rules
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import LEVELS, Rule, level
from gatemask.oof.store import MapReader, write_maps
from gatemask.oof.tables import Tables, all_empty_score, count_maps, dice_per_image, score, worths
from gatemask.parallel import cores
from gatemask.tuning import exact
from gatemask.tuning.optuna_search import search_with_optuna

IMAGES, DIFFERENT, FOLDS = 12_047, 300, 5
SIDE, SCORED = 256, 1024
POSITIVES = 0.22
BUILDS = 2  # the best of this many table builds counts
TABLE_SAMPLE, TRIAL_SAMPLE, PAIR_SAMPLE = (
    16,
    300,
    3,
)  # sample sizes: images for tables, images for trials, pairs for the search
CHUNK = 50
TRIALS = (200, 1000)
BUILD_S, BUILD_MB, EXACT_S, TRIALS_S = 25, 1000, 8, 12
METRIC = "mean_dice"


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        yield from build_rows(folder)
        tables = Tables.load(folder / "tables.npz")
        looked_up, naive = trial_seconds(folder, tables)
        label = f"a trial on {IMAGES} images by tables, vs on the maps (scaled from {min(TRIAL_SAMPLE, IMAGES)})"
        yield row(label, looked_up, naive, 1000)
        yield from exact_rows(tables)
        yield from optuna_rows(folder, tables, looked_up, naive)


# --- the competition ---------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write fold<k>.h5, masks.csv and images.json (fold and gate probability by id)."""
    rng = np.random.default_rng(0)
    kinds = [kind(rng, number < POSITIVES * DIFFERENT) for number in range(DIFFERENT)]
    ids = [f"image{number:05d}" for number in range(IMAGES)]
    drawn = rng.integers(0, DIFFERENT, IMAGES)
    moved = rng.integers(-SIDE // 8, SIDE // 8, (IMAGES, 2))
    tones = np.stack([tone(rng) for _ in range(IMAGES)])
    truths: dict[str, list[Annotation]] = {}

    def maps(numbers: range) -> Iterator[np.ndarray]:
        for number in numbers:
            image_map, truth = kinds[drawn[number]]
            if truth is not None:
                moved_truth = np.roll(truth, moved[number] * (SCORED // SIDE), (0, 1))
                truths[ids[number]] = [Annotation("lesion", rle.encode(moved_truth))]
            yield cv2.LUT(np.roll(image_map, moved[number], (0, 1)), tones[number])[None, :, :, None]

    for fold in range(FOLDS):
        numbers = range(fold, IMAGES, FOLDS)
        write_maps(folder / f"fold{fold}.h5", [ids[n] for n in numbers], maps(numbers), (SIDE, SIDE, 1))
    write_masks(folder / "masks.csv", truths)
    positive = drawn < POSITIVES * DIFFERENT
    gates = np.where(positive, rng.beta(4, 2, IMAGES), rng.beta(1.5, 4.5, IMAGES)).round(6).tolist()
    write_json(folder / "images.json", {i: [n % FOLDS, gates[n]] for n, i in enumerate(ids)})


def kind(rng: np.random.Generator, positive: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a map, uint8 (SIDE, SIDE), and its truth, bool (SCORED, SCORED). Some maps contain false positives.

    Maps are smooth with soft edges, and roughly right in size and position.
    """
    noise = rng.normal(0, 0.8, (SIDE // 16, SIDE // 16)).astype(np.float32)
    logit = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) - 5.5
    truth = crescent(rng) if positive else None
    if positive or rng.random() < 0.4:
        visible = crescent(rng) if truth is None else np.roll(truth, rng.integers(-6, 7, 2), (0, 1))
        small = cv2.resize(visible.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(small, (0, 0), SIDE / 128)
        logit += soft * max(0.0, rng.normal(9, 2.5) if positive else rng.normal(5, 2))
    return np.rint(255 / (1 + np.exp(-logit))).astype(np.uint8), truth


def crescent(rng: np.random.Generator) -> np.ndarray:
    """Return a crescent of some thousand pixels, bool (SCORED, SCORED)."""
    mask = np.zeros((SCORED, SCORED), np.uint8)
    long, wide = (int(rng.integers(low, high) * SCORED / 1024) for low, high in ((90, 300), (8, 50)))
    center = tuple(int(v) for v in rng.integers(SCORED * 5 // 16, SCORED * 11 // 16, 2))
    cv2.ellipse(mask, center, (long // 2, long), int(rng.integers(0, 180)), 100, 260, 1, max(wide, 1))
    return mask > 0


def tone(rng: np.random.Generator) -> np.ndarray:
    """Return a monotonic table of 256 uint8 that varies the confidence of a map."""
    shares = np.clip(np.arange(LEVELS) / 255, 1e-3, 1 - 1e-3)
    logit = np.log(shares / (1 - shares)) * rng.normal(1, 0.1) + rng.normal(0, 0.6)
    return np.rint(255 / (1 + np.exp(-logit))).astype(np.uint8)


# --- tables ------------------------------------------------------------------------------------------------


def build_rows(folder: Path) -> Iterator[Row]:
    built, looped = [], []
    for _ in range(BUILDS):
        built.append(built_apart(folder))
        looped.append(plain_tables(folder))
    (ours, memory), reference = min(built), min(looped)
    task = f"threshold tables, {IMAGES} maps of {SIDE} px scored at {SCORED} px, {cores()} cores"
    total = f"({ours:.1f} s, {memory:.0f} MB more)"
    label = f"{task} {total}, vs numpy level by level (scaled from {min(TABLE_SAMPLE, IMAGES)})"
    yield row(label, ours, reference, None, per=IMAGES)
    yield limit(f"{task}, total", ours, BUILD_S, "s")
    yield limit(f"{task}, growth of peak memory", max(grown for _, grown in built), BUILD_MB, "MB")


def built_apart(folder: Path) -> tuple[float, float]:
    """Return the seconds to count all maps in a process of its own, and the growth of its peak memory, in MB."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "import tuning\n"
        "print(json.dumps(tuning.build_and_watch(sys.argv[2], int(sys.argv[3]))))\n"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(SCORED)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def build_and_watch(name: str, size: int) -> tuple[float, float]:
    folder = Path(name)
    images = read_json(folder / "images.json")
    before, started = memory_mb("VmRSS"), time.perf_counter()
    readers = [MapReader(sorted(folder.glob("fold*.h5")))]
    truth = Masks(folder / "masks.csv", (size, size))
    fold_of = {i: fold for i, (fold, _) in images.items()}
    tables = count_maps(fold_of, readers, truth, "tables", lambda i: images[i][1])
    seconds, peak = time.perf_counter() - started, memory_mb("VmHWM")
    tables.save(folder / "tables.npz")
    return seconds, peak - before


def memory_mb(name: str) -> float:
    """Return a memory value of this process from /proc, in MB. The peak of getrusage would include the parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def plain_tables(folder: Path) -> float:
    """Seconds for all images if each is enlarged and compared with every level in turn."""
    chosen = spread(folder, TABLE_SAMPLE)
    with closing(MapReader(sorted(folder.glob("fold*.h5")))) as reader:
        truth = Masks(folder / "masks.csv", (SCORED, SCORED))
        started = time.perf_counter()
        for image_id in chosen:
            full = cv2.resize(reader[image_id][:, :, 0], (SCORED, SCORED), interpolation=cv2.INTER_LINEAR)
            mask = truth[image_id][:, :, 0]
            counted = [((full >= cut).sum(), ((full >= cut) & mask).sum()) for cut in range(1, LEVELS)]
            assert len(counted) == LEVELS - 1
        return (time.perf_counter() - started) * IMAGES / len(chosen)


def spread(folder: Path, some: int) -> list[str]:
    """The ids of some images, evenly over all."""
    ids = sorted(read_json(folder / "images.json"))
    return ids[:: max(1, len(ids) // some)][:some]


# --- trials ------------------------------------------------------------------------------------------------


def trial_seconds(folder: Path, tables: Tables) -> tuple[float, float]:
    """Return the seconds of a trial on all images, from tables and from maps in memory. Both give the same score."""
    rule = Rule(0.4, 0.7, 0.3, SCORED * SCORED // 2000)
    truth, chosen = Masks(folder / "masks.csv", (SCORED, SCORED)), spread(folder, TRIAL_SAMPLE)
    index = {str(image_id): number for number, image_id in enumerate(tables.ids)}
    ours, theirs = float("inf"), 0.0
    with closing(MapReader(sorted(folder.glob("fold*.h5")))) as reader:
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            some = tables.subset(np.array([index[image_id] for image_id in part]))
            images = [
                (float(gate), reader[i], truth[i][:, :, 0]) for gate, i in zip(some.gate[:, 0], part, strict=True)
            ]
            assert np.allclose(plain_trial(rule, images), dice_per_image(some, rule)[:, 0], atol=1e-12)
            ways = {
                "ours": lambda: [score(tables, rule, METRIC) for _ in range(10)],
                "theirs": lambda images=images: plain_trial(rule, images),
            }
            times = interleaved(ways, rounds=2)
            ours, theirs = min(ours, times["ours"] / 10), theirs + times["theirs"]
    return ours, theirs * IMAGES / len(chosen)


def plain_trial(rule: Rule, images: list[tuple[float, np.ndarray, np.ndarray]]) -> list[float]:
    """Return the Dice of each image, from its gate probability, map and truth."""
    return [
        dice_of_masks(mask, rules.apply_rule(rule, gate, frame.resize_map(image_map, mask.shape)[:, :, 0]))
        for gate, image_map, mask in images
    ]


# --- searches ----------------------------------------------------------------------------------------------


def exact_rows(tables: Tables) -> Iterator[Row]:
    exact.search(tables.subset(np.arange(min(50, len(tables)))), METRIC, levels=range(50, 256, 50))  # compile
    seconds, results = [], []
    for _ in range(2):
        started = time.perf_counter()
        results.append(exact.search(tables, METRIC))
        seconds.append(time.perf_counter() - started)
    rule, best = results[0]
    levels = LEVELS - 1
    pairs = levels * (levels + 1) // 2
    forced, reached = force(tables, rule)
    assert abs(reached - best) < 1e-9, (reached, best)
    label = f"exact search, {IMAGES} images, all {levels} levels, {cores()} cores"
    yield limit(label, min(seconds), EXACT_S, "s")
    label = f"{label}, vs every gate and area cut in numpy (scaled from {PAIR_SAMPLE} of {pairs} pairs)"
    yield row(label, min(seconds), forced * pairs, 100, unit="s")


def force(tables: Tables, rule: Rule) -> tuple[float, float]:
    """Return the seconds per pair of levels, and the best score of the rule's own pair over all gates and areas."""
    rng = np.random.default_rng(0)
    pairs = [(level(rule.upper), level(rule.lower))]
    pairs += [tuple(sorted(rng.integers(1, LEVELS, 2).tolist(), reverse=True)) for _ in range(PAIR_SAMPLE - 1)]
    started = time.perf_counter()
    scores = [force_pair(tables, upper, lower) for upper, lower in pairs]
    return (time.perf_counter() - started) / len(pairs), scores[0]


def force_pair(tables: Tables, upper: int, lower: int) -> float:
    """Return the best score of a pair of levels over all gates and areas, in blocks of gates to save memory."""
    empty = all_empty_score(tables, METRIC)
    everything = Rule(0.0, rules.probability(lower), rules.probability(lower), 0)
    gains = worths(tables, everything, METRIC)[0][:, 0] - (tables.truth[:, 0] == 0)
    order = np.argsort(-tables.area[:, 0, upper], kind="stable")
    area, gate, gains = tables.area[order, 0, upper], tables.gate[order, 0], gains[order]
    ends = np.flatnonzero(np.append(area[1:] != area[:-1], True))  # a cut separates two different areas
    cuts, best = np.unique(gate), 0.0
    for start in range(0, len(cuts), 64):
        kept = np.where(gate >= cuts[start : start + 64, None], gains, 0.0)
        best = max(best, float(np.cumsum(kept, axis=1)[:, ends].max()))
    return empty + best / len(gains)


def optuna_rows(folder: Path, tables: Tables, looked_up: float, naive: float) -> Iterator[Row]:
    """Yield rows of Optuna's time. The reference adds the cost of evaluating every trial on the maps."""
    search_with_optuna(tables, METRIC, trials=12)  # imports
    for trials in TRIALS:
        started = time.perf_counter()
        search_with_optuna(tables, METRIC, trials=trials, journal=folder / f"study-{trials}.log")
        seconds = time.perf_counter() - started
        label = f"Optuna, {trials} trials of TPE with a journal, {IMAGES} images"
        yield row(f"{label}, vs on the maps (scaled)", seconds, seconds + trials * (naive - looked_up), 100, unit="s")
    yield limit(label, seconds, TRIALS_S, "s")
