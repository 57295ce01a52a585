"""Stages with a remote: stamps last, killed uploads, other machines, leases.

Machines are project folders. The remote is a folder, which real processes share, or fsspec's memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.project import Project
from gatemask.remote import lease as leases
from gatemask.remote import work
from gatemask.remote.address import VARIABLE
from gatemask.remote.lease import Lease, LostLeaseError
from gatemask.remote.mirror import Mirror
from gatemask.remote.objects import Objects
from gatemask.stage import Stage, StageResult
from gatemask.tracking.run_folder import locked_run
from gatemask.transfer import pull_files, push_files

FILES = ("a.txt", "b.txt", "c.csv")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty remote, which is set."""
    pytest.importorskip("fsspec")
    address = f"file://{tmp_path}/remote" if request.param == "file" else f"memory://{uuid.uuid4()}/remote"
    monkeypatch.setenv(VARIABLE, address)
    return address


@pytest.fixture
def folder_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a remote that processes share."""
    pytest.importorskip("fsspec")
    address = f"file://{tmp_path}/remote"
    monkeypatch.setenv(VARIABLE, address)
    return address


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that makes the project folder of a machine."""

    def make(name: str) -> Path:
        root = tmp_path / name
        (root / "experiments/c").mkdir(parents=True)
        return root

    work._mirror.cache_clear()
    yield make
    work._mirror.cache_clear()


def stage(root: Path, whole: bool = False) -> Stage[StageResult]:
    return Stage("counting", root / "runs/c/a/result.json", {"settings": 1}, StageResult, whole)


def make(root: Path, text: str = "1", whole: bool = False) -> bool:
    """Run the stage, and return whether it worked."""
    begun: list[str] = []

    def write() -> tuple[StageResult, list[Path]]:
        begun.append("")
        folder = root / "runs/c/a"
        paths = [write_text(folder / name, text + name) for name in FILES]
        write_text(folder / "notes.txt", "not listed")
        return StageResult(), paths

    stage(root, whole).run(write)
    return bool(begun)


