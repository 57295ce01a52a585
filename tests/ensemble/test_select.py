"""Which members are shipped, with which weights, and what makes the ensemble outdated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition, Ensemble, Experiment
from gatemask.cost.kernel_time import KernelEstimate, MemberCosts
from gatemask.ensemble import select
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, sha256, write_json, write_text, write_yaml
from gatemask.masks import rule as rules
from gatemask.masks import rule_files
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.results.tuning import BestMember, MemberSelection, SelectionRound, Selections, TunedResult
from gatemask.tracking import run_folder
from gatemask.training.fold_inputs import TrainingInputs, written_settings
from tests.fold_results import fold_result
from tests.tuned_results import tuned_result

FOLDS = 3
COMP = Competition.model_validate(
    {
        "name": "c",
        "title": "C",
        "raw": "raw",
        "image": {"size": [64, 64]},
        "train": {"images": "*.png"},
        "test": {"images": "*.png"},
        "labels": {"format": "rle", "file": "t.csv"},
    }
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose experiments g, u and v are trained, and whose rule is tuned."""
    made = Project(tmp_path, "c")
    rows = "".join(f"i{n},{n % FOLDS},p{n},0\n" for n in range(6))
    write_text(made.folds, "image_id,fold,group,stratum\n" + rows)
    for name in ("g", "u", "v"):
        gate = name == "g"
        exp = {"name": name, "task": "gate" if gate else "mask", "input": {"size": 64}, "epochs": 1}
        exp |= {"model": {"name": "gate" if gate else "unet", "encoder": "efficientnetb0"}, "loss": {"bce": 1}}
        write_yaml(made.experiments / f"{name}.yaml", exp)
        for fold in range(FOLDS):
            write_run(made, Experiment.model_validate(exp), fold)
    rule_files.save_rule(rules.Rule(0.5, 0.5, 0.5, 1), made.tuned / "rule.yaml")
    tuned(made, [1.0, 1.0])
    monkeypatch.setattr(select, "require_tuned", lambda *_: TunedResult.load(made.tuned / "result.json"))
    monkeypatch.setattr(select, "count_test_images", lambda *_: 100)
    monkeypatch.setattr(select, "estimate_kernel", costs)
    return made


def write_run(project: Project, exp: Experiment, fold: int) -> None:
    """Write the settings and the stamp of a trained fold."""
    folder = project.fold(exp.name, fold)
    config = run_folder.write_config(folder, written_settings(exp))
    outputs = {"best.weights.h5": f"{exp.name}{fold}", "config.yaml": sha256(config)}
    run = fold_result(experiment=exp.name, fold=fold, task=exp.task, score=0.5 + fold / 10)
    made_from = TrainingInputs(project, COMP, exp).comparable(fold)
    write_json(folder / "result.json", {**run.as_dict(), "made_from": made_from, "outputs": outputs})


def costs(project: Project, comp: Competition, chosen: Ensemble) -> KernelEstimate:
    """Return an estimate of one second per image and network, for 100 images."""
    shipped = [FOLDS if part.folds == "all" else part.folds for part in (chosen.gate, chosen.mask)]
    gate = MemberCosts({"g": 1.0}, shipped[0], chosen.gate.members)
    return KernelEstimate(
        gate, MemberCosts({"u": 1.0, "v": 1.0}, shipped[1], chosen.mask.members), 100, chosen.inference.hours
    )


def tuned(
    project: Project,
    weights: list[float],
    views: tuple[int, int] = (1, 1),
    selected: MemberSelection | None = None,
    passing: float = 0.25,
) -> None:
    selection = Selections(mask=selected, gate=None)
    result = tuned_result(passing=passing, weights=weights, views=list(views), selection=selection)
    write_json(project.tuned / "result.json", result.as_dict())


def path(*taken: str, cut: int) -> MemberSelection:
    """Return a greedy selection that rises by 0.01 per round up to its cut."""
    rounds = []
    for number, name in enumerate(taken, start=1):
        counts = {experiment: taken[:number].count(experiment) for experiment in "uv"}
        reached = 0.7 + min(number, cut) / 100
        rounds.append(SelectionRound(taken=name, score=reached, scores={name: reached}, counts=counts, refused={}))
    kept = rounds[cut - 1].counts
    return MemberSelection(
        rounds=rounds,
        cut=cut,
        weights=[kept[name] / cut for name in "uv"],
        best_member=BestMember(name=taken[0], score=0.71),
        equal=0.7,
        score=0.7 + cut / 100,
        nested=0.7,
        per_fold={},
        left_out={name: "did not help" for name in "uv" if not kept[name]},
    )


def ensemble(weights: Any = "equal", folds: Any = "all") -> Ensemble:
    mask = {"experiments": ["u", "v"], "weights": weights, "folds": folds}
    return Ensemble.model_validate({"gate": {"experiments": ["g"]}, "mask": mask})


