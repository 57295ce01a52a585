"""Tuning on as many out-of-fold maps as SIIM-ACR has images, against doing the same to the maps themselves.

The competition is made up: smooth maps of 256 px in real oof.h5 files, a fifth of the images with a mask of 1024 px,
gates of AUC 0.94. A few hundred maps are drawn; each image is one of them, moved and with a brightness of its own, so
that no two have the same areas. The plain ways are timed on some of the images, levels or pairs of levels, and their
times multiplied up to all of them; `scaled` in a name says so. Theirs are on one core, ours on all.
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
from typing import Any

import cv2
import numpy as np
from timing import interleaved, limit, row

from gatemask.data.labels import Masks, write_masks
from gatemask.files import read_json, write_json
from gatemask.masks import rle
from gatemask.masks import rule as rules
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import LEVELS, Rule, level
from gatemask.oof.store import MapReader, write_maps
from gatemask.oof.tables import Tables, all_empty_score, count_maps, dice_per_image, score, worths
from gatemask.parallel import cores
from gatemask.tuning import exact
from gatemask.tuning.optuna_search import search

IMAGES, DIFFERENT, FOLDS = 12_047, 300, 5
SIDE, SCORED = 256, 1024
POSITIVES = 0.22
BUILDS = 2  # the better of so many table builds counts
LOOKED, TRIED, PAIRS = 16, 300, 3  # images of the plain table, images of the plain trial, pairs of the plain search
AT_ONCE = 50
TRIALS = (200, 1000)
BUILD_S, BUILD_MB, EXACT_S, TRIALS_S = 25, 1000, 8, 12
METRIC = "mean_dice"


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        yield from build_rows(folder)
        tables = Tables.load(folder / "tables.npz")
        looked_up, naive = trial_seconds(folder, tables)
        label = f"a trial on {IMAGES} images by tables, vs on the maps (scaled from {min(TRIED, IMAGES)})"
        yield row(label, looked_up, naive, 1000)
        yield from exact_rows(tables)
        yield from optuna_rows(folder, tables, looked_up, naive)


# --- the competition ---------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """fold<k>.h5, masks.csv and images.json (fold and gate by id)."""
    rng = np.random.default_rng(0)
    kinds = [kind(rng, number < POSITIVES * DIFFERENT) for number in range(DIFFERENT)]
    ids = [f"image{number:05d}" for number in range(IMAGES)]
    drawn = rng.integers(0, DIFFERENT, IMAGES)
    moved = rng.integers(-SIDE // 8, SIDE // 8, (IMAGES, 2))
    tones = np.stack([tone(rng) for _ in range(IMAGES)])
    truths: dict[str, str] = {}

    def maps(numbers: range) -> Iterator[np.ndarray]:
        for number in numbers:
            one, truth = kinds[drawn[number]]
            if truth is not None:
                whole = np.roll(truth, moved[number] * (SCORED // SIDE), (0, 1))
                truths[ids[number]] = rle.encode(whole)
            yield cv2.LUT(np.roll(one, moved[number], (0, 1)), tones[number])[None, :, :, None]

    for fold in range(FOLDS):
        numbers = range(fold, IMAGES, FOLDS)
        write_maps(folder / f"fold{fold}.h5", [ids[n] for n in numbers], maps(numbers), (SIDE, SIDE, 1))
    write_masks(folder / "masks.csv", truths, "lesion")
    positive = drawn < POSITIVES * DIFFERENT
    gates = np.where(positive, rng.beta(4, 2, IMAGES), rng.beta(1.5, 4.5, IMAGES)).round(6).tolist()
    write_json(folder / "images.json", {i: [n % FOLDS, gates[n]] for n, i in enumerate(ids)})


def kind(rng: np.random.Generator, positive: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """A network's answer, uint8 (SIDE, SIDE), and the truth, bool (SCORED, SCORED); some answers see what is not there.

    Answers are smooth, their edges soft, and they are right about size and place by and large.
    """
    noise = rng.normal(0, 0.8, (SIDE // 16, SIDE // 16)).astype(np.float32)
    logit = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) - 5.5
    truth = crescent(rng) if positive else None
    if positive or rng.random() < 0.4:
        seen = crescent(rng) if truth is None else np.roll(truth, rng.integers(-6, 7, 2), (0, 1))
        small = cv2.resize(seen.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(small, (0, 0), SIDE / 128)
        logit += soft * max(0.0, rng.normal(9, 2.5) if positive else rng.normal(5, 2))
    return np.rint(255 / (1 + np.exp(-logit))).astype(np.uint8), truth


def crescent(rng: np.random.Generator) -> np.ndarray:
    """Some thousand pixels, as a pneumothorax has: bool (SCORED, SCORED)."""
    mask = np.zeros((SCORED, SCORED), np.uint8)
    long, wide = (int(rng.integers(low, high) * SCORED / 1024) for low, high in ((90, 300), (8, 50)))
    centre = tuple(int(v) for v in rng.integers(SCORED * 5 // 16, SCORED * 11 // 16, 2))
    cv2.ellipse(mask, centre, (long // 2, long), int(rng.integers(0, 180)), 100, 260, 1, max(wide, 1))
    return mask > 0


def tone(rng: np.random.Generator) -> np.ndarray:
    """How sure one image's answer is, beside the others of its kind: a table of 256 uint8 that never falls."""
    shares = np.clip(np.arange(LEVELS) / 255, 1e-3, 1 - 1e-3)
    logit = np.log(shares / (1 - shares)) * rng.normal(1, 0.1) + rng.normal(0, 0.6)
    return np.rint(255 / (1 + np.exp(-logit))).astype(np.uint8)


