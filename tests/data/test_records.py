"""Records hold each image once, whatever the split, and return the requested ones."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from gatemask import quiet
from gatemask.data import encode, records, tfrecord
from gatemask.data.manifest import prepare
from gatemask.data.readers import read_image
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.input.decoding import decode_example
from gatemask.input.layout import Layout
from gatemask.masks.frame import resize
from gatemask.project import Project
from gatemask.stage import write_stamp
from tests.conftest import gatemask, kill_when, run_python, write_tiles
from tests.data.test_manifest import competition

COMP = competition(records={"size": 64, "format": "png", "per_shard": 10})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "tiles")
    write_tiles(tmp_path / "raw", 24)
    prepare(project, COMP)
    return project


def test_images_and_masks_come_back_in_the_order_asked_for(project: Project) -> None:
    result = records.make_records(project, COMP)
    folder = project.records(64)
    assert (result.count, len(list(folder.glob("*.tfrec")))) == (24, 3)
    examples = records.read_records(folder, ["tile020", "tile003"])
    assert [(e.image_id, e.label) for e in examples] == [("tile020", 1), ("tile003", 0)]
    image, mask = decode_example(examples[0], Layout(3))
    original = resize(read_image(project.root / "raw/images/tile020.png", 3), (64, 64))
    assert (image == original).all(), "PNG keeps every pixel, and its colors"
    assert set(np.unique(mask)) == {0, 255}


def test_a_second_call_does_nothing_and_a_lost_shard_is_made_again(project: Project) -> None:
    records.make_records(project, COMP)
    shard = project.records(64) / "00001.tfrec"
    digest = sha256(shard)
    assert records.make_records(project, COMP).current
    shard.unlink()
    assert not records.make_records(project, COMP).current
    assert sha256(shard) == digest


def test_training_rejects_records_older_than_the_manifest(project: Project) -> None:
    records.make_records(project, COMP)
    assert len(records.require_records(project, COMP)) == 3
    (project.root / "raw/images/tile000.png").unlink()
    prepare(project, COMP)
    with pytest.raises(GatemaskError, match="another manifest"):
        records.require_records(project, COMP)


def test_unknown_ids_and_unfinished_records_are_rejected(project: Project) -> None:
    records.make_records(project, COMP)
    folder = project.records(64)
    with pytest.raises(GatemaskError, match="tile999"):
        records.read_records(folder, ["tile001", "tile999"])
    (folder / "index.json").unlink()
    with pytest.raises(GatemaskError, match="no finished records"):
        records.read_records(folder, ["tile001"])


def test_tensorflow_reads_the_records(tmp_path: Path) -> None:
    tf = quiet.tensorflow()
    examples = [{"image_id": b"a", "image": bytes(70_000), "mask": b"", "label": 0}, {"image_id": b"", "label": 300}]
    tfrecord.write(tmp_path / "x.tfrec", examples)
    raws = list(tf.data.TFRecordDataset(str(tmp_path / "x.tfrec")).as_numpy_iterator())
    for raw, example in zip(raws, examples, strict=True):
        features = tf.train.Example.FromString(raw).features.feature
        assert {name: (v.bytes_list.value or v.int64_list.value)[0] for name, v in features.items()} == example
    damaged = bytearray((tmp_path / "x.tfrec").read_bytes())
    damaged[50_000] ^= 1
    (tmp_path / "x.tfrec").write_bytes(damaged)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(tmp_path / "x.tfrec")).as_numpy_iterator())


def shards(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir() if path.suffix == ".tfrec"}


def test_many_processes_write_the_same_as_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    records.make_records(project, COMP)
    expected = shards(project.records(64))
    (project.records(64) / "index.json").unlink()
    monkeypatch.setattr(encode, "FEW", 3)
    monkeypatch.setattr(encode, "CHUNK", 4)
    records.make_records(project, COMP)
    assert shards(project.records(64)) == expected
    assert sorted(expected) == ["00000.tfrec", "00001.tfrec", "00002.tfrec"]


@dataclass
class Prepared:
    """A prepared competition in its own project, and the hashes of its records when nothing interrupts them."""

    root: Path
    records: dict[str, str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("killed")
    folder = root / "experiments/tiles"
    folder.mkdir(parents=True)
    settings = {"size": 64, "format": "png", "per_shard": 20}
    comp = competition(image={"size": [256, 256], "channels": 3}, records=settings, groups={"duplicates": "ignore"})
    (folder / "competition.yaml").write_text(yaml.safe_dump(comp.model_dump(mode="json", exclude={"name"})))
    write_tiles(root / "raw", 400, 256)
    assert gatemask("data", "prepare", "tiles", root=root).returncode == 0
    assert gatemask("records", "make", "tiles", root=root).returncode == 0
    assert json.loads(gatemask("records", "check", "tiles", "--json", root=root).stdout)["checked"] == 400
    return Prepared(root, shards(root / "data/tiles/records-64"))


@pytest.mark.integration
@pytest.mark.parametrize("victim", ["the whole group", "the parent only"])
def test_a_killed_run_resumes_to_the_same_bytes(prepared: Prepared, victim: str) -> None:
    """Kill `gatemask records make` while its processes work."""
    folder = prepared.root / "data/tiles/records-64"
    shutil.rmtree(folder)
    workers: list[int] = []

    def working(pid: int) -> bool:
        workers[:] = children(pid)
        return len(list(folder.glob("0*.tfrec"))) >= 3

    arguments = ["-m", "gatemask", "records", "make", "tiles"]
    kill_when(working, *arguments, root=prepared.root, group=victim == "the whole group")
    deadline = time.monotonic() + 600
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("0*.tfrec")}
    assert 3 <= len(kept) < 20
    assert not (folder / "index.json").exists()
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    done = gatemask("records", "make", "tiles", root=prepared.root)
    assert done.returncode == 0, done.stderr
    assert "shards were finished before" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards are not made again"
    assert sorted(path.name for path in folder.glob("[!.]*") if path.suffix != ".tfrec") == ["index.json"]
    assert shards(folder) == prepared.records


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the child processes of `pid`, where the system lists them."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if int((folder / "stat").read_text().rpartition(") ")[2].split()[1]) == pid:
                pids.append(int(folder.name))
    return pids


def test_shards_of_other_settings_are_not_kept(project: Project) -> None:
    records.make_records(project, COMP)
    folder = project.records(64)
    first = shards(folder)
    jpeg = competition(records={"size": 64, "format": "jpeg", "per_shard": 10})
    records.make_records(project, jpeg)
    assert not set(shards(folder).values()) & set(first.values())
    records.make_records(project, COMP)
    assert shards(folder) == first


def test_a_shard_with_a_flipped_bit_is_reported_and_made_again(project: Project) -> None:
    records.make_records(project, COMP)
    assert records.check_records(project, COMP).checked == 24
    shard = project.records(64) / "00001.tfrec"
    before = shard.read_bytes()
    times = {path: path.stat().st_mtime_ns for path in project.records(64).glob("*.tfrec") if path != shard}
    shard.write_bytes(before[:900] + bytes([before[900] ^ 4]) + before[901:])
    with pytest.raises(GatemaskError, match=r"00001.tfrec: differs from the file[\s\S]*records make tiles"):
        records.check_records(project, COMP)
    records.make_records(project, COMP)
    assert shard.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_record_that_does_not_fit_the_manifest_is_reported(project: Project) -> None:
    records.make_records(project, COMP)
    folder = project.records(64)
    wrong = [
        {"image_id": b"tile000", "image": b"no picture", "mask": b"", "label": 0},
        {"image_id": b"tile001", "image": b"", "mask": b"", "label": 0},
        {"image_id": b"stranger", "image": b"", "mask": b"", "label": 0},
    ]
    tfrecord.write(folder / "00000.tfrec", wrong)
    index = json.loads((folder / "index.json").read_text())
    index["outputs"]["00000.tfrec"] = sha256(folder / "00000.tfrec")
    write_stamp(folder / "index.json", index)
    with pytest.raises(GatemaskError) as caught:
        records.check_records(project, COMP)
    for words in ("image tile000: an image of shape None", "tile001: label 0, but", "stranger: not in the manifest"):
        assert words in str(caught.value)


@pytest.mark.parametrize("few", [3, 100])
def test_a_damaged_raw_file_is_named(project: Project, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(encode, "FEW", few)
    (project.root / "raw/images/tile013.png").write_bytes(b"gone bad")
    with pytest.raises(GatemaskError, match=r"cannot be read[\s\S]*tile013.png"):
        records.make_records(project, COMP)
    assert not (project.records(64) / "index.json").exists()
    assert not (project.records(64) / "parts").exists()


def test_masks_too_small_to_survive_are_counted_but_stay_positive(project: Project) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[5, 5] = 255
    cv2.imwrite(str(project.root / "raw/masks/tile001.png"), mask)
    prepare(project, COMP)
    records.make_records(project, COMP)
    assert records.check_records(project, COMP).vanished_masks == 1


def test_a_raw_file_of_another_size_is_rejected(project: Project) -> None:
    cv2.imwrite(str(project.root / "raw/images/tile013.png"), np.zeros((90, 200, 3), np.uint8))
    with pytest.raises(GatemaskError, match=r"has changed since[\s\S]*tile013.png[\s\S]*\(90, 200\)"):
        records.make_records(project, COMP)


def test_settings_of_the_image_must_be_those_of_the_manifest(project: Project) -> None:
    changed = COMP.model_copy(update={"image": COMP.image.model_copy(update={"size": (64, 256)})})
    with pytest.raises(GatemaskError, match="other settings of 'image'"):
        records.make_records(project, changed)


@pytest.mark.integration
def test_two_at_once_take_turns(prepared: Prepared) -> None:
    folder = prepared.root / "data/tiles/records-64"
    shutil.rmtree(folder)
    code = "import sys; from gatemask import cli, files; files.LOCK_S = 300; cli.main(sys.argv[1:])"
    command = ["-c", code, "records", "make", "tiles", "--json"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run_python(*command, root=prepared.root), "ab"))
    results = [json.loads(done.stdout) for done in both]
    assert sorted(result.get("current", False) for result in results) == [False, True]
    assert shards(folder) == prepared.records


SPOILED = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:900] + bytes([content[900] ^ 4]) + content[901:],
    "of another kind": lambda content: b"<html>404</html>",
    "longer": lambda content: content + content[:100],
}


@pytest.mark.parametrize("damage", SPOILED)
def test_a_damaged_shard_is_named_where_records_are_read(project: Project, damage: str) -> None:
    """As a training reads them: no image is silently left out, and no error of TensorFlow comes through."""
    records.make_records(project, COMP)
    shard = project.records(64) / "00001.tfrec"
    sound = shard.read_bytes()
    spoiled = SPOILED[damage](sound)
    if spoiled is None:
        shard.unlink()
    else:
        shard.write_bytes(spoiled)
    with pytest.raises(GatemaskError, match=r"00001.tfrec") as caught:
        records.read_records(project.records(64), ["tile013"])
    assert ("does not exist" if damage == "missing" else "is damaged") in str(caught.value)
    records.make_records(project, COMP)
    assert shard.read_bytes() == sound


@pytest.mark.parametrize(
    "content", [b"x" * 100, b"\0" * 16, b"\xff" * 40, tfrecord.serialize({"image_id": b"a"})], ids=str
)
def test_a_shard_with_the_right_hash_and_other_contents_is_rejected(project: Project, content: bytes) -> None:
    records.make_records(project, COMP)
    folder = project.records(64)
    shard = folder / "00000.tfrec"
    if content.startswith(b"\n"):
        tfrecord.write(shard, [{"image_id": b"a"}])
    else:
        shard.write_bytes(content)
    index = json.loads((folder / "index.json").read_text())
    index["outputs"]["00000.tfrec"] = sha256(shard)
    write_stamp(folder / "index.json", index)
    with pytest.raises(GatemaskError, match=r"00000.tfrec"):
        records.read_records(folder, ["tile013"])
    with pytest.raises(GatemaskError, match=r"00000.tfrec: A shard of the records is damaged"):
        records.check_records(project, COMP)


def test_a_shard_damaged_after_an_interruption_is_made_again(project: Project) -> None:
    records.make_records(project, COMP)
    folder = project.records(64)
    expected = shards(folder)
    making = {"made_from": None, **json.loads((folder / "index.json").read_text())}["made_from"]
    (folder / "making.json").write_text(json.dumps(making))
    (folder / "index.json").unlink()
    damaged = bytearray((folder / "00001.tfrec").read_bytes())
    damaged[900] ^= 4
    (folder / "00001.tfrec").write_bytes(damaged)
    records.make_records(project, COMP)
    assert shards(folder) == expected
    assert sorted(path.suffix for path in folder.glob("[!.]*")) == [".json", ".tfrec", ".tfrec", ".tfrec"]


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', "{", "", "[" * 100_000, '{"outputs": [], "seconds": 1}'])
def test_a_damaged_index_is_named(project: Project, content: str) -> None:
    records.make_records(project, COMP)
    (project.records(64) / "index.json").write_text(content)
    for read in (
        lambda: records.make_records(project, COMP),
        lambda: records.check_records(project, COMP),
        lambda: records.read_records(project.records(64), ["tile013"]),
    ):
        with pytest.raises(GatemaskError, match=r"index.json"):
            read()
