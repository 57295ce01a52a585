"""Benchmark of a million images: near-duplicates, the tables of the manifest, folds, audit, threshold tables, search.

Everything is synthetic and has no image files: each stage is called with what the stage before it would hand over.
Each measurement runs in a process of its own, which reports seconds and the growth of its peak memory. Rows that say
`per image` compare a small competition with a large one: a ratio of 1 is a flat cost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from timing import Row, limit, row

HASHES, ALL_PAIRS = 1_000_000, 20_000
HASHES_S, HASHES_MB = 300, 4_000
FEW, MANY = 10_000, 1_000_000  # images of manifest, folds and audit
SOME_MAPS, MAPS = 100_000, 1_000_000  # images of threshold tables
SIDE = 16  # pixels of a map
LEVEL_STEP = 8  # of the levels that the exact search tries, as for weightings
TABLE_BYTES = 2 * 257 * 4  # of one image
STAGES = {
    "read_labels": "label table read and parsed",
    "find_copies": "near-duplicates found",
    "groups": "groups joined",
    "write_tables": "manifest.csv and masks.csv written",
    "read_manifest": "manifest.csv read",
    "read_masks": "masks.csv read",
    "folds": "folds, one try",
    "read_folds": "fold file read",
    "audit": "audit",
}


def rows() -> Iterator[Row]:
    yield from duplicate_rows()
    yield from table_rows()
    yield from threshold_rows()


def measured(name: str, *arguments: object) -> dict:
    """Return what a function of this module returns in a process of its own."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "import scale\n"
        "print(json.dumps(getattr(scale, sys.argv[2])(*map(json.loads, sys.argv[3:]))))\n"
    )
    texts = [json.dumps(argument) for argument in arguments]
    command = [sys.executable, "-c", code, str(Path(__file__).parent), name, *texts]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_mb(name: str) -> float:
    """Return a memory value of this process from /proc, in MB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def watched(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds and the growth of peak memory, in MB."""
    before, started = memory_mb("VmHWM"), time.perf_counter()
    work()
    return time.perf_counter() - started, memory_mb("VmHWM") - before


# --- near-duplicates ---------------------------------------------------------------------------------------


def duplicate_rows() -> Iterator[Row]:
    found, plain = measured("banded", ALL_PAIRS), measured("all_pairs", ALL_PAIRS)
    assert found["pairs"] == plain["pairs"], (found, plain)
    label = f"close hashes of {ALL_PAIRS} images, vs comparing all pairs"
    yield row(label, found["seconds"], plain["seconds"], None, unit="s")
    many = measured("banded", HASHES)
    yield limit(f"close hashes of {HASHES} images, {many['pairs']} pairs", many["seconds"], HASHES_S, "s")
    yield limit(f"close hashes of {HASHES} images, peak memory", many["memory"], HASHES_MB, "MB")