def shipped(project: Project, chosen: Ensemble) -> dict[str, float]:
    """Return the weights by member, masks only."""
    select.select_members(project, COMP, chosen)
    listed = read_yaml(project.runs / "ensemble/ensemble.yaml")
    assert [member["weight"] for member in listed["gate"]] == [1 / FOLDS] * FOLDS
    return {member["name"]: member["weight"] for member in listed["mask"]}


@pytest.mark.parametrize(
    ("weights", "folds", "expected"),
    [
        ("equal", "all", {"u": (FOLDS, 1 / FOLDS), "v": (FOLDS, 1 / FOLDS)}),
        ([3, 1], "all", {"u": (FOLDS, 1.0), "v": (FOLDS, 1 / FOLDS)}),
        ([3, 1], 2, {"u": (2, 1.5), "v": (2, 0.5)}),
        ([0, 0.5], 1, {"v": (1, 0.5)}),
        ("tuned", "all", {"u": (FOLDS, 0.75 / FOLDS), "v": (FOLDS, 0.25 / FOLDS)}),
    ],
)
def test_an_experiments_weight_is_shared_by_its_folds(
    project: Project, weights: Any, folds: Any, expected: dict[str, tuple[int, float]]
) -> None:
    tuned(project, [0.75, 0.25])
    weights_by_member = shipped(project, ensemble(weights, folds))
    assert {name.split("-")[0] for name in weights_by_member} == set(expected), "what has no weight is not shipped"
    for name, (count, weight) in expected.items():
        assert [value for member, value in weights_by_member.items() if member.startswith(name)] == [weight] * count