def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each uploaded object is added."""
    order: list[str] = []
    real = Objects.upload
    monkeypatch.setattr(Objects, "upload", lambda self, files: (order.extend(files), real(self, files))[1])
    return order


def test_stamp_is_uploaded_last_and_other_machines_have_nothing_to_do(
    url: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, one, two = uploads(monkeypatch), machine("one"), machine("two")
    assert make(one)
    assert sorted(order[:-1]) == [f"runs/c/a/{name}" for name in (*FILES, "notes.txt")]
    assert order[-1] == "runs/c/a/result.json"
    order.clear()
    assert not make(one)
    assert not make(two, "2")
    assert order == []
    for name in (*FILES, "notes.txt", "result.json"):
        assert (two / "runs/c/a" / name).read_bytes() == (one / "runs/c/a" / name).read_bytes()


def test_without_a_remote_nothing_is_copied(
    tmp_path: Path, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for package in ("fsspec", "s3fs", "gcsfs", "botocore", "psycopg"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    root = machine("one")
    assert make(root)
    assert not make(root)
    assert not (root / "data").exists()


def fork(act: Callable[[], object]) -> int:
    """Run a function in a process of its own, and return how it ended."""
    if (pid := os.fork()) == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_at(upload: int) -> Callable[[], object]:
    """Return a function that makes this process kill itself when it begins an upload, counted from 0."""

    def prepare() -> None:
        left, real = [upload], Objects.upload

        def count(self: Objects, files: dict[str, Path]) -> None:
            for key, path in files.items():
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                real(self, {key: path})

        Objects.upload = count  # type: ignore[assignment]

    return prepare


@pytest.mark.parametrize("upload", range(5))
@pytest.mark.parametrize("lost", [False, True], ids=["same machine", "machine lost"])
def test_a_killed_upload_is_finished_by_the_next_run(
    folder_url: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, upload: int, lost: bool
) -> None:
    one = machine("one")
    prepare = killed_at(upload)
    status = fork(lambda: (prepare(), make(one)))
    assert os.WIFSIGNALED(status)
    remote = Objects(folder_url)
    assert len(remote.list("runs")) == upload, "objects that were uploaded before the kill"
    assert "runs/c/a/result.json" not in remote.list("runs")
    if lost:
        shutil.rmtree(one)
    order = uploads(monkeypatch)
    assert make(machine("new") if lost else one) is lost, "the stage is made again only where its files are lost"
    assert order[-1] == "runs/c/a/result.json"
    assert lost or len(order) == 5 - upload, "only the rest is uploaded"
    third = machine("third")
    assert not make(third, "3")
    assert (third / "runs/c/a/a.txt").read_text() == "1a.txt"


def test_a_file_that_changed_on_another_machine_is_fetched(url: str, machine: Callable[[str], Path]) -> None:
    one, two = machine("one"), machine("two")
    make(one)
    make(two)
    (one / "runs/c/a/a.txt").write_text("damaged")
    assert make(one, "9"), "a damaged output is made again"
    assert not make(two), "and is current where it was"
    work.fetch(two, ["runs/c/a/"])
    assert (two / "runs/c/a/a.txt").read_text() == "9a.txt"
    assert not make(two)


def test_states_reach_the_remote_while_a_training_runs(
    url: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machine("one"), machine("two")
    folder = one / "runs/c/net/fold0"
    order = uploads(monkeypatch)
    with locked_run(folder, "net fold 0"):
        for epoch in (1, 2):
            write_text(folder / f"state/at-000{epoch}-00000.h5", "state")
            write_text(folder / f"state/best-000{epoch}.h5", "weights")
            if epoch == 2:
                (folder / "state/at-0001-00000.h5").unlink()
            work.upload_now(folder / "result.json")
    assert order == [
        f"runs/c/net/fold0/state/{name}"
        for name in ("best-0001.h5", "at-0001-00000.h5", "best-0002.h5", "at-0002-00000.h5")
    ], "weights first"
    remote = Objects(url).list("runs")
    assert "runs/c/net/fold0/state/at-0001-00000.h5" not in remote, "what the training deletes is deleted there"
    work.fetch(two, ["runs/c/net/"])
    assert (two / "runs/c/net/fold0/state/at-0002-00000.h5").exists()
    with locked_run(two / "runs/c/net/fold0", "net fold 0"):
        shutil.rmtree(two / "runs/c/net/fold0/state")
        write_text(two / "runs/c/net/fold0/result.json", "{}")
    assert list(Objects(url).list("runs")) == ["runs/c/net/fold0/result.json"]


def test_an_unreachable_remote_does_not_stop_a_training(
    url: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("one") / "runs/c/net/fold0"
    real = Objects.upload
    with locked_run(folder, "net fold 0"):
        write_text(folder / "state/at-0001-00000.h5", "state")

        def fail(self: Objects, files: dict[str, Path]) -> None:
            with self._faults("write", "x"):
                raise ConnectionError("no route to host")

        monkeypatch.setattr(Objects, "upload", fail)
        work.upload_now(folder / "result.json")
        monkeypatch.setattr(Objects, "upload", real)
    assert "runs/c/net/fold0/state/at-0001-00000.h5" in Objects(url).list("runs"), "the next upload includes it"


# --- leases -------------------------------------------------------------------------------------------------


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    monkeypatch.setattr(leases, "LOOK_S", 0.05)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases that are taken from now on belong to another machine."""
    monkeypatch.setattr(leases, "_machine", lambda: "another")


def test_objects_are_created_once(url: str) -> None:
    objects = Objects(url)
    assert objects.create("locks/1", b"first")
    assert not objects.create("locks/1", b"second")
    assert objects.read("locks/1") == b"first"
    objects.write("locks/1", b"third")
    assert objects.read("locks/1") == b"third"
    objects.delete(["locks/1", "locks/1"])
    assert objects.read("locks/1") is None


def test_one_machine_holds_a_lease(url: str, short_lease: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(url)
    with Lease(objects, "runs/x.json", "Busy."):
        elsewhere(monkeypatch)
        with pytest.raises(GatemaskError, match=r"Busy\.") as raised, Lease(objects, "runs/x.json", "Busy."):
            pass
        assert f"process {os.getpid()}" in str(raised.value)
        with Lease(objects, "runs/y.json", "Busy."):
            pass
    with Lease(objects, "runs/x.json", "Busy."):
        pass


def test_of_many_that_try_one_holds_a_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_S", 0.01)
    objects, held, most = Objects(url), [0], [0]
    done: list[int] = []

    def use() -> None:
        with Lease(objects, "runs/x.json", "Busy."):
            held[0] += 1
            most[0] = max(most[0], held[0])
            time.sleep(0.02)
            held[0] -= 1
        done.append(1)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], len(done)) == (1, 8)


