"""The space of a search: every key and value is checked against the schema, and values are merged as --set does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatemask.config import load_experiment
from gatemask.errors import GatemaskError
from gatemask.project import Project, experiment_files, open_experiment
from gatemask.search.space import Space
from gatemask.search.trial_files import write_trial

EXPERIMENT: dict[str, Any] = {
    "extends": "base.yaml",
    "task": "mask",
    "model": {"name": "unet", "encoder": "efficientnetb0", "filters": [64, 32, 16, 16, 16]},
    "augment": ["hflip", {"affine": {"rotate": 7, "zoom": [0.9, 1.1]}}, {"brightness_contrast": 0.15}],
    "loss": {"bce": 1, "dice": 1},
    "schedule": {"name": "cosine", "peak": 0.002, "floor": 1.0e-5},
    "epochs": 6,
}
BASE = {"input": {"size": 64}, "quick": {"model": {"encoder": "resnet18"}, "epochs": 2, "input": {"size": 32}}}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "experiments" / "comp"
    folder.mkdir(parents=True)
    (folder / "competition.yaml").write_text("name: comp\n")
    (folder / "base.yaml").write_text(json.dumps(BASE))
    return Project(tmp_path, "comp")


def write(project: Project, space: Any, **changes: Any) -> Path:
    path = project.experiments / "net.yaml"
    # One key per line, so that messages can name a line.
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in space.items()]
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in {**EXPERIMENT, **changes}.items())
    path.write_text(f"{text}search:\n  trials: 4\n  space:\n" + "".join(f"  {line}\n" for line in lines))
    return path


def line_of(path: Path, word: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if f'"{word}"' in line)


def test_each_kind_of_value_reaches_its_key(project: Project) -> None:
    space = Space(
        write(
            project,
            {
                "schedule.peak": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.encoder": ["efficientnetb0", "efficientnetb1"],
                "loss.dice": {"low": 0.5, "high": 2},
                "augment.affine.rotate": {"low": 0, "high": 20},
                "augment.hflip": [0.0, 0.5],
                "epochs": {"low": 3, "high": 8},
                "optimizer": [{"name": "adam"}, {"name": "sgd", "momentum": 0.9}],
            },
        )
    )
    assert {d.key: d.whole for d in space.dimensions if not isinstance(d.values, list)} == {
        "schedule.peak": False,
        "loss.dice": False,
        "augment.affine.rotate": False,
        "epochs": True,
    }
    exp = space.experiment(
        {
            "schedule.peak": 0.004,
            "model.encoder": "efficientnetb1",
            "loss.dice": 1.5,
            "augment.affine.rotate": 12.5,
            "augment.hflip": 0.0,
            "epochs": 4,
            "optimizer": {"name": "sgd", "momentum": 0.9},
        }
    )
    assert (exp.schedule.peak, exp.schedule.name, exp.epochs) == (0.004, "cosine", 4)
    assert (exp.model.encoder, exp.model.filters) == ("efficientnetb1", [64, 32, 16, 16, 16])
    assert exp.loss == {"bce": 1, "dice": 1.5}
    assert exp.augment[0].hflip == 0.0
    assert exp.augment[1].affine is not None
    assert (exp.augment[1].affine.rotate, exp.augment[1].affine.zoom) == (12.5, (0.9, 1.1))
    assert exp.optimizer.momentum == 0.9


def test_numbers_have_four_digits_and_stay_in_range(project: Project) -> None:
    space = Space(write(project, {"schedule.peak": {"low": 1.23446e-3, "high": 1e-2, "log": True}}))
    (dimension,) = space.dimensions
    assert dimension.value(0.00345678) == 0.003457
    assert dimension.value(1.23446e-3) == 1.23446e-3, "rounded it would lie below the range"


@pytest.mark.parametrize(
    ("key", "values", "what", "do"),
    [
        ("schedule.peek", {"low": 1e-4, "high": 1e-2}, "Unknown key 'schedule.peek'.", "Write 'peak' instead."),
        ("optimiser.name", ["adam", "sgd"], "Unknown key 'optimiser'.", "Write 'optimizer' instead."),
        ("model.encoder", ["efficientnetb0", "eficientnetb1"], "Invalid value for 'model.encoder'.", "efficientnetb1"),
        ("epochs", {"low": 0, "high": 4}, "Invalid value for 'epochs'.", None),
        ("schedule.peak", {"low": -1.0, "high": 1.0}, "Invalid value for 'schedule.peak'.", None),
        ("batch.per_device", {"low": 2.5, "high": 8}, "Invalid value for 'batch.per_device'.", None),
        ("augment.afine.rotate", [5, 9], "'augment' has no item called 'afine'.", "Did you mean 'affine'?"),
        ("loss.dise", [1, 2], "Invalid value for 'loss.dise'.", "Did you mean 'dice'?"),
        ("epochs", {"low": 2, "high": 8, "step": 1.5}, "'epochs' takes whole numbers.", None),
    ],
)
def test_a_wrong_key_or_value_is_rejected_with_its_line(
    project: Project, key: str, values: Any, what: str, do: str | None
) -> None:
    path = write(project, {"model.dropout": [0.1, 0.2], key: values})
    with pytest.raises(GatemaskError) as caught:
        Space(path)
    assert what in str(caught.value)
    assert f"net.yaml, line {line_of(path, key)}" in str(caught.value.details["where"])
    assert do is None or do in str(caught.value.details["do"])


@pytest.mark.parametrize(
    ("search", "what"),
    [
        ({"space": {"epochs": {"low": 5, "high": 2}}}, "low, 5, must be below high, 2"),
        ({"space": {"schedule.peak": {"low": 0, "high": 2, "log": True}}}, "must start above 0"),
        ({"space": {"epochs": [3]}}, "search.space.epochs"),
        ({"space": {"epochs": [3, 3]}}, "lists a choice twice"),
        ({"space": {"monitor": ["dice", "auc"]}}, "'monitor' cannot be searched"),
        ({"space": {"model": [{}, {"encoder": "resnet18"}], "model.encoder": ["a", "b"]}}, "is part of 'model'"),
        ({"space": {"epochs": [2, 3]}, "folds": [0, 0]}, "names a fold twice"),
        ({"space": {"epochs": [2, 3]}, "trails": 3}, "Unknown key 'search.trails'"),
        ({"space": {"epochs": [2, 3]}, "pruner": "wilcoxson"}, "Invalid value for 'search.pruner'"),
        ({"space": {}}, "search.space"),
    ],
)
def test_a_wrong_section_is_rejected(project: Project, search: Any, what: str) -> None:
    path = project.experiments / "net.yaml"
    path.write_text(json.dumps({**EXPERIMENT, "search": search}))
    with pytest.raises(GatemaskError, match=r"net\.yaml, line 1") as caught:
        load_experiment(path)
    assert what in str(caught.value)


def test_values_that_do_not_go_together_are_rejected(project: Project) -> None:
    path = write(project, {"schedule.peak": {"low": 1e-4, "high": 1e-2}, "schedule.floor": {"low": 1e-6, "high": 1e-3}})
    with pytest.raises(GatemaskError, match="do not go together") as caught:
        Space(path)
    assert "schedule.floor" in str(caught.value.details["expected"])


def test_a_searched_key_cannot_be_set(project: Project) -> None:
    path = write(project, {"model.encoder": ["efficientnetb0", "efficientnetb1"]})
    with pytest.raises(GatemaskError, match=r"'model\.encoder' is searched"):
        Space(path, overrides=["model={encoder: resnet18}"])
    assert Space(path, overrides=["model.dropout=0.3", "search.trials=9"]).search.trials == 9


def test_an_experiment_without_the_section_is_rejected(project: Project) -> None:
    path = project.experiments / "net.yaml"
    path.write_text(json.dumps(EXPERIMENT))
    with pytest.raises(GatemaskError, match="no section 'search'"):
        Space(path)


@pytest.mark.parametrize(
    ("space", "own"),
    [
        ({"schedule.peak": {"low": 1e-4, "high": 1e-2}}, {"schedule.peak": 0.002}),
        (
            {"loss.dice": {"low": 0.5, "high": 2}, "augment.affine.rotate": [0, 7]},
            {"loss.dice": 1, "augment.affine.rotate": 7},
        ),
        ({"optimizer.name": ["adam", "sgd"]}, {"optimizer.name": "adam"}),  # a default
        ({"schedule.peak": {"low": 0.01, "high": 0.1}}, None),
    ],
)
def test_the_experiment_itself_is_a_point_of_the_space(project: Project, space: Any, own: Any) -> None:
    assert Space(write(project, space)).own_params == own


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {"schedule.peak": 0.004},
        {"model.encoder": "efficientnetb1", "loss.dice": 1.5},
        {"augment.affine.rotate": 3.5},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"schedule": {"name": "plateau", "patience": 2}},
    ],
)
def test_the_yaml_of_a_trial_gives_the_same_experiment(project: Project, quick: bool, values: Any) -> None:
    """It extends the searched experiment and names its own command; the quick section keeps the trial's values."""
    path = write(project, {key: [value, EXPERIMENT.get(key, value) and _other(key)] for key, value in values.items()})
    project = Project(project.root, "comp", quick)
    space = Space(path, quick, overrides=["batch.per_device=2"])
    yaml, exp = write_trial(project, space, 7, values)
    name = "net-q007" if quick else "net-t007"
    assert yaml == project.experiments / "trials" / f"{name}.yaml"
    expected = space.experiment(values, name).model_dump(exclude={"quick", "search"})
    assert exp.model_dump(exclude={"quick", "search"}) == expected
    assert exp.search is None
    first = yaml.read_text().splitlines()[0]
    assert first == f"# make train EXP=experiments/comp/trials/{name}.yaml" + (" ARGS=--quick" if quick else "")
    assert f"experiments/comp/trials/{name}.yaml" in experiment_files(project.root)
    assert load_experiment(yaml, quick=not quick).search is None, "it is valid in the other mode, too"


