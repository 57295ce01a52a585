"""Globs with named parts: `{case}` matches like `*`, within one folder or file name, and gives the text a name.

`train/{case}/{slice}.png` matches train/case1/s2.png with case = case1 and slice = s2. A name that occurs twice stands
for the same text both times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache

NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def part_names(pattern: str) -> list[str]:
    """Return the names in a pattern, each once, in order.

    >>> part_names("train/{case}/{case}_{slice}.png")
    ['case', 'slice']
    """
    return list(dict.fromkeys(NAME.findall(pattern)))


def as_glob(pattern: str) -> str:
    """Return the pattern as a plain glob, with * in place of each name.

    >>> as_glob("**/{case}/{slice}*.png")
    '**/*/*.png'
    """
    folders = pattern.split("/")
    return "/".join(re.sub(r"\*+", "*", NAME.sub("*", part)) if NAME.search(part) else part for part in folders)


@lru_cache(maxsize=256)
def path_pattern(pattern: str) -> PathPattern:
    """Return a compiled pattern."""
    return PathPattern(pattern)


class PathPattern:
    """A glob with named parts, compiled.

    Args:
        pattern: The glob; paths are compared with it as text with forward slashes.

    Attributes:
        order: Names of the parts in order, with repetitions.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        pieces = NAME.split(pattern)
        self._globs, self.order = pieces[::2], pieces[1::2]

    def readings(self, text: str, start: int = 0) -> list[dict[str, str]]:
        """Return the parts of a path; two readings where the pattern fits in several ways, none where it does not fit.

        Args:
            text: The path.
            start: Position from which the pattern must fit, up to the end. Default: 0.
        """
        found: list[dict[str, str]] = []
        for regex in self._extremes:
            match = regex.fullmatch(text, start)
            if match is not None and (parts := match.groupdict()) not in found:
                found.append(parts)
        return found

    def pieces(self, text: str) -> list[str] | None:
        """Return a path cut at its named parts: plain text at even places, text of a name at odd ones."""
        match = self._cut.fullmatch(text)
        return list(match.groups()) if match else None

    def bindings(self, text: str, known: Callable[[str, str], bool]) -> Iterator[dict[str, str]]:
        """Yield every way in which a path fits the pattern with known texts for its names.

        Args:
            text: The path.
            known: Whether a name, the first argument, may have a text, the second.
        """
        yield from self._bind(text, 0, 0, {}, known)

    def _bind(
        self, text: str, number: int, start: int, bound: dict[str, str], known: Callable[[str, str], bool]
    ) -> Iterator[dict[str, str]]:
        if number == len(self.order):
            if self._plain[number].fullmatch(text, start):
                yield bound
            return
        name = self.order[number]
        for begin in range(start, len(text)):
            if not self._plain[number].fullmatch(text, start, begin):
                continue
            slash = text.find("/", begin)
            for end in range(begin + 1, 1 + (len(text) if slash < 0 else slash)):
                value = text[begin:end]
                fits = bound[name] == value if name in bound else known(name, value)
                if fits and self._rest[number].fullmatch(text, end):
                    yield from self._bind(text, number + 1, end, {**bound, name: value}, known)

    @cached_property
    def _extremes(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Expressions that give the names as much, and as little, of the text as possible."""
        return self._compile("+", "*?"), self._compile("+?", "*")

    def _compile(self, for_names: str, for_stars: str) -> re.Pattern[str]:
        expression, seen = _expression(self._globs[0], for_stars), set[str]()
        for name, glob in zip(self.order, self._globs[1:], strict=True):
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]{for_names})"
            expression += _expression(glob, for_stars)
            seen.add(name)
        return re.compile(expression)

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        expression = f"({_expression(self._globs[0], '*?')})"
        for glob in self._globs[1:]:
            expression += f"([^/]+)({_expression(glob, '*?')})"
        return re.compile(expression)

    @cached_property
    def _plain(self) -> list[re.Pattern[str]]:
        """The globs between the names."""
        return [re.compile(_expression(glob, "*")) for glob in self._globs]

    @cached_property
    def _rest(self) -> list[re.Pattern[str]]:
        """What follows each name, later names with any text."""
        return [
            re.compile("[^/]+".join(_expression(glob, "*") for glob in self._globs[number + 1 :]))
            for number in range(len(self.order))
        ]


def _expression(glob: str, for_stars: str) -> str:
    """Return a glob as a regular expression; `for_stars` is the quantifier of *."""
    expression, index = "", 0
    while index < len(glob):
        if glob.startswith("**/", index):
            expression, index = expression + f"(?:[^/]+/){for_stars}", index + 3
            continue
        character, index = glob[index], index + 1
        if character == "*":
            if glob.startswith("*", index):  # ** at the end
                expression, index = expression + f".{for_stars}", index + 1
            else:
                expression += f"[^/]{for_stars}"
        elif character == "?":
            expression += "[^/]"
        elif character == "[" and (closing := glob.find("]", index + 1 + (glob[index : index + 1] == "!"))) > 0:
            content = glob[index:closing].replace("\\", "\\\\")
            content = "^" + content[1:] if content.startswith("!") else content.replace("^", "\\^", 1)
            expression, index = expression + f"[{content}]", closing + 1
        else:
            expression += re.escape(character)
    return expression
