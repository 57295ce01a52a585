"""YAML 1.2: what a scalar means, what is rejected, and what is written reads back the same."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from gatemask.errors import GatemaskError
from gatemask.yaml12 import dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("FALSE", False),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("8:30", "8:30"),
        ("190:20:30", "190:20:30"),
        ("1_000", "1_000"),
        ("1e-3", 1e-3),
        ("1E3", 1e3),
        (".5", 0.5),
        ("+1.", 1.0),
        (".inf", math.inf),
        ("inf", "inf"),
        ("2001-13-45", "2001-13-45"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("!!float 1", 1.0),
        ("'1'", "1"),
        ("0,001", "0,001"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    parsed = parse_yaml(f"key: {text}", "f.yaml").value["key"]
    assert (parsed, type(parsed)) == (value, type(value))


def test_aliases_are_copies_and_merge_keys_keep_their_lines() -> None:
    parsed = parse_yaml("a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  x: 3\n", "f.yaml")
    assert parsed.value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}}
    assert parsed.value["a"] is not parsed.value["b"]
    assert (parsed.lines["c", "x"], parsed.lines["c", "y"], parsed.lines[("b",)]) == (5, 1, 2)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REJECTED = {
    "an alias bomb": (BOMB, "values, aliases replaced"),
    "a bomb of merges": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
        "values, aliases replaced",
    ),
    "recursion": ("a: &a [*a]", "contains itself"),
    "recursion by a merge": ("a: &a {<<: *a}", "contains itself"),
    "depth": ("a: " + "[" * 100_000, "levels inside each other"),
    "depth of blocks": ("- " * 100_000 + "x", "levels inside each other"),
    "depth by aliases": ("a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99)), "levels"),
    "an unknown alias": ("a: *b", "not defined"),
    "a list as key": ("? [a]\n: b", "key"),
    "a wrong bool": ("a: !!bool abc", "'abc' as bool"),
    "a wrong int": ("a: !!int 1.5", "'1.5' as int"),
    "a wrong float": ("a: !!float x", "'x' as float"),
    "a date": ("a: !!timestamp 2001-13-45", "timestamp"),
    "a set": ("a: !!set {x, y}", "set"),
    "an object": ("a: !!python/object:os.system x", "python"),
    "a huge integer": ("a: " + "9" * 5000, "digits"),
    "a huge hexadecimal": ("a: 0x" + "f" * 5000, "digits"),
    "a null character": ('a: "\\0"', "U+0000"),
    "an escape character": ('a: "\\e[31m"', "U+001B"),
    "a broken code point": ('a: "\\UFFFFFFFF"', "line 1"),
    "two documents": ("a: 1\n---\nb: 1", "second document"),
    "a version of 6000 digits": ("%YAML " + "9" * 6000 + ".1\n---\na: 1", "version"),
    "an open bracket": ("a: [", "line"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_what_no_file_needs_is_rejected_at_once(what: str) -> None:
    text, word = REJECTED[what]
    with pytest.raises(GatemaskError, match=re.escape(word)):
        parse_yaml(text, "f.yaml")


def test_long_documents_are_rejected_before_they_are_parsed() -> None:
    with pytest.raises(GatemaskError, match="too long"):
        parse_yaml("#" * 2_000_000, "f.yaml")


TEXTS = ["1e5", "0o17", "0123", "8:30", "1_000", "yes", "null", "~", "", ".inf", "-1", "<<", "=", "a: b", "#", "x\ny"]


@pytest.mark.parametrize(
    "value", [*TEXTS, "\u2028", " a ", 1e-5, 1e20, math.inf, -0.0, 123, True, None, [[]], {"1": {}}]
)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    shared = [value]
    for text in (dump_yaml({"k": shared, "again": shared}), dump_yaml({"k": shared, "again": shared}, flow_style=None)):
        parsed = parse_yaml(text, "f.yaml").value
        assert parsed == {"k": [value], "again": [value]}
        assert type(parsed["k"][0]) is type(value)
