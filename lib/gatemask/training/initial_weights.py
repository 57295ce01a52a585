"""Find the initial weights of a fold: none, published ones, a file, or the same fold of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatemask.builders import encoder_weights
from gatemask.config import Experiment, load_run_config
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object, sha256
from gatemask.project import Project
from gatemask.stage import Stamp

PUBLISHED = ("imagenet", "noisy-student")


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a fold starts from.

    Args:
        kind: Kind of source.
        path: File of the weights; None for kind "none", and for published weights, which may not be downloaded yet.
        identity: Name of published weights, or hash of the file.
    """

    kind: Literal["none", "published", "file", "run"]
    path: Path | None = None
    identity: str | None = None


def find_initial_weights(project: Project, exp: Experiment, fold: int) -> InitialWeights:
    """Return the weights that `model.weights` selects for a fold. Imports nothing heavy.

    Raises:
        GatemaskError: The file or run does not exist, or the run has another encoder or another split.
    """
    wanted = exp.model.weights
    if wanted == "none":
        return InitialWeights("none")
    if wanted in PUBLISHED:
        return InitialWeights("published", identity=wanted)  # the packages that load them check their hashes
    if wanted.startswith("run:"):
        return _weights_of_run(project, exp, wanted.removeprefix("run:"), fold)
    path = encoder_weights.find_weights_file(exp.model, project.root)
    assert path is not None
    if (stamp := path.with_name("result.json")).exists() and "fold" in read_json_object(stamp):
        raise GatemaskError(
            "This file was trained on one fold of a run, so it has seen the validation images of the other folds.",
            where="model.weights",
            received=wanted,
            do=f"Write run:{path.parent.parent.name}: each fold then starts from the same fold of that run.",
        )
    return InitialWeights("file", path, sha256(path))


def _weights_of_run(project: Project, exp: Experiment, name: str, fold: int) -> InitialWeights:
    """Return the weights of the same fold of another experiment: they have never seen its validation images."""
    folder = project.fold(name, fold)
    if not (folder / "result.json").exists():
        raise GatemaskError(
            "The run to start from does not exist.",
            where=folder,
            received=exp.model.weights,
            do=f"Run gatemask train {project.comp}/{name} --fold {fold} first.",
        )
    stamp, config = Stamp.load(folder / "result.json"), load_run_config(folder)
    if stamp.made_from.get("folds") != sha256(project.folds):
        raise GatemaskError(
            "The run to start from was trained on another split and may have seen this fold's validation images.",
            where=folder,
            expected=f"a run made from {project.folds}",
            do=f"Train {name} again on the present split.",
        )
    if config.model.encoder != exp.model.encoder:
        raise GatemaskError(
            "The run to start from has another encoder.",
            where=folder,
            received=config.model.encoder,
            expected=exp.model.encoder,
        )
    return InitialWeights("run", folder / "best.weights.h5", stamp.outputs["best.weights.h5"])