# --- tables ------------------------------------------------------------------------------------------------


def build_rows(folder: Path) -> Iterator[dict[str, Any]]:
    built, looped = [], []
    for _ in range(BUILDS):
        built.append(built_apart(folder))
        looped.append(plain_tables(folder))
    (ours, memory), reference = min(built), min(looped)
    said = f"threshold tables, {IMAGES} maps of {SIDE} px scored at {SCORED} px, {cores()} cores"
    total = f"({ours:.1f} s, {memory:.0f} MB more)"
    label = f"{said} {total}, vs numpy level by level (scaled from {min(LOOKED, IMAGES)})"
    yield row(label, ours, reference, None, per=IMAGES)
    yield limit(f"{said}, all of it", ours, BUILD_S, "s")
    yield limit(f"{said}, growth of peak memory", max(grown for _, grown in built), BUILD_MB, "MB")


def built_apart(folder: Path) -> tuple[float, float]:
    """Seconds of counting all maps in a process of its own, and by how much its peak memory grew meanwhile, in MB."""
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
    """Of this process, from /proc: getrusage's peak begins with that of the process that started this one."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def plain_tables(folder: Path) -> float:
    """Seconds for all images if each is enlarged and compared with every level in turn."""
    chosen = spread(folder, LOOKED)
    with closing(MapReader(sorted(folder.glob("fold*.h5")))) as reader:
        truth = Masks(folder / "masks.csv", (SCORED, SCORED))
        started = time.perf_counter()
        for image_id in chosen:
            full = cv2.resize(reader[image_id][:, :, 0], (SCORED, SCORED), interpolation=cv2.INTER_LINEAR)
            mask = truth[image_id]
            counted = [((full >= one).sum(), ((full >= one) & mask).sum()) for one in range(1, LEVELS)]
            assert len(counted) == LEVELS - 1
        return (time.perf_counter() - started) * IMAGES / len(chosen)


def spread(folder: Path, some: int) -> list[str]:
    """The ids of some images, evenly over all."""
    ids = sorted(read_json(folder / "images.json"))
    return ids[:: max(1, len(ids) // some)][:some]


# --- trials ------------------------------------------------------------------------------------------------


def trial_seconds(folder: Path, tables: Tables) -> tuple[float, float]:
    """Seconds of a trial on all images, by tables and on maps that are in memory already; both give the same score."""
    rule = Rule(0.4, 0.7, 0.3, SCORED * SCORED // 2000)
    truth, chosen = Masks(folder / "masks.csv", (SCORED, SCORED)), spread(folder, TRIED)
    at = {str(image_id): number for number, image_id in enumerate(tables.ids)}
    ours, theirs = float("inf"), 0.0
    with closing(MapReader(sorted(folder.glob("fold*.h5")))) as reader:
        for start in range(0, len(chosen), AT_ONCE):
            part = chosen[start : start + AT_ONCE]
            some = tables.subset(np.array([at[image_id] for image_id in part]))
            images = [(float(gate), reader[i], truth[i]) for gate, i in zip(some.gate, part, strict=True)]
            assert np.allclose(plain_trial(rule, images), dice_per_image(some, rule)[:, 0], atol=1e-12)
            ways = {
                "ours": lambda: [score(tables, rule, METRIC) for _ in range(10)],
                "theirs": lambda images=images: plain_trial(rule, images),
            }
            times = interleaved(ways, rounds=2)
            ours, theirs = min(ours, times["ours"] / 10), theirs + times["theirs"]
    return ours, theirs * IMAGES / len(chosen)


def plain_trial(rule: Rule, images: list[tuple[float, np.ndarray, np.ndarray]]) -> list[float]:
    """Dice of each image, from its gate, its map and its truth."""
    return [
        dice_of_masks(mask, rules.apply_rule(rule, gate, rules.resize_map(one, mask.shape)[:, :, 0]))
        for gate, one, mask in images
    ]


# --- searches ----------------------------------------------------------------------------------------------


def exact_rows(tables: Tables) -> Iterator[dict[str, Any]]:
    exact.search(tables.subset(np.arange(min(50, len(tables)))), METRIC, levels=range(50, 256, 50))  # compile
    seconds, found = [], []
    for _ in range(2):
        started = time.perf_counter()
        found.append(exact.search(tables, METRIC))
        seconds.append(time.perf_counter() - started)
    rule, best = found[0]
    levels = LEVELS - 1
    pairs = levels * (levels + 1) // 2
    forced, reached = force(tables, rule)
    assert abs(reached - best) < 1e-9, (reached, best)
    said = f"exact search, {IMAGES} images, all {levels} levels, {cores()} cores"
    yield limit(said, min(seconds), EXACT_S, "s")
    label = f"{said}, vs every gate and area cut in numpy (scaled from {PAIRS} of {pairs} pairs)"
    yield row(label, min(seconds), forced * pairs, 100, unit="s")


def force(tables: Tables, rule: Rule) -> tuple[float, float]:
    """Seconds a pair of levels, and the best score of the rule's own pair, from all gates and areas."""
    rng = np.random.default_rng(0)
    pairs = [(level(rule.upper), level(rule.lower))]
    pairs += [tuple(sorted(rng.integers(1, LEVELS, 2).tolist(), reverse=True)) for _ in range(PAIRS - 1)]
    started = time.perf_counter()
    found = [force_pair(tables, upper, lower) for upper, lower in pairs]
    return (time.perf_counter() - started) / len(pairs), found[0]


