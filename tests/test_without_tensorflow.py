"""The loop on a machine with JAX and without TensorFlow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY_GATEMASK, environment
from tests.without_tensorflow import make_environment

pytestmark = pytest.mark.slow


def test_loop_runs_where_tensorflow_is_not_installed(make_root: Callable[[str], Path], tmp_path: Path) -> None:
    python, root = make_environment(tmp_path / "environment"), make_root("without-tensorflow")
    for package in ("tensorflow", "tf_keras"):
        done = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True)
        assert f"No module named '{package}'" in done.stderr
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    env = {**environment(root), "XLA_FLAGS": quickly, "JAX_PLATFORMS": "cpu"}
    env.pop("KERAS_BACKEND", None)
    command = [python, *TINY_GATEMASK, "loop", "phantom", "--quick", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Keras will run on jax" in done.stderr
    assert "the kernel runs on JAX, and on Kaggle on TensorFlow" in done.stderr
    summary = json.loads(done.stdout)
    assert Path(summary["submission"]).exists()
    assert Path(summary["report"]).exists()
    runs = root / "runs/phantom-quick"
    for name in ("gate_r18", "unet_b0", "unetpp_b0"):
        recorded = json.loads((runs / name / "fold0/environment.json").read_text())
        assert recorded["runtime"]["backend"] == "jax"
