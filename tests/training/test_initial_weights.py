"""First weights: by name, by file, or from the same fold of another run, and never from one that saw the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gatemask.config import Experiment
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.project import Project
from gatemask.training.initial_weights import find_initial_weights


def experiment(weights: str, encoder: str = "resnet18") -> Experiment:
    return Experiment.model_validate(
        {
            "name": "later",
            "task": "mask",
            "model": {"name": "unet", "encoder": encoder, "weights": weights},
            "input": {"size": 64},
            "loss": {"bce": 1},
            "epochs": 1,
        }
    )


@pytest.fixture()
def project(tmp_path: Path) -> Project:
    one = Project(tmp_path, "comp")
    one.folds.parent.mkdir()
    one.folds.write_text("image_id,fold\na,0\n")
    folder = one.fold("earlier", 1)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"encoder": "resnet18"}}))
    stamp = {"made_from": {"folds": sha256(one.folds)}, "outputs": {"best.weights.h5": "abc"}}
    (folder / "result.json").write_text(json.dumps(stamp))
    return one


def test_names_are_their_own_identity(project: Project) -> None:
    assert find_initial_weights(project, experiment("none"), 0).kind == "none"
    found = find_initial_weights(project, experiment("imagenet"), 0)
    assert (found.kind, found.identity, found.path) == ("published", "imagenet", None)


def test_a_file_is_found_from_the_project_s_folder_and_told_by_its_bytes(project: Project) -> None:
    path = project.root / "mine.h5"
    path.write_bytes(b"one")
    first = find_initial_weights(project, experiment("mine.h5"), 0)
    assert first.path == path
    path.write_bytes(b"two")
    assert find_initial_weights(project, experiment(str(path)), 0).identity != first.identity
    with pytest.raises(GatemaskError, match="weights file does not exist"):
        find_initial_weights(project, experiment("other.h5"), 0)


def test_a_run_gives_the_weights_of_the_same_fold(project: Project) -> None:
    found = find_initial_weights(project, experiment("run:earlier"), 1)
    assert found.path == project.fold("earlier", 1) / "best.weights.h5"
    assert found.identity == "abc"
    with pytest.raises(GatemaskError, match="gatemask train comp/earlier --fold 0"):
        find_initial_weights(project, experiment("run:earlier"), 0)


def test_a_run_of_another_split_or_encoder_is_refused(project: Project) -> None:
    with pytest.raises(GatemaskError, match="another encoder"):
        find_initial_weights(project, experiment("run:earlier", "resnet34"), 1)
    project.folds.write_text("image_id,fold\na,1\n")
    with pytest.raises(GatemaskError, match="another split"):
        find_initial_weights(project, experiment("run:earlier"), 1)


def test_the_file_of_one_fold_is_not_the_beginning_of_all(project: Project) -> None:
    folder = project.fold("earlier", 1)
    (folder / "best.weights.h5").write_bytes(b"weights")
    stamp = {"fold": 1, "made_from": {"folds": sha256(project.folds)}, "outputs": {}}
    (folder / "result.json").write_text(json.dumps(stamp))
    with pytest.raises(GatemaskError, match="run:earlier"):
        find_initial_weights(project, experiment("runs/comp/earlier/fold1/best.weights.h5"), 0)
