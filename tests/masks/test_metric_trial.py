"""The self-test of a metric finds what would spoil a tuning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.masks.metric_trial import MetricTrial, try_metric, write_template
from tests.data.test_manifest import competition


def tried(folder: Path, body: str, module: str) -> MetricTrial:
    (folder / f"{module}.py").write_text(f"import numpy as np\n\n\ndef score(truth, predicted):\n    {body}\n")
    return try_metric(competition(metric=f"{module}:score"), folder)


@pytest.mark.parametrize("metric", ["mean_dice", "pixel_f2", "object_precision", "panoptic_quality", "surface_dice"])
def test_metrics_prefer_the_truth(metric: str, tmp_path: Path) -> None:
    result = try_metric(competition(metric=metric), tmp_path)
    assert result.scores["the truth itself"] == 1
    assert result.scores["the truth itself"] > result.scores["shifted by 1 px"] >= result.scores["shifted by 4 px"]
    assert not result.notes


def test_the_template_is_a_usable_metric_and_is_never_overwritten(tmp_path: Path) -> None:
    path = write_template(tmp_path)
    result = try_metric(competition(metric="metric:score"), tmp_path)
    assert result.scores["the truth itself"] == 1
    assert result.scores["nothing"] == 0.25  # the empty one of four images
    assert try_metric(competition(metric="metric:score", metric_options={"tolerance": 1.0}), tmp_path) is not None
    text = path.read_text()
    with pytest.raises(GatemaskError, match="already"):
        write_template(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("module", "body", "words"),
    [
        ("backwards", "return float((truth != predicted).mean())", "does not prefer the truth"),
        ("chance", "return np.random.default_rng().random()", "another score|prefer"),
        ("writes", "predicted[:] = truth; return 1.0", "changes its arguments"),
        ("text", "return 'good'", "ValueError"),
        ("nan", "return np.nan", "no usable number"),
    ],
)
def test_faulty_metrics_are_found(module: str, body: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match=f"metric {module}:score") as caught:
        tried(tmp_path, body, module)
    assert re.search(words, str(caught.value))


def test_a_constant_metric_is_reported(tmp_path: Path) -> None:
    assert "nothing can be tuned" in tried(tmp_path, "return 1.0", "constant").notes[0]
