"""A package that is older than the YAMLs or the data is neither rehearsed nor submitted unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatemask.cli import main
from gatemask.config import load_competition, load_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, write_text, write_yaml
from gatemask.kaggle.submit import package, rehearse, submit
from gatemask.kaggle.submit.outdated import require_present_settings
from gatemask.project import Project
from gatemask.stage import write_stamp
from tests.kaggle.submit.shipping import prepare, ship


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with a rehearsed package."""
    made = prepare(tmp_path)
    ship(made)
    return made


def notes(project: Project, as_trained: bool = False, **changes: Any) -> list[str]:
    """Return how the members differ from the YAMLs, for `rehearse` and `submit` alike."""
    comp = load_competition(project.experiments, quick=True)
    ensemble = load_ensemble(project.experiments, quick=True).model_copy(update={"as_trained": as_trained, **changes})
    return require_present_settings(project, comp, ensemble, package.package_stamp(project))


def edit(file: str, **keys: Any) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        path = project.experiments / file
        write_yaml(path, {**read_yaml(path), **keys})

    return change


def other_split(project: Project) -> None:
    write_text(project.folds, "image_id,fold,group,stratum\np,1,p,0\nq,0,q,0\n")


def no_yaml(project: Project) -> None:
    (project.experiments / "unet_b0.yaml").unlink()


CHANGES = {
    "settings": (edit("unet_b0.yaml", loss={"bce": 7}), ["unet_b0-fold0: ", "unet_b0-fold1: "]),
    "tta": (edit("unet_b0.yaml", tta=["hflip", "vflip"]), ["unet_b0-fold0: "]),
    "records": (edit("gate_r18.yaml", input={"size": 64, "records": 96}), ["gate_r18-fold0: "]),
    "base": (edit("base.yaml", optimizer={"name": "sgd"}), ["gate_r18-fold0: ", "unet_b0-fold0: "]),
    "split": (other_split, ["gate_r18-fold0: another split", "unet_b0-fold1: "]),
    "no yaml": (no_yaml, ["unet_b0-fold0: its YAML no longer exists"]),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_yaml_is_refused_or_accepted_as_trained(project: Project, kind: str) -> None:
    assert notes(project) == []
    change, words = CHANGES[kind]
    before = {path: path.read_bytes() for path in (*project.experiments.iterdir(), project.folds)}
    change(project)
    with pytest.raises(GatemaskError, match="older than the YAMLs or the data of its members") as refused:
        notes(project)
    listed = notes(project, as_trained=True)
    for word in words:
        assert any(note.startswith(word) for note in listed), listed
        assert word in str(refused.value)
    assert "--as-trained" in str(refused.value)
    for path, content in before.items():
        path.write_bytes(content)
    assert notes(project) == [], "a YAML that was restored is fine"


def test_overrides_count_as_part_of_the_yaml(project: Project) -> None:
    changed = replace(project, overrides=("epochs=7",))
    with pytest.raises(GatemaskError, match="older than the YAMLs"):
        notes(changed)
    ship(changed)
    assert notes(changed) == []
    with pytest.raises(GatemaskError, match="older than the YAMLs"):
        notes(project)


def test_a_changed_ensemble_yaml_is_refused(project: Project) -> None:
    ensemble = load_ensemble(project.experiments, quick=True)
    limited = ensemble.inference.model_copy(update={"time_budget": 2.0})
    assert notes(project, inference=limited) == [], "package --time-budget"
    for changes in (
        {"tune": ensemble.tune.model_copy(update={"seed": 99})},
        {"mask": ensemble.mask.model_copy(update={"folds": 1})},
        {"inference": ensemble.inference.model_copy(update={"precision": "float16"})},
    ):
        with pytest.raises(GatemaskError, match=r"older than ensemble\.yaml"):
            notes(project, as_trained=True, **changes)


def test_records_that_are_elsewhere_are_no_difference(project: Project) -> None:
    stamp = package.package_stamp(project)
    content = read_json(stamp)
    for settings in content["made_from"]["yamls"]["members"].values():
        settings["records"] = "on another disk"
    write_stamp(stamp, content)
    assert notes(project) == []


def test_a_package_without_these_settings_is_made_again(project: Project) -> None:
    stamp = package.package_stamp(project)
    content = read_json(stamp)
    del content["made_from"]["yamls"]
    write_stamp(stamp, content)
    with pytest.raises(GatemaskError, match="does not say which YAMLs it was made from"):
        notes(project)


def test_rehearse_and_submit_compare(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEMASK_ROOT", str(project.root))
    seen: list[str] = []
    monkeypatch.setattr(rehearse, "rehearse_package", lambda *_: seen.append("rehearsed"))
    monkeypatch.setattr(submit.Submitter, "run", lambda self: seen.append(self.record.description))
    edit("unet_b0.yaml", tta=["hflip", "vflip"])(project)
    for command in ("rehearse phantom --quick", "submit phantom --quick --allow-dirty --force"):
        with pytest.raises(SystemExit) as done:
            main(command.split())
        assert done.value.code == 1
        assert "older than the YAMLs or the data of its members" in capsys.readouterr().err
    assert seen == []
    with pytest.raises(SystemExit) as done:
        main(["submit", "phantom", "--quick", "--allow-dirty", "--as-trained"])
    assert done.value.code in (0, None)
    assert "as trained: unet_b0-fold0" in capsys.readouterr().err
    (description,) = seen
    assert "3 members, as trained" in description
