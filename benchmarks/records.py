"""Benchmark of writing records against the bare cost of decoding and encoding the same images on the same cores.

The reference only reads, resizes and encodes each DICOM, in the same number of processes with a fixed share of files
each: no masks, no output, no hashes, no order. gatemask runs all of `gatemask records make`. Both include the start of
the processes, take turns, and count the better of two runs. There are five thousand images; peak memory and the cost of
an image are measured for one tenth of them and for all. Then one process writes all of them, and two do.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from timing import Row, row

from gatemask.config import Competition, Picture, Records
from gatemask.data.encode import encode_image
from gatemask.data.manifest import prepare
from gatemask.data.phantom import as_dicom
from gatemask.data.readers import read_image
from gatemask.data.split import read_manifest
from gatemask.files import read_json, sha256, write_json, write_text
from gatemask.masks import rle
from gatemask.masks.frame import resize
from gatemask.parallel import CORES, cores, keep_freed_memory
from gatemask.project import Project

IMAGES, DIFFERENT, SIDE = 5_000, 60, 1024
PICTURE, RECORDS = Picture(size=(SIDE, SIDE)), Records(size=512)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        paths = raw_files(Path(folder) / "raw")
        many, few = (project_of(Path(folder), name, count) for name, count in (("many", IMAGES), ("few", IMAGES // 10)))
        times = [(timed_records(many), bare(paths)) for _ in range(2)]
        (ours, peak), reference = min(timing for timing, _ in times), min(floor for _, floor in times)
        short, peak_few = timed_records(few)
        yield row(
            f"records, {IMAGES} DICOMs of {SIDE} px on {cores()} cores, vs bare decoding and encoding",
            ours,
            reference,
            0.8,
            per=IMAGES,
        )
        yield {
            "name": f"records, peak memory of all processes, {IMAGES // 10} images vs {IMAGES}",
            "ours": f"{peak:.0f} MB",
            "reference": f"{peak_few:.0f} MB",
            "ratio": round(peak_few / peak, 3),
            "target": 0.95,
            "met": peak_few / peak >= 0.95,
        }
        label = f"records, cost of an image among {IMAGES} vs among {IMAGES // 10}"
        yield row(label, ours / IMAGES, short / (IMAGES // 10), 0.9)
        if len(os.sched_getaffinity(0)) > 1:
            (one, _), (two, _) = (timed_records(many, processes) for processes in (1, 2))
            yield row(f"records, {IMAGES} images, two processes vs one", two, one, 1.8, unit="s")


def raw_files(folder: Path) -> list[Path]:
    """Write X-ray-like JPEG Baseline DICOMs of realistic size. The same pixels appear under many names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = []
    for number in range(DIFFERENT):
        coarse = cv2.resize(rng.normal(0, 40, (24, 24)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        fine = cv2.GaussianBlur(rng.normal(0, 12, (SIDE, SIDE)).astype(np.float32), (0, 0), 1.2)
        image = np.clip(120 + coarse + fine, 0, 255).astype(np.uint8)
        kinds.append(as_dicom(image, f"1.2.3.{number}", number, inverted=False))
    paths = [folder / f"image{number:05d}.dcm" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        if number < DIFFERENT:
            path.write_bytes(kinds[number])
        else:  # a link: takes no more disk space
            path.hardlink_to(paths[number % DIFFERENT])
    return paths


def project_of(root: Path, name: str, count: int) -> Project:
    """Return a prepared competition with the first `count` images, one fifth of them with a mask."""
    project = Project(root, name)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[300:420, 200:280] = True
    ids = [f"image{number:05d}" for number in range(count)]
    text = rle.encode(mask)
    lines = [f"{image_id},{text if number % 5 == 0 else ''}" for number, image_id in enumerate(ids)]
    write_text(root / "raw" / f"{name}.csv", "\n".join(["id,rle", *lines]) + "\n")
    prepare(project, competition(name), root / "raw", labels_only=True)
    # Paths, which a manifest from labels alone does not have.
    manifest = read_manifest(project)
    manifest["path"] = manifest["image_id"] + ".dcm"
    manifest.to_csv(project.data / "manifest.csv", index=False)
    stamp = project.data / "manifest.json"
    record = read_json(stamp)
    del record["hash"]  # of the stamp's content, which changes
    outputs = {**record["outputs"], "manifest.csv": sha256(project.data / "manifest.csv")}
    write_json(stamp, {**record, "made_from": {**record["made_from"], "labels_only": False}, "outputs": outputs})
    return project


def competition(name: str) -> Competition:
    labels = {"format": "rle", "file": f"{name}.csv", "id": "id", "mask": "rle", "rle": {"base": 0}}
    return Competition.model_validate(
        {
            "name": name,
            "title": name,
            "raw": "raw",
            "image": PICTURE.model_dump(),
            "train": {"images": "*.dcm"},
            "labels": labels,
            "groups": {"duplicates": "ignore"},
            "folds": {"holdout": True},
            "records": RECORDS.model_dump(),
        }
    )


def bare(paths: list[Path]) -> float:
    """Return the seconds to start processes that read, resize and encode all files."""
    started = time.perf_counter()
    count = cores()
    shares = [paths[number::count] for number in range(count)]
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=prepare_process) as pool:
        assert sum(pool.map(one_share, shares)) > 0
    return time.perf_counter() - started


def prepare_process() -> None:
    """Apply the same settings as gatemask's workers."""
    cv2.setNumThreads(1)
    keep_freed_memory()


def one_share(paths: list[Path]) -> int:
    return sum(len(encode_image(resize(read_image(path, 1), RECORDS.shape), RECORDS)) for path in paths)


def timed_records(project: Project, processes: int | None = None) -> tuple[float, float]:
    """Return the seconds of `records make` in a process of its own, and the peak memory of its process tree, in MB."""
    share = {} if processes is None else {CORES: str(processes)}
    shutil.rmtree(project.records(RECORDS.size), ignore_errors=True)
    code = (
        "import sys, json, threading, time; sys.path.insert(0, sys.argv[1])\n"
        "import records\n"
        "print(json.dumps(records.make_and_watch(sys.argv[2], sys.argv[3])))\n"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(project.root), project.comp]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**os.environ, **share})
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def make_and_watch(root: str, name: str) -> tuple[float, float]:
    """Make the records while a thread samples the memory of this process and its children."""
    import threading

    from gatemask.data import records

    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], sum(resident(process) for process in process_tree()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        records.make_records(Project(Path(root), name), competition(name))
        return time.perf_counter() - started, peak[0]
    finally:
        done.set()
        watcher.join()


def process_tree() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [os.getpid(), *map(int, children.read_text().split())] if children.exists() else [os.getpid()]


def resident(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)
