"""A comparison is better, worse or undecided; images of one patient count as one piece of evidence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import Ensemble, load_competition, load_ensemble
from gatemask.data.truth import Annotation, write_masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.tuning import ComparisonResult, PairedComparison
from gatemask.tuning import exact, members
from gatemask.tuning.compare import _by_class, compare, compare_paired, print_comparison, verdict_sentence
from gatemask.tuning.crossfit import bootstrap_interval, cross_fit
from gatemask.tuning.sides import COARSE
from tests.conftest import gatemask
from tests.data.test_manifest import competition
from tests.tuning.predictions import SIZE, stamp, write_predictions

pytestmark = pytest.mark.integration  # takes seconds

IMAGES, FOLDS = 90, 3
Scored = tuple[np.ndarray, np.ndarray]


def of_means(scores: np.ndarray) -> Scored:
    """Worth and weight of images whose mean score counts: (n,) to two (n, 1)."""
    return scores[:, None].astype(float), np.ones((len(scores), 1))


def alone(n: int) -> np.ndarray:
    return np.arange(n).astype(str)


# --- the statistics ----------------------------------------------------------------------------------------


def test_the_same_scores_cannot_be_distinguished() -> None:
    scores = of_means(np.random.default_rng(0).random(50))
    comparison = compare_paired(scores, scores, alone(50), 200, 0)
    assert comparison.verdict == "cannot tell"
    assert comparison.wilcoxon_p == 1.0
    assert comparison.ci95 == (0.0, 0.0)
    assert (comparison.difference, comparison.better, comparison.worse, comparison.equal) == (0.0, 0, 0, 50)


def test_numbers_by_hand() -> None:
    first, second = np.array([0.5, 0.5, 1.0, 0.0]), np.array([0.9, 0.4, 1.0, 0.5])
    comparison = compare_paired(of_means(first), of_means(second), np.array(["a", "a", "b", "c"]), 100, 0)
    assert comparison.first_score == pytest.approx(0.5)
    assert comparison.second_score == pytest.approx(0.7)
    assert comparison.difference == pytest.approx(0.2)
    assert (comparison.better, comparison.worse, comparison.equal) == (2, 1, 1)
    assert (comparison.images, comparison.groups) == (4, 3)
    # Signed ranks of 0.4, -0.1, 0.5: 2, -1, 3. Of the 8 equally likely sign patterns 4 are as far from the middle.
    assert comparison.wilcoxon_p == pytest.approx(0.5)


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "better"), (-0.1, "worse"), (0.0, "cannot tell")])
def test_a_clear_difference_is_seen_and_noise_is_not(shift: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    first = rng.random(400)
    comparison = compare_paired(of_means(first), of_means(first + shift + rng.normal(0, 0.2, 400)), alone(400), 1000, 0)
    assert comparison.verdict == verdict
    assert (comparison.wilcoxon_p < 0.001) == (verdict != "cannot tell")
    assert comparison.ci95[0] < comparison.difference < comparison.ci95[1]


def test_pairing_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    first, second = of_means(hard), of_means(hard + 0.01 + rng.normal(0, 0.02, 300))
    assert bootstrap_interval(*first, alone(300), 1000, 0)[1] > bootstrap_interval(*second, alone(300), 1000, 0)[0]
    assert compare_paired(first, second, alone(300), 1000, 0).verdict == "better"


def test_one_patient_is_not_evidence_however_many_images_it_has() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(120)
    second = first + np.where(np.arange(120) < 60, 0.3, rng.normal(0, 0.02, 120))
    patients = np.where(np.arange(120) < 60, "p", alone(120))
    by_image = compare_paired(of_means(first), of_means(second), alone(120), 2000, 0)
    by_patient = compare_paired(of_means(first), of_means(second), patients, 2000, 0)
    assert by_image.difference == by_patient.difference
    assert by_image.verdict == "better"
    assert by_patient.verdict == "cannot tell"
    assert np.diff(by_patient.ci95) > 2 * np.diff(by_image.ci95)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(80), rng.integers(1, 6, 80))
        n = len(patient)
        hard, liked = rng.normal(0.6, 0.2, 80)[patient], rng.normal(0.02, 0.05, 80)[patient]
        first = hard + rng.normal(0, 0.05, n)
        second = hard + liked + rng.normal(0, 0.05, n)
        low, high = compare_paired(of_means(first), of_means(second), patient.astype(str), 400, seed).ci95
        covered += low <= 0.02 <= high
    assert 180 <= covered <= 198


def test_ratios_of_sums_are_compared_too() -> None:
    rng = np.random.default_rng(4)
    weight = rng.integers(0, 500, (200, 2)).astype(float)
    first, second = (rng.beta(a, 3, (200, 2)) * weight for a in (5, 9))
    comparison = compare_paired((first, weight), (second, weight), alone(200), 500, 0)
    assert comparison.verdict == "better"
    assert comparison.first_score == pytest.approx(np.mean(first.sum(axis=0) / weight.sum(axis=0)))
    assert comparison.ci95[0] < comparison.difference < comparison.ci95[1]


# --- on predictions ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(make_root: Callable[[str], Path]) -> Path:
    """A project with folds, truth and the predictions of masks, some of an experiment that ensemble.yaml leaves out."""
    project = Project(make_root("compared"), "phantom")
    rng = np.random.default_rng(0)
    ids = [f"i{n:02d}" for n in range(IMAGES)]
    rows = [f"{i},{n // 2 % FOLDS},patient{n // 2},0" for n, i in enumerate(ids)]
    project.folds.write_text("\n".join(["image_id,fold,group,stratum", *rows]) + "\n")
    masks = {}
    for image_id in ids[::3]:
        mask = np.zeros(SIZE, np.uint8)
        cv2.circle(mask, tuple(int(v) for v in rng.integers(50, 200, 2)), int(rng.integers(12, 40)), 1, -1)
        masks[image_id] = [Annotation("lesion", rle.encode(mask))]
    write_masks(project.data / "masks.csv", masks)
    (project.experiments / "unet_late.yaml").write_text("extends: unet_b0.yaml\n")
    (project.experiments / "gate_late.yaml").write_text("extends: gate_r18.yaml\n")
    write_predictions(project, "unet_b0", 0.25, seed=1)
    write_predictions(project, "unetpp_b0", 0.8, seed=2, side=32)
    write_predictions(project, "unet_late", 0.25, seed=1)
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, "phantom")


def compared(project: Project, first: str, second: str, *overrides: str) -> ComparisonResult:
    ensemble = load_ensemble(project.experiments, overrides=overrides)
    return compare(project, load_competition(project.experiments), ensemble, first, second)


def test_masks_without_a_gate_and_behind_one(project: Project) -> None:
    comparison = compared(project, "unet_b0", "unetpp_b0")
    assert comparison.verdict == "worse"
    assert (comparison.gate, comparison.mask) == ("none", "compared")
    assert (comparison.images, comparison.groups, comparison.metric) == (IMAGES, IMAGES // 2, "mean_dice")
    assert comparison.better + comparison.worse + comparison.equal == IMAGES
    assert comparison.ci95[0] < comparison.difference < comparison.ci95[1] < 0
    back = compared(project, "unetpp_b0", "unet_b0")
    assert back.verdict == "better"
    assert back.difference == -comparison.difference
    assert back.ci95 == pytest.approx((-comparison.ci95[1], -comparison.ci95[0]))

    write_predictions(project, "gate_r18", 0.15)
    behind = compared(project, "unet_b0", "unetpp_b0")
    assert behind.gate == "gate_r18"
    assert behind.second_score > comparison.second_score, "the gate keeps bad masks away"


def test_each_side_is_scored_by_its_own_cross_fitted_rules(project: Project) -> None:
    write_predictions(project, "gate_r18", 0.2)
    comp, ensemble = load_competition(project.experiments), load_ensemble(project.experiments)
    comparison = compare(project, comp, ensemble, "unet_b0+unetpp_b0", "unet_b0")
    fold_of = {f"i{n:02d}": n // 2 % FOLDS for n in range(IMAGES)}
    tables = members.build_tables(project, comp, ensemble, fold_of)  # its masks are those of the first side
    fit = cross_fit(tables, "mean_dice", lambda some: exact.search(some, "mean_dice", levels=COARSE)[0])
    assert comparison.first_score == fit.score
    assert comparison.first == "unet_b0+unetpp_b0"


def test_the_same_predictions_under_another_name_cannot_be_distinguished(project: Project) -> None:
    comparison = compared(project, "unet_b0", "unet_late")
    assert (comparison.verdict, comparison.wilcoxon_p, comparison.equal) == ("cannot tell", 1.0, IMAGES)


def test_gates_are_scored_in_front_of_the_ensembles_masks(project: Project) -> None:
    for name in ("unet_b0", "unetpp_b0"):  # masks that do not recognize empty images
        write_predictions(project, name, 1.5)
    write_predictions(project, "gate_r18", 0.1, seed=3)
    write_predictions(project, "gate_late", 1.5, seed=4)
    comparison = compared(project, "gate_late", "gate_r18")
    assert comparison.verdict == "better"
    assert (comparison.gate, comparison.mask) == ("compared", "unet_b0+unetpp_b0")
    for fold in range(FOLDS):  # views of its own that could be weighed apart
        folder = project.fold("unet_b0", fold)
        stamp(project, folder / "oof.h5", shutil.copy(folder / "oof.h5", folder / "oof-views.h5"))
    again = compared(project, "gate_late", "gate_r18", "mask.weights=tuned")
    assert again.model_copy(update={"seconds": comparison.seconds}) == comparison, "masks are averaged by equal weights"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("unet_b0", "unetp_b0", ["Unknown experiment 'unetp_b0'", "unetpp_b0"]),
        ("unet_b0", "unet_b0+base", ["Unknown experiment 'base'"]),
        ("unet_b0", "unet_b0", ["cannot be compared with itself"]),
        ("unet_b0+unetpp_b0", "unetpp_b0+unet_b0", ["cannot be compared with itself"]),
        ("unet_b0", "unetpp_b0+unetpp_b0", ["nor count twice"]),
        ("gate_r18", "unet_b0", ["compared with gates", "gate_r18 (gate), unet_b0 (mask)"]),
        ("unet_b0", "gate_r18+unetpp_b0", ["compared with gates"]),
        ("gate_r18", "gate_late", ["no out-of-fold predictions yet", "gatemask train phantom/gate_r18 --fold 0"]),
    ],
)
def test_mistakes(project: Project, first: str, second: str, words: list[str]) -> None:
    with pytest.raises(GatemaskError) as raised:
        compared(project, first, second)
    for word in words:
        assert word in str(raised.value)


def test_a_missing_fold_and_other_images_are_rejected(project: Project) -> None:
    folds = project.folds.read_text()
    shutil.rmtree(project.fold("unetpp_b0", 2))
    with pytest.raises(GatemaskError, match="gatemask train phantom/unetpp_b0 --fold 2"):
        compared(project, "unet_b0", "unetpp_b0")
    project.folds.write_text("\n".join(folds.splitlines()[:-2]) + "\n")
    write_predictions(project, "unet_b0")
    project.folds.write_text(folds)
    write_predictions(project, "unetpp_b0")
    for fold in range(FOLDS):
        stamp(project, project.fold("unet_b0", fold) / "oof.h5")
    with pytest.raises(GatemaskError, match=r"2 missing \['i88'\], 0 unknown"):
        compared(project, "unet_b0", "unetpp_b0")


@pytest.mark.integration
def test_the_command_prints_one_sentence(project: Project) -> None:
    done = gatemask("compare", "phantom", "unet_b0", "unetpp_b0", root=project.root)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Dice of 90 images in 45 groups, cross-fitted, without a gate" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("unetpp_b0 is worse than unet_b0: -0.")


def test_the_sentence() -> None:
    paired = PairedComparison(
        first_score=0.8,
        second_score=0.8123,
        difference=0.0123,
        ci95=(0.004, 0.021),
        wilcoxon_p=0.01,
        better=5,
        worse=2,
        equal=3,
        images=10,
        groups=10,
        verdict="better",
    )
    assert verdict_sentence("a", "b", paired) == "b is better than a: +0.0123 (95 % from +0.0040 to +0.0210)"
    unclear = paired.model_copy(update={"ci95": (-0.004, 0.021), "verdict": "cannot tell"})
    assert verdict_sentence("a", "b", unclear) == "cannot tell b from a: +0.0123 (95 % from -0.0040 to +0.0210)"


def test_each_class_is_compared_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    weight, base = np.ones((60, 2)), rng.random((60, 2)) * 0.5
    second = base + np.array([0.2, -0.2])  # better in one class, worse in the other
    groups = np.arange(60).astype(str)
    comp = competition(classes=["a", "b"], submission={"class_column": "class"})
    sides = [(base, weight), (second, weight)]
    ensemble = Ensemble.model_validate({"mask": {"experiments": ["x"]}, "tune": {"bootstrap": 50}})
    classes = _by_class(comp, sides, groups, ensemble)
    assert [(name, part.verdict) for name, part in classes.items()] == [("a", "better"), ("b", "worse")]
    assert classes["a"].difference == pytest.approx(0.2)
    together = compare_paired(*sides, groups, 50, 0)
    assert together.difference == pytest.approx(0.0)
    result = ComparisonResult(
        first="x",
        second="y",
        metric="mean_dice",
        **dict(together),
        classes=classes,
        gate="g",
        mask="compared",
        seconds=1,
    )
    print_comparison(result)
    printed = capsys.readouterr().err
    assert "better" in printed
    assert "worse" in printed
