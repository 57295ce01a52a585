"""Training on Kaggle from push to fetch, with the real kaggle command and kernels that really train."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatemask.files import sha256
from gatemask.kaggle.image import sandbox
from tests import tiny
from tests.conftest import gatemask, run_python
from tests.kaggle.cloud import OWNER, Cloud, Run, serve
from tests.kaggle.warm import GATEMASK
from tests.tiny import INSTALL
from tests.warm import Warm

pytestmark = pytest.mark.trains

COMP = "phantom-quick"
FLAGS = ["--quick", "--set", "kaggle.accelerator=none", "--set", "runtime.deterministic=true"]
POLL = ["--poll", "1"]
IMPORTED = ["tensorflow", "keras", "pandas", "cv2", "h5py", "sklearn.metrics"]

# Makes the time budget see a day pass as soon as a first session has finished its first epoch.
FAST_CLOCK = '''"""Make the time budget see a day pass."""
import glob, os, sys, time

real = time.monotonic

def monotonic():
    if sys._getframe(1).f_globals.get("__name__") != "gatemask.training.time_budget":
        return real()
    kaggle = os.environ["GATEMASK_KAGGLE"]
    first = not glob.glob(f"{kaggle}/input/notebooks/*")
    late = first and glob.glob(f"{kaggle}/working/runs/long/fold*/state/at-0001-*.h5")
    return real() + (86400.0 if late else 0.0)

time.monotonic = monotonic
'''


@pytest.fixture(scope="module")
def root(phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trip") / "project"
    shutil.copytree(phantom_records, root)
    shutil.rmtree(root / "runs", ignore_errors=True)
    # One experiment with W&B is enough: its start takes longer than the training itself.
    silent = {"tracking": {"wandb": "disabled"}}
    gate = {"extends": "gate_r18.yaml", "quick": {"epochs": 1}, **silent}
    long = {"extends": "gate_r18.yaml", "quick": {"epochs": 3}, **silent}
    for name, settings in {"gate": gate, "long": long}.items():
        (root / f"experiments/phantom/{name}.yaml").write_text(yaml.safe_dump(settings))
    return root


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Kaggle, with a machine that has the packages of Kaggle's image; the rehearsals' tests isolate it too.

    Its sessions fork from a process that has imported the large packages.
    """
    folder = tmp_path_factory.mktemp("cloud")
    python, _ = sandbox.make_image(folder / "image", refuse_sockets=False)  # W&B talks to its own process
    site = next((folder / "image").glob("lib/python*/site-packages"))
    (site / "_fast_clock.py").write_text(FAST_CLOCK)
    (site / "_fast_clock.pth").write_text("import _fast_clock\n")
    tiny.install_in_image(folder / "image")
    settings = {"PATH": os.defpath, "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "-1", "KAGGLE_KERNEL_RUN_TYPE": "Batch"}
    settings |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}  # as gatemask sets them before the import
    image = Warm(tmp_path_factory.mktemp("image"), IMPORTED, {**settings, "HOME": str(folder)}, python)

    def machine(run: Run) -> int:
        script, home = run.folder / "script.py", run.folder / "home"
        script.write_text(run.source)
        home.mkdir()
        places = {"HOME": str(home), "TMPDIR": str(home), "GATEMASK_KAGGLE": str(run.kaggle)}
        code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        with run.log.open("wb") as log:
            session = image.start(
                ["-c", code], stdout=log, stderr=subprocess.STDOUT, environment=settings | places, folder=run.output
            )
            return session.wait(run.timeout_s)

    cloud = Cloud(folder / "service", runner=machine, processing=2, queueing=2)
    try:
        with serve(cloud):
            yield cloud
    finally:
        image.close()


