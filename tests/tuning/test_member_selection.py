"""A selection is at least as good as its best member, keeps within the caps, and no fold chooses for itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Tune, load_competition, load_ensemble
from gatemask.cost import kernel_time
from gatemask.cost.kernel_time import KernelEstimate, MemberCosts
from gatemask.data import folds
from gatemask.data.manifest import prepare
from gatemask.errors import GatemaskError
from gatemask.masks import rule_files
from gatemask.oof.tables import Tables, score
from gatemask.project import Project
from gatemask.results.tuning import MemberSelection, TunedResult
from gatemask.tuning import exact, weighted_tables
from gatemask.tuning.member_selection import select_gates, select_masks
from gatemask.tuning.members import average_gates, build_tables
from gatemask.tuning.printing import print_tuned
from gatemask.tuning.tune import tune, with_selected_weights
from gatemask.tuning.weighted_tables import WeightedTables
from tests.conftest import SHARED, needs_nuclei, slow, write_tiles
from tests.tuning.masks_in_memory import Truths
from tests.tuning.predictions import write_predictions
from tests.tuning.test_weight_search import FOLDS, IDS, Problem

pytestmark = pytest.mark.integration

ROOMY = KernelEstimate(MemberCosts(dict.fromkeys("gh", 0.1), 2), MemberCosts(dict.fromkeys("uvw", 0.1), 2), 100, 9.0)
TUNE = Tune(rounds=5)


def selected(
    scratch: Path, noise: list[float], seed: int = 0, kernel: KernelEstimate = ROOMY, **changes: Any
) -> MemberSelection:
    """Select from masks u, v, ... that see the truth through this much noise."""
    weighted = WeightedTables(Problem(noise, seed).predictions(**changes), scratch, "a")
    return select_masks(weighted, "mean_dice", TUNE, kernel, "uvw"[: len(noise)], ["g"])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_at_least_as_good_as_its_best_member(tmp_path: Path, seed: int) -> None:
    selection = selected(tmp_path, [60, 80, 110], seed)
    first = selection.rounds[0]
    assert selection.score >= selection.best_member.score == max(first.scores.values())
    assert selection.score == max(step.score for step in selection.rounds)
    assert len(selection.rounds) == TUNE.rounds
    assert sum(selection.weights) == pytest.approx(1)
    kept = selection.counts
    assert selection.weights == pytest.approx([kept[name] / selection.cut for name in "uvw"])
    assert set(selection.left_out) == {name for name in "uvw" if not kept[name]}
    assert set(selection.per_fold) == {"0", "1", "2"}


def test_a_useless_experiment_is_left_out(tmp_path: Path) -> None:
    selection = selected(tmp_path, [50, 4000, 60])
    assert selection.weights[1] == 0
    assert selection.left_out["v"] in ("did not help", "others helped more in every round")
    assert selection.score > selection.equal


def test_each_weighting_is_counted_once_and_a_killed_selection_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, count_maps = [], weighted_tables.count_maps
    monkeypatch.setattr(weighted_tables, "count_maps", lambda *args: counted.append(1) or count_maps(*args))
    uninterrupted = selected(tmp_path, [60, 80])
    files = sorted(tmp_path.iterdir())
    assert len(counted) == len(files)
    for path in files[::2]:
        path.unlink()
    counted.clear()
    assert selected(tmp_path, [60, 80]) == uninterrupted
    assert len(counted) == len(files[::2])


@pytest.mark.parametrize("fold", [0, *map(slow, range(1, FOLDS))])
def test_a_fold_does_not_influence_the_selection_it_is_scored_by(tmp_path: Path, fold: int) -> None:
    problem = Problem([80, 110, 90])
    own = [i for i in IDS if problem.fold_of[i] == fold]
    turned = {i: ~problem.truth[other] for i, other in zip(own, own[1:] + own[:1], strict=True)}
    before = selected(tmp_path / "before", [80, 110, 90])
    after = selected(tmp_path / "after", [80, 110, 90], truth=Truths({**problem.truth, **turned}))
    assert after.per_fold[str(fold)] == before.per_fold[str(fold)]
    assert after.rounds != before.rounds, "scores on all images include the fold"


def test_the_caps_hold(tmp_path: Path) -> None:
    mask = MemberCosts({"u": 1.0, "v": 1.0, "w": 1.0}, 2, cap=2)
    selection = selected(tmp_path / "networks", [60, 80, 70], kernel=KernelEstimate(ROOMY.gate, mask, 100, 9.0))
    assert sorted(selection.weights) == [0, 0, 1]
    assert set(selection.left_out.values()) == {"over the cap of 2 mask networks"}
    dear = MemberCosts({"u": 100.0, "v": 1.0, "w": 1.0}, 2)
    hours = KernelEstimate(ROOMY.gate, dear, 100, 0.3)
    selection = selected(tmp_path / "hours", [60, 80, 70], kernel=hours)
    assert selection.weights[0] == 0
    assert selection.left_out["u"] == "over 0.3 hours"
    with pytest.raises(GatemaskError, match="No experiment can be shipped") as raised:
        selected(
            tmp_path / "none", [60, 80], kernel=KernelEstimate(ROOMY.gate, MemberCosts(dear.seconds, 2, 1), 100, 9.0)
        )
    assert "u: over the cap of 1 mask networks" in str(raised.value)


def test_informative_gates_are_taken(tmp_path: Path) -> None:
    problem = Problem([150, 150])
    rng = np.random.default_rng(5)
    right = {i: float(np.clip(0.3 + 0.4 * problem.truth[i].any() + rng.normal(0, 0.1), 0, 1)) for i in IDS}
    predictions = problem.predictions(gates=[problem.gate, right]).gated([1.0, 1.0])
    weighted, masks = WeightedTables(predictions, tmp_path, "a"), [0.5, 0.5]
    selection = select_gates(predictions, weighted, "mean_dice", TUNE, ROOMY, "gh", "uv", masks, {})
    assert selection.best_member.name == "h"
    assert selection.weights[1] > selection.weights[0]
    assert selection.score >= selection.best_member.score
    # Where the other folds chose other masks, the gates in front of them are chosen and scored by those.
    others = {fold: [1.0, 0.0] for fold in range(FOLDS)}
    apart = select_gates(predictions, weighted, "mean_dice", TUNE, ROOMY, "gh", "uv", masks, others)
    alone = select_gates(predictions, weighted, "mean_dice", TUNE, ROOMY, "gh", "u", [1.0, 0.0], {})
    assert (apart.nested, apart.per_fold) == (alone.nested, alone.per_fold)
    assert apart.rounds == selection.rounds


# --- as `gatemask oof-tune` does it ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with two gates and three mask experiments that have predicted; one of each knows little."""
    root = tmp_path_factory.mktemp("selected")
    shutil.copytree(phantom_records, root, dirs_exist_ok=True)
    project = Project(root, "phantom", quick=True)
    for name, noise, seed, side in (
        ("gate_r18", 0.2, 0, 64),
        ("gate_poor", 2.0, 3, 64),
        ("unet_b0", 0.2, 1, 64),
        ("unetpp_b0", 0.3, 2, 32),
        ("poor", 3.0, 4, 64),
    ):
        write_predictions(project, name, noise, seed, side)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    _light(monkeypatch)
    return Project(tmp_path, "phantom", quick=True)


