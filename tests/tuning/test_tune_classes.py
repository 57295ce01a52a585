"""`oof-tune` with several classes, exclusive classes, objects and gates per class, on predictions in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Competition, Ensemble
from gatemask.masks import rule_files
from gatemask.masks.metrics import total
from gatemask.masks.rule import Rule
from gatemask.oof.tables import Tables, score
from gatemask.project import Project
from gatemask.report.sections import tuning as section
from gatemask.results.tuning import SEARCHED, TunedResult
from gatemask.tuning import tune as tuning
from gatemask.tuning.final_pass import MaskScoring, score_on_masks
from gatemask.tuning.members import MemberPredictions, TrainingImages
from gatemask.tuning.printing import print_tuned
from tests.data.test_manifest import competition
from tests.tuning.masks_in_memory import predictions

pytestmark = pytest.mark.integration

TWO = {"classes": ["scratch", "dent"], "submission": {"class_column": "class"}}
ENSEMBLE = {
    "gate": {"experiments": ["gate"]},
    "mask": {"experiments": ["a", "b"]},
    "tune": {"trials": 8, "optima": 3, "bootstrap": 50},
}


def tune_in_memory(
    monkeypatch: pytest.MonkeyPatch, root: Path, comp: Competition, given: MemberPredictions, figures: bool = False
) -> TunedResult:
    """Tune without the files of a run."""

    @contextmanager
    def opened(*_: object) -> Iterator[MemberPredictions]:
        yield given

    groups = {name: name for name in given.fold_of}
    monkeypatch.setattr(tuning, "_made_from", lambda *_: {"settings": "in memory"})
    monkeypatch.setattr(tuning, "training_images", lambda _: TrainingImages(dict(given.fold_of), groups))
    monkeypatch.setattr(tuning, "open_members", opened)
    monkeypatch.setattr(tuning, "_tuned_members", lambda *_: [])
    if not figures:
        monkeypatch.setattr("gatemask.tuning.figures.write_figures", lambda *_: [])
        monkeypatch.setattr("gatemask.tuning.figures.write_class_figures", lambda *_: [])
    return tuning.tune(Project(root, "tiles"), comp, Ensemble.model_validate(ENSEMBLE))


def shipped(result: TunedResult) -> list[Rule]:
    return rule_files.of_values(result.rules)


def test_each_class_has_a_rule_a_score_and_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, project = predictions(20, images=18), Project(tmp_path, "tiles")
    result = tune_in_memory(monkeypatch, tmp_path, competition(**TWO), given, figures=True)
    tables = Tables.load(project.tuned / "tables.npz")
    assert rule_files.load_rules(project.tuned / "rule.yaml", TWO["classes"]) == shipped(result)
    assert score(tables, shipped(result)) == pytest.approx(result.in_sample)
    assert [part.name for part in result.classes] == TWO["classes"]
    for index, part in enumerate(result.classes):
        assert part.positives == (tables.truth[:, index] > 0).sum()
        assert part.rule == result.rules[index]
        assert part.in_sample == pytest.approx(score(tables.of_class(index), shipped(result)[index]))
        assert part.ci95[0] <= part.cross_fitted <= part.ci95[1]
        assert part.gate is None, "there is one gate for all classes"
    assert result.cross_fitted == pytest.approx(np.mean([part.cross_fitted for part in result.classes]))
    assert not result.on_masks
    assert result.exact_gap is not None
    assert result.exact_gap >= -1e-12
    names = {path.name for path in project.tuned.glob("*.png")}
    assert names == {"gate.png", "confusion.png"} | {
        f"{name}-{index}.png" for name in ("surface", "slices", "dice", "folds") for index in range(2)
    }
    print_tuned(result)
    printed = capsys.readouterr().err
    page = section.rules(result)
    for name in TWO["classes"]:
        assert name in printed
        assert f"<td>{name}</td>" in page
    again = tune_in_memory(monkeypatch, tmp_path, competition(**TWO), given)
    assert again.current
    assert again.classes == result.classes


def test_exclusive_classes_have_the_scores_of_their_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given, comp = predictions(21, images=18), competition(**TWO, exclusive=True)
    result = tune_in_memory(monkeypatch, tmp_path, comp, given)
    assert result.on_masks
    scoring, fold_rules = (
        MaskScoring.of(comp),
        {int(fold): rule_files.of_values(part.rules) for fold, part in result.per_fold.items()},
    )
    worth, weight = score_on_masks(given, [1.0, 1.0], scoring, [fold_rules])[0]
    assert result.cross_fitted == pytest.approx(total(worth, weight))
    assert [part.cross_fitted for part in result.classes] == pytest.approx(worth.mean(axis=0))
    tables = Tables.load(Project(tmp_path, "tiles").tuned / "tables.npz")
    assert score(tables, shipped(result)) != pytest.approx(result.in_sample), "no pixel was claimed twice"
    assert result.candidates["all-empty"].in_sample == pytest.approx(result.all_empty)


def test_objects_are_tuned_on_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    comp = competition(metric="object_precision", objects={"touching": "watershed"})
    result = tune_in_memory(monkeypatch, tmp_path, comp, predictions(22, images=15, classes=1), figures=True)
    assert list(result.candidates) == [SEARCHED, "everything-passes", "mean-dice", "all-empty"]
    best = max(candidate.cross_fitted for candidate in result.candidates.values())
    assert result.cross_fitted == best > result.all_empty
    assert result.candidates[SEARCHED].in_sample >= result.candidates["everything-passes"].in_sample
    assert (result.optuna, result.exact_gap, result.trials) == (None, None, 0)
    assert not (Project(tmp_path, "tiles").tuned / "study.log").exists()
    assert "searched (" in section.rules(result)


def test_an_ensemble_without_gates_lets_every_image_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = predictions(24, images=15, classes=1)
    without: dict[str, Any] = {"gates": [], "gate": dict.fromkeys(given.fold_of, 1.0)}
    monkeypatch.setitem(ENSEMBLE, "gate", {})
    result = tune_in_memory(monkeypatch, tmp_path, competition(), replace(given, **without))
    assert result.passing == 1.0
    assert result.gate_weights == []
    print_tuned(result)
    assert "without a gate" not in capsys.readouterr().err


def test_a_gate_per_class_decides_each_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = predictions(23, images=24)
    # A gate that knows the first class, and nothing about the second.
    rng = np.random.default_rng(23)
    own = {
        name: np.array([0.2 + 0.6 * mask[:, :, 0].any() + rng.normal(0, 0.05), rng.random()]).clip(0, 1)
        for name, mask in given.truth.items()
    }
    changes: dict[str, Any] = {"gates": [own], "gate": own}
    result = tune_in_memory(monkeypatch, tmp_path, competition(**TWO), replace(given, **changes))
    first, second = result.classes
    assert first.gate is not None
    assert second.gate is not None
    assert first.gate.auc == 1.0 > second.gate.auc  # type: ignore[operator]
    tables = Tables.load(Project(tmp_path, "tiles").tuned / "tables.npz")
    assert tables.gates_differ
    assert result.passing == pytest.approx((tables.gate >= [rule.gate for rule in shipped(result)]).any(axis=1).mean())
