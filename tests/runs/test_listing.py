"""One row per experiment: scores are those of `compare`, and a damaged file costs one row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gatemask.config import load_competition, load_ensemble
from gatemask.files import write_json, write_text
from gatemask.project import Project
from gatemask.results.runs import ExperimentRun
from gatemask.results.tuning import ComparisonResult
from gatemask.runs.computing import Computing
from gatemask.runs.notes import change_note, change_tags
from gatemask.tuning import exact
from gatemask.tuning.compare import compare, compare_paired
from gatemask.tuning.crossfit import bootstrap_interval, cross_fit
from gatemask.tuning.members import build_tables, training_images
from gatemask.tuning.sides import COARSE, fit_side, side_of
from tests.conftest import Loop
from tests.runs.conftest import FOLDS, IMAGES, listed, rows_of
from tests.tuning.predictions import write_predictions

pytestmark = pytest.mark.integration  # takes seconds


def compared(project: Project, first: str, second: str) -> ComparisonResult:
    ensemble = load_ensemble(project.experiments, overrides=["tune.bootstrap=200"])
    return compare(project, load_competition(project.experiments), ensemble, first, second)


def assert_same_as_compare(project: Project, run: ExperimentRun) -> None:
    assert run.score is not None
    assert run.against_best is not None
    comparison = compared(project, run.against_best.best, run.name)
    assert run.score.value == comparison.second_score
    assert run.against_best.difference == comparison.difference
    assert run.against_best.ci95 == comparison.ci95
    assert run.against_best.verdict == comparison.verdict
    assert (run.score.images, run.score.groups) == (comparison.images, comparison.groups)


@pytest.mark.parametrize("gate", [False, True], ids=["without a gate", "behind a gate"])
def test_scores_and_intervals_are_those_of_compare(project: Project, gate: bool) -> None:
    if gate:
        write_predictions(project, "gate_r18", 0.15)
    rows = rows_of(listed(project))
    best = rows["unet_b0"]
    assert best.score is not None
    assert best.against_best is None
    assert best.score.beside == (("gate_r18",) if gate else ())
    assert (best.score.kind, best.score.images) == ("cross-fitted", IMAGES)
    assert_same_as_compare(project, rows["unetpp_b0"])

    comp, ensemble = load_competition(project.experiments), load_ensemble(project.experiments)
    fold_of, group_of = training_images(project)
    fit = fit_side(project, comp, side_of(ensemble, "mask", ["unet_b0"], gate), fold_of)
    groups = np.array([group_of[image_id] for image_id in sorted(fold_of)])
    assert best.score.ci95 == bootstrap_interval(fit.worth, fit.weight, groups, 200, 0)


def test_gates_in_front_of_the_ensembles_masks(project: Project) -> None:
    for name in ("unet_b0", "unetpp_b0"):
        write_predictions(project, name, 0.9, side=32)
    write_predictions(project, "gate_r18", 0.1, seed=3)
    write_predictions(project, "gate_late", 1.5, seed=4)
    rows = rows_of(listed(project))
    assert rows["gate_r18"].score.beside == ("unet_b0", "unetpp_b0")
    best, other = sorted(("gate_r18", "gate_late"), key=lambda name: rows[name].against_best is not None)
    assert rows[best].score.value > rows[other].score.value
    assert_same_as_compare(project, rows[other])


def test_trained_networks_are_scored_from_their_tables(
    phantom_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantom_loop.root, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path, "phantom", quick=True)
    comp = load_competition(project.experiments, quick=True)
    ensemble = load_ensemble(project.experiments, quick=True)
    comparison = compare(project, comp, ensemble, "unet_b0", "unetpp_b0")
    from gatemask.runs import listing
    from gatemask.tuning import sides

    def refuse(*_: object) -> None:
        raise AssertionError("maps were counted again")

    monkeypatch.setattr(sides, "build_tables", refuse)
    rows = rows_of(listing.list_runs(project, comp, ensemble))
    assert {name: rows[name].score.value for name in ("unet_b0", "unetpp_b0")} == {
        "unet_b0": comparison.first_score,
        "unetpp_b0": comparison.second_score,
    }
    row = rows["unet_b0"]
    assert row.state == "finished"
    assert row.folds_done == (0, 1)
    assert row.epochs_done == {0: 2, 1: 2}
    assert set(row.fold_scores) == {0, 1}
    assert row.hours > 0
    assert row.inference_s is not None, "the loop has counted the costs of its networks"
    assert row.problems == ()
    assert rows["gate_r18"].score is not None


def test_a_subset_of_folds_is_cross_fitted_over_them(project: Project) -> None:
    rows = rows_of(listed(project))
    run = rows["unet_two"]
    assert (run.state, run.folds_done, run.score.kind, run.score.folds) == (
        "unfinished",
        (0, 1),
        "cross-fitted",
        (0, 1),
    )
    comp, ensemble = load_competition(project.experiments), load_ensemble(project.experiments)
    fold_of, group_of = training_images(project)
    fold_of = {image_id: fold for image_id, fold in fold_of.items() if fold < 2}
    fits = []
    for name in ("unet_b0", "unet_two"):
        side = side_of(ensemble, "mask", [name], False)
        tables = build_tables(project, comp, side, fold_of)
        variant = side.tune.rule.model_copy(update={"gate": False})
        fits.append(
            cross_fit(tables, "mean_dice", lambda some, v=variant: exact.search(some, "mean_dice", v, COARSE)[0])
        )
    groups = np.array([group_of[image_id] for image_id in sorted(fold_of)])
    paired = compare_paired((fits[0].worth, fits[0].weight), (fits[1].worth, fits[1].weight), groups, 200, 0)
    assert run.score.value == fits[1].score
    assert (run.against_best.difference, run.against_best.ci95) == (paired.difference, paired.ci95)
    assert run.score.images == len(fold_of) == IMAGES * 2 // FOLDS


def test_a_single_fold_is_scored_in_sample_and_marked(project: Project) -> None:
    run = rows_of(listed(project))["unet_one"]
    assert (run.score.kind, run.score.folds, run.score.images) == ("in-sample", (0,), IMAGES // FOLDS)
    assert run.against_best.best == "unet_b0", "the best is in-sample on this fold, too"


def test_experiments_without_a_run_and_runs_without_a_yaml(project: Project) -> None:
    rows = rows_of(listed(project))
    idle = rows["unet_idle"]
    assert (idle.state, idle.score, idle.epochs, idle.folds) == ("not started", None, 12, FOLDS)
    assert idle.parent == "unet_b0.yaml"
    assert idle.changed == {"epochs": (3, 12)}
    gone = rows["unet_gone"]
    assert gone.state == "finished"
    assert gone.score is not None
    assert "its YAML no longer exists" in gone.problems
    masks = [run for run in listed(project).experiments if run.task == "mask" and run.score]
    assert [run.name for run in masks if run.against_best is None] == ["unet_b0"]
    differences = [run.against_best.difference if run.against_best else 0.0 for run in masks]
    assert differences == sorted(differences, reverse=True), "ranked by the difference on the same images"


def test_changed_yamls_and_splits_are_named(project: Project) -> None:
    with (project.experiments / "unet_two.yaml").open("a") as file:
        file.write("seed: 7\n")
    assert rows_of(listed(project))["unet_two"].problems == ("fold 0, 1: seed: 0, now 7",)
    project.folds.write_text(project.folds.read_text().replace("i00,0,patient0,0", "i00,0,patient0,1"))
    rows = rows_of(listed(project))
    assert all(run.score is None for run in rows.values())
    assert rows["unet_b0"].problems == ("fold 0, 1, 2: trained on another split than the present one",)


def damage(path: Path, text: str = "{") -> None:
    write_text(path, text)


def test_damaged_files_cost_only_their_own_row(project: Project) -> None:
    before = rows_of(listed(project))
    damage(project.fold("unet_two", 0) / "result.json")
    damage(project.fold("unet_one", 0) / "config.yaml", "a: [")
    damage(project.fold("unet_gone", 0) / "metrics.jsonl", "no row\n")
    damage(project.experiments / "unet_idle.yaml", "extends: unet_b0.yaml\nepoch: 3\n")
    (project.fold("unetpp_b0", 1) / "oof.h5").write_bytes(b"x")
    damage(project.runs / "kaggle" / "one.json") if (project.runs / "kaggle").mkdir() is None else None
    damage(project.runs / "submissions" / "one.json") if (project.runs / "submissions").mkdir() is None else None
    damage(project.runs / "notes.json", "[]")
    runs = listed(project)
    rows = rows_of(runs)
    assert set(rows) == set(before)
    assert rows["unet_b0"] == before["unet_b0"]
    assert rows["unet_two"].folds_done == (1,)
    for name, word in {
        "unet_two": "fold 0: result.json",
        "unet_one": "fold 0: config.yaml",
        "unet_gone": "fold 0: metrics.jsonl",
        "unet_idle": "Unknown key 'epoch'",
        "unetpp_b0": "oof.h5 differs",
    }.items():
        assert any(word in problem for problem in rows[name].problems), rows[name].problems
    assert rows["unetpp_b0"].score is None
    assert len(runs.problems) == 3


# --- the cache ---------------------------------------------------------------------------------------------


def test_nothing_is_computed_twice_and_the_cache_can_be_deleted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listed(project)
    facts = project.runs / ".runs/facts.json"
    written = facts.stat().st_mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr(Computing, "resamples", lambda *_: pytest.fail("a score was computed again"))
        assert listed(project) == first
        assert facts.stat().st_mtime_ns == written, "nothing changed, so nothing is written"
        facts.unlink()  # scores are kept by the hashes of predictions
        assert listed(project) == first
    shutil.rmtree(project.runs / ".runs")
    assert listed(project) == first
    facts.write_text('{"version": 1, "folds": 3}')
    for path in (project.runs / ".runs/scores").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert listed(project) == first


def test_a_changed_result_changes_its_row_alone(project: Project) -> None:
    before = rows_of(listed(project))
    write_predictions(project, "unetpp_b0", 0.6, seed=9, side=32)
    after = rows_of(listed(project))
    assert after["unetpp_b0"].score != before["unetpp_b0"].score
    assert {name for name in before if before[name] != after[name]} == {"unetpp_b0"}
    shutil.rmtree(project.runs / ".runs")
    assert rows_of(listed(project)) == after


def test_a_new_best_is_compared_with_all(project: Project) -> None:
    listed(project)
    write_predictions(project, "unetpp_b0", 0.05, seed=9, side=32)
    rows = rows_of(listed(project))
    assert rows["unetpp_b0"].against_best is None
    assert_same_as_compare(project, rows["unet_b0"])


# --- costs, submissions, notes -----------------------------------------------------------------------------


def test_hours_quota_leaderboard_tags_and_notes(project: Project) -> None:
    folder = project.fold("unet_b0", 0)
    rows = [{"epoch": n, "loss": 0.5, "seconds": 1800.0, "images_per_s": 10.0 + n} for n in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "kaggle.json", {"kernel": "me/unet", "commit": "abc"})
    push = {"id": "p", "folds": [0], "hours": 9, "commit": "abc", "at": "2026-01-01", "state": "fetched"}
    kernel = {"ref": "me/unet", "experiment": "unet_b0", "folds": [0], "machine": "TpuV5E8"}
    write_json(project.runs / "kaggle/unet.json", {**kernel, "pushes": [{**push, "seconds": 7200.0}]})
    other = {"ref": "me/two", "experiment": "unet_two", "folds": [2], "machine": "none"}
    write_json(project.runs / "kaggle/two.json", {**other, "pushes": [{**push, "folds": [2], "state": "running"}]})
    record = {"id": "s1", "package": "x", "competition": "c", "description": "d", "at": "2026", "public": 0.81}
    write_json(project.runs / "submissions/s1.json", {**record, "experiments": ["unet_b0", "gate_r18"]})
    change_tags(project, "unet_b0", ["new", "baseline"])
    change_note(project, "unet_b0", "first  try")
    found = rows_of(listed(project))
    run = found["unet_b0"]
    assert (run.hours, run.quota_hours, run.images_per_s) == (1.5, 2.0, 11.5)
    assert run.commits == ("abc",)
    assert (run.leaderboard, run.submission, run.alone) == (0.81, "s1", True)
    assert (run.tags, run.note) == (("baseline", "new"), "first try")
    assert found["unet_two"].state == "training", "a session on Kaggle has not been fetched"
    assert found["unet_two"].quota_hours == 0.0


def test_gain_is_that_of_a_comparison_of_sums(project: Project) -> None:
    overrides = ["mask.experiments=[unet_b0,unetpp_b0]", "mask.weights=equal"]
    (project.experiments / "unet_gone.yaml").write_text("extends: unet_b0.yaml\n")
    ensemble = load_ensemble(project.experiments, overrides=["tune.bootstrap=200", "gate.experiments=[]", *overrides])
    comp = load_competition(project.experiments)
    joined = compare(project, comp, ensemble, "unet_b0+unetpp_b0", "unet_b0+unetpp_b0+unet_gone")
    left = compare(project, comp, ensemble, "unet_b0", "unetpp_b0+unet_b0")
    assert all(run.gain is None for run in listed(project, "gate.experiments=[]", *overrides).experiments)
    for gains in (True, False):  # computed, then known
        rows = rows_of(listed(project, "gate.experiments=[]", *overrides, gains=gains))
        assert (rows["unet_gone"].gain.value, rows["unet_gone"].gain.ci95) == (joined.difference, joined.ci95)
        assert rows["unetpp_b0"].gain.value == pytest.approx(left.difference)
        assert rows["unet_two"].gain is None
