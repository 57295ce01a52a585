"""Single sections, from results of all kinds."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.masks.rule import Rule
from gatemask.plots import style
from gatemask.plots.gallery import GalleryImage, class_color, crop_to_masks, draw_layers
from gatemask.project import Project
from gatemask.report.inputs import Inputs
from gatemask.report.pictures import Pictures
from gatemask.report.sections import ensemble, experiments, folds, gallery, leaderboard, tuned_figures, tuning, worst
from gatemask.report.sections.gate import band_text
from gatemask.report.shown import Decided
from gatemask.results.data import AuditResult
from gatemask.results.rules import RuleValues
from gatemask.results.runs import AgainstBest, ExperimentRun, RunList, RunScore
from gatemask.results.submission import SubmissionRecord
from gatemask.results.tuning import CandidateSummary, ClassResult, FoldRule, TunedResult
from tests.data.test_manifest import competition
from tests.fold_results import fold_result
from tests.oof.test_tables import random_problem
from tests.report.pages import Page
from tests.report.small_project import ENSEMBLE
from tests.tuned_results import tuned_result
from tests.tuning.masks_in_memory import predictions, tables_of

TWO = {"classes": ["scratch", "<dent>"], "submission": {"class_column": "class"}}


def given(root: Path, **changes: object) -> Inputs:
    return Inputs(Project(root, "tiles"), competition(**changes), ENSEMBLE)


def test_members_used_as_trained_are_listed() -> None:
    runs = {("gate_b0", 0): fold_result()}
    section = ensemble.members(runs, ["gate_b0 fold 0: tta: <none>, now [hflip]"])
    assert "Used as trained, not as the YAMLs and data say now:" in section
    assert "<li>gate_b0 fold 0: tta: &lt;none&gt;, now [hflip]</li>" in section
    assert "as trained" not in ensemble.members(runs)


def test_reports_about_the_data_are_escaped() -> None:
    assert folds.data_reports(["5 of <9> images"]).endswith("<ul><li>5 of &lt;9&gt; images</li></ul>")
    assert "nothing unusual" in folds.data_reports([])


def test_leaks_are_a_warning() -> None:
    fields = {"file": "f", "images": 10, "folds": 2, "groups": 5, "without_group": 0, "per_fold": {}}
    clean = AuditResult.model_validate(
        {**fields, "leak": 0, "duplicates": 0, "duplicated": [], "balance": {"images": [5, 5]}}
    )
    assert "No leak" in folds.leaks(clean) and "warning" not in folds.leaks(clean)
    leaking = clean.model_copy(update={"leak": 0.3, "duplicates": 1, "duplicated": ["a = b"]})
    assert "warning" in folds.leaks(leaking)
    assert "3 images have their group in training" in folds.leaks(leaking)
    assert "<li>a = b</li>" in folds.leaks(leaking)


def test_the_shipped_rule_comes_first() -> None:
    rule = RuleValues(gate=0.25, upper=0.5, lower=0.5, min_area=7)
    candidate = CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=rule)
    fold_rule = FoldRule(score=0.75, rule=rule.model_copy(update={"hysteresis": True}))
    tuned = tuned_result(
        candidates={"exact": candidate, "median": candidate.model_copy(update={"cross_fitted": 0.8125})},
        beside={"first <place>": candidate},
        shipped="median",
        rule=rule,
        per_fold={"2": fold_rule},
    )
    section = tuning.rules(tuned)
    first = re.findall(r"<tbody>|<tr><td>(.*?)</td>", section)
    assert first == ["", "median (shipped)", "exact (candidate)", "first &lt;place&gt; (beside)", "", "all but fold 2"]
    assert section.count("0.8125") == 1
    assert "<td>yes</td>" in section


def test_the_band_in_words() -> None:
    band = tuned_result().gate.band
    assert "one kind" in band_text(band)
    assert "between 0.2000 and 0.8000" in band_text(band.model_copy(update={"low": 0.8, "high": 0.2, "share": 0.0}))
    ends = {"low": 0.3, "high": 0.6, "share": 0.25, "images": 10, "positives": 4, "decided": 30, "missed": 1}
    text = band_text(band.model_copy(update={**ends, "false_alarms": 2, "sensitivity": 0.9, "specificity": None}))
    assert "10 images (25.0%), 4 of them" in text
    assert text.endswith(": sensitivity 0.9000 among them.")


# --- experiments -------------------------------------------------------------------------------------------


def experiment(name: str, value: float | None, **changes: object) -> ExperimentRun:
    score = None
    if value is not None:
        fields = {"value": value, "ci95": (value - 0.05, value + 0.04), "kind": "cross-fitted", "metric": "mean_dice"}
        score = RunScore.model_validate({**fields, "folds": (0, 1), "images": 20, "groups": 10})
    fields = {"name": name, "task": "mask", "state": "finished", "folds_done": (0, 1), "folds": 2, "epochs": 3}
    return ExperimentRun.model_validate({**fields, "monitor": "dice", "score": score, **changes})


def with_runs(root: Path, *runs: ExperimentRun) -> Inputs:
    inputs = given(root)
    inputs.__dict__["listed"] = RunList(competition="tiles", metric="mean_dice", experiments=runs)
    return inputs


def test_experiments_are_dots_with_bars_and_a_table(tmp_path: Path) -> None:
    against = AgainstBest(best="b", difference=-0.1, ci95=(-0.2, 0.01), verdict="cannot tell")
    inputs = with_runs(
        tmp_path,
        experiment("a", 0.7, against_best=against, changed={"model.encoder": ("b0", "<b4>")}),
        experiment("b", 0.8, leaderboard=0.75),
        experiment("c", None, state="training", folds_done=(), epochs_done={0: 1}),
        experiment("d", None, state="not started", folds_done=(), problems=("cut short",)),
    )
    section = experiments.body(inputs, Pictures())
    parsed = Page(section)
    assert parsed.open == []
    assert "b 0.8000, 0.7500 to 0.8400; a 0.7000" in str(parsed.pictures[0]["aria-label"]), "best first"
    rows = re.findall(r'<div class="row( best)?"><span class="name">(\w)</span>', section)
    assert rows == [(" best", "b"), ("", "a")]
    places = [float(x) for x in re.findall(r'<circle class="dot" cx="([0-9.]+)%"', section)]
    assert 0 < places[1] < places[0] < 100
    assert "cannot tell (-0.1000)" in section
    assert "model.encoder &lt;b4&gt;" in section
    assert "0 of 2 (training fold 0: 1/3 epochs)" in section
    assert "Not started: d." in section
    assert "d: cut short" in section
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', section)
    assert "leaderboard" in heads and "gain in the ensemble" not in heads, "columns without content are left out"


def test_a_thousand_experiments_and_more_are_a_table_of_limited_size(tmp_path: Path) -> None:
    changed = {f"key{number}": ("a" * 20, "b" * 20) for number in range(50)}
    runs = [
        experiment(f"experiment{n}", 0.5 + n / 10000, changed=changed, problems=("cut short",)) for n in range(1200)
    ]
    section = experiments.body(with_runs(tmp_path, *runs), Pictures())
    assert len(section) < 1_500_000
    assert "The first 1000 of 1200 experiments" in section
    assert section.count('<div class="row') == 31, "30 experiments and the axis"
    assert "and 1160 more" in section


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.2, 0.9, ["0.2", "0.4", "0.6", "0.8"]), (0.5, 0.5478, ["0.50", "0.51", "0.52", "0.53", "0.54"])],
)
def test_ticks_are_written_in_full(low: float, high: float, shown: list[str]) -> None:
    ticks = experiments._ticks(low, high)
    assert [experiments._short(tick, ticks) for tick in ticks] == shown


def test_equal_scores_and_a_single_one_can_be_drawn(tmp_path: Path) -> None:
    one = experiment("a", 0.5)
    assert one.score is not None
    flat = one.model_copy(update={"score": one.score.model_copy(update={"ci95": (0.5, 0.5)})})
    assert 'cx="50.00%"' in experiments.body(with_runs(tmp_path, flat), Pictures())


# --- figures of tuning, class by class ---------------------------------------------------------------------


def several_classes(own_gates: bool = False) -> TunedResult:
    """Return the result of tuning two classes."""
    rule = RuleValues(gate=0.5, upper=0.5, lower=0.5, min_area=1)
    scores = {"cross_fitted": 0.8, "ci95": (0.7, 0.9), "in_sample": 0.9, "all_empty": 0.5, "passing": 0.25}
    gate = {"gate": tuned_result().gate} if own_gates else {}
    classes = [
        ClassResult(name=name, positives=3, rule=rule.model_copy(update={"min_area": area}), **scores, **gate)
        for name, area in (("scratch", 11), ("<dent>", 222))
    ]
    both = [part.rule for part in classes]
    candidates = {"exact": CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=both)}
    per_fold = {"0": FoldRule(score=0.75, rule=both)}
    return tuned_result(rule=both, classes=classes, candidates=candidates, per_fold=per_fold)


def test_each_class_has_a_row_with_its_score_and_its_rule() -> None:
    section = tuning.rules(several_classes())
    Page(section)
    for text in ("<td>scratch</td>", "&lt;dent&gt;", "0.7000 to 0.9000", "25.0%", "222", "all but fold 0"):
        assert text in section
    assert "split" not in section, "no rule splits objects"


def test_the_figures_of_each_class_stand_below_its_name(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    folder = inputs.project.tuned
    folder.mkdir(parents=True)
    together = ["gate", "confusion"]
    each = [f"{name}-{index}" for name in ("surface", "slices", "folds", "dice", *together) for index in range(2)]
    for number, name in enumerate([*together, *each]):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((2, 10 + number, 3), 255, np.uint8))
    width = {name: 10 + number for number, name in enumerate([*together, *each])}
    for part, tuned, shown in (
        ("Thresholds", several_classes(), ["surface-0", "slices-0", "folds-0", "surface-1", "slices-1", "folds-1"]),
        ("Gate", several_classes(), together),
        ("Gate", several_classes(own_gates=True), ["gate-0", "confusion-0", "gate-1", "confusion-1"]),
        ("Masks", several_classes(), ["dice-0", "dice-1"]),
    ):
        text = tuned_figures.figures(inputs, Pictures(), tuned, part)
        assert [int(found) for found in re.findall(r'width="(\d+)"', text)] == [width[name] for name in shown]
        names = [] if shown == together else ["scratch", "&lt;dent&gt;"]
        assert re.findall("<h3>(.*?)</h3>", text) == names
    assert inputs.problems.found == []
    (folder / "dice-0.png").unlink()
    assert tuned_figures.figures(inputs, Pictures(), several_classes(), "Masks").count("<img") == 1
    assert "dice-0.png" in inputs.problems.found[0]


# --- images ------------------------------------------------------------------------------------------------


def shown_image(masks: np.ndarray, side: int = 8) -> GalleryImage:
    full_map = (masks * 200).astype(np.uint8)
    return GalleryImage("a", 0, np.full((side, side), 128, np.uint8), masks, full_map, masks, 1.0, 0.5)


def test_classes_are_drawn_in_their_colors() -> None:
    masks = np.zeros((8, 8, 2), bool)
    masks[1:4, 1:4, 0] = masks[5:7, 5:7, 1] = True
    layers = draw_layers(shown_image(masks), side=64)
    for name in ("truth", "mask"):
        seen = {tuple(pixel) for pixel in layers[name][layers[name][:, :, 3] > 0][:, 2::-1].tolist()}
        wanted = {tuple(int(class_color(index)[at : at + 2], 16) for at in (1, 3, 5)) for index in range(2)}
        assert seen == wanted
    assert layers["map"][20, 20].tolist() != layers["map"][60, 4].tolist()
    legend = gallery.legend(["a", "<b>"])
    assert class_color(0) in legend and "&lt;b&gt;" in legend
    assert "final mask" in gallery.legend(["only"])


def test_a_small_mask_of_a_large_image_stays_visible() -> None:
    masks = np.zeros((4000, 4000, 1), bool)
    masks[3000:3006, 100:104] = True
    whole = shown_image(masks, 4000)
    assert (draw_layers(whole)["truth"][:, :, 3] > 0).any()
    part = crop_to_masks(whole)
    assert part.truth.shape == (384, 384, 1)
    assert part.image.shape == (384, 384)
    assert part.truth.sum() == masks.sum()
    empty = shown_image(np.zeros((50, 50, 1), bool), 50)
    assert crop_to_masks(empty) is empty


def decided(root: Path, **changes: object) -> Decided:
    members = predictions(3, images=15, classes=2)
    tables, rules = tables_of(members), [Rule(0.0, 0.5, 0.5, 1)] * 2
    inputs = given(root, **{**TWO, **changes})
    return Decided(inputs, tables, rules, rules, members.readers, members.truth, None, None, "As drawn.", True)


@pytest.mark.parametrize("changes", [{}, {"exclusive": True}, {"objects": {}}, {"tiles": {"size": 64, "overlap": 16}}])
def test_every_kind_of_competition_has_a_gallery(tmp_path: Path, changes: dict[str, object]) -> None:
    given_images = decided(tmp_path, **changes)
    chosen = gallery.choose_images(given_images)
    section = gallery.shots(given_images, Pictures(), [(int(index), "") for index in chosen["Best"]])
    parsed = Page(section)
    assert parsed.open == []
    assert section.count("<figure") == len(chosen["Best"]) == 4
    assert all(picture["alt"] for picture in parsed.pictures)
    assert given_images.inputs.problems.found == []


def test_the_gallery_shows_best_and_typical_images(tmp_path: Path) -> None:
    tables, _, truths = random_problem(4, images=200)
    rule = [Rule(0.3, 0.5, 0.4, 2)]
    found = Decided(given(tmp_path), tables, rule, rule, [], {}, None, None, "", True)  # type: ignore[arg-type]
    positive = truths.any(axis=(1, 2))
    chosen = gallery.choose_images(found)
    assert all(positive[indices].all() and 0 < len(indices) <= 4 for indices in chosen.values())
    assert found.dice[chosen["Best"]].min() >= found.dice[chosen["Typical"]].max()


def test_errors_are_sorted_by_type(tmp_path: Path) -> None:
    tables = random_problem(5, images=200)[0]
    rule = [Rule(0.4, 0.5, 0.4, 12)]
    found = Decided(given(tmp_path), tables, rule, rule, [], {}, None, None, "", True)  # type: ignore[arg-type]
    errors = worst.error_types(found)
    truth, area, dice = tables.truth[:, 0], found.area[:, 0], found.dice[:, 0]
    assert set(errors["Missed"].images) == set(np.flatnonzero((truth > 0) & (area == 0)))
    assert set(errors["False alarms"].images) == set(np.flatnonzero((truth == 0) & (area > 0)))
    assert set(errors["Poor outlines"].images) == set(np.flatnonzero((truth > 0) & (area > 0) & (dice < 0.5)))
    assert all(len(kind.images) for kind in errors.values())
    assert (np.diff(truth[errors["Missed"].images]) <= 0).all(), "the largest first"
    assert (np.diff(area[errors["False alarms"].images]) <= 0).all()
    assert (np.diff(dice[errors["Poor outlines"].images]) >= 0).all()
    assert sum(kind.lost for kind in errors.values()) <= 1 - dice.mean() + 1e-9


def test_submissions_are_drawn_against_local_scores(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    fields = {
        "package": "p",
        "competition": "c",
        "description": "d",
        "submitted_at": "2026-01-01T10:00:00",
        "version": 3,
    }
    inputs.__dict__["submissions"] = [
        SubmissionRecord.model_validate({**fields, "id": f"s{n}", "at": f"2026-01-0{n + 1}", "local": 0.7 + 0.01 * n})
        for n in range(3)
    ]
    assert "<svg" not in leaderboard.body(inputs, Pictures()), "no scores yet"
    for n, record in enumerate(inputs.submissions):
        record.public = 0.6 + 0.02 * n
    section = leaderboard.body(inputs, Pictures())
    assert "v3 local 0.7000, public 0.6000" in section
    assert "2026-01-01 10:00" in section
    assert style.BLUE.lower() not in section
