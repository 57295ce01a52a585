"""Folders of a project. One project holds all competitions; README.md shows the layout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatemask.errors import GatemaskError, nearest
from gatemask.files import require_utf8

QUICK = "-quick"
# Names below runs/<comp>/ that belong to the pipeline; the rehearsal, for one, deletes its folder before it starts.
PRODUCTS = frozenset(
    {
        "ensemble",
        "finalists",
        "kaggle",
        "leaderboard",
        "notes.json",
        "notified",
        "predicted",
        "rehearsal",
        "rehearsal-train",
        "report",
        "search",
        "submissions",
        "summary.json",
        "tuned",
        "wandb-synced.json",
    }
)
# YAMLs of a competition that describe no experiment.
DOCUMENTS = frozenset({"base.yaml", "competition.yaml", "dashboard.yaml", "ensemble.yaml"})
SHARED_FOLDERS = frozenset(("audit",))  # below runs/, next to the competitions
TRIALS = "trials"  # folder below experiments/<comp>/: the experiments that `gatemask search` writes
SOURCES = "sources"  # folder below experiments/<comp>/ and data/<comp>/: images that are only trained on
LONGEST_NAME = 100  # characters; file systems end at 255 bytes, and suffixes are added


def competition_name_fault(name: str) -> str | None:
    """Return why a competition cannot have this name, with a way out; None if it can."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "my-competition"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > LONGEST_NAME:
        return (
            f"'{name[:LONGEST_NAME]}' cannot name a competition: names are lowercase letters, digits and hyphens, "
            f"{LONGEST_NAME} characters at most. Rename its folder below experiments/, or set 'name: {plain}' in "
            "competition.yaml"
        )
    if re.search(r"-records-[0-9][0-9a-z-]*$", name):
        return (
            f"A competition cannot be called '{name}': its package would have the name of another competition's "
            f"records on Kaggle. Rename it, such as to '{name.replace('-records-', '-')}'"
        )
    return competition_folder_fault(name)


def competition_folder_fault(name: str) -> str | None:
    """Return why the generated files of a competition cannot go to folders of this name; None if they can."""
    if name.casefold().endswith(QUICK):
        return (
            f"A competition cannot be called '{name}': its files would go to the folders of "
            f"'{name[: -len(QUICK)]}' with --quick. Rename it, such as to '{name[: -len(QUICK)]}-fast'"
        )
    if name.casefold() in SHARED_FOLDERS or name.startswith("."):
        return f"A competition cannot be called '{name}': gatemask keeps other files in runs/{name}/. Rename it"
    return None


