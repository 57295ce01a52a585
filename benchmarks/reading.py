"""Benchmark of reading records for training: peak memory and speed, for few images and for many.

Memory is that of a process which reads the records as a training does and then each image once, like an epoch without
decoding.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from timing import Row

from gatemask.data import tfrecord
from gatemask.files import sha256, write_json

FEW, MANY, PER_SHARD, BYTES = 1_000, 20_000, 500, 20_000
OURS = """
import random, resource, sys, time
from pathlib import Path
from gatemask.data.records import read_records
folder, count = Path(sys.argv[1]), int(sys.argv[2])
examples = read_records(folder, [f"image{n}" for n in range(count)])
random.Random(0).shuffle(examples)
started = time.perf_counter()
total = sum(len(example.image) for example in examples)
seconds = time.perf_counter() - started
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds / count)
"""


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        (few, _), (many, seconds) = (measure(write_records(Path(name) / str(n), n), n) for n in (FEW, MANY))
    yield {
        "name": f"records, memory of reading {FEW} images of {BYTES // 1000} kB vs {MANY}",
        "ours": f"{many:.0f} MB",
        "reference": f"{few:.0f} MB",
        "ratio": round(few / many, 3),
        "target": 0.8,
        "met": few / many >= 0.8,
    }
    encoded = MANY * BYTES / 1e6
    yield {
        "name": f"records, memory of reading {MANY} images vs the size of their files; {seconds * 1e6:.0f} us an image",
        "ours": f"{many:.0f} MB",
        "reference": f"{encoded:.0f} MB",
        "ratio": round(encoded / many, 3),
        "target": None,
        "met": None,
    }


def write_records(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng, hashes = random.Random(0), {}
    for first in range(0, count, PER_SHARD):
        shard = folder / f"{first // PER_SHARD:05d}.tfrec"
        tfrecord.write(
            shard,
            (
                {"image_id": f"image{n}".encode(), "image": rng.randbytes(BYTES), "mask": b"", "label": 0}
                for n in range(first, min(first + PER_SHARD, count))
            ),
        )
        hashes[shard.name] = sha256(shard)
    write_json(folder / "index.json", {"made_from": {}, "outputs": hashes, "seconds": 0.0})
    return folder


def measure(folder: Path, count: int) -> tuple[float, float]:
    """Return peak memory, in MB, and seconds per image."""
    command = [sys.executable, "-c", OURS, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory, seconds = map(float, done.stdout.split())
    return memory, seconds
