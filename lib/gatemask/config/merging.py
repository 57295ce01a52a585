"""Merge a YAML with the file it extends, with its `quick:` section, and with `--set`.

Mappings merge key by key, so a child names only what it changes. Between files there are two exceptions: `loss` is
replaced as a whole, and so is a section whose `name` changes, because its options belong to that name. `--set` changes
only what it names, whatever the order of several; an item of a list is named by its number, or by its only key:
`augment.affine.rotate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

from pydantic import JsonValue

from gatemask.config.names import OPTIONS_OF_NAMES
from gatemask.console import say
from gatemask.errors import GatemaskError, nearest
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

    def value(self, key: str) -> JsonValue:
        """Return the value of a dotted key, as `--set` finds it; None if the document does not hold it."""
        try:
            path = _indexed(self.values, tuple(key.split(".")), key)
        except GatemaskError:
            return None
        inner: JsonValue = self.values
        for part in path:
            if not isinstance(inner, dict | list) or (isinstance(inner, dict) and part not in inner):
                return None
            inner = _item(inner, part)
        return inner

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
                    received=f"{_shown(path, parsed[path][0])} and {_shown(path, option)}",
                    do="Keep one of the two.",
                )
            parsed[path] = option, value
        for path in sorted(parsed, key=lambda path: (len(path), [str(part) for part in path])):
            self._assign(path, *parsed[path])

    def _assign(self, path: Key, option: str, parsed: ParsedYaml) -> None:
        path = _indexed(self.values, path, option)
        section: YamlMapping | list[JsonValue] = self.values
        for length, part in enumerate(path[:-1], 1):
            inner = _long_form(path[:length], _item(section, part))
            if not isinstance(inner, dict | list):
                inner = {}
            _put(section, part, inner)
            section = inner
        place = f"--set {_shown(path, option)}"
        self.places |= {path[:length]: place for length in range(1, len(path) + 1)}
        self.places |= {(*path, *key): place for key in parsed.lines}
        self.texts = {key: text for key, text in self.texts.items() if key[: len(path)] != path}
        self.texts |= {(*path, *key): text for key, text in parsed.texts.items()}
        last = path[-1]
        old, new = _item(section, last), parsed.value
        if isinstance(old, dict) or isinstance(new, dict):
            old, new = _long_form(path, old), _long_form(path, new)
        if isinstance(old, dict) and isinstance(new, dict) and last not in REPLACED_ENTIRELY:
            _merge(old, new, path, None)
        else:
            _put(section, last, new)


def _item(section: YamlMapping | list[JsonValue], part: str | int) -> JsonValue:
    return section[int(part)] if isinstance(section, list) else section.get(str(part))


def _put(section: YamlMapping | list[JsonValue], part: str | int, value: JsonValue) -> None:
    if isinstance(section, list):
        section[int(part)] = value
    else:
        section[str(part)] = value


def _indexed(values: YamlMapping, path: Key, option: str) -> Key:
    """Return the path with the index of each list item it names, by number or by its only key.

    `augment.affine.rotate` leads to the step of `augment` with the key `affine`.

    Raises:
        GatemaskError: A list has no such item, or the item is a bare word, whose options are not written out.
    """
    keys: list[str | int] = []
    inner: JsonValue = values
    for number, part in enumerate(path):
        if isinstance(inner, list):
            index = _find_item(inner, str(part), ".".join(map(str, path[:number])), option)
            keys.append(index)
            inner = inner[index]
            if str(part).isdigit():
                continue
            if not isinstance(inner, dict) and number < len(path) - 1:
                raise GatemaskError(
                    f"'{part}' has no options to set, because it is a bare word.",
                    where=f"--set {option}",
                    do=f"Write it out in the YAML, as {{{part}: ...}} with all its options.",
                )
        keys.append(part)
        inner = inner.get(str(part)) if isinstance(inner, dict) else None
    return tuple(keys)


def _find_item(items: list[JsonValue], name: str, where: str, option: str) -> int:
    if name.isdigit() and int(name) < len(items):
        return int(name)
    names = [next(iter(item), "") if isinstance(item, dict) and len(item) == 1 else item for item in items]
    if names.count(name) == 1:
        return names.index(name)
    words = [word for word in names if isinstance(word, str) and word]
    close = nearest(name, words)
    raise GatemaskError(
        f"'{where}' has {'several items' if name in words else 'no item'} called '{name}'.",
        where=f"--set {option}",
        expected=f"{', '.join(dict.fromkeys(words)) or 'items'}, or a number from 0 to {len(items) - 1}",
        do=f"Did you mean '{close}'?" if close and close != name else None,
    )


def _shown(path: Key, option: str) -> str:
    """Return an option for messages. The address of notifications may be a secret."""
    return "notify.url=..." if path[0] == "notify" else option


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