def experiment_name_fault(name: str) -> str | None:
    """Return why an experiment cannot have this name, with a way out; None if it can."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or len(name) > LONGEST_NAME:
        return (
            f"'{name[:LONGEST_NAME]}' cannot name an experiment: names start with a letter or digit, followed by "
            f"letters, digits, '_', '.' and '-', {LONGEST_NAME} characters at most. Rename its YAML"
        )
    if name.casefold() in PRODUCTS:
        return (
            f"An experiment cannot be called '{name}': runs/<comp>/{name.lower()} holds what another command "
            f"writes. Rename its YAML, such as to {name}_net.yaml"
        )
    return None


@dataclass(frozen=True)
class Project:
    """The folders of one competition in one project.

    Args:
        root: Folder of the project, which contains `experiments/`.
        comp: Name of the competition.
        quick: Whether all outputs carry the suffix `-quick`, so a quick run never overwrites a real one.
        overrides: `--set` options for the experiments, which count as part of their YAMLs. Default: none.
        source: Name of a source of extra training images, whose folder takes the place of `data`. Default: none.
    """

    root: Path
    comp: str
    quick: bool = False
    overrides: tuple[str, ...] = ()
    source: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the fields as values that JSON can hold."""
        fields: dict[str, object] = {"root": str(self.root), "comp": self.comp, "quick": self.quick}
        return {**fields, "overrides": list(self.overrides), "source": self.source}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Project:
        """Return the project that `as_dict` describes."""
        return cls(Path(fields["root"]), fields["comp"], fields["quick"], tuple(fields["overrides"]), fields["source"])

    @property
    def label(self) -> str:
        """Name of the competition's folders for generated files."""
        return f"{self.comp}{QUICK}" if self.quick else self.comp

    @property
    def experiments(self) -> Path:
        return self.root / "experiments" / self.comp

    @property
    def data(self) -> Path:
        folder = self.root / "data" / self.label
        return folder / SOURCES / self.source if self.source else folder

    def of_source(self, name: str) -> Project:
        """Return the project whose images are those of a source: its data lie in data/<comp>/sources/<name>/."""
        return replace(self, source=name)

    def source_file(self, name: str) -> Path:
        """Return the YAML of a source of extra training images."""
        return self.experiments / SOURCES / f"{name}.yaml"

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
    def compiled(self) -> Path:
        """Folder of compiled functions, a cache that all competitions share."""
        return self.root / "data" / ".compiled"

    @property
    def tuned(self) -> Path:
        return self.runs / "tuned"

    def experiment_file(self, name: str) -> Path:
        """Return the YAML of an experiment, which may be a trial of `gatemask search`."""
        own, trial = self.experiments / f"{name}.yaml", self.experiments / TRIALS / f"{name}.yaml"
        return trial if trial.is_file() and not own.is_file() else own

    def relative(self, path: Path) -> str:
        """Return a path to keep in a file: relative to the project if it is inside, so the project can move."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def records(self, size: int | tuple[int, int]) -> Path:
        """Return the folder of records: of a square by its side, else by height and width."""
        height, width = (size, size) if isinstance(size, int) else size
        return self.data / (f"records-{height}" if height == width else f"records-{height}x{width}")

    def fold(self, experiment: str, fold: int) -> Path:
        return self.runs / experiment / f"fold{fold}"


def find_root() -> Path:
    """Return the project folder: GATEMASK_ROOT, or the nearest parent folder that contains `experiments/`.

    Raises:
        GatemaskError: There is none, GATEMASK_ROOT names another folder, or its path is not UTF-8.
    """
    if named := os.environ.get("GATEMASK_ROOT"):
        root = Path(named).resolve()
        if not (root / "experiments").is_dir():
            raise GatemaskError(
                "GATEMASK_ROOT does not name a gatemask project.",
                where="environment variable GATEMASK_ROOT",
                received=f"{named}, which {'has no folder experiments/' if root.is_dir() else 'is not a folder'}",
                expected="a folder that contains experiments/",
                do="Correct it, or unset it and change to the project folder.",
            )
        require_utf8([root])
        return root
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir():
            require_utf8([folder])
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
    _require_own_folders(root, name)
    return Project(root, name, quick)


def open_experiment(path: str, *, quick: bool = False) -> tuple[Project, Path]:
    """Return the project and the YAML of an experiment, given as a path or as `competition/name`.

    Raises:
        GatemaskError: There is no such experiment.
    """
    root = find_root()
    named = root / "experiments" / f"{path}.yaml"
    candidates = [Path(path), root / path, named, named.parent / TRIALS / named.name]
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
    comp = competition_folder(file).name
    _require_own_folders(root, comp)
    return Project(root, comp, quick), file


def competition_folder(experiment: Path) -> Path:
    """Return the folder of the competition that the YAML of an experiment belongs to."""
    folder = experiment.parent
    is_trial = folder.name == TRIALS and (folder.parent / "competition.yaml").is_file()
    return folder.parent if is_trial else folder


def _require_own_folders(root: Path, comp: str) -> None:
    if fault := competition_folder_fault(comp):
        raise GatemaskError(f"{fault}.", where=root / "experiments" / comp)


def experiment_files(root: Path) -> list[str]:
    """Return the YAML files of all experiments, as `experiments/competition/name.yaml`; those of trials come last."""
    folder = root / "experiments"
    paths = [*folder.glob("*/*.yaml"), *folder.glob(f"*/{TRIALS}/*.yaml")]
    return [path.relative_to(root).as_posix() for path in paths if path.name not in DOCUMENTS]