@pytest.fixture
def kaggle(cloud: Cloud, warm_kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Direct the real command to the stand-in, and start it without the seconds of its imports."""
    for name, value in {**cloud.environment(tmp_path / "home"), "WARM_KAGGLE": str(warm_kaggle)}.items():
        monkeypatch.setenv(name, value)
    return cloud


def run(root: Path, *arguments: str) -> dict[str, Any]:
    done = run_python("-c", INSTALL + GATEMASK, *arguments, "--json", root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_two_folds_from_push_to_fetch(kaggle: Cloud, root: Path) -> None:
    pushed = run(root, "push", "phantom/unet_b0", "--allow-dirty", *POLL, *FLAGS)["pushed"]
    assert [kernel["folds"] for kernel in pushed] == [[0], [1]]
    assert [kernel["version"] for kernel in pushed] == [1, 1]
    records = f"{OWNER}/gatemask-phantom-quick-records-64"
    assert set(kaggle.datasets) == {records, f"{OWNER}/gatemask-wheels"}

    # Gates are trained here in the meantime; the campaign takes over the running kernels and keeps those gates.
    assert not run(root, "train", "phantom/gate", *FLAGS)["current"]
    result = run(root, "campaign", "phantom", "--experiments", "gate,unet_b0", "--allow-dirty", *POLL, *FLAGS)
    assert {name: sorted(scores) for name, scores in result["experiments"].items()} == {
        "gate": ["fold0", "fold1"],
        "unet_b0": ["fold0", "fold1"],
    }
    assert not result["given_up"]
    assert [len(versions) for versions in kaggle.kernels.values()] == [1, 1], "a fold was trained twice"
    assert all(len(versions) == 1 for versions in kaggle.datasets.values()), "something was uploaded twice"

    origin = json.loads((root / "runs" / COMP / "unet_b0/fold0/kaggle.json").read_text())
    assert origin["kernel"] == pushed[0]["ref"]
    assert origin["version"] == 1
    assert origin["datasets"] == {records: 1, f"{OWNER}/gatemask-wheels": 1}
    assert list((root / "runs" / COMP / "unet_b0/fold0/wandb").glob("offline-run-*/*.wandb"))

    assert run(root, "train", "phantom/unet_b0", *FLAGS)["current"], "fetched runs were not recognized as current"
    members = ["--set", "gate.experiments=[gate]", "--set", "mask.experiments=[unet_b0]"]
    tuned = run(root, "oof-tune", "phantom", "--quick", *members)
    assert tuned["images"] == 48
    repeated = run(root, "campaign", "phantom", "--experiments", "gate,unet_b0", "--allow-dirty", *POLL, *FLAGS)
    assert repeated["current"]
    assert run(root, "push", "phantom/unet_b0", "--allow-dirty", *FLAGS)["current"]


def test_interrupted_campaign_gives_the_weights_of_an_uninterrupted_training(
    kaggle: Cloud, root: Path, tmp_path: Path
) -> None:
    flags = ["--experiments", "long", "--fold", "0", "--allow-dirty", *POLL, *FLAGS]
    result = run(root, "campaign", "phantom", *flags)
    assert result["sessions"] == 2, run(root, "status", "phantom", "--quick")
    first, second = kaggle.kernels[f"{OWNER}/gatemask-phantom-quick-long-f0"]
    assert second.request["kernelDataSources"] == [f"{OWNER}/gatemask-phantom-quick-long-f0"], (
        "its output was not attached"
    )
    accounts = [json.loads((version.output / "gatemask-output.json").read_text()) for version in (first, second)]
    assert [account["state"] for account in accounts] == ["stopped", "finished"]
    assert any(name.endswith("state/at-0001-00000.h5") for name in accounts[0]["files"])
    assert "fold 0: continues from at-0001-00000" in second.log.read_text()

    uninterrupted = tmp_path / "uninterrupted"
    shutil.copytree(root, uninterrupted, ignore=shutil.ignore_patterns("runs", "dist"))
    run(uninterrupted, "train", "phantom/long", "--fold", "0", *FLAGS)
    for name in ("best.weights.h5", "oof.csv"):
        fetched, trained_here = (folder / "runs" / COMP / "long/fold0" / name for folder in (root, uninterrupted))
        assert sha256(fetched) == sha256(trained_here), f"{name} shows that the training was interrupted"
    losses = [
        [json.loads(row)["loss"] for row in (folder / "runs" / COMP / "long/fold0/metrics.jsonl").open()]
        for folder in (root, uninterrupted)
    ]
    assert losses[0] == losses[1]


def test_logs_and_status_after_training(kaggle: Cloud, root: Path) -> None:
    kernels = run(root, "status", "phantom", "--quick")["kernels"]
    assert {kernel["state"] for kernel in kernels} == {"finished"}
    done = gatemask("logs", "phantom/long", "--quick", root=root)
    assert done.returncode == 0
    assert "machine: a CPU, as requested" in done.stdout
