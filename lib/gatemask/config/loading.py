"""Load a YAML with `extends:`, `quick:` and `--set`. Errors name the file, the line and the nearest key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from gatemask.config.competition import Competition
from gatemask.config.ensemble import Ensemble
from gatemask.config.explaining import explain
from gatemask.config.merging import Document, YamlMapping
from gatemask.config.siblings import require_own_name
from gatemask.errors import GatemaskError
from gatemask.storage import storage_error
from gatemask.yaml12 import parse_yaml

if TYPE_CHECKING:
    from gatemask.config.dashboard import Dashboard
    from gatemask.config.experiment import Experiment
    from gatemask.config.sources import Source

Schema = TypeVar("Schema", bound=BaseModel)
NOT_IN_QUICK = ("name", "quick", "extends")


def load_experiment(
    path: Path, *, quick: bool = False, overrides: Sequence[str] = (), alone: bool = False
) -> Experiment:
    """Load an experiment. Its name is the stem of the file unless the YAML sets another.

    Args:
        path: The YAML.
        quick: Whether to apply its section `quick`.
        overrides: `--set` options.
        alone: Whether to trust that no other YAML has the same name, which takes a look into each. Default: False.
    """
    from gatemask.config.experiment import Experiment

    experiment = _load(path, Experiment, {"name": path.stem}, quick, overrides)
    if not alone:
        require_own_name(path, experiment.name)
    return experiment


def read_experiment(path: Path, *, quick: bool = False) -> Document:
    """Return the YAML of an experiment as `--set` finds it: extended and, with `quick`, shrunk, but not validated."""
    document = _read_extended(path, chain=[])
    document.values = {"name": path.stem, **document.values}
    shrunk = _shrink(document, path, quiet=True) if quick else None
    return document if shrunk is None else shrunk


def validate_experiment(document: Document, path: Path) -> Experiment:
    """Return the experiment that a document describes.

    Raises:
        GatemaskError: A key or value is invalid.
    """
    from gatemask.config.experiment import Experiment

    return _validate(document, Experiment, path)


def load_competition(
    folder: Path, *, quick: bool = False, overrides: Sequence[str] = (), file: str = "competition.yaml"
) -> Competition:
    """Load the competition.yaml in a folder."""
    return _load(folder / file, Competition, {"name": folder.name}, quick, overrides)


def load_ensemble(folder: Path, *, quick: bool = False, overrides: Sequence[str] = ()) -> Ensemble:
    """Load the ensemble.yaml in a folder."""
    return _load(folder / "ensemble.yaml", Ensemble, {}, quick, overrides)


def load_source(path: Path) -> Source:
    """Load the YAML of a source of extra training images."""
    from gatemask.config.sources import Source

    return _load(path, Source, {}, False, ())


def load_dashboard(folder: Path) -> Dashboard:
    """Load the dashboard.yaml in a folder. Without one, the dashboard shows what every competition has."""
    from gatemask.config.dashboard import Dashboard

    path = folder / "dashboard.yaml"
    return _load(path, Dashboard, {}, False, ()) if path.exists() else Dashboard()


def load_run_config(folder: Path) -> Experiment:
    """Load the config.yaml of a run: the settings it was trained with.

    Raises:
        GatemaskError: The file is missing, or is not what training wrote.
    """
    from gatemask.config.experiment import Experiment

    path = folder / "config.yaml"
    try:
        return _validate(_read(path, extended_by=None), Experiment, path)
    except GatemaskError as error:
        raise GatemaskError(
            "A run's settings cannot be read, though gatemask wrote them.",
            where=error.details["where"],
            received=f"{error.what} {error.details['received'] or ''}".strip(),
            do=f"Restore it from a copy, or move {folder} away and train this fold again.",
        ) from None


def _load(path: Path, schema: type[Schema], defaults: YamlMapping, quick: bool, overrides: Sequence[str]) -> Schema:
    document = _read_extended(path, chain=[])
    document.values = {**defaults, **document.values}
    shrunk = _shrink(document, path, quiet=not quick)
    if quick and shrunk is not None:
        document = shrunk
    document.override(overrides)
    loaded = _validate(document, schema, path)
    if not quick and shrunk is not None:
        _validate(shrunk, schema, f"{path}, with 'quick'")
    return loaded


def _shrink(document: Document, path: Path, quiet: bool) -> Document | None:
    """Return the document with its `quick:` section applied, or None if it has none."""
    section = document.section("quick")
    if section is None:
        return None
    for key in NOT_IN_QUICK:
        if key in section.values:
            raise GatemaskError(
                f"'{key}' cannot be part of 'quick'.", where=section.places.get((key,), path), do="Remove it."
            )
    shrunk = document.copy()
    shrunk.extend(section, quiet=quiet)
    return shrunk


def _validate(document: Document, schema: type[Schema], where: object) -> Schema:
    try:
        return schema.model_validate(document.values)
    except ValidationError as error:
        raise explain(error, document, schema, where) from None


# --- reading -----------------------------------------------------------------------------------------------


def read_merged(path: Path) -> YamlMapping:
    """Return the values of a YAML, merged with those of the files that it extends, before any check.

    Raises:
        GatemaskError: A file is missing, or is not a mapping in YAML.
    """
    return _read_extended(path, chain=[]).values


def extended_files(path: Path) -> list[Path]:
    """Return the files that a YAML extends: its parent, the parent of that one, and so on.

    Raises:
        GatemaskError: A file is missing, or is not a mapping in YAML.
    """
    files: list[Path] = []
    while isinstance(base := _read(files[-1] if files else path, extended_by=None).values.get("extends"), str):
        file = ((files[-1] if files else path).parent / base).resolve()
        if file in files:
            break
        files.append(file)
    return files


def _read_extended(path: Path, chain: list[Path]) -> Document:
    if path in chain:
        names = " -> ".join(p.name for p in [*chain, path])
        raise GatemaskError("'extends' forms a circle.", where=path, received=names)
    document = _read(path, extended_by=chain[-1] if chain else None)
    base = document.values.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise GatemaskError("'extends' takes one file.", where=document.places[("extends",)], received=base)
    merged = _read_extended((path.parent / base).resolve(), [*chain, path])
    if "name" in merged.values and "name" not in document.values:
        del merged.values["name"]  # it belongs to that file: two files of one name would share a folder
    merged.extend(document)
    return merged


def _read(path: Path, extended_by: Path | None) -> Document:
    by = f"extends in {extended_by}" if extended_by else None
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise GatemaskError("A configuration must be a file.", where=path, received=kind, expected=by)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GatemaskError("No such file.", where=path, received=by, do="Create it, or correct the path.") from None
    except UnicodeDecodeError as error:
        raise GatemaskError("Not valid YAML.", where=path, received=error, do="Save the file as UTF-8.") from None
    except OSError as error:
        raise storage_error(error, path) or GatemaskError(
            "A file cannot be read.", where=path, received=error
        ) from None
    return _parsed(text, path).copy()


@lru_cache(maxsize=16)
def _parsed(text: str, path: Path) -> Document:
    """Parse a YAML. Many experiments extend the same few files."""
    parsed = parse_yaml(text, path)
    if not isinstance(parsed.value, dict):
        raise GatemaskError("A configuration must be a mapping.", where=path, expected="lines of 'key: value'")
    return Document(
        parsed.value, {key: f"{path}, line {line}" for key, line in parsed.lines.items()}, dict(parsed.texts)
    )
