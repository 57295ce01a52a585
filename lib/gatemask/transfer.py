"""`gatemask remote pull` and `push`: copy files of a competition that no stage copies by itself.

Stages fetch what they read and upload what they write. These commands are for all else: raw files that were put into
data/<comp>/ by hand, results to look at on another machine, notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.remote.address import VARIABLE
from gatemask.remote.mirror import GENERATED, STAMP, Mirror, files_below
from gatemask.remote.work import mirror_of
from gatemask.results.remote import Transferred

UNFINISHED = {"state", "begun.json"}  # of a training, which uploads them itself


def pull_files(project: Project, paths: Sequence[str] = (), everything: bool = False) -> Transferred:
    """Copy files of a competition from the remote.

    Args:
        project: Project and competition.
        paths: Folders or files relative to the project. Default: tables, runs and packages, without raw files and
            records.
        everything: Whether to copy raw files and records as well. Default: False.

    Raises:
        GatemaskError: There is no remote, it cannot be reached, or a path is not one of generated files.
    """
    mirror = _require_mirror(project)
    label = project.label
    data = f"data/{label}/" if everything else f"data/{label}/*"
    usual = [data, f"folds/{label}.csv", f"runs/{label}/", f"dist/{label}/"]
    wanted = [_as_folder(path) for path in paths] or usual
    copied = mirror.fetch(wanted)
    return Transferred(
        remote=mirror.objects.url, files=len(copied), megabytes=_megabytes(project.root, copied), equal=0
    )


def push_files(project: Project) -> Transferred:
    """Copy files of a competition to the remote: those it lacks, and those that changed here only.

    Raises:
        GatemaskError: There is no remote, or it cannot be reached.
    """
    mirror = _require_mirror(project)
    paths = [project.folds] if project.folds.exists() else []
    for folder in (project.data, project.runs, project.dist):
        paths += [path for path in files_below(folder) if not UNFINISHED & {path.name, path.parent.name}]
    missing, equal, differ = mirror.compare(paths)
    order = sorted(missing, key=lambda path: (path.suffix == STAMP, path))
    mirror.push(order)
    sent = [mirror.key(path) for path in order]
    return Transferred(
        remote=mirror.objects.url,
        files=len(sent),
        megabytes=_megabytes(project.root, sent),
        equal=len(equal),
        differ=tuple(mirror.key(path) for path in differ),
    )


def _require_mirror(project: Project) -> Mirror:
    mirror = mirror_of(project.experiments)
    if mirror is None:
        raise GatemaskError(
            "No remote is set.",
            where=f"environment variable {VARIABLE}",
            expected="such as s3://bucket/folder",
            do=f"Run export {VARIABLE}=s3://bucket/folder.",
        )
    return mirror


def _as_folder(path: str) -> str:
    parts = Path(path).parts
    if not parts or parts[0] not in (*GENERATED, "folds") or ".." in parts:
        raise GatemaskError(
            "The remote holds generated files only.",
            received=path,
            expected="a path relative to the project, such as runs/COMP/EXPERIMENT/",
        )
    return path if path.endswith(("/", "*")) or Path(path).suffix else f"{path}/"


def _megabytes(root: Path, keys: Sequence[str]) -> float:
    return round(sum((root / key).stat().st_size for key in keys) / 1e6, 1)
