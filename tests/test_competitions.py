"""Generated competitions from `gatemask new --yes` through the quick loop to a submission, scored independently."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import competitions
from tests.conftest import gatemask

pytestmark = pytest.mark.trains

TOLERANCE = 0.001
# After few steps, most rules leave all images empty. Each epoch ends with a validation, so there are few of many steps.
QUICK = ("--quick", "--set", "epochs=12", "--set", "sampling.epoch=20", "--set", "schedule.peak=0.005")
IN_MAKE_TEST = ("image_and_class_id",)  # others in make test-all


def with_test_labels(root: Path, name: str, labels: dict[str, object]) -> None:
    """Add the truth of the test images to competition.yaml, as after a deadline."""
    path = root / "experiments" / name / "competition.yaml"
    text, count = re.subn(
        r"(?m)^test: \{(.*)\}", lambda match: f"test: {{{match[1]}, labels: {json.dumps(labels)}}}", path.read_text()
    )
    if not count:
        content = yaml.safe_load(path.read_text())
        content["test"]["labels"] = labels
        text = yaml.safe_dump(content, sort_keys=False)
    path.write_text(text)


def fold_of(root: Path, name: str) -> dict[str, int]:
    files = [path for path in (root / "folds").glob("*.csv") if path.stem.startswith(name)]
    assert len(files) == 1
    return {row["image_id"]: int(row["fold"]) for row in csv.DictReader(files[0].open(encoding="utf-8"))}


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=() if name in IN_MAKE_TEST else pytest.mark.slow) for name in competitions.ALL]
)
def test_from_files_to_a_submission(layout: str, make_root: Callable[[str], Path]) -> None:
    root, name = make_root(layout), layout.replace("_", "-")
    generated = competitions.ALL[layout](root / "raw")

    def run(*arguments: object) -> dict[str, object]:
        done = gatemask(*arguments, root=root, tiny=True)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
        return json.loads(done.stdout) if "--json" in arguments else {}

    run("new", name, *generated.options, "--yes")
    if generated.test_labels:
        with_test_labels(root, name, generated.test_labels)
    summary = run("loop", name, *QUICK, "--json")
    folds = fold_of(root, name)
    truth = generated.test if generated.test.planes else generated.train.of(i for i, fold in folds.items() if fold < 0)
    assert generated.score(Path(str(summary["submission"])), truth) == pytest.approx(
        summary["submission_score"], abs=TOLERANCE
    )
    # The same for a fold of training images, where the masks are rarely empty.
    check = run("submission", "check", name, "--fold", 0, *QUICK, "--json")
    assert check["masks"]
    written = generated.score(Path(str(check["submission"])), generated.train.of(i for i, f in folds.items() if f == 0))
    assert written == pytest.approx(check["score"], abs=TOLERANCE)
    assert written == pytest.approx(check["tuned"], abs=TOLERANCE)