def abandoned(objects: Objects, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """Leave a lease that is not renewed, of a process that does not exist."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_machine", lambda: machine)
        lost = Lease(objects, "runs/x.json", "Busy.")
        text = json.loads(lost._text()) | {"process": 2**22 + 1}
        assert objects.create(lost._name(1), json.dumps(text).encode())


def test_a_lease_of_a_lost_machine_expires(url: str, short_lease: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(url)
    abandoned(objects, monkeypatch, "another")
    started = time.monotonic()
    with Lease(objects, "runs/x.json", "Busy."):
        assert 0.5 < time.monotonic() - started < 30


def test_a_lease_of_a_killed_process_of_this_machine_is_free(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(url)
    abandoned(objects, monkeypatch, leases._machine())
    started = time.monotonic()
    with Lease(objects, "runs/x.json", "Busy."):
        assert time.monotonic() - started < 10


def test_a_machine_that_wakes_up_uploads_nothing_more(
    url: str, machine: Callable[[str], Path], short_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 3600.0)  # the first machine sleeps
    one, two = machine("one"), machine("two")
    folder = one / "runs/c/net/fold0"
    with pytest.raises(LostLeaseError, match="took over"), locked_run(folder, "net fold 0"):
        elsewhere(monkeypatch)
        with locked_run(two / "runs/c/net/fold0", "net fold 0"):
            write_text(two / "runs/c/net/fold0/result.json", "two")
        write_text(folder / "result.json", "one")
    assert Objects(url).read("runs/c/net/fold0/result.json") == b"two"


# --- commands and addresses ---------------------------------------------------------------------------------


def test_push_and_pull(url: str, machine: Callable[[str], Path]) -> None:
    one, two = (Project(machine(name), "c") for name in ("one", "two"))
    write_text(one.data / "raw/images/1.png", "image")
    write_text(one.data / "manifest.csv", "table")
    write_text(one.runs / "notes.json", "{}")
    write_text(one.folds, "folds")
    write_text(one.runs / "net/fold0/state/at-1.h5", "unfinished")
    sent = push_files(one)
    assert (sent.files, sent.equal, sent.differ) == (4, 0, ())
    assert push_files(one).equal == 4
    assert pull_files(two).files == 3
    assert not (two.data / "raw").exists()
    assert pull_files(two, everything=True).files == 1
    image = "raw/images/1.png"
    assert (two.data / image).stat().st_mtime_ns == (one.data / image).stat().st_mtime_ns, "the manifest lists times"
    write_text(two.runs / "notes.json", "{2}")
    write_text(two.folds, "others")
    assert pull_files(two).files == 0
    assert push_files(two).files == 2
    write_text(one.runs / "notes.json", "{11}")
    assert push_files(one).differ == ("folds/c.csv", "runs/c/notes.json")
    assert pull_files(one).files == 1
    assert one.folds.read_text() == "folds", "folds are under version control"
    with pytest.raises(GatemaskError, match="generated files only"):
        pull_files(one, ["experiments/"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("bucket/folder", "not a URL"),
        ("s3://key:secret@bucket/folder", "contains credentials"),
        ("nothing://bucket", "cannot be opened"),
    ],
)
def test_addresses(machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, address: str, message: str) -> None:
    monkeypatch.setenv(VARIABLE, address)
    with pytest.raises(GatemaskError, match=message) as raised:
        make(machine("one"))
    assert "secret@" not in str(raised.value)


def test_a_missing_package_is_named(machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "s3://bucket/folder")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(GatemaskError, match="needs the package s3fs"):
        make(machine("one"))


def test_a_lost_index_is_made_again(url: str, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")
    make(one)
    shutil.rmtree(one / "data/.remote")
    order = uploads(monkeypatch)
    assert not make(one)
    assert order == [], "contents are compared"
    assert Mirror(one, url).pending([one / "runs/c/a/result.json"]) == []
