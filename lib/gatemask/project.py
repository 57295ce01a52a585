"""Where things lie. One project folder holds every competition; the design of the house is in README.md."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gatemask.errors import GatemaskError, nearest


@dataclass(frozen=True)
class Project:
    """The folders of one competition in one project.

    Args:
        root: the project's folder, which holds `experiments/`.
        comp: the competition's name; with `quick`, everything that is made carries the suffix `-quick`, so
            that a quick try can never overwrite a real run.
    """

    root: Path
    comp: str
    quick: bool = False

    @property
    def label(self) -> str:
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
    """The project's folder: GATEMASK_ROOT, or the nearest folder upwards that holds `experiments/`."""
    if named := os.environ.get("GATEMASK_ROOT"):
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir():
            return folder
    raise GatemaskError(
        "This is not a gatemask project.",
        where=here,
        expected="a folder with experiments/ in it or above it",
        do="Go to the project's folder, or name it in GATEMASK_ROOT.",
    )


def open_project(comp: str, *, quick: bool = False) -> Project:
    """The project of a competition by name (or by the path of its folder under experiments/)."""
    root = find_root()
    name = Path(comp).name
    known = sorted(p.parent.name for p in (root / "experiments").glob("*/competition.yaml"))
    if name not in known:
        close = nearest(name, known)
        raise GatemaskError(
            f"There is no competition '{name}'.",
            where=root / "experiments",
            received=comp,
            expected=", ".join(known) or "a folder with a competition.yaml",
            do=f"Did you mean '{close}'?" if close else f"Write experiments/{name}/competition.yaml.",
        )
    return Project(root, name, quick)


def open_experiment(path: str, *, quick: bool = False) -> tuple[Project, Path]:
    """The project and the YAML of an experiment given as a path or as `competition/name`."""
    root = find_root()
    tries = [Path(path), root / path, root / "experiments" / f"{path}.yaml"]
    file = next((p.resolve() for p in tries if p.is_file()), None)
    if file is None:
        known = sorted(experiment_files(root))
        close = nearest(path, known)
        raise GatemaskError(
            "There is no such experiment.",
            received=path,
            expected="a YAML under experiments/",
            do=f"Did you mean {close}?" if close else f"Known: {', '.join(known) or 'none'}",
        )
    return Project(root, file.parent.name, quick), file


def experiment_files(root: Path) -> list[str]:
    """Every experiment's YAML below experiments/, as `experiments/competition/name.yaml`."""
    other = {"competition.yaml", "base.yaml", "ensemble.yaml"}
    found = (root / "experiments").glob("*/*.yaml")
    return [p.relative_to(root).as_posix() for p in found if p.name not in other]
