"""Initial weights come by name, from a file, or from the same fold of another run, never from one that may leak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatemask.config import Experiment
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_yaml
from gatemask.project import Project
from gatemask.training.initial_weights import find_initial_weights
from tests.fold_results import mask_settings


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
    project = Project(tmp_path, "comp")
    project.folds.parent.mkdir()
    project.folds.write_text("image_id,fold\na,0\n")
    folder = project.fold("earlier", 1)
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", mask_settings(name="earlier"))
    stamp = {"made_from": {"folds": sha256(project.folds)}, "outputs": {"best.weights.h5": "abc"}}
    (folder / "result.json").write_text(json.dumps(stamp))
    return project


def test_names_are_their_own_identity(project: Project) -> None:
    assert find_initial_weights(project, experiment("none"), 0).kind == "none"
    initial = find_initial_weights(project, experiment("imagenet"), 0)
    assert (initial.kind, initial.identity, initial.path) == ("published", "imagenet", None)


def test_a_path_is_relative_to_the_project_and_the_identity_is_its_hash(project: Project) -> None:
    path = project.root / "mine.h5"
    path.write_bytes(b"first")
    first = find_initial_weights(project, experiment("mine.h5"), 0)
    assert first.path == path
    path.write_bytes(b"second")
    assert find_initial_weights(project, experiment(str(path)), 0).identity != first.identity
    with pytest.raises(GatemaskError, match="weights file does not exist"):
        find_initial_weights(project, experiment("other.h5"), 0)


def test_a_run_gives_the_weights_of_the_same_fold(project: Project) -> None:
    initial = find_initial_weights(project, experiment("run:earlier"), 1)
    assert initial.path == project.fold("earlier", 1) / "best.weights.h5"
    assert initial.identity == "abc"
    with pytest.raises(GatemaskError, match="gatemask train comp/earlier --fold 0"):
        find_initial_weights(project, experiment("run:earlier"), 0)


def test_a_run_of_another_split_or_encoder_is_rejected(project: Project) -> None:
    with pytest.raises(GatemaskError, match="another encoder"):
        find_initial_weights(project, experiment("run:earlier", "resnet34"), 1)
    project.folds.write_text("image_id,fold\na,1\n")
    with pytest.raises(GatemaskError, match="another split"):
        find_initial_weights(project, experiment("run:earlier"), 1)


def test_the_file_of_one_fold_is_rejected_for_all_folds(project: Project) -> None:
    folder = project.fold("earlier", 1)
    (folder / "best.weights.h5").write_bytes(b"weights")
    stamp = {"fold": 1, "made_from": {"folds": sha256(project.folds)}, "outputs": {}}
    (folder / "result.json").write_text(json.dumps(stamp))
    with pytest.raises(GatemaskError, match="run:earlier"):
        find_initial_weights(project, experiment("runs/comp/earlier/fold1/best.weights.h5"), 0)
