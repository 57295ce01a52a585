"""The submission kernel predicts in a child process: however that ends, a complete submission and a report remain.

The kernel's own script is loaded here; the child is a fork of this process whose prediction is replaced.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gatemask.results.submission import InferenceReport
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

SAMPLE = "ImageId,EncodedPixels\n" + "".join(f"i{n},-1\n" for n in range(15))
BETTER = SAMPLE.replace("-1", "1 2")
SCRIPT = ROOT / "kaggle_kernels/inference/inference.py"


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Return a folder in place of /kaggle, with a sample submission."""
    (tmp_path / "working").mkdir()
    competition = tmp_path / "input/competitions/t"
    competition.mkdir(parents=True)
    (competition / "sample.csv").write_text(SAMPLE)
    return tmp_path


@pytest.fixture
def load(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Return a loader of the script with another `predict`, for a hidden rerun or a saved version."""

    def load(predict: Callable[[], Any], rerun: bool = True) -> ModuleType:
        monkeypatch.setenv("GATEMASK_KAGGLE", str(kaggle))
        monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1" if rerun else "")
        spec = importlib.util.spec_from_file_location("inference", SCRIPT)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "predict", predict)
        return module

    return load


Load = Callable[..., ModuleType]


def submission(kaggle: Path) -> str:
    assert [path.name for path in kaggle.glob("working/.*")] == [], "nothing unfinished is left"
    return (kaggle / "working/submission.csv").read_text()


def report(kaggle: Path) -> InferenceReport:
    return InferenceReport.load(kaggle / "working/inference.json")


def predicts(kaggle: Path) -> dict[str, Any]:
    (kaggle / "working/submission.csv").write_text(BETTER)
    return {"degraded": [], "submission": "hash", "package": "hash", "images": 15}


def test_a_prediction_in_a_child_process(kaggle: Path, load: Load) -> None:
    def predict() -> dict[str, Any]:
        assert submission(kaggle) == SAMPLE, "the fallback is written first"
        return {**predicts(kaggle), "device": str(os.getpid())}

    load(predict).main()
    assert submission(kaggle) == BETTER
    assert report(kaggle).images == 15
    assert report(kaggle).device != str(os.getpid())


def killed(number: int) -> Callable[[], None]:
    def end() -> None:
        faulthandler.disable()  # pytest's would write a traceback
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    return end


def leaves_parts_and_is_killed() -> None:
    working = Path(os.environ["GATEMASK_KAGGLE"]) / "working"
    (working / ".tmp-12-ab-submission.csv").write_text(BETTER[:40])
    (working / ".room").write_bytes(b"0")
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory() -> None:
    raise MemoryError


def exits_silently() -> None:
    os._exit(0)


ENDS = {
    "SIGKILL": (killed(signal.SIGKILL), r"ended by SIGKILL \(signal 9\); memory probably ran out"),
    "SIGSEGV": (killed(signal.SIGSEGV), r"ended by SIGSEGV \(signal 11\)\.$"),
    "SIGABRT": (killed(signal.SIGABRT), r"ended by SIGABRT \(signal 6\); memory probably ran out"),
    "SIGBUS": (killed(signal.SIGBUS), "ended by SIGBUS"),
    "parts": (leaves_parts_and_is_killed, "ended by SIGKILL"),
    "exit": (exits_silently, "exit code 0, without a report"),
    "exit 3": (lambda: os._exit(3), "exit code 3, without a report"),
    "memory": (out_of_memory, "MemoryError"),
    "message": (lambda: sys.exit("no dataset"), "no dataset"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("rerun", [True, False])
def test_a_child_that_dies_leaves_the_fallback(kaggle: Path, load: Load, end: str, rerun: bool) -> None:
    predict, words = ENDS[end]
    if not rerun:
        with pytest.raises(SystemExit, match=words) as ended:
            load(predict, rerun=False).main()
        assert isinstance(ended.value.code, str), "exit code 1"
        assert list(kaggle.glob("working/*")) == [], "a saved version has no fallback to hide the fault"
        return
    load(predict).main()
    assert submission(kaggle) == SAMPLE
    (degraded,) = report(kaggle).degraded
    assert degraded.startswith("No prediction was possible: ")
    assert pytest.raises(SystemExit, match=words).matches(SystemExit(degraded))
    assert report(kaggle).submission is None


def test_a_child_that_does_not_end_is_stopped(kaggle: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(signal.pause)
    monkeypatch.setattr(module, "STARTED", module.STARTED - 9 * 3600)
    module.main()
    assert submission(kaggle) == SAMPLE
    assert "did not end within 9 hours" in report(kaggle).degraded[0]


def test_the_sample_is_found_by_its_name_or_by_the_word(kaggle: Path, load: Load) -> None:
    module = load(dict)
    (kaggle / "input/competitions/t/a_sample_of_images.csv").write_text("a,b\n")
    assert module.find_sample().name == "a_sample_of_images.csv"
    module.SAMPLE = "sample.csv"
    assert module.find_sample().name == "sample.csv"
    deep = kaggle / "input/a/b/c/d/e/f/nested/sub.csv"
    deep.parent.mkdir(parents=True)
    deep.touch()
    module.SAMPLE = "nested/sub.csv"
    assert module.find_sample() == deep


@pytest.mark.parametrize("limit", [len(SAMPLE) - 1, len(SAMPLE) + 1])
def test_a_file_size_limit(kaggle: Path, limit: int) -> None:
    """Without space for all rows there is no submission, rather than a part of one."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {"GATEMASK_KAGGLE": str(kaggle), "KAGGLE_IS_COMPETITION_RERUN": "1", "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, preexec_fn=limited, capture_output=True, text=True
    )
    if limit < len(SAMPLE):
        assert done.returncode == 1
        assert "could not be written" in done.stderr and "Traceback" not in done.stderr
        assert list((kaggle / "working").iterdir()) == []
    else:
        assert done.returncode == 0
        assert submission(kaggle) == SAMPLE
        assert "No gatemask dataset" in json.loads(done.stdout)["degraded"][0]
