"""`gatemask oof-tune` as users see it: one table, complete files, and errors that name the fault."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from gatemask.config import load_competition, load_ensemble
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, write_json
from gatemask.masks import frame, rule_files
from gatemask.masks import rule as rules
from gatemask.masks.metrics import dice_of_masks, total
from gatemask.oof import store
from gatemask.oof.image_scores import ImageScores
from gatemask.oof.tables import Tables, dice_per_image, score
from gatemask.project import Project
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import ABSOLUTE_GATE, FoldWeighting, TunedResult, Weighing
from gatemask.tuning import exact
from gatemask.tuning.final_pass import MaskScoring, score_on_masks
from gatemask.tuning.members import build_tables, given_weights, open_members, prediction_hashes, training_images
from gatemask.tuning.outdated import as_trained_notes
from gatemask.tuning.tune import load_counted, tune
from tests.conftest import environment, gatemask, kill_when
from tests.tuning.predictions import SIZE, stamp, write_predictions

pytestmark = pytest.mark.integration

PICTURES = {"surface.png", "slices.png", "gate.png", "confusion.png", "dice.png", "folds.png", "optuna.png"}
QUICK = ["--quick", "--set", "tune.trials=12", "--set", "tune.optima=3"]


@pytest.fixture(scope="module")
def made(phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with predictions of three experiments."""
    root = tmp_path_factory.mktemp("tuned")
    shutil.copytree(phantom_records, root, dirs_exist_ok=True)
    project = Project(root, "phantom", quick=True)
    write_predictions(project, "gate_r18", 0.2)
    write_predictions(project, "unet_b0", 0.2, seed=1)
    write_predictions(project, "unetpp_b0", 0.4, seed=2, side=32)
    return root


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip figures, which take longer than the rest; the command, in its own process, draws them."""
    monkeypatch.setattr("gatemask.tuning.figures.write_figures", lambda *_: [])


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, "phantom", quick=True)


def tuned(project: Project, *settings: str) -> TunedResult:
    """Do what the command does, without a process of its own."""
    comp = load_competition(project.experiments, quick=True, overrides=[s for s in settings if s.startswith("metric")])
    rest = [s for s in settings if not s.startswith("metric")]
    ensemble = load_ensemble(project.experiments, quick=True, overrides=["tune.trials=12", "tune.optima=3", *rest])
    return tune(project, comp, ensemble)


def test_a_share_of_the_images_is_tuned_and_scored_on_masks_alike(project: Project) -> None:
    settings = ["tune.rule.gate=quantile", "tune.ship=exact"]
    result = tuned(project, *settings)
    (rule,) = result.rules
    assert rule.quantile and read_yaml(project.tuned / "rule.yaml")["quantile"] is True
    assert result.passing == pytest.approx(1 - rule.gate, abs=0.5 / result.images)
    assert not result.candidates[ABSOLUTE_GATE].rules[0].quantile
    comp, ensemble = load_competition(project.experiments, quick=True), load_ensemble(project.experiments, quick=True)
    scoring, by_fold = MaskScoring.of(comp, project.experiments), result.per_fold.items()
    held_out = {int(fold): rule_files.of_values(part.rules) for fold, part in by_fold}
    in_sample = dict.fromkeys(held_out, rule_files.of_values(result.rules))
    with open_members(project, comp, ensemble, training_images(project).fold_of) as predictions:
        weights = given_weights(ensemble.mask)
        together, apart = score_on_masks(predictions, weights, scoring, [in_sample, held_out], together=1)
    assert total(*together) == pytest.approx(result.in_sample, abs=1e-9)
    assert total(*apart) == pytest.approx(result.cross_fitted, abs=1e-9)


def test_a_share_is_not_searched_where_only_masks_decide(project: Project) -> None:
    with pytest.raises(GatemaskError, match="a share of the images pass cannot be searched"):
        tuned(project, "tune.rule.gate=quantile", "metric=surface_dice")


def test_it_writes_a_rule_and_its_scores(project: Project) -> None:
    done = gatemask("oof-tune", "phantom", *QUICK, "--json", root=project.root)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    for key in (
        "cross_fitted",
        "in_sample",
        "ci95",
        "rule",
        "per_fold",
        "exact_gap",
        "trials",
        "seconds",
        "masks_alone",
    ):
        assert key in result
    assert result["ci95"][0] < result["cross_fitted"] < result["ci95"][1]
    assert result["in_sample"] > result["all_empty"]
    assert result["exact_gap"] >= 0
    assert result["trials"] == 12
    assert set(result["candidates"]) == {"exact", "median", "everything-passes", "all-empty"}
    assert result["cross_fitted"] == max(candidate["cross_fitted"] for candidate in result["candidates"].values())
    assert set(result["beside"]) == {"siim-seed", "siim-winner"}
    assert result["beside"]["siim-seed"]["rule"]["min_area"] == 12  # 200 pixels of 1024 x 1024, at 256 x 256
    names = {path.name for path in project.tuned.iterdir() if not path.name.startswith(".")}
    assert names == {"tables.npz", "scores.npz", "rule.yaml", "study.log", "result.json"} | PICTURES
    assert read_yaml(project.tuned / "rule.yaml") == result["rule"]
    assert score(Tables.load(project.tuned / "tables.npz"), rules.Rule(**result["rule"])) == result["in_sample"]
    by_image = ImageScores.load(project.tuned / "scores.npz")
    assert by_image.score == pytest.approx(result["cross_fitted"], abs=1e-12)
    assert (len(by_image), by_image.positive.sum()) == (result["images"], result["positives"])


def test_the_shipped_rule_scores_the_same_on_the_maps(project: Project) -> None:
    result = tuned(project)
    rule, truth = (
        rule_files.load_rules(project.tuned / "rule.yaml", ["lesion"])[0],
        Masks(project.data / "masks.csv", SIZE),
    )
    gates = store.read_gates([project.fold("gate_r18", fold) / "oof.csv" for fold in (0, 1)])
    readers = [store.MapReader([project.fold(n, f) / "oof.h5" for f in (0, 1)]) for n in ("unet_b0", "unetpp_b0")]
    found = []
    for name, gate in gates.items():
        averaged = rules.average_maps([reader[name] for reader in readers])
        found.append(
            dice_of_masks(truth[name][:, :, 0], rules.apply_rule(rule, gate, frame.resize_map(averaged, SIZE)[:, :, 0]))
        )
    assert np.mean(found) == pytest.approx(result.in_sample, abs=1e-9)


def test_a_second_run_is_current_and_other_predictions_are_tuned_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Path] = []
    monkeypatch.setattr("gatemask.tuning.tune.send_at_once", lambda _, paths: offered.extend(paths))
    first = tuned(project)
    assert offered == [project.tuned / "result.json"], "W&B gets it, if it is online"
    folds = [(member.experiment, member.fold) for member in first.members]
    assert folds == [(name, fold) for name in ("gate_r18", "unet_b0", "unetpp_b0") for fold in (0, 1)]
    times = {path: path.stat().st_mtime_ns for path in project.tuned.iterdir() if path.suffix != ".lock"}
    again = tuned(project)
    assert again == first.model_copy(update={"current": True})
    assert {path: path.stat().st_mtime_ns for path in project.tuned.iterdir() if path.suffix != ".lock"} == times
    write_predictions(project, "unet_b0", 0.2, seed=9)
    assert not tuned(project).current
    assert not tuned(project, "tune.seed=4").current


def test_people_get_one_table(project: Project) -> None:
    done = gatemask("oof-tune", "phantom", *QUICK, root=project.root)
    assert done.returncode == 0
    assert done.stdout == ""
    for words in ("cross-fitted", "in-sample", "shipped", "siim-winner", "fold 1", "all-empty", "of the exact optimum"):
        assert words in done.stderr
    assert done.stderr.count("┏") == 1


@pytest.mark.parametrize("parts", [["components=true"], ["components=true", "hysteresis=true"]])
def test_component_rules_are_searched_and_kept_exact(project: Project, parts: list[str]) -> None:
    result = tuned(project, *(f"tune.rule.{part}" for part in parts), "tune.ship=optuna")
    assert result.shipped == "optuna"
    assert result.exact_gap is None
    project_rule = rule_files.load_rules(project.tuned / "rule.yaml", ["lesion"])[0]
    assert score(load_counted(project, [project_rule]), project_rule) == pytest.approx(result.in_sample)


def test_weights_are_tuned_and_scratch_is_removed(project: Project) -> None:
    write_predictions(project, "unetpp_b0", 3.0, seed=3)  # a useless member
    result = tuned(project, "mask.weights=tuned", "tune.weightings=6")
    assert result.weights[0] > result.weights[1]
    assert result.weighing.cross_fitted > result.weighing.equal_cross_fitted  # type: ignore[union-attr, operator]
    assert not (project.tuned / "weights").exists()
    fixed = tuned(project, "mask.weights=[1,0]")
    assert fixed.weights == [1, 0]
    assert fixed.in_sample >= 0.9 * result.in_sample


def test_no_fold_influences_the_weights_of_its_headline_score(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"0": [1.0, 0.0], "1": [0.1, 0.9]}
    rule = RuleValues(gate=0.5, upper=0.5, lower=0.5, min_area=0)
    weighing = Weighing(
        cross_fitted=1.0,
        equal_cross_fitted=0.0,
        taken=True,
        tried=[],
        per_fold={fold: FoldWeighting(weights=weights, rule=rule) for fold, weights in chosen.items()},
    )
    monkeypatch.setattr("gatemask.tuning.weighing.search_weights", lambda *_: ([0.5, 0.5], weighing))
    result = tuned(project, "mask.weights=tuned", "tune.ship=exact")
    comp, ensemble = load_competition(project.experiments, quick=True), load_ensemble(project.experiments, quick=True)
    whole = Tables.load(project.tuned / "tables.npz")
    fold_of = dict(zip(whole.ids.tolist(), whole.folds.tolist(), strict=True))
    seed = rules.Rule(**result.beside["siim-seed"].rule.model_dump())
    beside = []
    for fold, weights in chosen.items():
        tables = build_tables(project, comp, ensemble, fold_of, weights)
        held = tables.folds == int(fold)
        rule, _ = exact.search(tables.subset(~held), "mean_dice")
        assert result.per_fold[fold].score == pytest.approx(score(tables.subset(held), rule), abs=1e-12)
        beside.append(dice_per_image(tables.subset(held), seed))
    assert result.beside["siim-seed"].cross_fitted == pytest.approx(np.concatenate(beside).mean(), abs=1e-12)


def test_a_damaged_table_of_a_killed_search_is_counted_again(project: Project) -> None:
    settings = ("mask.weights=tuned", "tune.weightings=4")
    expected = tuned(project, *settings)
    keep = shutil.rmtree
    try:
        shutil.rmtree = lambda *_, **__: None  # as if killed before the end
        (project.tuned / "result.json").unlink()
        tuned(project, *settings)
    finally:
        shutil.rmtree = keep
    tables = sorted((project.tuned / "weights").glob("*.npz"))
    assert len(tables) == 4
    tables[0].write_bytes(tables[0].read_bytes()[:200])
    (project.tuned / "result.json").unlink()
    again = tuned(project, *settings)
    assert again.model_copy(update={"seconds": expected.seconds}) == expected
    assert not (project.tuned / "weights").exists()


def test_a_study_that_is_gone_or_damaged_is_made_again(project: Project) -> None:
    journal = project.tuned / "study.log"
    tuned(project)
    journal.unlink()
    assert not tuned(project).current
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[3:]]))
    (project.tuned / "result.json").unlink()
    assert tuned(project).trials == 12


def test_views_that_were_kept_apart_are_weighed_apart(project: Project) -> None:
    path = project.experiments / "unet_b0.yaml"
    path.write_text(path.read_text() + "\ntta: [hflip]\ntta_apart: true\n")
    for fold in (0, 1):
        folder = project.fold("unet_b0", fold)
        with h5py.File(folder / "oof.h5") as file:
            ids, good = [str(i) for i in file["ids"].asstr()[:]], file["maps"][:]
        spoiled = np.random.default_rng(fold).permutation(good)  # maps of other images
        both = [(good // 2 + spoiled // 2, np.concatenate([good, spoiled], 3))]
        files = store.write_maps_per_view(folder / "oof.h5", ids, iter(both), (64, 64, 1), 2)
        stamp(project, *files)
    result = tuned(project, "mask.weights=tuned", "mask.experiments=[unet_b0]", "tune.weightings=5")
    assert result.views == [2]
    assert result.weights == [1.0, 0.0]
    assert result.cross_fitted > tuned(project, "mask.experiments=[unet_b0]").cross_fitted


@pytest.mark.parametrize("metric", ["global_dice", "mean_iou", "mean_precision", "dice_positives"])
def test_other_metrics(project: Project, metric: str) -> None:
    result = tuned(project, f"metric={metric}")
    assert result.metric == metric
    assert 0 < result.cross_fitted <= 1


def spell(project: Project, text: str) -> None:
    path = project.fold("gate_r18", 0) / "oof.csv"
    path.write_text(text)
    stamp(project, path)


def drop_a_row(project: Project) -> None:
    path = project.fold("gate_r18", 1) / "oof.csv"
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    stamp(project, path)


def repeat_a_row(project: Project) -> None:
    path = project.fold("gate_r18", 1) / "oof.csv"
    frame = pd.read_csv(path)
    pd.concat([frame, frame.iloc[:1]]).to_csv(path, index=False)
    stamp(project, path)


def plant_nan(project: Project) -> None:
    path = project.fold("gate_r18", 0) / "oof.csv"
    frame = pd.read_csv(path)
    frame.loc[2, "probability"] = np.nan
    frame.to_csv(path, index=False, na_rep="NaN")
    stamp(project, path)


def same_maps_twice(project: Project) -> None:
    stamp(project, shutil.copy(project.fold("unet_b0", 0) / "oof.h5", project.fold("unet_b0", 1) / "oof.h5"))


def rename_a_map(project: Project) -> None:
    path = project.fold("unetpp_b0", 0) / "oof.h5"
    with h5py.File(path) as file:
        ids, maps = [str(i) for i in file["ids"].asstr()[:]], file["maps"][:]
    stamp(project, store.write_maps(path, ["stranger", *ids[1:]], iter([maps]), maps.shape[1:]))


def cut_the_maps(project: Project) -> None:
    path = project.fold("unet_b0", 0) / "oof.h5"
    path.write_bytes(path.read_bytes()[:3000])
    stamp(project, path)


def forget_a_fold(project: Project) -> None:
    shutil.rmtree(project.fold("unetpp_b0", 1))


def lose_the_maps(project: Project) -> None:
    (project.fold("unet_b0", 1) / "oof.h5").unlink()


def other_split(project: Project) -> None:
    path = project.fold("gate_r18", 0) / "result.json"
    path.write_text(path.read_text().replace('"folds": "', '"folds": "0'))


def two_classes(project: Project) -> None:
    path = project.fold("unet_b0", 0) / "oof.h5"
    with h5py.File(path) as file:
        ids, maps = [str(i) for i in file["ids"].asstr()[:]], file["maps"][:]
    store.write_maps(path, ids, iter([np.repeat(maps, 2, 3)]), (64, 64, 2))
    stamp(project, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: spell(p, "image_id,probability\na,abc\n"), ["outside", "gate_r18/fold0/oof.csv, row 2", "abc"]),
        (
            lambda p: spell(p, "image_id,probability\na,0.1\nb,0.2,0.3\n"),
            ["not hold gate probabilities", "oof.csv, row 3"],
        ),
        (lambda p: spell(p, ""), ["not hold gate probabilities", "gate_r18/fold0/oof.csv"]),
        (lambda p: spell(p, "id,value\na,1\n"), ["not hold gate probabilities", "id, value"]),
        (drop_a_row, ["do not match the images", "gate_r18", "1 missing"]),
        (repeat_a_row, ["two out-of-fold gate probabilities", "gate_r18/fold1/oof.csv, row"]),
        (plant_nan, ["outside", "gate_r18/fold0/oof.csv, row 4, image", "NaN", "0 to 1"]),
        (same_maps_twice, ["two out-of-fold maps", "unet_b0/fold1/oof.h5"]),
        (rename_a_map, ["do not match the images", "unetpp_b0", "1 missing", "1 unknown ['stranger']"]),
        (cut_the_maps, ["cannot be read", "unet_b0/fold0/oof.h5"]),
        (forget_a_fold, ["no out-of-fold predictions yet", "unetpp_b0, fold 1", "gatemask train"]),
        (lose_the_maps, ["missing", "unet_b0/fold1/oof.h5", "gatemask train"]),
        (other_split, ["another split", "gate_r18/fold0"]),
        (two_classes, ["number of outputs", "unet_b0", "received: 2"]),
    ],
)
def test_bad_predictions_are_named(project: Project, spoil: Callable[[Project], None], words: list[str]) -> None:
    spoil(project)
    with pytest.raises(GatemaskError) as raised:
        tuned(project)
    for word in words:
        assert word in str(raised.value)
    assert not (project.tuned / "result.json").exists()


def edit_gates(project: Project) -> None:
    path = project.fold("gate_r18", 1) / "oof.csv"
    pd.read_csv(path).assign(probability=0.5).to_csv(path, index=False)


def edit_config(project: Project) -> None:
    path = project.fold("unet_b0", 0) / "config.yaml"
    path.write_text(path.read_text() + "# edited\n")


def other_settings(project: Project) -> None:
    stamp(replace(project, overrides=("epochs=7",)), project.fold("unet_b0", 1) / "oof.h5")


def edit_yaml(project: Project) -> None:
    path = project.experiments / "unet_b0.yaml"
    path.write_text(path.read_text() + "\nseed: 77\n")


def other_views(project: Project) -> None:
    stamp(replace(project, overrides=("tta=[hflip]",)), project.fold("unetpp_b0", 0) / "oof.h5")


def other_records(project: Project) -> None:
    path = project.fold("gate_r18", 0) / "result.json"
    fields = read_json(path)
    write_json(path, {**fields, "made_from": {**fields["made_from"], "records": "others"}})


def no_yaml(project: Project) -> None:
    (project.experiments / "unetpp_b0.yaml").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_gates, ["gate_r18 fold 1: oof.csv differs from the file that was written"]),
        (edit_config, ["unet_b0 fold 0: config.yaml differs from the file that was written"]),
        (other_settings, ["unet_b0 fold 1: epochs: 7, now 2"]),
        (edit_yaml, ["unet_b0 fold 0: seed: 0, now 77", "unet_b0 fold 1: seed: 0, now 77"]),
        (other_views, ["unetpp_b0 fold 0: tta"]),
        (other_records, ["gate_r18 fold 0: other records"]),
        (no_yaml, ["unetpp_b0 fold 0: its YAML no longer exists"]),
    ],
)
def test_folds_that_differ_from_the_yaml_are_rejected_or_used_as_trained(
    project: Project, change: Callable[[Project], None], words: list[str]
) -> None:
    comp = load_competition(project.experiments, quick=True)
    ensemble = load_ensemble(project.experiments, quick=True)
    assert as_trained_notes(project, comp, ensemble) == []
    change(project)
    with pytest.raises(GatemaskError, match="not made from what the YAMLs and the data say now") as raised:
        prediction_hashes(project, comp, ensemble)
    for word in [*words, "gatemask train phantom/", "--as-trained"]:
        assert word in str(raised.value)
    notes = as_trained_notes(project, comp, ensemble.model_copy(update={"as_trained": True}))
    assert [word for word in words if any(note.startswith(word) for note in notes)] == words


def test_overrides_count_as_part_of_the_yaml(project: Project) -> None:
    """Folds that were all trained with --set are current under the same --set."""
    changed = replace(project, overrides=("epochs=7",))
    for name in ("gate_r18", "unet_b0", "unetpp_b0"):
        for fold in (0, 1):
            stamp(changed, project.fold(name, fold) / ("oof.csv" if name == "gate_r18" else "oof.h5"))
    comp = load_competition(project.experiments, quick=True)
    ensemble = load_ensemble(project.experiments, quick=True)
    assert as_trained_notes(changed, comp, ensemble) == []
    with pytest.raises(GatemaskError, match="epochs: 7, now"):
        as_trained_notes(project, comp, ensemble)


def test_errors_are_printed_without_a_traceback(project: Project) -> None:
    plant_nan(project)
    done = gatemask("oof-tune", "phantom", *QUICK, root=project.root)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Gate probability outside [0, 1].")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tune.beside=[mine.yaml]", ["does not exist", "mine.yaml"]),
        ("tune.ship=exakt", ["exakt", "exact"]),
        ("mask.weights=[1]", ["weight"]),
        ("mask.experiments=[unet_b0,unet_b0]", ["named twice", "unet_b0"]),
        ("tune.beside=[experiments]", ["does not exist"]),
    ],
)
def test_bad_settings_are_named(project: Project, setting: str, words: list[str]) -> None:
    with pytest.raises(GatemaskError) as raised:
        tuned(project, setting)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gate: [", ["Not valid YAML"]),
        ("gate: .nan\nupper: 0.5\nlower: 0.5\nmin_area: 1", ["'gate' of the rule is outside", "nan"]),
        ("gate: 0.1\nupper: 0.5\nlower: 0.5\nmin_area: .nan", ["must be a non-negative integer", "nan"]),
        ("gate: 0.1\nupper: 0.5\nlower: 0.7\nmin_area: 3", ["above"]),
        ("just text", ["does not hold a rule"]),
        ("\xff", ["Not valid YAML"]),
    ],
)
def test_a_bad_rule_file_is_named(project: Project, text: str, words: list[str]) -> None:
    (project.root / "mine.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(GatemaskError) as raised:
        tuned(project, "tune.beside=[mine.yaml]")
    for word in [*words, "mine.yaml"]:
        assert word in str(raised.value)


@pytest.mark.parametrize("parts", [[], ["tune.rule.components=true"]])
def test_a_component_rule_can_be_scored_beside(project: Project, parts: list[str]) -> None:
    rule = rules.Rule(0.3, 0.6, 0.4, 30, min_component=20, hysteresis=True)
    rule_files.save_rule(rule, project.root / "mine.yaml")
    result = tuned(project, "tune.beside=[mine.yaml]", *parts)
    truth = Masks(project.data / "masks.csv", SIZE)
    gates = store.read_gates([project.fold("gate_r18", fold) / "oof.csv" for fold in (0, 1)])
    readers = [store.MapReader([project.fold(n, f) / "oof.h5" for f in (0, 1)]) for n in ("unet_b0", "unetpp_b0")]
    found = []
    for name, gate in gates.items():
        full = frame.resize_map(rules.average_maps([reader[name] for reader in readers]), SIZE)[:, :, 0]
        found.append(dice_of_masks(truth[name][:, :, 0], rules.apply_rule(rule, gate, full)))
    assert result.beside["mine"].in_sample == pytest.approx(np.mean(found), abs=1e-9)
    assert (result.exact_gap is None) == bool(parts)


def test_a_custom_rule_can_be_scored_beside(project: Project) -> None:
    rule_files.save_rule(rules.Rule(0.5, 0.6, 0.4, 30), project.root / "mine.yaml")
    result = tuned(project, "tune.beside=[mine.yaml]")
    assert result.beside["mine"].rule.min_area == 30
    rule_files.save_rule(rules.Rule(0.5, 0.6, 0.4, 40), project.root / "mine.yaml")
    assert tuned(project, "tune.beside=[mine.yaml]").beside["mine"].rule.min_area == 40


def test_a_killed_run_ends_like_an_uninterrupted_one(project: Project, made: Path, tmp_path: Path) -> None:
    settings = ["--quick", "--set", "tune.optima=3", "--set", "tune.trials=100"]
    whole = gatemask("oof-tune", "phantom", *settings, "--json", root=project.root)
    assert whole.returncode == 0, whole.stderr
    expected = json.loads(whole.stdout)
    shutil.rmtree(project.tuned)
    journal = project.tuned / "study.log"
    for size in (1, 20_000):  # of the study: before it, and within

        def grown(_: int, size: int = size) -> bool:
            return journal.exists() and journal.stat().st_size >= size

        kill_when(grown, "-m", "gatemask", "oof-tune", "phantom", *settings, root=project.root)
        assert not (project.tuned / "result.json").exists()
    result = json.loads(gatemask("oof-tune", "phantom", *settings, "--json", root=project.root).stdout)
    assert result["trials"] == 100
    for key in ("cross_fitted", "in_sample", "ci95", "rule", "per_fold", "candidates"):
        assert result[key] == expected[key]
    made = {"tables.npz", "scores.npz", "rule.yaml", "study.log"} | PICTURES
    assert set(read_json(project.tuned / "result.json")["outputs"]) == made


def test_the_dashboard_shows_the_study(project: Project) -> None:
    refused = gatemask("dashboard", "show", "phantom", "--quick", "--no-browser", root=project.root)
    assert refused.returncode == 1
    assert "There is no study" in refused.stderr
    tuned(project)
    command = [
        sys.executable,
        "-m",
        "gatemask",
        "dashboard",
        "show",
        "phantom",
        "--quick",
        "--no-browser",
        "--port",
        "0",
    ]
    started = subprocess.Popen(command, env=environment(project.root), stderr=subprocess.PIPE, text=True)
    try:
        line = started.stderr.readline()  # type: ignore[union-attr]
        address = line.split()[0]
        for _ in range(100):
            try:
                studies = json.loads(urllib.request.urlopen(f"{address}api/studies", timeout=10).read())
                break
            except OSError:
                time.sleep(0.1)
        assert studies["study_summaries"][0]["study_name"].startswith("phantom-quick")
        taken = gatemask(
            "dashboard", "show", "phantom", "--quick", "--no-browser", "--port", address.rsplit(":")[-1].strip("/"),
            root=project.root,
        )  # fmt: skip
        assert taken.returncode == 1
        assert "port cannot be used" in taken.stderr
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
