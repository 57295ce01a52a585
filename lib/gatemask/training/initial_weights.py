"""Where a fold's first weights come from: nowhere, the published ones, a file, or the same fold of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gatemask.builders import encoder_weights
from gatemask.config import Experiment
from gatemask.errors import GatemaskError
from gatemask.files import read_json, read_yaml, sha256
from gatemask.project import Project

PUBLISHED = ("imagenet", "noisy-student")


@dataclass(frozen=True)
class Start:
    """First weights.

    Args:
        kind: none, published, file or run.
        path: of the file, where it is known by now.
        identity: what tells these weights from others: a name, or the hash of a file's bytes.
    """

    kind: str
    path: Path | None = None
    identity: str | None = None


def starting_weights(project: Project, exp: Experiment, fold: int) -> Start:
    """What `model.weights` means for a fold. Imports nothing heavy.

    Raises:
        GatemaskError: there is no such file or run, or it is of another encoder or another split.
    """
    wanted = exp.model.weights
    if wanted == "none":
        return Start("none")
    if wanted in PUBLISHED:
        return Start("published", identity=wanted)  # their packages check them by hash
    if wanted.startswith("run:"):
        return _of_run(project, exp, wanted.removeprefix("run:"), fold)
    path = encoder_weights.find_weights_file(exp.model, project.root)
    assert path is not None
    if (stamp := path.with_name("result.json")).exists() and "fold" in read_json(stamp):
        raise GatemaskError(
            "This file belongs to one fold of a run, and would be the beginning of all folds, which it saw.",
            where="model.weights",
            received=wanted,
            do=f"Write run:{path.parent.parent.name}: each fold then goes on from the same one.",
        )
    return Start("file", path, sha256(path))


def _of_run(project: Project, exp: Experiment, name: str, fold: int) -> Start:
    """The same fold of another experiment, and no other: its weights never saw what validates here."""
    folder = project.fold(name, fold)
    if not (folder / "result.json").exists():
        raise GatemaskError(
            "The run to go on from is not there.",
            where=folder,
            received=exp.model.weights,
            do=f"Run gatemask train {project.comp}/{name} --fold {fold} first.",
        )
    result, config = read_json(folder / "result.json"), read_yaml(folder / "config.yaml")
    if result["made_from"]["folds"] != sha256(project.folds):
        raise GatemaskError(
            "The run to go on from was trained on another split, and may have seen this fold's validation images.",
            where=folder,
            expected=f"a run made from {project.folds}",
            do=f"Train {name} again on the present split.",
        )
    if config["model"]["encoder"] != exp.model.encoder:
        raise GatemaskError(
            "The run to go on from has another encoder.",
            where=folder,
            received=config["model"]["encoder"],
            expected=exp.model.encoder,
        )
    return Start("run", folder / "best.weights.h5", result["outputs"]["best.weights.h5"])