def hashes(count: int) -> np.ndarray:
    """Return hashes; every tenth is a copy of another one, with up to 8 bits changed."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = np.arange(0, count, 10)
    changed = codes[rng.integers(0, count, len(copies))]
    for _ in range(8):
        flips = rng.random(len(copies)) < 0.7
        changed ^= np.where(flips, np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64), np.uint64(0))
    codes[copies] = changed
    return codes


def banded(count: int) -> dict:
    from gatemask.data.hash_search import find_close_pairs

    codes, found = hashes(count), []
    seconds, _ = watched(lambda: found.append(find_close_pairs(codes, 6, 100 * count).all()))
    return {"seconds": seconds, "pairs": len(found[0][0]), "memory": memory_mb("VmHWM")}


def all_pairs(count: int) -> dict:
    codes, pairs, started = hashes(count), 0, time.perf_counter()
    for start in range(0, count, 1024):
        bits = np.bitwise_count(codes[start : start + 1024, None] ^ codes[None, start:])
        first, second = np.nonzero(bits <= 6)
        pairs += int((first < second).sum())
    return {"seconds": time.perf_counter() - started, "pairs": pairs}


# --- manifest, folds, audit --------------------------------------------------------------------------------


def table_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            {**measured("prepared", folder, count), **measured("split", folder, count)} for count in (FEW, MANY)
        )
    for stage, title in STAGES.items():
        (seconds, memory), (small, _) = many[stage], few[stage]
        label = f"{title}, {MANY} images ({seconds:.1f} s, {memory:.0f} MB more), per image vs {FEW} images"
        yield row(label, seconds / MANY, small / FEW, 0.5, unit="us")


def competition() -> object:
    from gatemask.config import Competition

    labels = {"format": "rle", "file": "labels.csv", "id": "id", "mask": "rle", "rle": {"base": 0}}
    return Competition.model_validate(
        {
            "name": "many",
            "title": "many",
            "raw": "raw",
            "image": {"size": [64, 64], "channels": 1},
            "train": {"images": "*.png"},
            "labels": labels,
            "groups": {"duplicates": "near"},
            "folds": {"holdout": True, "tries": 1},
            "records": {"size": 64},
        }
    )


def prepared(folder: str, count: int) -> dict:
    """Measure what `data prepare` does after the files were scanned."""
    from gatemask.data import groups
    from gatemask.data.duplicates import Signature, find_copies
    from gatemask.data.ids import train_rule
    from gatemask.data.labels import read_labels
    from gatemask.data.manifest_tables import write_tables
    from gatemask.data.owners import ImageFile
    from gatemask.data.parsed_labels import Wanted
    from gatemask.data.scan import ScannedImage
    from gatemask.project import Project

    comp, project, rng = competition(), Project(Path(folder) / str(count), "many"), np.random.default_rng(0)
    ids = [f"image{number:07d}" for number in range(count)]
    positive = (rng.random(count) < 0.2).tolist()
    lines = [f"{image_id},{'100 5 164 5 228 5' if has else ''}\n" for image_id, has in zip(ids, positive, strict=True)]
    project.data.mkdir(parents=True)
    (project.data / "labels.csv").write_text("id,rle\n" + "".join(lines))
    rule = train_rule(comp)
    files = [ImageFile(project.data / f"{image_id}.png", f"{image_id}.png", image_id, rule) for image_id in ids]
    patient = np.repeat(np.arange(count), np.minimum(rng.zipf(2.25, count), 61))[:count].astype(str).tolist()
    details = rng.normal(0, 24, (1000, 32, 32)).astype(np.int8)
    images = [
        ScannedImage(
            image_id,
            "train",
            f"{image_id}.png",
            f"{number:064x}",
            Signature(f"{code:016x}", details[number % 1000]),
            label=int(positive[number]),
            mask_area=15 * int(positive[number]),
            group=patient[number],
            size=(64, 64),
        )
        for number, (image_id, code) in enumerate(zip(ids, hashes(count).tolist(), strict=True))
    ]
    names, kept = dict(zip(ids, patient, strict=True)), {}
    wanted = Wanted.of(comp, rule, complete=True)

    def read() -> None:
        kept["labels"] = read_labels(comp.labels, project.data, files, (64, 64), [], wanted)

    def find() -> None:
        kept["pairs"] = find_copies([i.sha256 for i in images], [i.signature for i in images], True).pairs

    def join() -> None:
        groups.join_groups(ids, [names], [(ids[pair.first], ids[pair.second]) for pair in kept["pairs"]])

    def write() -> None:
        pairs = [(images[pair.first], images[pair.second], pair.kind) for pair in kept["pairs"]]
        write_tables(project.data, comp, images, kept["labels"], None, pairs)

    work = {"read_labels": read, "find_copies": find, "groups": join, "write_tables": write}
    return {stage: watched(function) for stage, function in work.items()}


def split(folder: str, count: int) -> dict:
    """Measure reading the tables, folds and audit."""
    from gatemask.data.audit import audit_folds
    from gatemask.data.folds import assign_folds
    from gatemask.data.split import read_folds, read_manifest
    from gatemask.data.truth import Masks
    from gatemask.project import Project
    from gatemask.results.data import ManifestResult
    from gatemask.stage import Stage

    comp, project = competition(), Project(Path(folder) / str(count), "many")
    files = [project.data / "manifest.csv", project.data / "masks.csv"]
    numbers = {"positives": 0, "test_images": 0, "groups": 0, "duplicates": 0, "problems": 0}
    result = ManifestResult(images=count, raw="raw", **numbers)
    Stage("data prepare", project.data / "manifest.json", {}, ManifestResult).run(lambda: (result, files))
    kept = {}

    def read() -> None:
        kept["manifest"] = read_manifest(project, "train")

    def fold() -> None:
        frame = assign_folds(kept["manifest"], comp.folds)
        project.folds.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(project.folds, index=False)

    def audit() -> None:
        manifest = kept["manifest"]
        groups, areas = (
            dict(zip(manifest["image_id"], manifest[name], strict=True)) for name in ("group", "mask_area")
        )
        copies = list(zip(manifest["image_id"][::10], manifest["image_id"][1::10], strict=False))
        audit_folds(project.folds, groups, areas, copies)

    work = {
        "read_manifest": read,
        "read_masks": lambda: Masks(project.data / "masks.csv", (64, 64)),
        "folds": fold,
        "read_folds": lambda: read_folds(project),
        "audit": audit,
    }
    return {stage: watched(function) for stage, function in work.items()}


# --- threshold tables --------------------------------------------------------------------------------------


class SyntheticMaps:
    """Maps of any number of images, made when they are read: 256 kinds, each image with its own brightness."""

    classes = 1

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:SIDE, :SIDE]
        centers, widths = rng.integers(3, SIDE - 3, (256, 2)), rng.uniform(4, 40, 256)
        distances = (y[None] - centers[:, :1, None]) ** 2 + (x[None] - centers[:, 1:, None]) ** 2
        self.kinds = np.exp(-distances / widths[:, None, None])
        self.truths = self.kinds > 0.4
        self.truths[64:] = False

    def __getitem__(self, image_id: str) -> np.ndarray:
        number = int(image_id)
        return (self.kinds[number % 256] * (55 + number * 7919 % 200)).astype(np.uint8)[:, :, None]


class SyntheticTruth:
    """Their masks; every fourth image has one."""

    def __init__(self, maps: SyntheticMaps) -> None:
        self._maps = maps

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self._maps.truths[int(image_id) % 256][:, :, None]

    def ignored(self, image_id: str) -> None:
        return None


def threshold_rows() -> Iterator[Row]:
    some, many = measured("counted", SOME_MAPS), measured("counted", MAPS)
    for stage, title in (("tables", "threshold tables"), ("search", f"exact search, every {LEVEL_STEP}th level")):
        (seconds, memory), (small, small_memory) = many[stage], some[stage]
        label = f"{title}, {MAPS} images ({seconds:.0f} s, {memory:.0f} MB more), per image vs {SOME_MAPS} images"
        yield row(label, seconds / MAPS, small / SOME_MAPS, 0.5, unit="us")
        grown = (memory - small_memory) * 1e6 / (MAPS - SOME_MAPS)
        yield limit(
            f"{title}, memory per further image ({TABLE_BYTES} bytes of tables)", grown, TABLE_BYTES / 5, "bytes"
        )
    seconds, memory = many["interval"]
    yield limit(f"interval of {MAPS} images, 200 resamples of as many groups ({seconds:.0f} s)", memory, 1_500, "MB")


def counted(count: int) -> dict:
    """Count the maps, search the best rule on coarse levels, and bootstrap its score."""
    from gatemask.masks.rule import LEVELS
    from gatemask.oof.tables import count_maps, worths
    from gatemask.tuning import exact
    from gatemask.tuning.crossfit import bootstrap_interval

    maps, rng, kept = SyntheticMaps(), np.random.default_rng(0), {}
    ids = [f"{number:07d}" for number in range(count)]
    fold_of = {image_id: number % 5 for number, image_id in enumerate(ids)}
    gates = np.where(np.arange(count) % 256 < 64, rng.beta(4, 2, count), rng.beta(1.5, 4.5, count)).round(6).tolist()
    few = dict(list(fold_of.items())[:300])
    small = count_maps(few, [maps], SyntheticTruth(maps), "tables", lambda i: gates[int(i)])
    exact.search(small, "mean_dice", levels=range(50, 256, 50))  # imports and compiles

    def count_all() -> None:
        kept["tables"] = count_maps(fold_of, [maps], SyntheticTruth(maps), "tables", lambda i: gates[int(i)])

    def search() -> None:
        kept["rule"] = exact.search(kept["tables"], "mean_dice", levels=range(LEVEL_STEP, LEVELS, LEVEL_STEP))[0]

    def interval() -> None:
        bootstrap_interval(*worths(kept["tables"], kept["rule"]), kept["tables"].ids, 200, 0)

    return {stage: watched(work) for stage, work in (("tables", count_all), ("search", search), ("interval", interval))}
