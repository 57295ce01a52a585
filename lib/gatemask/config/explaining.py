"""Explain why a YAML is invalid: file and line, the nearest key, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gatemask.config.merging import Document, YamlMapping
from gatemask.errors import GatemaskError, nearest
from gatemask.yaml12 import Key

_SHOWN = 80  # characters of a received value
_NUMBERS = ("int_type", "float_type", "int_parsing", "float_parsing", "int_from_float")
_YES = {"yes": "true", "on": "true", "y": "true", "1": "true", "no": "false", "off": "false", "n": "false"}


def explain(error: ValidationError, document: Document, schema: type[BaseModel], where: object) -> GatemaskError:
    """Put one of pydantic's complaints into words.

    An unknown key takes precedence: if it is a misspelling, the correct key is missing as well.

    Args:
        error: Complaints about the document.
        document: The document.
        schema: The document's schema.
        where: File, for complaints about the whole document.
    """
    complaints = error.errors(include_url=False)
    complaint = next((c for c in complaints if c["type"] == "extra_forbidden"), None)
    if complaint is None:  # of a value with several forms, explain the form that fits best
        same = [c for c in complaints if c["loc"][:1] == complaints[0]["loc"][:1]]
        complaint = max(same, key=lambda c: len(_real_keys(c["loc"], document.values)))
    loc = _real_keys(complaint["loc"], document.values)
    if complaint["type"] in ("missing", "extra_forbidden"):
        loc = (*_real_keys(complaint["loc"][:-1], document.values), complaint["loc"][-1])
    places = document.places
    place = next((places[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in places), str(where))
    name = ".".join(str(part) for part in loc) or "the file"
    kind, received = complaint["type"], complaint.get("input")
    if kind == "extra_forbidden":
        return _explain_unknown_key(complaint, loc, document, schema, place)
    if kind == "missing":
        return GatemaskError(f"Missing key: '{name}'.", where=place if loc[:-1] else where, do="Add it.")
    if kind == "value_error":
        text = f"{complaint['ctx']['error']!s}".removesuffix(".")
        return GatemaskError(f"{text}.", where=place, do=_way_to_remove(text, place))
    expected = complaint.get("ctx", {}).get("expected") or complaint["msg"].removeprefix("Input should be ")
    return GatemaskError(
        f"Invalid value for '{name}'.",
        where=place,
        received=_shown(received, document.texts.get(loc)),
        expected=expected,
        do=_way_to_correct(kind, name, received, document.texts.get(loc), str(expected), place),
    )


def _explain_unknown_key(
    complaint: ErrorDetails, loc: Key, document: Document, schema: type[BaseModel], place: str
) -> GatemaskError:
    word = str(complaint["loc"][-1])
    parent = loc[:-1] if loc[-1:] == (word,) else loc
    valid = sorted(_keys_at(schema, parent, document.values))
    close = nearest(word, valid)
    do = f"Write '{close}' instead." if close else "Remove it."
    if word.isdigit() and complaint.get("input") is None:
        do = f"If it is the end of a number, write that with a decimal point: 0.{word}."
    name = ".".join(str(part) for part in (*parent, word))
    return GatemaskError(
        f"Unknown key '{name[:_SHOWN]}'.", where=place, received=word[:_SHOWN], expected=", ".join(valid), do=do
    )


def _shown(received: object, text: str | None) -> str:
    """Return a value as it is written in YAML, cut to a readable length."""
    shown = text or (repr(received) if isinstance(received, str) else json.dumps(received, default=str))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _way_to_correct(kind: str, name: str, received: object, text: str | None, expected: str, place: str) -> str | None:
    """Return what to write instead, where that is clear."""
    key = name.split(".")[-1]
    if kind == "string_type" and isinstance(received, int | float):
        quoted = f'"{text or received}"'
        if place.startswith("--set"):
            return f"Write it in quotes: --set '{name}={quoted}'."
        return f"Write it in quotes: {quoted}." if key.isdigit() else f"Write it in quotes: {key}: {quoted}."
    if kind in _NUMBERS:
        if isinstance(received, bool):
            return "Write a number: true and false are not numbers."
        if isinstance(received, float) and received.is_integer():
            return f"Write {received:.0f}."
        if isinstance(received, str):
            return _way_to_number(received, whole=kind.startswith("int"))
    if kind == "union_tag_invalid" and name == "labels":
        return "Labels as COCO, polygons or YOLO: draw them into PNG masks first; docs/how_to/labels.md has a script."
    if kind == "bool_type" and str(received).lower() in _YES:
        return f"Write {_YES[str(received).lower()]}."
    close = nearest(str(received)[:_SHOWN], expected.replace("'", "").replace(" or ", ", ").split(", "))
    return f"Did you mean '{close}'?" if close and kind == "literal_error" else None


def _way_to_number(text: str, whole: bool) -> str | None:
    plain = text.strip().replace("_", "")
    if not whole and re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", plain):
        return f"Write {plain.replace(',', '.')}, with a decimal point."
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", plain):
        return f"Write {plain}, without quotes or underscores."
    return None


def _way_to_remove(text: str, place: str) -> str | None:
    """Return how to drop an option that does not belong to a name given with `--set`."""
    option = re.match(r"(\w+(?:\.\w+)+) belongs to ", text)
    if option is None or not place.startswith("--set"):
        return None
    return f"Add --set {option[1]}=null to drop it."


def _real_keys(loc: Key, values: Any) -> Key:
    """Return the parts of a location that are keys of the YAML: pydantic adds names of union branches."""
    keys: list[str | int] = []
    for part in loc:
        items = dict(enumerate(values)) if isinstance(values, list | tuple) else values
        if isinstance(items, dict) and part in items:
            values = items[part]
            keys.append(part)
    return tuple(keys)


def _keys_at(schema: Any, loc: Key, values: Any) -> set[str]:
    """Return the keys that the schema allows at `loc`, inside lists, optionals and unions too."""
    if not loc:
        models = [m for m in _models_in(schema) if not isinstance(values, dict) or _branch_fits(m, values)]
        return {key for model in models for key in model.model_fields}
    key, inner = loc[0], values[loc[0]]
    if isinstance(key, int):
        return _keys_at(schema, loc[1:], inner)
    models = list(_models_in(schema))
    fields = [m.model_fields[key].annotation for m in models if key in m.model_fields]
    if get_origin(schema) is dict:  # free keys, such as the losses: their values may be sections
        fields = [get_args(schema)[1]]
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
