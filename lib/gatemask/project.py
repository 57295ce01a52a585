"""Folders of a project. One project holds all competitions; README.md shows the layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gatemask.errors import GatemaskError, nearest


@dataclass(frozen=True)
class Project:
    """The folders of one competition in one project.

    Args:
        root: Folder of the project, which contains `experiments/`.
        comp: Name of the competition.
        quick: Whether all outputs carry the suffix `-quick`, so a quick run never overwrites a real one.
    """

    root: Path
    comp: str
    quick: bool = False

    @property
    def label(self) -> str:
        """Name of the competition's folders for generated files."""
        return f"{self.comp}-quick" if self.quick else self.comp

    @property
    def experiments(self) -> Path:
        return self.root / "experiments" / self.comp

    @property
    def data(self) -> Path:
        return self.root / "data" / self.label

    @property
    def folds(self) -> Path:
        return self.root / "folds" / f"{self.label}.csv"

    @property
    def runs(self) -> Path:
        return self.root / "runs" / self.label

    @property
    def dist(self) -> Path:
        return self.root / "dist" / self.label

    @property
    def tuned(self) -> Path:
        return self.runs / "tuned"

    def records(self, size: int) -> Path:
        return self.data / f"records-{size}"

    def fold(self, experiment: str, fold: int) -> Path:
        return self.runs / experiment / f"fold{fold}"


def find_root() -> Path:
    """Return the project folder: GATEMASK_ROOT, or the nearest parent folder that contains `experiments/`.

    Raises:
        GatemaskError: There is none.
    """
    if named := os.environ.get("GATEMASK_ROOT"):
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir():
            return folder
    raise GatemaskError(
        "Not a gatemask project.",
        where=here,
        expected="a folder that contains experiments/, or a folder below it",
        do="Change to the project folder, or set GATEMASK_ROOT.",
    )


def open_project(comp: str, *, quick: bool = False) -> Project:
    """Return the project of a competition, given by name or by the path of its folder below experiments/.

    Raises:
        GatemaskError: There is no such competition.
    """
    root = find_root()
    name = Path(comp).name
    competitions = sorted(p.parent.name for p in (root / "experiments").glob("*/competition.yaml"))
    if name not in competitions:
        close = nearest(name, competitions)
        raise GatemaskError(
            f"Unknown competition '{name}'.",
            where=root / "experiments",
            received=comp,
            expected=", ".join(competitions) or "a folder that contains competition.yaml",
            do=f"Did you mean '{close}'?" if close else f"Create experiments/{name}/competition.yaml.",
        )
    return Project(root, name, quick)


def open_experiment(path: str, *, quick: bool = False) -> tuple[Project, Path]:
    """Return the project and the YAML of an experiment, given as a path or as `competition/name`.

    Raises:
        GatemaskError: There is no such experiment.
    """
    root = find_root()
    candidates = [Path(path), root / path, root / "experiments" / f"{path}.yaml"]
    file = next((p.resolve() for p in candidates if p.is_file()), None)
    if file is None:
        experiments = sorted(experiment_files(root))
        close = nearest(path, experiments)
        raise GatemaskError(
            "Unknown experiment.",
            received=path,
            expected="a YAML below experiments/",
            do=f"Did you mean {close}?" if close else f"Available: {', '.join(experiments) or 'none'}",
        )
    return Project(root, file.parent.name, quick), file


def experiment_files(root: Path) -> list[str]:
    """Return the YAML files of all experiments, as `experiments/competition/name.yaml`."""
    other = {"competition.yaml", "base.yaml", "ensemble.yaml"}
    paths = (root / "experiments").glob("*/*.yaml")
    return [path.relative_to(root).as_posix() for path in paths if path.name not in other]
