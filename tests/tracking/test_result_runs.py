"""Results on disk, read as runs of W&B."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, sha256, write_json, write_yaml
from gatemask.project import Project
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ClassResult, FoldRule
from gatemask.tracking.result_run import ResultRun
from gatemask.tracking.result_runs import read_result, result_places
from tests.conftest import ROOT
from tests.tracking import results
from tests.tuned_results import RULE


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(ROOT / "experiments" / "phantom", tmp_path / "experiments" / "phantom")
    project = Project(tmp_path, "phantom")
    results.write_results(project)
    return project


def read(project: Project) -> dict[str, ResultRun]:
    runs = [run for path in result_places(project) if (run := read_result(project, path)) is not None]
    return {run.job_type: run for run in runs}


def aliases(run: ResultRun) -> dict[str, str]:
    return {used.name: used.alias for used in run.uses}


def test_names_and_groups(project: Project) -> None:
    runs = read(project)
    assert [run.name for run in runs.values()] == ["tuned", "ensemble", "submission-a1b2c3d4e5f6"]
    assert {(run.group, run.project, run.mode, run.tracked) for run in runs.values()} == {
        ("phantom", "gatemask-phantom", "offline", True)
    }


def test_lineage_from_weights_to_submission(project: Project) -> None:
    runs = read(project)
    weights = {
        f"phantom-{name}-fold{fold}": sha256(project.fold(name, fold) / "best.weights.h5")[:12]
        for _, name in results.MEMBERS
        for fold in results.FOLDS
    }
    assert aliases(runs["tune"]) == weights
    (rule,), (ensemble,), (submission,) = (runs[kind].logs for kind in ("tune", "ensemble", "submission"))
    shipped = {name: alias for name, alias in weights.items() if name.endswith("fold0")}
    assert aliases(runs["ensemble"]) == {"phantom-rule": rule.sha256[:12], **shipped}
    assert aliases(runs["submission"]) == {"phantom-ensemble": ensemble.sha256[:12]}
    assert [(one.name, one.type) for one in (rule, ensemble, submission)] == [
        ("phantom-rule", "rule"),
        ("phantom-ensemble", "ensemble"),
        ("phantom-submission", "submission"),
    ]
    assert submission.sha256 == sha256(submission.file)


def test_numbers_of_the_tuned_rule(project: Project) -> None:
    run = read(project)["tune"]
    scores = {name: run.summary[name] for name in ("cross_fitted", "ci95_low", "ci95_high", "in_sample", "all_empty")}
    assert scores == {"cross_fitted": 0.8, "ci95_low": 0.7, "ci95_high": 0.9, "in_sample": 0.9, "all_empty": 0.5}
    assert (run.summary["rule/gate"], run.summary["rule/min_area"]) == (RULE.gate, RULE.min_area)
    assert set(run.figures) == {"surface", "gate"}
    assert set(run.tables) == {"candidates", "members"}
    assert [row[1:3] for row in run.tables["members"].rows] == [
        ["gate_r18", 0], ["gate_r18", 1], ["unet_b0", 0], ["unet_b0", 1]
    ]  # fmt: skip


def test_numbers_of_each_class(project: Project) -> None:
    other = RuleValues(gate=0.25, upper=0.5, lower=0.5, min_area=9)
    classes = [
        ClassResult(
            name=name,
            positives=3,
            cross_fitted=score,
            ci95=(0.1, 0.9),
            in_sample=score,
            all_empty=0.0,
            passing=1.0,
            rule=rule,
        )
        for name, score, rule in (("nerve", 0.25, RULE), ("vessel", 0.75, other))
    ]
    (project.tuned / "result.json").unlink()
    per_fold = {"0": FoldRule(score=0.5, rule=[RULE, other])}
    results.write_tuned(project, rule=[RULE, other], classes=classes, per_fold=per_fold)
    run = read(project)["tune"]
    assert (run.summary["classes/nerve/cross_fitted"], run.summary["classes/vessel/cross_fitted"]) == (0.25, 0.75)
    assert (run.summary["rule/nerve/gate"], run.summary["rule/vessel/gate"]) == (RULE.gate, 0.25)
    assert [row[0] for row in run.tables["classes"].rows] == ["nerve", "vessel"]
    assert [row[:4] for row in run.tables["folds"].rows] == [["0", 0.5, "nerve", 0.5], ["0", 0.5, "vessel", 0.25]]


def test_numbers_of_ensemble_and_submission(project: Project) -> None:
    runs = read(project)
    ensemble, submission = runs["ensemble"], runs["submission"]
    assert (ensemble.summary["cross_fitted"], ensemble.summary["ci95_low"]) == (0.8, 0.7)
    assert [row[0] for row in ensemble.tables["members"].rows] == ["gate_r18-fold0", "unet_b0-fold0"]
    assert set(ensemble.figures) == {"selection"}
    assert (submission.summary["cross_fitted"], submission.config["competition"]) == (0.8, "phantom-chest-x-rays")
    assert "public" not in submission.summary


def test_a_changed_result_is_another_run_and_the_same_one_is_not(project: Project) -> None:
    first = read(project)
    again = read(project)
    assert {kind: (run.id, run.fingerprint) for kind, run in first.items()} == {
        kind: (run.id, run.fingerprint) for kind, run in again.items()
    }
    (project.tuned / "result.json").unlink()
    results.write_tuned(project, cross_fitted=0.85)
    changed = read(project)
    assert changed["tune"].id != first["tune"].id
    assert changed["ensemble"].id == first["ensemble"].id


def test_a_scored_submission_is_the_same_run_with_other_numbers(project: Project) -> None:
    before = read(project)["submission"]
    results.write_submission(project, public=0.79, state="scored")
    after = read(project)["submission"]
    assert (after.id, after.summary["public"]) == (before.id, 0.79)
    assert after.fingerprint != before.fingerprint


def test_an_unfinished_submission_is_left_out(project: Project) -> None:
    results.write_submission(project, submitted_at=None, state="running")
    assert list(read(project)) == ["tune", "ensemble"]


def test_submissions_of_earlier_versions_have_neither_file_nor_lineage(project: Project) -> None:
    record = results.write_submission(project)
    path = project.runs / "submissions" / f"{record.id}.json"
    write_json(path, record.model_dump(mode="json", exclude={"file", "ensemble"}))
    run = read(project)["submission"]
    assert (run.uses, run.logs) == ([], [])


def test_members_without_artifacts_are_not_used(project: Project) -> None:
    config = project.fold("unet_b0", 1) / "config.yaml"
    settings = read_yaml(config)
    write_yaml(config, {**settings, "tracking": {**settings["tracking"], "artifacts": False}})
    assert "phantom-unet_b0-fold1" not in aliases(read(project)["tune"])
    assert "phantom-unet_b0-fold0" in aliases(read(project)["tune"])


def test_results_of_untracked_trainings_are_marked(project: Project) -> None:
    for folder in project.runs.glob("*/fold*/wandb"):
        folder.rmdir()
    assert not any(run.tracked for run in read(project).values())


def test_a_damaged_result_is_named(project: Project) -> None:
    stamp = project.tuned / "result.json"
    stamp.write_text(stamp.read_text().replace("0.8,", "0.9,"))
    with pytest.raises(GatemaskError, match="edited"):
        read_result(project, stamp)
