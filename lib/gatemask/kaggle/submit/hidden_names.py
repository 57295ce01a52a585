"""Names for the hidden test set of a rehearsal: files under unknown ids that still fit the competition's patterns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from gatemask.config.path_patterns import PathPattern, part_names, path_pattern
from gatemask.data.ids import IdRule, without_extension
from gatemask.errors import GatemaskError

ATTEMPTS = 50  # per way of making a name: short numbers are soon taken


class HiddenName(NamedTuple):
    """A test image under an unknown id.

    Args:
        image_id: The unknown id.
        name: Path below the competition's folder.
        visible_id: The image's own id.
        visible_name: Its own path below the raw folder.
    """

    image_id: str
    name: str
    visible_id: str
    visible_name: str


def hidden_name(rule: IdRule, image_id: str, name: str, copy: int, taken: Collection[str]) -> HiddenName:
    """Return a new name for a test image, from which the rule makes an id that is not taken.

    Hidden ids are ordered differently from the visible ones.

    Args:
        rule: How ids of test images are made.
        image_id: Its id.
        name: Its path below the raw folder.
        copy: Number of the copy, from 0.
        taken: Ids in use.

    Raises:
        GatemaskError: No name fits the patterns.
    """
    for changed in _candidates(rule, name, f"{image_id} {copy}"):
        try:
            hidden_id = rule.of_file(changed)
        except GatemaskError:
            continue
        if hidden_id != image_id and hidden_id not in taken and path_pattern(rule.images).readings(changed):
            return HiddenName(hidden_id, changed, image_id, name)
    raise _no_other_name(rule, name)


def _no_other_name(rule: IdRule, name: str) -> GatemaskError:
    return GatemaskError(
        "No other name was found for a test image, so a hidden test set cannot be imitated.",
        where=name,
        received=f"the pattern {rule.images}" + (f" with id {rule.id}" if rule.id else ""),
        expected="a pattern that leaves a part of the id open",
        do="Use a more general pattern for test.images or test.id.",
    )


def hidden_volume(
    rule: IdRule, slices: Sequence[tuple[str, str]], by: str, copy: int, taken: Collection[str]
) -> list[HiddenName]:
    """Return new names for the slices of one volume, which stay together and in their order.

    Args:
        rule: How ids of test images are made.
        slices: Id, and path below the raw folder, of each slice.
        by: Named part that numbers the slices.
        copy: Number of the copy, from 0.
        taken: Ids in use.

    Raises:
        GatemaskError: No name fits the patterns.
    """
    pattern = path_pattern(rule.images)
    others = [part for part in reversed(part_names(rule.images)) if part != by]
    changes: list[Callable[[str], str]] = [
        partial(change, hashlib.sha256(f"{slices[0][0]} {copy} {attempt}".encode()).hexdigest())
        for change in (_as_word, _with_other_digits, _with_other_characters)
        for attempt in range(ATTEMPTS)
    ]
    ways = [(part, change) for change in changes for part in others]
    # A volume that has no name of its own: its slices get numbers with one more digit.
    for part, change in ways or [(by, _as_later_number)]:
        renamed = [_with_part(pattern, name, part, change) for _, name in slices]
        try:
            ids = [rule.of_file(name) for name in renamed]
        except GatemaskError:
            continue
        if len(set(ids)) == len(ids) and not {*ids} & {*taken, *(image_id for image_id, _ in slices)}:
            return [HiddenName(new, name, *old) for new, name, old in zip(ids, renamed, slices, strict=True)]
    raise _no_other_name(rule, slices[0][1])


def _with_part(pattern: PathPattern, name: str, part: str, change: Callable[[str], str]) -> str:
    """Return a path with another text for one of its named parts."""
    pieces = pattern.pieces(name) or [name]
    for place, own in enumerate(pattern.order):
        if own == part and len(pieces) > 2 * place + 1:
            pieces[2 * place + 1] = change(pieces[2 * place + 1])
    return "".join(pieces)


def _as_later_number(text: str) -> str:
    return re.sub(r"[0-9]+", lambda digits: f"1{digits[0]}", text, count=1)


def stand_in_name(pattern: str, name: str, parts: Mapping[str, str] | None = None) -> str:
    """Return a path that fits a pattern, for an image that does not: in place of one that is hidden.

    Args:
        pattern: Glob of the test images.
        name: Path of the image.
        parts: Texts of named parts. Default: that of the file's name for each.

    >>> stand_in_name("test/**/{case}/*.png", "train/a7.png"), stand_in_name("stage_*/images/*", "train/a7.dcm")
    ('test/a7/a7.png', 'stage_a7/images/a7.dcm')
    """
    last = name.rpartition("/")[2]
    stem = without_extension(last)
    folders = [part for part in pattern.split("/") if part != "**"]

    def fill(wildcard: re.Match[str]) -> str:
        return (parts or {}).get(wildcard[0].strip("{}"), stem)

    filled = [re.sub(r"\*+|\?|\[[^\]]*\]|\{[^}]*\}", fill, part) for part in folders]
    suffix = last[len(stem) :] if without_extension(filled[-1]) == filled[-1] else ""
    return "/".join(filled) + suffix


def _candidates(rule: IdRule, name: str, seed: str) -> Iterator[str]:
    """Yield new paths: with a word of its own first, then with other digits, then with other letters and digits."""
    for change in (_as_word, _with_other_digits, _with_other_characters):
        for attempt in range(ATTEMPTS):
            digest = hashlib.sha256(f"{seed} {attempt}".encode()).hexdigest()
            yield from _changed(rule, name, partial(change, digest))


def _changed(rule: IdRule, name: str, change: Callable[[str], str]) -> Iterator[str]:
    if rule.template is not None:
        for part in reversed([part for part in part_names(rule.template) if part != "stem"]):
            pattern = path_pattern(rule.images)
            if (pieces := pattern.pieces(name)) is not None:
                for place, own in enumerate(pattern.order):
                    if own == part:
                        pieces[2 * place + 1] = change(pieces[2 * place + 1])
                yield "".join(pieces)
    elif rule.id is not None and (match := re.search(rule.id, name)):
        for number in range(match.re.groups, 0, -1):
            if match[number]:
                yield name[: match.start(number)] + change(match[number]) + name[match.end(number) :]
    folder, slash, last = name.rpartition("/")
    stem, (before, after) = without_extension(last), _affixes(rule.images)
    middle = stem.removeprefix(before).removesuffix(after)
    yield f"{folder}{slash}{before}{change(middle)}{after}{last[len(stem) :]}"


def _affixes(pattern: str) -> tuple[str, str]:
    """Return the texts around the wildcard of a file name pattern; hidden file names must match it too."""
    parts = re.split(r"[*?]|\[[^\]]*\]|\{[^}]*\}", pattern.split("/")[-1])
    return (parts[0], parts[-1].partition(".")[0]) if len(parts) > 1 else ("", "")


def _as_word(digest: str, _: str) -> str:
    return f"hidden{digest[:16]}"


def _with_other_digits(digest: str, text: str) -> str:
    numbers = iter(str(int(digest, 16)) * (1 + len(text) // 60))
    return "".join(next(numbers) if letter.isdigit() else letter for letter in text)


def _with_other_characters(digest: str, text: str) -> str:
    letters = iter((hashlib.sha256(digest.encode()).hexdigest() + digest) * (1 + len(text) // 60))
    shifted = [chr(ord("a") + int(next(letters), 16)) if letter.isalpha() else letter for letter in text]
    return _with_other_digits(digest, "".join(shifted))
