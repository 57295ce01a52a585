"""Results promised in the README, at full size. Each test takes minutes; `make test-all` runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SHARED, gatemask, needs_nuclei

pytestmark = pytest.mark.slow


def test_demo_beats_all_empty_and_its_score_holds_on_test_images(make_root: Callable[[str], Path]) -> None:
    root = make_root("demo")
    done = gatemask("loop", "phantom", "--json", root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["cross_fitted"] > summary["all_empty"] + 0.08
    assert abs(summary["submission_score"] - summary["cross_fitted"]) < 0.05
    tuned = json.loads((root / "runs/phantom/tuned/result.json").read_text())
    assert tuned["passing"] < 0.5, "the gate passes most images"
    assert tuned["cross_fitted"] > tuned["masks_alone"], "the gate does not help"


@needs_nuclei
def test_nuclei_tiles_reach_their_score(make_root: Callable[[str], Path]) -> None:
    root = make_root("nuclei-real")
    done = gatemask("loop", "nuclei", "--data", SHARED / "nuclei", "--json", root=root, limit_s=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["cross_fitted"] >= 0.85
    assert abs(summary["submission_score"] - summary["cross_fitted"]) < 0.05


@pytest.mark.parametrize("name", ["gate_r18", "unetpp_b0"])
def test_yaml_trains_on_jax(make_root: Callable[[str], Path], name: str) -> None:
    root = make_root(f"jax-{name}")
    for command in ("data phantom", "data prepare", "folds make", "records make"):
        assert gatemask(*command.split(), "phantom", "--quick", root=root).returncode == 0
    done = gatemask(
        "train", f"phantom/{name}", "--quick", "--fold", 0, "--json", "--set", "runtime.backend=jax", root=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on jax" in done.stderr
    assert 0 < json.loads(done.stdout)["folds"]["0"]["score"] <= 1