def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip figures, and the building of networks to estimate their cost."""
    monkeypatch.setattr("gatemask.tuning.figures.write_figures", lambda *_: [])
    monkeypatch.setattr(kernel_time, "_trained_experiment", lambda *_: None)
    monkeypatch.setattr(kernel_time, "seconds_by_experiment", lambda _, __, ___, names: dict.fromkeys(names, 0.01))


EXPERIMENTS = ["gate.experiments=[gate_r18,gate_poor]", "mask.experiments=[unet_b0,unetpp_b0,poor]"]
GREEDY = [*EXPERIMENTS, "gate.weights=greedy", "mask.weights=greedy"]


def tuned(project: Project, *settings: str) -> TunedResult:
    comp = load_competition(project.experiments, quick=True)
    usual = ["tune.trials=3", "tune.optima=2", "tune.ship=exact", "tune.rounds=3"]
    chosen = dict(setting.split("=", 1) for setting in (*usual, *settings))  # the last one counts
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    return tune(project, comp, load_ensemble(project.experiments, quick=True, overrides=overrides))


def test_the_rule_is_tuned_on_what_was_selected(project: Project) -> None:
    result = tuned(project, *GREEDY)
    for kind, poor in (("mask", "poor"), ("gate", "gate_poor")):
        selection = result.selection.of(kind)
        assert selection is not None
        assert selection.score >= selection.best_member.score
        assert poor in selection.left_out
    made = result.selection.made()
    assert (result.weights, result.gate_weights) == (made["mask"].weights, made["gate"].weights)
    tables = Tables.load(project.tuned / "tables.npz")
    [rule] = rule_files.load_rules(project.tuned / "rule.yaml", ["lesion"])
    assert score(tables, rule) == result.in_sample
    assert result.passing == pytest.approx((tables.gate >= rule.gate).mean())
    assert not (project.tuned / "weights").exists()
    print_tuned(result)
    alone = tuned(project, "gate.experiments=[gate_r18]", "mask.experiments=[unet_b0]")
    assert alone.selection.made() == {}
    assert alone.gate_weights == [1.0]


def test_no_fold_influences_the_selection_of_its_headline_score(project: Project) -> None:
    result = tuned(project, *GREEDY)
    comp = load_competition(project.experiments, quick=True)
    given = load_ensemble(project.experiments, quick=True, overrides=EXPERIMENTS)
    tables = Tables.load(project.tuned / "tables.npz")
    fold_of = dict(zip(tables.ids.tolist(), tables.folds.tolist(), strict=True))
    for fold in ("0", "1"):
        masks, gates = (result.selection.made()[kind].per_fold[fold] for kind in ("mask", "gate"))
        part = given.gate.model_copy(update={"weights": gates})
        tables = build_tables(project, comp, given.model_copy(update={"gate": part}), fold_of, masks)
        held = tables.folds == int(fold)
        rule, _ = exact.search(tables.subset(~held), "mean_dice")
        assert result.per_fold[fold].score == pytest.approx(score(tables.subset(held), rule), abs=1e-12)


def test_caps_and_rounds_make_it_outdated_only_where_something_is_selected(project: Project) -> None:
    tuned(project, *GREEDY)
    assert tuned(project, *GREEDY).current
    for change in ("mask.members=2", "mask.folds=1", "inference.hours=2", "tune.rounds=2"):
        assert not tuned(project, *GREEDY, change).current
    given = [*EXPERIMENTS, "mask.weights=[1,1,0]"]
    tuned(project, *given)
    assert tuned(project, *given, "mask.members=9", "mask.folds=1", "inference.hours=2").current


@pytest.mark.parametrize(
    "real", [False, pytest.param(True, marks=[needs_nuclei, pytest.mark.slow])], ids=["drawn", "real"]
)
def test_tiles_too(
    make_root: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    """Color tiles with a hold-out; real masks where available, else drawn ones."""
    root = make_root("tiles")
    project, size = Project(root, "nuclei", quick=True), (128, 128)
    comp = load_competition(project.experiments, quick=True)
    prepare(project, comp, SHARED / "nuclei" if real else write_tiles(tmp_path / "raw", 60))
    folds.make_folds(project, comp)
    for number, (name, noise) in enumerate(
        {"gate_r18": 0.2, "gate_poor": 1.0, "good": 0.3, "fair": 0.4, "poor": 3.0}.items()
    ):
        write_predictions(project, name, noise, number, size=size)
    _light(monkeypatch)
    chosen = ["gate.experiments=[gate_r18,gate_poor]", "mask.experiments=[good,fair,poor]"]
    both = [*chosen, "gate.weights=greedy", "mask.weights=greedy", "tune.trials=3", "tune.optima=2", "tune.rounds=4"]
    result = tune(project, comp, load_ensemble(project.experiments, quick=True, overrides=both))
    for selection in result.selection.made().values():
        assert selection.score >= selection.best_member.score
    assert result.weights[2] < max(result.weights)


def test_one_experiment_is_taken_in_one_round(project: Project) -> None:
    result = tuned(project, "mask.experiments=[unet_b0]", "mask.weights=greedy")
    selection = result.selection.mask
    assert (len(selection.rounds), selection.cut, selection.weights) == (1, 1, [1.0])
    assert selection.nested == pytest.approx(selection.score)


def test_comparison_uses_selected_weights(project: Project) -> None:
    comp = load_competition(project.experiments, quick=True)
    usual = ["tune.trials=3", "tune.optima=2", "tune.ship=exact", "tune.rounds=3"]
    ensemble = load_ensemble(project.experiments, quick=True, overrides=[*usual, *GREEDY])
    assert with_selected_weights(project, comp, ensemble) == ensemble, "nothing was selected yet"
    result = tuned(project, *GREEDY)
    selection = with_selected_weights(project, comp, ensemble)
    assert selection.gate.weights == result.gate_weights
    assert selection.mask.weights == result.weights


def test_gates_average_as_one_by_one() -> None:
    gates = [{"a": 0.1, "b": 0.7}, {"a": 0.4, "b": 0.2}, {"a": 0.9, "b": 0.3}]
    shares = [2, 0, 1]
    selection = average_gates(gates, shares, ["a", "b"])
    assert selection == pytest.approx({i: np.average([gate[i] for gate in gates], weights=shares) for i in ("a", "b")})
    assert average_gates([], [], ["a"]) == {"a": 1.0}