def _other(key: str) -> Any:
    """Return another valid choice of a key."""
    return {
        "schedule.peak": 0.001,
        "model.encoder": "efficientnetb0",
        "loss.dice": 0.7,
        "augment.affine.rotate": 1,
        "optimizer": {"name": "adam"},
        "schedule": {"name": "constant"},
    }[key]


def test_a_trial_is_found_like_any_experiment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEMASK_ROOT", str(project.root))
    yaml, _ = write_trial(project, Space(write(project, {"epochs": [3, 6]})), 0, {"epochs": 3})
    for name in ("comp/net-t000", str(yaml), "experiments/comp/trials/net-t000.yaml"):
        opened, path = open_experiment(name)
        assert (opened.comp, path) == ("comp", yaml.resolve())
    assert project.experiment_file("net-t000") == yaml
    assert project.experiment_file("net") == project.experiments / "net.yaml"
    (project.experiments / "net-t000.yaml").write_text(json.dumps(EXPERIMENT))
    with pytest.raises(GatemaskError, match="Two experiments are called 'net-t000'"):
        load_experiment(yaml)


def test_an_edited_trial_is_rejected(project: Project) -> None:
    space = Space(write(project, {"epochs": [3, 6]}))
    yaml, _ = write_trial(project, space, 0, {"epochs": 3})
    yaml.write_text(yaml.read_text() + "# a comment changes nothing\n")
    write_trial(project, space, 0, {"epochs": 3})
    yaml.write_text(yaml.read_text().replace("epochs: 3", "epochs: 5"))
    with pytest.raises(GatemaskError, match="differs from the parameters"):
        write_trial(project, space, 0, {"epochs": 3})
