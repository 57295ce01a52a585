"""Conditions of `--where`, such as `epochs>10 and model.encoder~b4`.

    condition  = any { "or" any }        any = all { "and" all }
    all        = "not" all | "(" condition ")" | key operator value
    operator   = "=" "!=" "<" "<=" ">" ">=" "~"

Keys are columns of the table, or dotted keys of an experiment's settings. Texts are compared without regard to case;
`~` asks whether the value contains a text. A missing value equals `null`, and is neither smaller nor larger than
anything.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from gatemask.errors import GatemaskError

Row = Mapping[str, JsonValue]
Condition = Callable[[Row], bool]
DEEPEST = 50  # parentheses and negations

_TOKEN = re.compile(
    r"""\s*(?:(?P<open>\()|(?P<close>\))|(?P<operator><=|>=|!=|==|=|<|>|~)"""
    r"""|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s()<>=!~"']+))"""
)
_KEY = re.compile(r"[A-Za-z_][\w.-]*")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS: dict[str, JsonValue] = {"true": True, "yes": True, "false": False, "no": False, "null": None, "none": None}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class Where:
    """A parsed condition.

    Args:
        text: The condition.
        keys: Keys that rows may have.

    Raises:
        GatemaskError: The text is not a condition, or names an unknown key.

    >>> where = Where("epochs>10 and (model.encoder~B4 or not task=mask)", {"epochs", "model.encoder", "task"})
    >>> where({"epochs": 30, "model.encoder": "efficientnetb4", "task": "mask"})
    True
    >>> where({"epochs": 30, "model.encoder": "resnet18", "task": "mask"})
    False
    """

    def __init__(self, text: str, keys: Collection[str]) -> None:
        self._text, self._keys = text, keys
        self._tokens = list(self._split())
        self._next = 0
        self._condition = self._any(0)
        if self._next < len(self._tokens):
            raise self._error(f"'and' or 'or' before {self._tokens[self._next].text!r}")

    def __call__(self, row: Row) -> bool:
        return self._condition(row)

    # --- parsing -------------------------------------------------------------------------------------------

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        while self._text[at:].strip():
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._error("a key, an operator and a value", at)
            kind = str(match.lastgroup)
            tokens.append(_Token("quoted" if kind in ("double", "single") else kind, match[kind], match.start(kind)))
            at = match.end()
        return tokens

    def _any(self, depth: int) -> Condition:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def _all(self, depth: int) -> Condition:
        parts = [self._one(depth)]
        while self._take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _one(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise self._error(f"at most {DEEPEST} parentheses inside each other")
        if self._take("not"):
            inner = self._one(depth + 1)
            return lambda row: not inner(row)
        if self._take_kind("open"):
            inner = self._any(depth + 1)
            if not self._take_kind("close"):
                raise self._error("a closing parenthesis")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        token = self._take_kind("word")
        if token is None or not _KEY.fullmatch(token.text):
            raise self._error("a key such as epochs or model.encoder", token.at if token else None)
        key = self._known(token.text)
        sign = self._take_kind("operator")
        if sign is None:
            raise self._error(f"an operator after {key!r}: = != < <= > >= ~")
        value = self._take_kind("quoted") or self._take_kind("word")
        if value is None:
            raise self._error(f"a value after {key!r} {sign.text}")
        wanted: JsonValue = value.text if value.kind == "quoted" else _value_of(value.text)
        return _comparison_of(key, sign.text, wanted, value.text)

    def _known(self, key: str) -> str:
        if key in self._keys:
            return key
        near = difflib.get_close_matches(key, self._keys, n=4, cutoff=0.5)
        near += [name for name in sorted(self._keys) if name.endswith(f".{key}") and name not in near][:4]
        raise GatemaskError(
            f"Unknown key '{key}'.",
            where=f"--where {self._text}",
            expected=f"a column, or a key of the settings{', such as ' + ', '.join(near) if near else ''}",
            do=f"Write '{near[0]}' instead." if near else "gatemask runs show lists the keys of an experiment.",
        )

    def _take(self, word: str) -> bool:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if token is None or token.kind != "word" or token.text.lower() != word:
            return False
        self._next += 1
        return True

    def _take_kind(self, kind: str) -> _Token | None:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if token is None or token.kind != kind:
            return None
        self._next += 1
        return token

    def _error(self, expected: str, at: int | None = None) -> GatemaskError:
        if at is None:
            at = self._tokens[self._next].at if self._next < len(self._tokens) else len(self._text)
        return GatemaskError(
            "The condition cannot be read.",
            where=f"--where {self._text}",
            received=f"{self._text[at:][:40]!r} at character {at + 1}" if self._text[at:].strip() else "its end",
            expected=expected,
            do="Write it like 'epochs>10 and (model.encoder~b4 or tags=baseline)'.",
        )


def _value_of(text: str) -> JsonValue:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return float(text) if _NUMBER.fullmatch(text) else text


def _comparison_of(key: str, sign: str, wanted: JsonValue, text: str) -> Condition:
    if sign == "~":
        return lambda row: any(text.lower() in _as_text(part).lower() for part in _parts(row.get(key)))
    if sign in ("=", "=="):
        return lambda row: any(_equal(part, wanted, text) for part in _parts(row.get(key)))
    if sign == "!=":
        return lambda row: not any(_equal(part, wanted, text) for part in _parts(row.get(key)))
    compare = _ORDER[sign]
    if not isinstance(wanted, float):
        return lambda row: any(isinstance(part, str) and _by_text(compare, part, text) for part in _parts(row.get(key)))
    number = wanted
    return lambda row: any(
        isinstance(part, int | float) and not isinstance(part, bool) and compare(part, number)
        for part in _parts(row.get(key))
    )


def _by_text(compare: Callable[[float, float], bool], part: str, text: str) -> bool:
    first, second = part.lower(), text.lower()
    return compare((first > second) - (first < second), 0)


def _parts(value: JsonValue) -> list[JsonValue]:
    """Return a value and, of a list, each of its items: a condition holds for a list if it holds for one of them."""
    if isinstance(value, list):
        return [*value, ",".join(_as_text(item) for item in value)]
    return [value]


def _equal(value: JsonValue, wanted: JsonValue, text: str) -> bool:
    if isinstance(value, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, float):
        return value == wanted
    return _as_text(value).lower() == text.lower()


def _as_text(value: JsonValue) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
