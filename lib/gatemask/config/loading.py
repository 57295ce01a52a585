"""Load a YAML with `extends:`, `quick:` and `--set`. Errors name the file, the line and the nearest key.

Mappings merge key by key, so a child names only what it changes. There are two exceptions: `loss` is replaced
entirely, and so is a section whose `name` changes (its parameters belong to that name).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from gatemask.config.competition import Competition
from gatemask.config.ensemble import Ensemble
from gatemask.config.experiment import Experiment
from gatemask.errors import GatemaskError, nearest

Key = tuple[str | int, ...]
Places = dict[Key, str]
YamlMapping = dict[str, JsonValue]
Schema = TypeVar("Schema", bound=BaseModel)
REPLACED_ENTIRELY = {"loss"}


def load_experiment(path: Path, *, quick: bool = False, overrides: Sequence[str] = ()) -> Experiment:
    """Load an experiment. Its name is the stem of the file unless the YAML sets another."""
    return _load(path, Experiment, {"name": path.stem}, quick, overrides)


def load_competition(
    folder: Path, *, quick: bool = False, overrides: Sequence[str] = (), file: str = "competition.yaml"
) -> Competition:
    """Load the competition.yaml in a folder."""
    return _load(folder / file, Competition, {"name": folder.name}, quick, overrides)


def load_ensemble(folder: Path, *, quick: bool = False, overrides: Sequence[str] = ()) -> Ensemble:
    """Load the ensemble.yaml in a folder."""
    return _load(folder / "ensemble.yaml", Ensemble, {}, quick, overrides)


def _load(path: Path, schema: type[Schema], defaults: YamlMapping, quick: bool, overrides: Sequence[str]) -> Schema:
    values, places = _read_extended(path, chain=[])
    values = {**defaults, **values}
    if quick:
        if isinstance(quick_values := values.get("quick"), dict):
            _merge(values, quick_values)
        places = {k[1:] if k[:1] == ("quick",) and len(k) > 1 else k: p for k, p in places.items()}
    for override in overrides:
        _override(values, places, override)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _explain(error, values, places, schema, path) from None


# --- reading -----------------------------------------------------------------------------------------------


def _read_extended(path: Path, chain: list[Path]) -> tuple[YamlMapping, Places]:
    if path in chain:
        names = " -> ".join(p.name for p in [*chain, path])
        raise GatemaskError("'extends' forms a circle.", where=path, received=names)
    values, places = _read(path, extended_by=chain[-1] if chain else None)
    base = values.pop("extends", None)
    if base is None:
        return values, places
    if not isinstance(base, str):
        raise GatemaskError("'extends' takes one file.", where=places[("extends",)], received=base)
    merged, base_places = _read_extended((path.parent / base).resolve(), [*chain, path])
    _merge(merged, values)
    return merged, {**base_places, **places}


def _read(path: Path, extended_by: Path | None) -> tuple[YamlMapping, Places]:
    try:
        text = path.read_text(encoding="utf-8")
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except FileNotFoundError:
        raise GatemaskError(
            "No such file.",
            where=path,
            received=f"extends in {extended_by}" if extended_by else None,
            do="Create it, or correct the path.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise GatemaskError(
            "Not valid YAML.",
            where=where,
            received=getattr(error, "problem", None) or error,
            do="Check the indentation, quotes and colons around that line.",
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise GatemaskError("A configuration must be a mapping.", where=path, expected="lines of 'key: value'")
    places: Places = {}
    for key, line in _lines(node, (), path):
        places[key] = f"{path}, line {line}"
    return values, places


def _lines(node: yaml.Node, parent: Key, path: Path) -> Iterator[tuple[Key, int]]:
    """Yield the line of each key. Reject repeated keys, because plain YAML silently keeps the last."""
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first:
                raise GatemaskError(
                    f"Repeated key: '{key.value}'.",
                    where=f"{path}, lines {first[key.value]} and {line}",
                    do="Keep one of the two lines.",
                )
            first[key.value] = line
            yield (*parent, key.value), line
            yield from _lines(value, (*parent, key.value), path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*parent, index), value.start_mark.line + 1
            yield from _lines(value, (*parent, index), path)


def _merge(into: YamlMapping, new: YamlMapping) -> None:
    for key, value in new.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and key not in REPLACED_ENTIRELY:
            renamed = "name" in value and value["name"] != old.get("name")
            if not renamed:
                _merge(old, value)
                continue
        into[key] = value


def _override(values: YamlMapping, places: Places, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise GatemaskError("--set needs key=value.", received=override, expected="e.g. --set schedule.peak=1e-3")
    path = tuple(key.strip().split("."))
    try:
        value = yaml.safe_load(text)
        value = float(text) if isinstance(value, str) and _is_number(text) else value
    except yaml.YAMLError:
        value = text
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    _merge(values, nested)
    for length in range(1, len(path) + 1):
        places[path[:length]] = f"--set {override}"


def _is_number(text: str) -> bool:
    """Return whether a text is a number: YAML 1.1 requires a dot and reads 1e-3 as a string."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- explaining --------------------------------------------------------------------------------------------


