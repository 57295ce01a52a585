"""JSON schemas of the YAMLs, for completion and checks in editors, and the reference of all keys.

A schema describes files, which name only what they change: no key is required, `extends` and `quick` are allowed, and
so are the short forms that the models accept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue

from gatemask.config.competition import Competition
from gatemask.config.dashboard import Dashboard
from gatemask.config.ensemble import Ensemble
from gatemask.config.experiment import Augment, Experiment, View
from gatemask.config.sources import Source

DOCUMENTS: dict[str, type[BaseModel]] = {
    "competition": Competition,
    "experiment": Experiment,
    "ensemble": Ensemble,
    "dashboard": Dashboard,
    "source": Source,
}
# Sections that may be written as one word.
WORDS: dict[str, list[str]] = {
    "Augment": list(Augment.model_fields),
    "View": [name for name, field in View.model_fields.items() if field.annotation is bool],
    "Runtime": ["auto", "tpu", "gpu", "cpu"],
    "Pruner": ["interval", "wilcoxon", "median", "none"],
}
EXTENDS = {"type": "string", "description": "YAML of the same folder whose keys this one changes"}
QUICK = "what --quick changes, written like the document itself"
FOLDER = "schemas"  # below experiments/
Node = dict[str, Any]


def document_schema(name: str) -> dict[str, JsonValue]:
    """Return the JSON schema (2020-12) of a document.

    Args:
        name: Key of DOCUMENTS.
    """
    schema: Node = DOCUMENTS[name].model_json_schema()
    _relax(schema)
    for section, words in WORDS.items():
        if section in schema.get("$defs", {}):
            schema["$defs"][section] = {"anyOf": [schema["$defs"][section], {"enum": words}]}
    if "ExtraImages" in schema.get("$defs", {}):
        schema["$defs"]["ExtraImages"] = {"anyOf": [schema["$defs"]["ExtraImages"], {"type": "string"}]}
    if "PngLabels" in schema.get("$defs", {}):
        ignore = schema["$defs"]["PngLabels"]["properties"]["ignore"]
        ignore["anyOf"] = [*ignore.pop("anyOf", [{"type": ignore.pop("type"), **_items(ignore)}]), {"type": "integer"}]
    schema["properties"]["extends"] = EXTENDS
    if "quick" in schema["properties"]:
        schema["properties"]["quick"] = {"$ref": "#", "description": QUICK}
    head: Node = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{name}.yaml of gatemask"}
    return {**schema, **head}


def schema_line(name: str) -> str:
    """Return the comment by which editors find the schema of a YAML in experiments/<comp>/."""
    return f"# yaml-language-server: $schema=../{FOLDER}/{name}.json\n"


def with_schema_line(name: str, text: str) -> str:
    """Return a YAML with `schema_line`, after the comment in its first line if there is one."""
    first, rest = text.split("\n", 1) if text.startswith("#") else ("", text)
    return (f"{first}\n" if first else "") + schema_line(name) + rest


def schema_files(experiments: Path) -> dict[Path, str]:
    """Return the contents of the files that hold the schemas.

    Args:
        experiments: The folder experiments/ of a project.
    """
    return {
        experiments / FOLDER / f"{name}.json": json.dumps(document_schema(name), indent=1, ensure_ascii=False) + "\n"
        for name in DOCUMENTS
    }


def _items(node: Node) -> Node:
    return {"items": node.pop("items")} if "items" in node else {}


def _relax(node: object) -> None:
    """Remove what holds for complete documents only, and titles, which repeat the keys."""
    if isinstance(node, list):
        for item in node:
            _relax(item)
    if not isinstance(node, dict):
        return
    node.pop("required", None)
    node.pop("discriminator", None)
    if isinstance(node.get("title"), str):
        del node["title"]
    if "oneOf" in node:  # files that leave out the deciding key fit several
        node["anyOf"] = node.pop("oneOf")
    for key, value in list(node.items()):
        if key in ("properties", "$defs") and isinstance(value, dict):
            for inner in value.values():
                _relax(inner)
        elif key not in ("default", "enum", "const"):
            _relax(value)


# --- reference ---------------------------------------------------------------------------------------------


def keys_page() -> str:
    """Return docs/reference/keys.md: all keys of all documents, with type, default and meaning."""
    parts = [
        "# Keys of the YAMLs",
        "",
        "`gatemask schema --page docs/reference/keys.md` writes this page. Options of models, losses, optimizers,",
        "schedules and augmentations by name: [builders](builders.md).",
    ]
    for name, model in DOCUMENTS.items():
        schema: Node = model.model_json_schema()
        parts += ["", f"## {name}.yaml" if name != "experiment" else "## Experiments"]
        for path, section in _sections(schema):
            parts += ["", *_table(path, section, schema)]
    return "\n".join([*parts, ""])


def _sections(schema: Node) -> Iterator[tuple[str, Node]]:
    """Yield the document and each of its sections once, with the key where it first appears."""
    seen: set[str] = set()
    waiting: list[tuple[str, Node]] = [("", schema)]
    while waiting:
        path, node = waiting.pop(0)
        yield path, node
        for key, value in node.get("properties", {}).items():
            for reference in _references(value):
                if reference not in seen and "properties" in schema["$defs"].get(reference, {}):
                    seen.add(reference)
                    waiting.append((f"{path}.{key}".lstrip("."), schema["$defs"][reference]))


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].rpartition("/")[2]
        for key, value in node.items():
            if key not in ("mapping", "default"):
                yield from _references(value)
    if isinstance(node, list):
        for item in node:
            yield from _references(item)


def _table(path: str, section: Node, schema: Node) -> list[str]:
    form = section["properties"].get("format", {}).get("const")
    title = [f"### `{path}`" + (f" with `format: {form}`" if form else "")] if path else []
    described = section.get("description")
    text = ["", " ".join(described.split())] if path and described else []
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = set(section.get("required", [])) - {"name", "monitor"}  # set by the loader or the model
    for key, node in section["properties"].items():
        kind = "section" if key == "quick" else _kind(node, schema)
        default = f"`{_yaml(node['default'])}`" if _has_default(node) else ""
        meaning = "**must be set**. " * (key in required) + node.get("description", "")
        rows.append(f"| `{key}` | {kind} | {default} | {meaning.strip().replace('|', '/')} |")
    return [*title, *text, *([""] if title else []), *rows]


def _has_default(node: Node) -> bool:
    return node.get("default") not in (None, []) and not isinstance(node["default"], dict)


def _yaml(value: object) -> str:
    from gatemask.yaml12 import dump_yaml

    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return dump_yaml(value).strip().removesuffix("...").strip()


def _kind(node: Node, schema: Node) -> str:
    """Return what values a key takes, in a few words."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        inner = schema["$defs"][name]
        words = [f"`{word}`" for word in WORDS.get(name, [])] if name in ("Runtime", "Pruner") else []
        if "properties" in inner:
            return " or ".join([*words, "section"])
        return _kind(inner, schema)
    for together in ("anyOf", "oneOf"):
        if together in node:
            kinds = [_kind(one, schema) for one in node[together] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in node:
        return ", ".join(f"`{_yaml(value)}`" for value in node["enum"])
    if "const" in node:
        return f"`{_yaml(node['const'])}`"
    kind = node.get("type")
    if kind == "array":
        return _array_kind(node, schema)
    if kind == "object":
        inner = node.get("additionalProperties")
        return f"by name: {_kind(inner, schema)}" if isinstance(inner, dict) and inner else "section"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return f"{names.get(str(kind), 'any value')}{_range(node)}"


def _array_kind(node: Node, schema: Node) -> str:
    if "prefixItems" in node:
        kinds = dict.fromkeys(_kind(item, schema) for item in node["prefixItems"])
        return f"{len(node['prefixItems'])} x {' / '.join(kinds)}"
    return f"list of {_kind(node.get('items', {}), schema)}"


def _range(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    parts = [f">= {low:g}"] if low is not None else []
    parts += [f"> {node['exclusiveMinimum']:g}"] if "exclusiveMinimum" in node else []
    parts += [f"<= {high:g}"] if high is not None and high < 2**31 - 1 else []
    parts += [f"< {node['exclusiveMaximum']:g}"] if "exclusiveMaximum" in node else []
    parts += [f"a multiple of {node['multipleOf']:g}"] if "multipleOf" in node else []
    return f" {', '.join(parts)}" if parts else ""
