"""Find images of several files: their names differ in one word, such as red and green."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gatemask.data.ids import without_extension
from gatemask.new.decisions import Decisions, Question
from gatemask.new.files import shared_beginning, suffix_of
from gatemask.new.naming import TOKEN, Known, Naming, stem_of

MOST_CHANNELS = 8
NUMBERED = re.compile(r"[A-Za-z]*[0-9]+")
ENOUGH = 0.5  # share of the images whose id must be known
CHANNEL_WORDS = re.compile(
    "red|green|blue|yellow|cyan|magenta|nir|ir|rgb|swir|thermal|depth|dapi|gfp|hoechst|actin|er|nuclei|protein|flair|t1|"
    "t1c|t1ce|t1gd|t2|adc|dwi|vv|vh|hh|hv|dem|elevation"
)


def find_channels(names: Sequence[str], known: Known, decisions: Decisions) -> Naming | None:
    """Return the naming of images whose files differ in one word; None where each file is an image."""
    for place, by_rest in _words(names):
        words = sorted(next(iter(by_rest.values())))
        rests = list(by_rest)
        stems = [stem_of(name) for name in names]
        if len(set(stems)) == len(stems) and len(known.cells & set(stems)) >= ENOUGH * len(stems):
            continue  # labels name each file
        naming = _channel_naming(rests, words, suffix_of(names))
        if naming is None:
            continue
        known_words = sum(CHANNEL_WORDS.fullmatch(word.lower()) is not None for word in words)
        ids = [stem_of(naming.rule.of_file(rest.replace("\0", words[0]))) for rest in rests]
        labeled = len(known.cells & set(ids)) / len(ids)
        text = f"{len(words)} files per image: {', '.join(words)}"
        why = f"their names differ in one word{' of the folder' if place < 0 else ''} only"
        if known_words >= 2 or labeled >= ENOUGH:
            decisions.note("files", text, why)
            return naming
        if all(NUMBERED.fullmatch(word) for word in words):
            continue  # slices, rather
        answer = decisions.choose(
            Question(
                "files",
                f"Are the files that differ only in {', '.join(words)} channels of one image?",
                {"images": "each file is an image", "channels": text},
                "images",
                f"{why}, but none of the words names a channel",
            )
        )
        return naming if answer == "channels" else None
    return None


def _words(names: Sequence[str]) -> Iterator[tuple[int, dict[str, set[str]]]]:
    """Yield places in the paths where every image has the same few words: words by path with a gap."""
    suffixes = {name: name[len(without_extension(name)) :] for name in names}
    bare = [name.removesuffix(suffixes[name]) for name in names]
    for in_folder in (False, True):
        for place in (-1, -2, -3, 0):
            by_rest: dict[str, set[str]] = {}
            for name in bare:
                folder, _, stem = name.rpartition("/")
                text, offset = (folder, 0) if in_folder else (stem, len(folder) + bool(folder))
                tokens = list(TOKEN.finditer(text)) if not in_folder else list(re.finditer(r"[^/]+", text))
                if not -len(tokens) <= place < len(tokens):
                    break
                start, end = offset + tokens[place].start(), offset + tokens[place].end()
                by_rest.setdefault(f"{name[:start]}\0{name[end:]}", set()).add(name[start:end])
            else:
                words = next(iter(by_rest.values()))
                few = 2 <= len(words) <= MOST_CHANNELS and len(by_rest) > 1
                if few and all(one == words for one in by_rest.values()) and not any(w.isdigit() for w in words):
                    yield (-1 if in_folder else 0), by_rest


def _channel_naming(rests: Sequence[str], words: Sequence[str], suffix: str) -> Naming | None:
    """Return the naming of several files per image.

    Args:
        rests: Path of each image below the raw folder, without suffix, with a zero byte for the word.
        words: The words.
        suffix: Glob of the suffixes.
    """
    folders = [rest.split("/") for rest in rests]
    if len({len(parts) for parts in folders}) > 1:
        return None
    pattern = []
    for level in zip(*folders, strict=True):
        values = set(level)
        if len(values) == 1:
            pattern.append(level[0])
            continue
        prefix, rest = _shared_ends(list(values))
        pattern.append(f"{prefix}{{}}{rest}")
    varying = [place for place, part in enumerate(pattern) if "{}" in part]
    if not varying:
        return None
    parts = ["id"] if len(varying) == 1 else [*(f"folder{n + 1}" for n in range(len(varying) - 1)), "name"]
    for place, part in zip(varying, parts, strict=True):
        pattern[place] = pattern[place].replace("{}", f"{{{part}}}")
    root = "/".join(pattern[: next(place for place, part in enumerate(pattern) if "{" in part or "\0" in part)])
    tail = "/".join(pattern).removeprefix(root).lstrip("/")
    template = None if parts == ["id"] else "_".join(f"{{{part}}}" for part in parts)
    return Naming(root, {_channel_name(word): tail.replace("\0", word) + suffix for word in words}, template)


def _channel_name(word: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", word.lower())


def _shared_ends(values: Sequence[str]) -> tuple[str, str]:
    """Return what all values begin with and end with, as far as it belongs to the gap.

    Digits that all ids happen to share belong to the ids.
    """
    before = re.match(r".*\0[_\-. ]?", shared_beginning(values))
    after = re.search(r"[_\-. ]?\0.*", shared_beginning(value[::-1] for value in values)[::-1])
    return before[0] if before else "", after[0] if after else ""
