"""What is shipped, in which shares, and what makes it stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.config.schema import Competition, Ensemble, Experiment
from gatemask.ensemble import select
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, write_json, write_text, write_yaml
from gatemask.masks import rule as rules
from gatemask.project import Project

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
        for fold in range(FOLDS):
            settings = Experiment.model_validate(exp).model_dump(mode="json", exclude={"quick"}, exclude_none=True)
            write_yaml(made.fold(name, fold) / "config.yaml", settings)
            outputs = {"best.weights.h5": f"{name}{fold}"}
            write_json(
                made.fold(name, fold) / "result.json", {"fold": fold, "score": 0.5 + fold / 10, "outputs": outputs}
            )
    rules.save(rules.Rule(0.5, 0.5, 0.5, 1), made.tuned / "rule.yaml")
    tuned(made, [1.0, 1.0])
    monkeypatch.setattr(select.tune, "require_current", lambda *_: read_json(made.tuned / "result.json"))
    return made


def tuned(project: Project, weights: list[float], views: tuple[int, int] = (1, 1)) -> None:
    scores = {"cross_fitted": 0.8, "in_sample": 0.9, "all_empty": 0.5}
    write_json(project.tuned / "result.json", {**scores, "weights": weights, "views": views})


def ensemble(weights: Any = "equal", folds: Any = "all") -> Ensemble:
    mask = {"experiments": ["u", "v"], "weights": weights, "folds": folds}
    return Ensemble.model_validate({"gate": {"experiments": ["g"]}, "mask": mask})


def shipped(project: Project, chosen: Ensemble) -> dict[str, float]:
    """Weights by member, masks only."""
    select.select(project, COMP, chosen)
    listed = read_yaml(project.runs / "ensemble/ensemble.yaml")
    assert [one["weight"] for one in listed["gate"]] == [1 / FOLDS] * FOLDS
    return {one["name"]: one["weight"] for one in listed["mask"]}


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
    found = shipped(project, ensemble(weights, folds))
    assert {name.split("-")[0] for name in found} == set(expected), "what has no weight is not shipped"
    for name, (count, weight) in expected.items():
        assert [value for member, value in found.items() if member.startswith(name)] == [weight] * count


def test_other_weights_make_it_stale(project: Project) -> None:
    chosen = ensemble("tuned")
    before = shipped(project, chosen)
    assert select.select(project, COMP, chosen)["current"]
    select.require_current(project, COMP, chosen)
    tuned(project, [0.9, 0.1])
    with pytest.raises(GatemaskError, match="older"):
        select.require_current(project, COMP, chosen)
    assert shipped(project, chosen) != before


def test_tuned_weights_do_not_count_where_they_were_not_asked_for(project: Project) -> None:
    shipped(project, ensemble("equal"))
    tuned(project, [0.9, 0.1])
    assert select.select(project, COMP, ensemble("equal"))["current"]
    with pytest.raises(GatemaskError, match="older"):
        select.require_current(project, COMP, ensemble([2, 1]))


def test_views_are_shipped_with_their_weights(project: Project) -> None:
    tuned(project, [0.4, 0.1, 0.25, 0.25], views=(2, 2))
    assert shipped(project, ensemble("tuned")) == pytest.approx(
        {f"{n}-fold{k}": 0.5 / FOLDS for n in "uv" for k in range(FOLDS)}
    )
    listed = {one["name"]: one for one in read_yaml(project.runs / "ensemble/ensemble.yaml")["mask"]}
    assert listed["u-fold1"]["view_weights"] == [0.4, 0.1]
    assert "view_weights" not in listed["v-fold1"], "of the same weight: as without"
    tuned(project, [0.3, 0.2, 0.25, 0.25], views=(2, 2))
    with pytest.raises(GatemaskError, match="older than its rule"):
        select.require_current(project, COMP, ensemble("tuned"))
