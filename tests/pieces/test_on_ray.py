"""A Ray cluster of three nodes on this machine: the same results as one process, also after a node was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatemask.files import sha256
from tests import tiny
from tests.conftest import ROOT, TINY_GATEMASK, environment

pytestmark = [pytest.mark.slow, pytest.mark.trains]
pytest.importorskip("ray", reason='Ray is not installed: pip install "gatemask[ray]"')

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
SETTINGS = ["--quick", "--set", "runtime.deterministic=true"]
# What does not depend on paths, times and machines.
SAME = ["images", "positives", "cross_fitted", "ci95", "in_sample", "all_empty", "rule", "submission_score"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start three nodes of one core each; their processes have tiny encoders."""
    from ray.cluster_utils import Cluster

    site = tmp_path_factory.mktemp("site")
    (site / "_tiny.py").write_text(Path(tiny.__file__).read_text())
    (site / "sitecustomize.py").write_text(tiny.HOOK)
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(site), WANDB_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    os.environ.update(RAY_raylet_start_wait_time_s="300", RAY_worker_niceness="0")  # on a busy machine
    started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        for _ in range(2):
            started.add_node(**NODE)
        yield started
    finally:
        started.shutdown()
        os.environ.clear()
        os.environ.update(before)


def start(root: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, *TINY_GATEMASK, *map(str, arguments), *SETTINGS, "--json"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(started: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    out, said = started.communicate()
    assert started.returncode == 0, said[-4000:]
    return json.loads(out), said


def hashes(root: Path) -> dict[str, str]:
    """Return the hashes of records, folds, tables and the submission."""
    patterns = ["folds/*.csv", "data/*/records-*/*.tfrec", "runs/*/*/tables.npz", "runs/*/*/fold*/tables.npz"]
    patterns += ["runs/*/*/fold*/oof.*", "runs/*/rehearsal/submission.csv"]
    return {path.relative_to(root).as_posix(): sha256(path) for each in patterns for path in sorted(root.glob(each))}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.05)


def test_the_loop_on_three_nodes_gives_the_results_of_one_machine(
    make_root: Callable[[str], Path], cluster: Any, record_property: Callable[[str, object], None]
) -> None:
    """A node is killed while it trains, and another one takes its place."""
    here, there = make_root("here"), make_root("there")
    begun = time.monotonic()
    own, _ = finish(start(here, "loop", "phantom"))
    alone_s = time.monotonic() - begun

    begun = time.monotonic()
    options = ["--on", "ray", "--address", cluster.address]
    loop = start(there, "loop", "phantom", *options)
    wait_for(lambda: list(there.glob("runs/phantom-quick/*/fold*/state/at-*.h5")), loop)
    worker = sorted(cluster.worker_nodes, key=str)[0]
    cluster.remove_node(worker, allow_graceful=False)
    cluster.add_node(**NODE)
    result, said = finish(loop)
    record_property("seconds", {"local": round(alone_s), "ray": round(time.monotonic() - begun)})
    assert "pieces of work on Ray: 3 nodes" in said
    assert hashes(there) == hashes(here)
    assert {name: result[name] for name in SAME} == {name: own[name] for name in SAME}

    predicted, _ = finish(start(there, "predict", "phantom", "--shards", "3", *options))
    assert predicted["shards"] == 3
    submissions = [there / "runs/phantom-quick" / name / "submission.csv" for name in ("predicted", "rehearsal")]
    assert submissions[0].read_bytes() == submissions[1].read_bytes()
    assert not list(there.glob("runs/.tmp-*"))


def test_a_folder_that_nodes_do_not_share_is_reported(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatemask.errors import GatemaskError
    from gatemask.pieces import on_ray
    from gatemask.pieces.on_ray import RayCluster
    from gatemask.pieces.piece import Piece

    work = Piece("work", "pieces.piece:split_evenly", {"items": [1, 2], "count": 2})
    try:
        assert RayCluster(tmp_path, cluster.address).run([work])["work"].value == [[1], [2]]
        write = on_ray.write_text
        monkeypatch.setattr(on_ray, "write_text", lambda path, text: write(path, f"{text} on another disk"))
        with pytest.raises(GatemaskError, match=r"(?s)does not see the project's folder.*share under the same path"):
            RayCluster(tmp_path, cluster.address).run([work])
        monkeypatch.undo()
        monkeypatch.setattr(on_ray, "__version__", "0.0.1")
        with pytest.raises(GatemaskError, match=r"(?s)another version of gatemask.*not 0.0.1|expected: +0.0.1"):
            RayCluster(tmp_path, cluster.address).run([work])
    finally:
        import ray

        ray.shutdown()
    shutil.rmtree(tmp_path)
