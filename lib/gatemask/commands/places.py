"""Options of commands whose work other machines can do, and the places that they name."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gatemask.config import Competition
    from gatemask.pieces.piece import Place
    from gatemask.project import Project


class Where(StrEnum):
    """Where pieces of work run."""

    LOCAL = "local"
    KAGGLE = "kaggle"
    RAY = "ray"


On = Annotated[Where, typer.Option("--on", help="Where to run: this machine, Kaggle (trainings), or a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray: auto, HOST:6379 or ray://HOST:10001. Default: RAY_ADDRESS.")
]


def open_place(
    on: Where, address: str | None, project: Project, comp: Competition, overrides: list[str] | None = None
) -> Place | None:
    """Return the place that `--on` names; None for this machine, where each stage divides its work itself.

    Args:
        on: Name of the place.
        address: Address of a Ray cluster. Default: that of RAY_ADDRESS.
        project: Project.
        comp: Contents of competition.yaml.
        overrides: Options `--set` of the command, for kernels.
    """
    if on == Where.RAY:
        from gatemask.pieces.on_ray import RayCluster

        return RayCluster(project.root, address)
    if on == Where.KAGGLE:
        from gatemask.kaggle.train.place import Kaggle

        return Kaggle(project, comp, tuple(overrides or ()))
    return None