def test_the_result_is_offered_to_wandb(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[Path] = []
    monkeypatch.setattr(select, "send_at_once", lambda _, paths: offered.extend(paths))
    result = select.select_members(project, COMP, ensemble())
    assert offered == [project.runs / "ensemble" / "result.json"]
    assert result.ci95 == (0.7, 0.9)


def test_other_weights_make_it_outdated(project: Project) -> None:
    chosen = ensemble("tuned")
    before = shipped(project, chosen)
    assert select.select_members(project, COMP, chosen).current
    select.require_ensemble(project, COMP, chosen)
    tuned(project, [0.9, 0.1])
    with pytest.raises(GatemaskError, match="older"):
        select.require_ensemble(project, COMP, chosen)
    assert shipped(project, chosen) != before


def test_tuned_weights_are_ignored_unless_asked_for(project: Project) -> None:
    shipped(project, ensemble("equal"))
    tuned(project, [0.9, 0.1])
    assert select.select_members(project, COMP, ensemble("equal")).current
    with pytest.raises(GatemaskError, match="older"):
        select.require_ensemble(project, COMP, ensemble([2, 1]))


def test_views_are_shipped_with_their_weights(project: Project) -> None:
    tuned(project, [0.4, 0.1, 0.25, 0.25], views=(2, 2))
    assert shipped(project, ensemble("tuned")) == pytest.approx(
        {f"{n}-fold{k}": 0.5 / FOLDS for n in "uv" for k in range(FOLDS)}
    )
    listed = {member["name"]: member for member in read_yaml(project.runs / "ensemble/ensemble.yaml")["mask"]}
    assert listed["u-fold1"]["view_weights"] == [0.4, 0.1]
    assert "view_weights" not in listed["v-fold1"], "of the same weight: as without"
    tuned(project, [0.3, 0.2, 0.25, 0.25], views=(2, 2))
    with pytest.raises(GatemaskError, match="older than its rule"):
        select.require_ensemble(project, COMP, ensemble("tuned"))


def test_image_scores_are_kept_with_the_ensemble(project: Project) -> None:
    tuned(project, [0.5, 0.5])
    shipped(project, ensemble("tuned"))
    kept = project.runs / "ensemble/scores.npz"
    assert not kept.exists(), "an earlier version tuned the rule"
    (project.tuned / "scores.npz").write_bytes(b"scores")
    tuned(project, [0.4, 0.6])
    shipped(project, ensemble("tuned"))
    assert kept.read_bytes() == b"scores"
    assert read_json(project.runs / "ensemble/result.json")["outputs"]["scores.npz"] == sha256(kept)


def test_selected_experiments_are_shipped_in_the_order_they_were_taken(project: Project) -> None:
    tuned(project, [0.25, 0.75], selected=path("v", "v", "u", "v", "u", cut=4))
    weights_by_member = shipped(project, ensemble("greedy", 2))
    assert list(weights_by_member) == ["v-fold2", "v-fold1", "u-fold2", "u-fold1"], "v was first; of its folds the best"
    assert weights_by_member == pytest.approx({"v-fold2": 0.375, "v-fold1": 0.375, "u-fold2": 0.125, "u-fold1": 0.125})
    folder = project.runs / "ensemble"
    written = read_yaml(folder / "ensemble.yaml")
    why = {member["experiment"]: member["why"] for member in written["mask"]}
    assert why["v"] == ("round 1: alone 0.7100, round 2: 0.7100 -> 0.7200, round 4: 0.7300 -> 0.7400; among its best 2")
    assert why["u"] == "round 3: 0.7200 -> 0.7300; among its best 2"
    assert written["selection"]["mask"]["path"] == ["v 0.7100", "v 0.7200", "u 0.7300", "v 0.7400"]
    assert written["selection"]["gate"] is None
    assert written["passing_share"] == 0.25
    assert {member["seconds_per_image"] for member in written["mask"]} == {1.0}
    assert "selection.png" in read_json(folder / "result.json")["outputs"]
    tuned(project, [0.0, 1.0], selected=path("v", "u", cut=1))
    with pytest.raises(GatemaskError, match="older than its rule"):
        select.require_ensemble(project, COMP, ensemble("greedy", 2))
    assert list(shipped(project, ensemble("greedy", 2))) == ["v-fold2", "v-fold1"]


def test_the_path_is_printed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    tuned(project, [0.0, 1.0], selected=path("v", "u", cut=1))
    select.print_ensemble(select.select_members(project, COMP, ensemble("greedy")))
    messages = capsys.readouterr().err
    for words in ("round by round", "1 *", "all equally", "u is left out: did not help", "3 gates, 3 mask networks"):
        assert words in messages
    # 100 images: 3 gates see each, 3 mask networks every fourth.
    assert "100 test images, without reading: 6.2 minutes" in messages


def test_without_a_selection_each_experiments_best_comes_first(project: Project) -> None:
    assert list(shipped(project, ensemble())) == ["u-fold2", "v-fold2", "u-fold1", "v-fold1", "u-fold0", "v-fold0"]
    assert not (project.runs / "ensemble/selection.png").exists()


@pytest.mark.parametrize(
    ("cap", "words"),
    [
        ({"mask": {"members": 5}}, ["mask.members", "6: 2 experiments, 3 folds of each", "at most 5", "greedy"]),
        ({"gate": {"members": 2}}, ["gate.members", "3: 1 experiments"]),
        ({"inference": {"hours": 0.1}}, ["inference.hours", "0.12 hours predicted for 100 images", "25%", "0.1"]),
    ],
)
def test_an_exceeded_cap_is_named(project: Project, cap: dict[str, Any], words: list[str]) -> None:
    given = ensemble().model_dump()
    chosen = Ensemble.model_validate({**given, **{name: {**given[name], **part} for name, part in cap.items()}})
    with pytest.raises(GatemaskError) as raised:
        select.select_members(project, COMP, chosen)
    for word in words:
        assert word in str(raised.value)
    fewer = {"gate": {**given["gate"], "folds": 1}, "mask": {**given["mask"], "folds": 1}}
    select.select_members(project, COMP, Ensemble.model_validate({**chosen.model_dump(), **fewer}))


def test_members_that_differ_from_the_yaml_are_shipped_as_trained_or_not_at_all(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ensemble()
    select.select_members(project, COMP, chosen)
    path = project.experiments / "u.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    for function in (select.select_members, select.require_ensemble):
        with pytest.raises(GatemaskError, match="u fold 0: epochs: 1, now 2"):
            function(project, COMP, chosen)
    allowed = chosen.model_copy(update={"as_trained": True})
    with pytest.raises(GatemaskError, match="older than its rule"):
        select.require_ensemble(project, COMP, allowed)
    select.print_ensemble(select.select_members(project, COMP, allowed))
    assert "as trained, not as the YAMLs and data say now: u fold 2: epochs: 1, now 2" in capsys.readouterr().err
    written = ShippedEnsemble.load(select.require_ensemble(project, COMP, allowed))
    assert written.as_trained == [f"u fold {fold}: epochs: 1, now 2" for fold in range(FOLDS)]


def test_a_run_whose_settings_were_edited_is_not_shipped(project: Project) -> None:
    path = project.fold("u", 1) / "config.yaml"
    path.write_text(path.read_text().replace("size: 64", "size: 96"))
    with pytest.raises(GatemaskError, match="settings of a run are missing or were edited"):
        select.select_members(project, COMP, ensemble().model_copy(update={"as_trained": True}))


def test_the_file_is_read_as_it_was_written(project: Project) -> None:
    shipped(project, ensemble([3, 1]))
    path = project.runs / "ensemble/ensemble.yaml"
    loaded = ShippedEnsemble.load(path)
    assert [member.name for member in loaded.members][:3] == ["g-fold2", "g-fold1", "g-fold0"]
    assert loaded.competition.classes == COMP.classes
    assert read_yaml(loaded.save(project.root / "copy.yaml")) == read_yaml(path)


@pytest.mark.parametrize(("text", "words"), [("competition: [", ["ensemble"]), ("rule: {}", ["competition"])])
def test_a_damaged_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "ensemble.yaml").write_text(text)
    with pytest.raises(GatemaskError, match="does not describe an ensemble") as raised:
        ShippedEnsemble.load(tmp_path / "ensemble.yaml")
    for word in words:
        assert word in str(raised.value)
