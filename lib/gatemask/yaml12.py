"""Read YAML 1.2 written by anyone, and write YAML that reads back the same.

PyYAML follows YAML 1.1, which reads `yes` as true, `0123` as 83 and `8:30` as 510. This module takes only PyYAML's
events and applies the core schema of YAML 1.2. Tags that create objects, keys that are not text, aliases that refer to
themselves, and documents that are too deep or grow too large are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from gatemask.errors import GatemaskError

Key = tuple[str | int, ...]
MAX_CHARACTERS = 1_000_000
MAX_NODES = 50_000  # after aliases are replaced by what they stand for
MAX_DEPTH = 64
MAX_DIGITS = 18  # whole numbers of 64 bits

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast; only its events are used
_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass
class ParsedYaml:
    """A document.

    Args:
        value: Mappings, lists, texts, numbers, booleans and None. No two places share an object.
        lines: Line of each key and list item, from 1.
        texts: Numbers, booleans and nulls as they are written.
    """

    value: Any
    lines: dict[Key, int]
    texts: dict[Key, str]


def parse_yaml(text: str, where: object) -> ParsedYaml:
    """Parse a document.

    Args:
        text: The document.
        where: File or option, for messages.

    Raises:
        GatemaskError: It is not YAML, or contains what no file of gatemask needs.
    """
    if len(text) > MAX_CHARACTERS:
        raise GatemaskError(
            "A YAML is too long.", where=where, received=f"{len(text)} characters", expected=f"at most {MAX_CHARACTERS}"
        )
    node = _Reader(text, where).read()
    lines = {key: place.line for key, place in node.places}
    texts = {key: place.text for key, place in node.places if place.text is not None}
    return ParsedYaml(node.value, lines, texts)


def dump_yaml(value: object, *, flow_style: bool | None = False, width: int = 110) -> str:
    """Return a value as YAML. Texts that YAML 1.1 or 1.2 would read as something else are quoted.

    Args:
        value: Mappings, lists, texts, numbers, booleans and None.
        flow_style: None writes the innermost lists and mappings on one line. Default: each item on its own line.
        width: Length at which lines are broken, in characters.
    """
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": width}
    return str(yaml.dump(value, Dumper=_Dumper, default_flow_style=flow_style, **options))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes the numbers of YAML 1.2, and repeats shared values."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver(_CORE + "int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver(_CORE + "float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


# --- reading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    line: int
    text: str | None = None


@dataclass
class _Node:
    """A value with the size and height of its tree, and the places of its keys, relative to itself."""

    value: Any
    size: int = 1
    height: int = 1
    places: list[tuple[Key, _Place]] = field(default_factory=list)
    text: str | None = None

    def add(self, key: str | int, line: int, inner: _Node) -> None:
        """Take over the size and the places of a value below this one."""
        self.size += inner.size
        self.height = max(self.height, inner.height + 1)
        self.places.append(((key,), _Place(line, inner.text)))
        self.places += [((key, *rest), place) for rest, place in inner.places]

    def copy(self) -> _Node:
        return _Node(_copied(self.value), self.size, self.height, list(self.places), self.text)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


class _Reader:
    """Builds values from the events of one document."""

    def __init__(self, text: str, where: object) -> None:
        self._where = where
        self._events = self._guarded(text)
        self._anchors: dict[str, _Node | None] = {}  # None: still open
        self._nodes = 0

    def read(self) -> _Node:
        """Return the root of the only document; an empty one is None."""
        root, event = _Node(None), next(self._events)
        while not isinstance(event, yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                if self._nodes:
                    self._reject("a second document ('---')", event)
                root = self._node(next(self._events), depth=1)
            event = next(self._events)
        return root

    def _guarded(self, text: str) -> Iterator[Any]:
        """Yield PyYAML's events; whatever it raises becomes a GatemaskError."""
        try:
            yield from yaml.parse(text, Loader=_LOADER)
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
            raise self._error(problem, None if mark is None else mark.line + 1) from None

    def _node(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event)
        else:
            anchor = event.anchor
            if anchor is not None:
                self._anchors[anchor] = None
            self._count(1, event)
            node = self._build(event, depth)
            if anchor is not None:
                self._anchors[anchor] = node
        if depth + node.height > MAX_DEPTH + 1:
            self._reject(f"more than {MAX_DEPTH} levels inside each other", event)
        return node

    def _build(self, event: Any, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            self._reject(f"more than {MAX_DEPTH} levels inside each other", event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            self._require_tag(event, "seq")
            return self._sequence(depth)
        self._require_tag(event, "map")
        return self._mapping(depth)

    def _alias(self, event: Any) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            known = event.anchor in self._anchors
            self._reject(f"*{event.anchor}, which {'contains itself' if known else 'is not defined above'}", event)
        self._count(node.size, event)
        return node.copy()

    def _sequence(self, depth: int) -> _Node:
        node = _Node([])
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            inner = self._node(event, depth + 1)
            node.add(len(node.value), event.start_mark.line + 1, inner)
            node.value.append(inner.value)
        return node

    def _mapping(self, depth: int) -> _Node:
        node, first, merged = _Node({}), dict[str, int](), list[tuple[_Node, Any]]()
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event), event.start_mark.line + 1
            if key in first:
                raise GatemaskError(
                    f"Repeated key: '{key}'.",
                    where=f"{self._where}, lines {first[key]} and {line}",
                    do="Keep one of the two lines.",
                )
            first[key] = line
            inner = self._node(next(self._events), depth + 1)
            if key == "<<" and event.implicit[0]:
                merged.append((inner, event))
                continue
            node.add(key, line, inner)
            node.value[key] = inner.value
        for inner, event in merged:
            self._merge(node, inner, event)
        return node

    def _merge(self, node: _Node, merged: _Node, event: Any) -> None:
        """Add the keys of `<<: *anchor` that the mapping does not set itself."""
        sources = merged.value if isinstance(merged.value, list) else [merged.value]
        prefixes: list[Key] = [(n,) for n in range(len(sources))] if isinstance(merged.value, list) else [()]
        for prefix, source in zip(prefixes, sources, strict=True):
            if not isinstance(source, dict):
                self._reject("'<<' without a mapping", event)
            own = {key for key in source if key not in node.value}
            node.value |= {key: source[key] for key in own}
            for key, place in merged.places:
                if key[: len(prefix)] == prefix and len(key) > len(prefix) and key[len(prefix)] in own:
                    node.places.append((key[len(prefix) :], place))
        node.size += merged.size
        node.height = max(node.height, merged.height)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._reject("a key that is not a word", event)
        self._count(1, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Node(event.value)
        return self._clean(event.value, event)

    def _scalar(self, event: Any) -> _Node:
        text, tag = event.value, event.tag
        if tag is None:
            value = _resolve(text) if event.implicit[0] and not event.style else text
        elif tag in ("!", _CORE + "str"):
            value = text
        else:
            self._require_tag(event, "null", "bool", "int", "float")
            value = _resolve(text)
            if not _fits(tag.removeprefix(_CORE), value):
                self._reject(f"'{text[:40]}' as {tag.removeprefix(_CORE)}", event)
            value = float(value) if isinstance(value, int) and tag == _CORE + "float" else value
        if isinstance(value, str):
            return _Node(self._clean(value, event))
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            self._reject(f"a whole number of more than {MAX_DIGITS} digits", event)
        return _Node(value, text=text)

    def _clean(self, text: str, event: Any) -> str:
        if found := _CONTROL.search(text):
            self._reject(f"the control character U+{ord(found[0]):04X}", event)
        return text

    def _require_tag(self, event: Any, *kinds: str) -> None:
        if event.tag not in (None, "!", *(_CORE + kind for kind in kinds)):
            self._reject(f"the tag '{event.tag.replace(_CORE, '!!')[:60]}'", event)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._reject(f"more than {MAX_NODES} values, aliases replaced", event)

    def _reject(self, received: str, event: Any) -> NoReturn:
        raise self._error(received, event.start_mark.line + 1)

    def _error(self, received: str, line: int | None) -> GatemaskError:
        return GatemaskError(
            "Not valid YAML.",
            where=self._where if line is None else f"{self._where}, line {line}",
            received=received,
            do="Check the indentation, quotes and colons around that line.",
        )


def _resolve(text: str) -> str | int | float | bool | None:
    """Return a plain scalar as the core schema of YAML 1.2 reads it."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) > 2 * MAX_DIGITS:  # int() itself has a limit; any value this long is rejected
            return int("9" * 2 * MAX_DIGITS)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[inIN])", "", text))
    return text


def _fits(kind: str, value: object) -> bool:
    if kind == "null":
        return value is None
    if kind == "bool":
        return isinstance(value, bool)
    return isinstance(value, int | float if kind == "float" else int) and not isinstance(value, bool)
