"""Stages whose work is done elsewhere make the files that they make here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gatemask.config import Competition, load_competition, load_ensemble
from gatemask.data import records
from gatemask.data.records import make_records
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.parallel import cores
from gatemask.project import Project
from gatemask.search import search
from gatemask.search.at_place import PlaceWork
from gatemask.search.space import Space
from gatemask.tuning.members import count_tables, open_members, training_images
from gatemask.tuning.table_pieces import count_at
from tests.conftest import Loop, kill_when, run_python
from tests.pieces.here import Here
from tests.search.fakes import FakeTraining, write_search
from tests.tiny import INSTALL

pytestmark = pytest.mark.integration


@pytest.fixture
def project(phantom_records: Path, tmp_path: Path) -> Project:
    shutil.copytree(phantom_records, tmp_path / "project", ignore=shutil.ignore_patterns("runs", "dist", "records-*"))
    return Project(tmp_path / "project", "phantom", quick=True)


@pytest.fixture
def comp(project: Project) -> Competition:
    comp = load_competition(project.experiments, quick=True)
    return comp.model_copy(update={"records": comp.records.model_copy(update={"per_shard": 5})})


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.glob("*.tfrec"))}


def test_records_are_the_same_wherever_they_are_written(project: Project, comp: Competition) -> None:
    """The second attempt writes only the shards of the piece that was lost in the first one."""
    make_records(project, comp)
    folder = project.records(comp.records.size)
    own = hashes(folder)
    shutil.rmtree(folder)
    with pytest.raises(GatemaskError, match=r"1 of 4 pieces of work failed"):
        make_records(project, comp, Here(2, lost=[1]))
    assert 0 < len(hashes(folder)) < len(own)
    again = Here(1)
    result = make_records(project, comp, again)
    assert len(again.ran) == 2
    assert hashes(folder) == own
    assert len(own) == result.shards == 10
    assert {path.name for path in folder.iterdir()} - set(own) == {"index.json", ".index.json.lock"}
    assert make_records(project, comp).current


def test_a_node_with_another_manifest_is_refused(
    project: Project, comp: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = records._made_from(project, comp)
    monkeypatch.setattr(records, "_made_from", lambda *_: dict(fields))
    place = Here()
    run = place._run
    monkeypatch.setattr(place, "_run", lambda piece: (fields.update(changed="yes"), run(piece))[1])
    with pytest.raises(GatemaskError, match="not the one from which the records are made"):
        make_records(project, comp, place)


def test_tables_are_the_same_wherever_they_are_counted(phantom_loop: Loop, tmp_path: Path) -> None:
    project = Project(phantom_loop.root, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    ensemble = load_ensemble(project.experiments, quick=True)
    fold_of = training_images(project).fold_of
    with open_members(project, comp, ensemble, fold_of) as predictions:
        own = count_tables(predictions, [2.0, 1.0])
    place = Here()
    path = tmp_path / "tables.npz"
    joined = count_at(place, project, comp, ensemble, len(fold_of), [2.0, 1.0], path)
    assert len(place.ran) == 3
    for name, array in own.arrays().items():
        np.testing.assert_array_equal(joined.arrays()[name], array)
    assert sha256(joined.save(path)) == sha256(own.save(tmp_path / "own.npz"))
    assert not list(tmp_path.glob("tables.*-*.npz"))


def test_workers_at_a_place_share_the_trials_of_a_search(
    phantom_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantom_records, tmp_path / "project", ignore=shutil.ignore_patterns("raw", "runs", "dist"))
    project = Project(tmp_path / "project", "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    write_search(project, trials=3)
    training = FakeTraining()
    monkeypatch.setattr(search, "train", training)
    place = Here(2)
    space = Space(project.experiments / "net.yaml", True, [])
    result = search.run_search(project, comp, space, PlaceWork(place))
    assert [piece.name for piece in place.ran] == ["search of net, worker 0", "search of net, worker 1"]
    assert result.left == 0
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert result.trained == len(training.trained)


PREDICT = (
    INSTALL
    + """
import sys
from gatemask.pieces import local
local.COMMAND = (sys.executable, "-c", sys.argv.pop(1))
from gatemask.cli import main
main()
"""
)
PROCESS = INSTALL + "from gatemask.pieces import process; process.main()"


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_processes_that_are_killed_leave_whole_shards(phantom_loop: Loop, tmp_path: Path, shards: int) -> None:
    """Real processes and networks: the submission is that of the rehearsed kernel, also after a kill."""
    root = tmp_path / "project"
    shutil.copytree(phantom_loop.root, root, ignore=shutil.ignore_patterns("rehearsal", "records-*"))
    predicted = root / "runs/phantom-quick/predicted"
    command = ["-c", PREDICT, PROCESS, "predict", "phantom", "--quick", "--shards", str(shards)]
    begun = f"shard-{shards - 1}-of-{shards}.log"  # the process is at work at the last shard
    kill_when(lambda _: (predicted / begun).exists(), *command, root=root, group=True)
    assert not (predicted / "result.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in predicted.glob("shard-*.json")}
    done = run_python(*command, root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(kept) >= shards - cores(), "finished shards"
    own = phantom_loop.runs / "rehearsal/submission.csv"
    assert (predicted / "submission.csv").read_bytes() == own.read_bytes()
    assert not list(predicted.glob("shard-*"))
