"""Examples are read from shards when they are needed."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gatemask import quiet
from gatemask.data import tfrecord
from gatemask.data.shards import Shard
from gatemask.data.tfrecord import Features, Span
from gatemask.errors import GatemaskError
from gatemask.masks.tiling import Origin


def write_shard(path: Path, count: int = 5, seed: int = 0) -> list[Features]:
    rng = random.Random(seed)
    examples: list[Features] = [
        {"image_id": f"i{n}".encode(), "image": rng.randbytes(300 + n), "mask": rng.randbytes(n), "label": n * 100}
        for n in range(count)
    ]
    examples[-1] = {**examples[-1], "origin": (700, 3)}
    tfrecord.write(path, examples)
    return examples


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.tfrec")
    read = list(Shard(tmp_path / "a.tfrec").examples(None))
    assert [(e.image_id.encode(), e.image, e.mask, e.label) for e in read] == [
        tuple(example[name] for name in ("image_id", "image", "mask", "label")) for example in written
    ]
    assert [e.origin for e in read] == [None] * 4 + [Origin(700, 3)]
    assert [e.load().image for e in read] == [e.image for e in read]
    assert len({e.key for e in read}) == 5


def test_any_order_of_fields_is_parsed_as_tensorflow_does() -> None:
    """Unpacked and packed integers, unknown fields, repeated names: the last one counts."""
    tf = quiet.tensorflow()
    feature, field = tfrecord._feature, tfrecord.field
    first = field(1, b"label") + field(2, feature(3))
    entry = field(2, feature(7)) + field(1, b"label")  # value before name
    unpacked = field(1, b"n") + field(2, field(3, b"\x08\x05\x08\xac\x02"))
    unknown = b"\x2d" + bytes(4) + b"\x31" + bytes(8) + b"\x38\x05" + field(12, b"ignored")
    body = unknown + field(1, field(1, first) + field(1, entry) + field(1, unpacked)) + unknown
    message = tf.train.Example.FromString(body)
    expected = {name: tuple(value.int64_list.value) for name, value in message.features.feature.items()}
    assert tfrecord.parse(body, Span(0, len(body))) == expected == {"label": (7,), "n": (5, 300)}


@pytest.mark.parametrize("seed", range(3))
def test_damaged_frames_raise_one_kind_of_error(tmp_path: Path, seed: int) -> None:
    write_shard(tmp_path / "a.tfrec", seed=seed)
    sound, rng = (tmp_path / "a.tfrec").read_bytes(), random.Random(seed)
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "b.tfrec").write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        try:
            for example in Shard(tmp_path / "b.tfrec").examples(None):
                example.load()
        except GatemaskError as error:
            assert "is damaged" in str(error) and "b.tfrec" in str(error)


def test_a_shard_that_is_replaced_does_not_change_what_is_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tfrec")
    examples = list(Shard(tmp_path / "a.tfrec").examples(None))
    before = [example.load() for example in examples]
    write_shard(tmp_path / "new.tfrec", seed=1)
    (tmp_path / "new.tfrec").replace(tmp_path / "a.tfrec")
    assert [example.load() for example in examples] == before


def test_a_shard_that_became_shorter_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tfrec")
    examples = list(Shard(tmp_path / "a.tfrec").examples(None))
    os.truncate(tmp_path / "a.tfrec", 900)
    with pytest.raises(GatemaskError, match=r"a\.tfrec[\s\S]*its end before byte"):
        examples[-1].load()


def test_files_are_closed_with_the_last_example(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tfrec")

    def opened() -> int:
        links = [path for path in Path("/proc/self/fd").iterdir() if path.exists()]
        return sum(link.readlink() == tmp_path / "a.tfrec" for link in links)

    examples = list(Shard(tmp_path / "a.tfrec").examples(None))
    assert opened() == 1
    del examples
    assert opened() == 0


@pytest.mark.integration
def test_more_shards_than_the_soft_limit_of_open_files(tmp_path: Path) -> None:
    for number in range(40):
        write_shard(tmp_path / f"{number}.tfrec", count=1)
    code = (
        "import resource, sys; from pathlib import Path; from gatemask.data.shards import Shard\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "kept = [e for path in sorted(Path(sys.argv[1]).iterdir()) for e in Shard(path).examples(None)]\n"
        "print(sum(len(e.image) for e in kept))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (str(40 * 300), 0), done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 40


@pytest.mark.integration
def test_reading_imports_no_tensorflow(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tfrec")
    code = (
        "import sys; sys.modules['tensorflow'] = None; from pathlib import Path\n"
        "from gatemask.data.shards import Shard; print(len(list(Shard(Path(sys.argv[1])).examples(None))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tfrec")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "5"
