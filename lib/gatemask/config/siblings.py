"""Names of the other experiments of a competition: two of one name would write to the same run."""

from __future__ import annotations

import re
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.project import DOCUMENTS, TRIALS, competition_folder

_NAME_LINE = re.compile(r"^name:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9_.-]*)", re.MULTILINE)


def require_own_name(path: Path, name: str) -> None:
    """Raise if another YAML of the competition has this name, by its file name or by its key `name`.

    Names that differ only in case count as the same, because some file systems do not tell them apart.

    Raises:
        GatemaskError: The name is taken.
    """
    folder = competition_folder(path)
    for other in [*sorted(folder.glob("*.yaml")), *sorted((folder / TRIALS).glob("*.yaml"))]:
        if other == path or other.name in DOCUMENTS:
            continue
        if (_name_in(other) or other.stem).casefold() == name.casefold():
            raise GatemaskError(
                f"Two experiments are called '{name}': they would share a folder in runs/.",
                where=path,
                received=f"the same name as {other}",
                expected="a name of its own; without the key 'name', it is the file's",
                do="Rename one of the files, or correct its key 'name'.",
            )


def _name_in(path: Path) -> str:
    try:
        found = _NAME_LINE.search(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported when that file is loaded itself
        return ""
    return found[1] if found else ""