def force_pair(tables: Tables, upper: int, lower: int) -> float:
    """The best score of a pair: gates by areas, a block of gates at a time, since all would be a gigabyte."""
    empty = all_empty_score(tables, METRIC)
    everything = Rule(0.0, rules.probability(lower), rules.probability(lower), 0)
    gains = worths(tables, everything, METRIC)[0][:, 0] - (tables.truth[:, 0] == 0)
    order = np.argsort(-tables.area[:, 0, upper], kind="stable")
    area, gate, gains = tables.area[order, 0, upper], tables.gate[order], gains[order]
    ends = np.flatnonzero(np.append(area[1:] != area[:-1], True))  # cuts lie between different areas only
    cuts, best = np.unique(gate), 0.0
    for start in range(0, len(cuts), 64):
        kept = np.where(gate >= cuts[start : start + 64, None], gains, 0.0)
        best = max(best, float(np.cumsum(kept, axis=1)[:, ends].max()))
    return empty + best / len(gains)


def optuna_rows(folder: Path, tables: Tables, looked_up: float, naive: float) -> Iterator[dict[str, Any]]:
    """The maps' time is what Optuna itself takes, and a trial on the maps for each on the tables."""
    search(tables, METRIC, trials=12)  # imports
    for trials in TRIALS:
        started = time.perf_counter()
        search(tables, METRIC, trials=trials, journal=folder / f"study-{trials}.log")
        seconds = time.perf_counter() - started
        said = f"Optuna, {trials} trials of TPE with a journal, {IMAGES} images"
        yield row(f"{said}, vs on the maps (scaled)", seconds, seconds + trials * (naive - looked_up), 100, unit="s")
    yield limit(said, seconds, TRIALS_S, "s")
