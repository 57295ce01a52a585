"""The folder of the raw files: from competition.yaml, unless `--data` named another, which is remembered.

What is remembered is relative to the project where it is inside, so a project that is moved or copied reads its own
files. It counts only while `raw:` in competition.yaml stays as it was.
"""

from __future__ import annotations

from pathlib import Path

from gatemask.config import Competition
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.data import ManifestResult


def raw_folder(project: Project, comp: Competition, data: Path | None = None) -> Path:
    """Return the raw folder: `data` if given, otherwise the one used last time, otherwise competition.yaml's."""
    if data is not None:
        return data.resolve()
    used = _used_last_time(project, comp)
    return default_raw(project, comp) if used is None else project.root / used


def default_raw(project: Project, comp: Competition) -> Path:
    """Return the raw folder of competition.yaml, with `{data}` filled in."""
    return project.root / _filled_in(project, comp)


def remembered(project: Project, comp: Competition, raw: Path) -> dict[str, str]:
    """Return the fields by which the stamp of the manifest remembers a raw folder."""
    text = _filled_in(project, comp) if raw == default_raw(project, comp) else project.relative(raw)
    return {"raw": text, "raw_in_yaml": comp.raw}


def require_same_raw(project: Project, comp: Competition) -> None:
    """Raise if `raw:` names another folder than the one that the manifest was made from.

    Raises:
        GatemaskError: The folder has changed since `gatemask data prepare`.
    """
    stamp = project.data / "manifest.json"
    used = ManifestResult.load(stamp)
    if _used_last_time(project, comp) is None and project.root / used.raw != default_raw(project, comp):
        raise GatemaskError(
            "The manifest was made from another raw folder than competition.yaml names now.",
            where=stamp,
            received=used.raw,
            expected=_filled_in(project, comp),
            do=f"Run gatemask data prepare {project.comp}, or correct 'raw'.",
        )


def _used_last_time(project: Project, comp: Competition) -> str | None:
    """Return the folder that the manifest was made from, unless competition.yaml has changed its mind since."""
    stamp = project.data / "manifest.json"
    if not stamp.exists():
        return None
    used = ManifestResult.load(stamp)
    return used.raw if used.raw_in_yaml in (None, comp.raw) else None


def _filled_in(project: Project, comp: Competition) -> str:
    return comp.raw.replace("{data}", project.data.relative_to(project.root).as_posix())
