"""A disk that fills up at any file of a stage: a sentence, nothing half-written, and the same command goes through.

Most cases limit the size of files that this process may write (RLIMIT_FSIZE), once below the size of each output, so
every output is the one that fails. One uses a small disk of its own, where the system permits to mount one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import yaml

from gatemask import files
from gatemask.cli import main
from gatemask.data import encode
from gatemask.data.sources import ImageSource
from gatemask.data.truth import EncodedMasks
from gatemask.errors import StorageError
from gatemask.kaggle.image import own_wheel, wheels
from gatemask.kaggle.submit import package
from gatemask.stage import Stage, StageResult
from tests.conftest import write_tiles
from tests.data.test_manifest import competition
from tests.full_disk import limited_files

pytestmark = pytest.mark.integration  # takes seconds

# Each stage with the folder of its outputs.
STAGES = {
    "data phantom drawn": "data/drawn/raw",
    "data prepare tiles": "data/tiles",
    "folds make tiles": "folds",
    "records make tiles": "data/tiles/records-64",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages are done, with outputs of random content that does not compress."""
    root = tmp_path_factory.mktemp("full")
    write_tiles(root / "raw", 24, 64)
    rng = np.random.default_rng(0)
    for path in (root / "raw/images").iterdir():
        cv2.imwrite(str(path), rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    for name in ("tiles", "drawn"):
        folder = root / "experiments" / name
        folder.mkdir(parents=True)
        settings = {"size": 64, "format": "png", "per_shard": 10}
        comp = competition(image={"size": [64, 64], "channels": 3}, records=settings)
        fields = comp.model_dump(mode="json", exclude={"name"})
        if name == "drawn":
            fields |= {"raw": "{data}/raw", "phantom": {"images": 6, "test_images": 2, "size": 64}}
        (folder / "competition.yaml").write_text(yaml.safe_dump(fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEMASK_ROOT", str(root))
        for command in STAGES:
            assert run(command) == 0, command
    return root


def run(command: str) -> object:
    with pytest.raises(SystemExit) as done:
        main(command.split())
    return done.value.code


def contents(root: Path, folder: str) -> dict[str, bytes]:
    """Return the files of a folder that people see, without what differs from run to run."""
    found = {}
    for path in (root / folder).rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            lines = path.read_bytes().replace(bytes(root), b"ROOT").splitlines(keepends=True)
            kept = (line for line in lines if b'"seconds"' not in line and b'"hash"' not in line)
            found[path.relative_to(root / folder).as_posix()] = b"".join(kept)
    return found


def remove(root: Path, command: str) -> None:
    """Remove what a stage and those after it have made."""
    for folder in list(STAGES.values())[list(STAGES).index(command) :]:
        shutil.rmtree(root / folder, ignore_errors=True)
    for note in (root / "data/tiles").glob("folds*.json"):
        note.unlink()


@pytest.mark.parametrize("command", STAGES)
def test_a_stage_survives_a_full_disk_at_each_of_its_files(
    command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    for name in ("experiments", "raw", "data", "folds"):
        shutil.copytree(made / name, tmp_path / name)
    remove(tmp_path, command)
    assert run(command) == 0
    expected = contents(tmp_path, STAGES[command])
    sizes = {path.stat().st_size for path in (tmp_path / STAGES[command]).rglob("*.*") if path.is_file()}
    remove(tmp_path, command)
    limits = sorted({0, *(size - 1 for size in sizes if size)})
    for size in {*limits[:: max(1, len(limits) // 3)], limits[-1]}:
        capsys.readouterr()
        with limited_files(size):
            code = run(command)
        shown = capsys.readouterr()
        assert (code, shown.out) == (1, "")
        assert "error: The file is larger than the system allows.\n  where:    " in shown.err, shown.err
        assert "(ulimit -f)" in shown.err
        left = contents(tmp_path, STAGES[command])
        assert [name for name, data in left.items() if name in expected and data != expected[name]] == []
        assert set(left) - set(expected) <= {"making.json"}, "nothing temporary is left"
    assert run(command) == 0
    assert contents(tmp_path, STAGES[command]) == expected


def test_worker_processes_report_a_full_disk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system keeps its number and its file on the way from a process that encodes images."""
    import pickle

    part = tmp_path / "a.part"
    source = ImageSource("tile001", (made / "raw/images/tile001.png",))
    raw = encode.RawImage(source, EncodedMasks((64, 64), ((),)))
    comp = competition(image={"size": [64, 64], "channels": 3}, records={"size": 64, "format": "png"})
    with limited_files(100), pytest.raises(OSError, match="too large") as caught:
        encode._write_task(([raw], part), comp)
    fault = pickle.loads(pickle.dumps(caught.value))
    assert fault.errno == caught.value.errno


def test_a_package_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "best.weights.h5"
    with h5py.File(weights, "w") as file:
        file["kernel"] = np.arange(1000.0)
    wheel = files.write_bytes(tmp_path / "shipped.whl", bytes(5000))
    monkeypatch.setattr(own_wheel, "build_own", lambda folder: files.write_bytes(folder / "gatemask.whl", bytes(9000)))
    monkeypatch.setattr(wheels, "shipped", lambda: [wheel])
    monkeypatch.setattr(package, "weights_file", lambda project, member: weights)

    class Shipped:
        """Stands in for an ensemble of one member."""

        class Member:
            name, sha256 = "unet-fold0", files.sha256(weights)

        members = (Member(),)

        def model_copy(self, update: object) -> Shipped:
            return self

        def save(self, path: Path) -> Path:
            return files.write_text(path, "x" * 300)

    stage = Stage("package", tmp_path / "dist/package.json", {}, StageResult)

    def work() -> tuple[StageResult, list[Path]]:
        dataset = files.fresh_folder(tmp_path / "dist/dataset")
        package.fill_dataset(None, dataset, Shipped(), None)  # type: ignore[arg-type]
        return StageResult(), sorted(dataset.iterdir())

    whole = {
        "unet-fold0.weights.h5": weights.stat().st_size,
        "shipped.whl": 5000,
        "gatemask.whl": 9000,
        "ensemble.yaml": 300,
    }
    for size in (0, 100, 5100, 9500):
        with limited_files(size), pytest.raises(StorageError, match="larger than the system allows"):
            stage.run(work)
        assert not stage.stamp.exists()
        for path in (tmp_path / "dist/dataset").iterdir():
            assert path.stat().st_size == whole[path.name]
    assert not stage.run(work).current
    assert stage.run(work).current


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("the system does not permit to mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.integration
def test_a_full_disk_is_named_and_the_command_continues_with_more_room(
    small_disk: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_disk / "project"
    shutil.copytree(made / "experiments", root / "experiments")
    monkeypatch.setenv("GATEMASK_ROOT", str(root))
    command = "data phantom drawn --set phantom.images=20"
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 40_000))
    assert run(command) == 1
    shown = capsys.readouterr().err
    assert "error: The disk is full." in shown
    assert f"of 1.0 MB free on the disk mounted at {small_disk}" in shown
    assert "for this file" in shown
    assert not list(root.rglob(".tmp-*"))
    filler.unlink()
    assert run(command) == 0
    assert len(list((root / "data/drawn/raw/train").rglob("*.dcm"))) == 20


@pytest.mark.integration
def test_a_read_only_disk_is_named(
    small_disk: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "experiments", small_disk / "experiments")
    monkeypatch.setenv("GATEMASK_ROOT", str(small_disk))
    assert run("data phantom drawn") == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    capsys.readouterr()
    assert run("data phantom drawn") == 0, "what is current needs no writing"
    capsys.readouterr()
    assert run("data phantom drawn --set phantom.seed=5") == 1
    shown = capsys.readouterr().err
    assert "error: The disk is read-only." in shown
    assert str(small_disk) in shown