def _explain(
    error: ValidationError, values: YamlMapping, places: Places, schema: type[BaseModel], path: Path
) -> GatemaskError:
    """Put one of pydantic's complaints into words.

    An unknown key takes precedence: if it is a misspelling, the correct key is missing as well.
    """
    complaints = error.errors()
    complaint = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    # pydantic adds names of union branches to the location: keep the parts that are keys of the YAML.
    loc = tuple(_real_keys(complaint["loc"], values))
    name = ".".join(str(part) for part in loc) or "the file"
    where = next((places[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in places), str(path))
    kind, received = complaint["type"], complaint.get("input")
    if kind == "extra_forbidden":
        word = str(complaint["loc"][-1])
        parent = loc[:-1] if loc[-1:] == (word,) else loc
        valid = sorted(_keys_at(schema, parent, values))
        close = nearest(word, valid)
        do = f"Write '{close}' instead." if close else "Remove it."
        name = ".".join(str(part) for part in (*parent, word))
        return GatemaskError(f"Unknown key '{name}'.", where=where, received=word, expected=", ".join(valid), do=do)
    if kind == "missing":
        return GatemaskError(f"Missing key: '{name}'.", where=where if loc[:-1] else path, do="Add it.")
    expected = complaint.get("ctx", {}).get("expected") or complaint["msg"]
    if kind == "value_error":
        return GatemaskError(f"{complaint['ctx']['error']!s}.", where=where)
    close = nearest(str(received), str(expected).replace("'", "").replace(" or ", ", ").split(", "))
    return GatemaskError(
        f"Invalid value for '{name}'.",
        where=where,
        received=repr(received),
        expected=expected,
        do=f"Did you mean '{close}'?" if close and kind == "literal_error" else None,
    )


def _real_keys(loc: tuple[str | int, ...], values: Any) -> Iterator[str | int]:
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(values, dict) and (part in values or last):
            yield part
            values = values.get(part)
        elif isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values):
            yield part
            values = values[part]


def _keys_at(schema: Any, loc: Key, values: Any) -> set[str]:
    """Return the keys that the schema allows at `loc`, inside lists, optionals and unions too."""
    if not loc:
        models = [m for m in _models_in(schema) if not isinstance(values, dict) or _branch_fits(m, values)]
        return {key for model in models for key in model.model_fields}
    inner = values[loc[0]]
    if isinstance(loc[0], int):
        return _keys_at(schema, loc[1:], inner)
    fields = [m.model_fields[loc[0]].annotation for m in _models_in(schema) if loc[0] in m.model_fields]
    return set().union(*(_keys_at(field, loc[1:], inner) for field in fields)) if fields else set()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _branch_fits(model: type[BaseModel], values: YamlMapping) -> bool:
    """Return whether a model is the branch that `format:` selects, where its union has one."""
    field = model.model_fields.get("format")
    return field is None or "format" not in values or values["format"] in get_args(field.annotation)
