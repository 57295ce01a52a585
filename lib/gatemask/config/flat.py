"""Settings as one level of dotted keys, for comparisons and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue

Flat = dict[str, JsonValue]


def flatten(value: JsonValue, prefix: str = "") -> Flat:
    """Return the leaves of nested mappings by dotted key; lists are leaves.

    >>> flatten({"input": {"size": 64}, "epochs": 2})
    {'input.size': 64, 'epochs': 2}
    """
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    leaves: Flat = {}
    for key, inner in value.items():
        leaves |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def flatten_steps(value: JsonValue, prefix: str = "") -> Flat:
    """Return leaves as `flatten` does; the steps of a list, such as `augment`, are keys as well.

    >>> flatten_steps({"augment": [{"hflip": 0.5}, {"affine": {"rotate": 7}}], "filters": [64, 32]})
    {'augment.hflip': 0.5, 'augment.affine.rotate': 7, 'filters': [64, 32]}
    """
    leaves: Flat = {}
    for key, leaf in flatten(value, prefix).items():
        if isinstance(leaf, list) and leaf and all(isinstance(step, dict) for step in leaf):
            for step in leaf:
                leaves |= flatten_steps(step, key)
        else:
            leaves[key] = leaf
    return leaves


def schema_keys(schema: type[BaseModel]) -> set[str]:
    """Return the dotted keys that a document may contain, with those of its sections."""
    return set(_keys(schema, ""))


def _keys(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield from _keys_of(field.annotation, f"{prefix}{name}")


def _keys_of(kind: Any, key: str) -> Iterator[str]:
    """Yield the keys of a value of some type: its own, and those of sections inside."""
    yield key
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from _keys(kind, f"{key}.")
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _keys_of(part, key)
    elif origin is Annotated or (origin in (list, Sequence) and parts):
        yield from _keys_of(parts[0], key)
    elif origin is dict and get_origin(parts[0]) is Literal:
        for name in get_args(parts[0]):
            yield from _keys_of(parts[1], f"{key}.{name}")
