"""`make clean` deletes what can be made again in minutes, lists the rest, and deletes that only after CONFIRM=yes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gatemask import clean, files
from tests.conftest import ROOT

AGAIN = [
    "data/siim/manifest.csv",
    "data/siim/records-64/index.json",
    "data/phantom/raw/phantom.json",
    "data/.compiled/cpu-1/jit_step-cache",
    "runs/siim/tuned/rule.yaml",
    "runs/siim/report/report.html",
    "runs/siim/summary.json",
    "runs/phantom-quick/unet/fold0/result.json",
    "runs/.logs/fault-1.log",
    "runs/audit/folds.png",
    "dist/siim/dataset/a.whl",
    "dist/device-kit-3.12/run.sh",
    "dist/device-kit-3.12.tar",
    "folds/phantom.csv",
    "folds/siim-quick.csv",
]
PRECIOUS = [
    "data/siim/raw/train/1.dcm",
    "data/siim/download-files.json",
    "data/siim/records-512/index.json",
    "data/weights/b0.h5",
    "data/moved/masks.csv",
    "data/notes.txt",
    "runs/siim/unet/fold0/result.json",
    "runs/siim/unet/fold0.replaced1/result.json",
    "runs/siim/kaggle/unet.json",
    "runs/siim/submissions/1.json",
    "runs/siim/wandb-synced.json",
    "runs/siim-quick/kaggle/unet.json",
    "runs/siim-quick/fetched/fold0/result.json",
    "runs/siim-quick/unfinished/fold0/begun.json",
    "runs/siim-quick/tuned/result.json",
    "runs/.kaggle/dataset.json",
    "runs/bench.json",
    "dist/gone/dataset/only.weights.h5",
]
UNTOUCHED = ["folds/siim.csv", "experiments/siim/competition.yaml", "elsewhere/raw/1.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    contents = {
        "data/siim/records-512/index.json": {"seconds": 4000},
        "data/siim/records-64/index.json": {"seconds": 30},
        "runs/phantom-quick/unet/fold0/result.json": {"seconds": 30},
        "runs/siim-quick/fetched/fold0/result.json": {"seconds": 3},
        "runs/siim-quick/tuned/result.json": {"seconds": 5000.0},
        "data/moved/manifest.json": {"raw": str(tmp_path / "nowhere")},
        "data/siim/manifest.json": {"raw": "data/siim/raw"},
        "runs/siim-quick/fetched/fold0/kaggle.json": {},
    }
    for name in [*AGAIN, *PRECIOUS, *UNTOUCHED, *contents]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents.get(name, {})))
    (tmp_path / "data/siim/linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path


def present(root: Path, names: list[str]) -> set[str]:
    return {name for name in names if (root / name).exists()}


def test_it_keeps_and_lists_what_takes_long(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert clean.clean(root, everything=False) == 0
    shown = capfd.readouterr().out
    assert present(root, AGAIN) == set()
    assert present(root, PRECIOUS) == set(PRECIOUS)
    assert present(root, UNTOUCHED) == set(UNTOUCHED), "what a link points to stays"
    for words in ("runs/siim/unet", "(trained folds)", "runs/siim/kaggle", "(took 67 minutes)", "CONFIRM=yes", " B  "):
        assert words in shown
    assert not (root / "dist/siim").exists()


def test_confirmed_it_deletes_everything_that_was_made(root: Path) -> None:
    assert clean.clean(root, everything=True) == 0
    assert present(root, [*AGAIN, *PRECIOUS]) == set()
    assert present(root, UNTOUCHED) == set(UNTOUCHED)
    assert sorted(path.name for path in root.iterdir()) == ["elsewhere", "experiments", "folds"]
    assert clean.clean(root, everything=True) == 0


def test_nothing_is_deleted_while_a_command_runs(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with files.locked(root / "runs/siim/tuned/.result.json.lock", "unused"):
        assert clean.clean(root, everything=True) == 1
    assert "A command is running" in capfd.readouterr().err
    assert present(root, [*AGAIN, *PRECIOUS]) == {*AGAIN, *PRECIOUS}


@pytest.mark.integration
@pytest.mark.parametrize("confirm", ["", "no", "yes"])
def test_make_clean_asks(root: Path, confirm: str) -> None:
    (root / "lib").symlink_to(ROOT / "lib")
    make = ["make", "-f", str(ROOT / "Makefile"), "clean", *([f"CONFIRM={confirm}"] if confirm else [])]
    done = subprocess.run(make, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (present(root, PRECIOUS) == set()) == (confirm == "yes")
