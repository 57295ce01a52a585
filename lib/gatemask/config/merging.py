"""Merge a YAML with the file it extends, with its `quick:` section, and with `--set`.

Mappings merge key by key, so a child names only what it changes. Between files there are two exceptions: `loss` is
replaced as a whole, and so is a section whose `name` changes, because its options belong to that name. `--set` changes
only what it names, whatever the order of several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

from pydantic import JsonValue

from gatemask.config.names import OPTIONS_OF_NAMES
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.yaml12 import Key, ParsedYaml, parse_yaml

YamlMapping = dict[str, JsonValue]
REPLACED_ENTIRELY = {"loss"}
ANY = "*"
# A number or word may stand for a section: `runtime: tpu`, `loss: {focal: 2}`.
SHORT_FORMS: dict[Key, str] = {("runtime",): "accelerator", ("loss", ANY): "weight"}


@dataclass
class Document:
    """A YAML, merged from one or more sources.

    Args:
        values: Contents.
        places: File and line, or option, of each key.
        texts: Numbers, booleans and nulls as they are written.
    """

    values: YamlMapping
    places: dict[Key, str] = field(default_factory=dict)
    texts: dict[Key, str] = field(default_factory=dict)

    def copy(self) -> Document:
        return Document(deepcopy(self.values), dict(self.places), dict(self.texts))

    def extend(self, child: Document, *, quiet: bool = False) -> None:
        """Merge a child into this document, in place.

        Args:
            child: Keys that take precedence.
            quiet: Whether to leave out the note about options that a new name does not inherit.
        """
        lost: list[str] = []
        _merge(self.values, deepcopy(child.values), (), lost)
        self.places |= child.places
        self.texts = {key: text for key, text in self.texts.items() if key not in child.places} | child.texts
        for note in () if quiet else lost:
            _note_once(f"{note} ({child.places.get(('name',)) or next(iter(child.places.values()), '')})")

    def section(self, name: str) -> Document | None:
        """Return a mapping of this document as a document of its own; None if it is absent or no mapping."""
        values = self.values.get(name)
        if not isinstance(values, dict):
            return None
        places = {key[1:]: place for key, place in self.places.items() if key[:1] == (name,) and len(key) > 1}
        texts = {key[1:]: text for key, text in self.texts.items() if key[:1] == (name,) and len(key) > 1}
        return Document(values, places, texts)

    def override(self, overrides: Sequence[str]) -> None:
        """Apply `--set` options, in place.

        Raises:
            GatemaskError: One is not key=value, or two set the same key to different values.
        """
        parsed: dict[Key, tuple[str, ParsedYaml]] = {}
        for option in overrides:
            path, value = _parse_override(option)
            if path in parsed and parsed[path][1].value != value.value:
                raise GatemaskError(
                    f"--set names '{'.'.join(map(str, path))}' twice, with different values.",
                    received=f"{parsed[path][0]} and {option}",
                    do="Keep one of the two.",
                )
            parsed[path] = option, value
        for path in sorted(parsed, key=lambda path: (len(path), [str(part) for part in path])):
            self._assign(path, *parsed[path])

    def _assign(self, path: Key, option: str, parsed: ParsedYaml) -> None:
        section = self.values
        for length, part in enumerate(path[:-1], 1):
            inner = _long_form(path[:length], section.get(str(part)))
            if not isinstance(inner, dict):
                inner = {}
            section[str(part)] = inner
            section = inner
        place = f"--set {option}"
        self.places |= {path[:length]: place for length in range(1, len(path) + 1)}
        self.places |= {(*path, *key): place for key in parsed.lines}
        self.texts = {key: text for key, text in self.texts.items() if key[: len(path)] != path}
        self.texts |= {(*path, *key): text for key, text in parsed.texts.items()}
        last = str(path[-1])
        old, new = section.get(last), parsed.value
        if isinstance(old, dict) or isinstance(new, dict):
            old, new = _long_form(path, old), _long_form(path, new)
        if isinstance(old, dict) and isinstance(new, dict) and last not in REPLACED_ENTIRELY:
            _merge(old, new, path, None)
        else:
            section[last] = new


def _parse_override(option: str) -> tuple[Key, ParsedYaml]:
    key, equals, text = option.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise GatemaskError("--set needs key=value.", received=option, expected="e.g. --set schedule.peak=1e-3")
    try:
        parsed = parse_yaml(text, f"--set {option}")
    except GatemaskError:  # a text such as a regular expression
        return path, ParsedYaml(text.strip(), {}, {})
    if parsed.value is None or isinstance(parsed.value, str | int | float):
        parsed.texts[()] = text.strip()
    return path, parsed


def _merge(into: YamlMapping, new: Mapping[str, JsonValue], path: Key, lost: list[str] | None) -> None:
    """Merge `new` into a mapping, in place.

    Args:
        into: Mapping to change.
        new: Keys that take precedence.
        path: Keys that lead to both.
        lost: Receives a note for each section that inherits nothing. None: all sections inherit, as with `--set`.
    """
    for key, value in new.items():
        here = (*path, key)
        old = into.get(key)
        if isinstance(old, dict) or isinstance(value, dict):
            old, value = _long_form(here, old), _long_form(here, value)
        if not (isinstance(old, dict) and isinstance(value, dict)) or key in REPLACED_ENTIRELY:
            into[key] = value
        elif lost is None or not _is_renamed(old, value):
            _merge(old, value, here, lost)
        else:
            _note_lost(key, old, value, lost)
            into[key] = value


def _is_renamed(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> bool:
    return "name" in old and "name" in new and new["name"] != old["name"]


def _note_lost(section: str, old: Mapping[str, JsonValue], new: Mapping[str, JsonValue], lost: list[str]) -> None:
    """Note options that the new name could have as well, but does not inherit."""
    of_old_name = {option for option, names in OPTIONS_OF_NAMES.get(section, {}).items() if new["name"] not in names}
    options = [option for option in old if option not in new and option not in of_old_name and option != "name"]
    if options:
        lost.append(
            f"{section} '{new['name']}' inherits nothing: {', '.join(options)} of the '{old['name']}' "
            "that it replaces: write these again where they are wanted"
        )


def _long_form(path: Key, value: JsonValue) -> JsonValue:
    """Return the section that a number or word stands for; other values as they are."""
    name = SHORT_FORMS.get(path) or SHORT_FORMS.get((*path[:-1], ANY))
    if name is None or value is None or isinstance(value, dict | list):
        return value
    return {name: value}


@cache
def _note_once(text: str) -> None:
    say(text)
