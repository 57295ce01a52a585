"""Benchmark of the stages before the records: what one more image costs, for `gatemask plan COMP`.

Processor time counts all processes of a stage, so it depends little on what else runs on this machine. The reference is
one more image among fewer: the ratio shows whether an image costs the same, however many there are.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from records import SIDE, competition, raw_files, resident
from timing import Row

COUNTS = (200, 1_000, 5_000)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw_files(root / "raw")
        runs = [measured(root, f"n{count}", count) for count in COUNTS]
    few, middle, many = COUNTS
    for stage in ("data prepare", "folds make"):
        small = 1e3 * (runs[1][stage] - runs[0][stage]) / (middle - few)
        large = 1e3 * (runs[2][stage] - runs[1][stage]) / (many - middle)
        yield {
            "name": f"{stage}, processor time of a further DICOM of {SIDE} px, up to {many} vs up to {middle}",
            "ours": f"{large:.3f} ms",
            "reference": f"{small:.3f} ms",
            "ratio": round(small / max(large, 1e-6), 3),
            "target": 0.8,
            "met": small >= 0.8 * large,
        }
    growth = 1e3 * (runs[2]["peak"] - runs[1]["peak"]) / (many - middle)
    yield {
        "name": f"data prepare, memory of a further image between {middle} and {many}, vs the limit",
        "ours": f"{growth:.1f} kB",
        "reference": "20 kB",
        "ratio": round(20 / max(growth, 0.01), 3),
        "target": 1.0,
        "met": growth <= 20,
    }


def measured(root: Path, name: str, count: int) -> dict[str, float]:
    """Return processor seconds of each stage, and the peak memory of `data prepare` in MB, in a process of its own."""
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import stages; stages.run(*sys.argv[2:])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(root), name, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def run(root: str, name: str, count: str) -> None:
    import os
    import threading

    from gatemask.data.folds import make_folds
    from gatemask.data.manifest import prepare
    from gatemask.files import write_text
    from gatemask.project import Project

    raw = Path(root) / name
    raw.mkdir()
    ids = [f"image{number:05d}" for number in range(int(count))]
    for image_id in ids:
        (raw / f"{image_id}.dcm").hardlink_to(Path(root) / "raw" / f"{image_id}.dcm")
    lines = [f"{image_id},{'1 5' if number % 5 == 0 else ''}" for number, image_id in enumerate(ids)]
    write_text(raw / f"{name}.csv", "\n".join(["id,rle", *lines]) + "\n")
    project, comp = Project(Path(root), name), competition(name)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], resident(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    times = [os.times()]
    prepare(project, comp, raw)
    times.append(os.times())
    done.set()
    watcher.join()
    make_folds(project, comp)
    times.append(os.times())
    spent = [sum(after[:4]) - sum(before[:4]) for before, after in itertools.pairwise(times)]
    print(json.dumps({"data prepare": spent[0], "folds make": spent[1], "peak": peak[0]}))
