"""Join two lists of ids: report what matches, reject what (almost) does not, and suggest the likely repair.

Every meeting of two lists goes through `join_ids`: images with labels, groups, columns, folds and samples, and fold
files with tables. A join that matches nothing must never look like images without labels or without groups.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gatemask.console import say
from gatemask.data.ids import INVISIBLE
from gatemask.errors import GatemaskError

NEAR_EMPTY = 0.1  # share of the shorter list up to which matches are a coincidence
REPAIRED = 0.5  # share of the ids without a partner that a repair must match to count as the cause
FEW = 2, 0.02  # ids, and their share of the shorter list, below which a repair is suggested but not demanded
EXAMPLES = 3


class IdList(NamedTuple):
    """One of the two lists.

    Args:
        what: What the ids belong to, in the plural, such as "training images".
        ids: The ids, each once or more.
        where: File or folder, for messages.
    """

    what: str
    ids: Collection[str]
    where: object = None


class Repair(NamedTuple):
    """A difference in spelling that explains why ids have no partner.

    Args:
        cause: The difference, as a sentence without a full stop.
        pairs: Ids that would match, first list and second list.
    """

    cause: str
    pairs: list[tuple[str, str]]

    @property
    def advice(self) -> str:
        """The cause with an example."""
        ours, theirs = self.pairs[0]
        return f"{self.cause}: {theirs} would match {ours}."


@dataclass(frozen=True)
class IdJoin:
    """The result of a join.

    Args:
        first: The first list.
        second: The second list.
        matched: Ids in both.
        first_only: Ids without a partner in the second list, sorted.
        second_only: Ids without a partner in the first list, sorted.
        repair: The likely cause, if many ids without a partner differ in the same way.
    """

    first: IdList
    second: IdList
    matched: frozenset[str]
    first_only: list[str]
    second_only: list[str]
    repair: Repair | None

    @property
    def share(self) -> float:
        """Matched share of the shorter list; 1 if the first is empty, 0 if only the second is."""
        shorter = min(len(set(self.first.ids)), len(set(self.second.ids)))
        return len(self.matched) / shorter if shorter else float(not self.first.ids)

    @property
    def summary(self) -> str:
        """Counts and examples of both sides, in one line."""
        sides = [(self.first, self.second, self.first_only), (self.second, self.first, self.second_only)]
        return "; ".join(
            f"{len(self.matched)} of {len(set(side.ids))} {side.what} match"
            + (f", not {examples(alone)}" if alone else "")
            for side, _, alone in sides
        )

    def report(self, consequence: str = "") -> None:
        """Print the summary if an id of either list has no partner.

        Args:
            consequence: What happens to such ids. Default: nothing is added.
        """
        if self.first_only or self.second_only:
            say(" ".join(filter(None, [f"{self.summary}.", consequence, self.repair and self.repair.advice])))


def join_ids(
    first: IdList, second: IdList, do: str, strict: bool = True, fault: str | None = None, complete: bool = False
) -> IdJoin:
    """Join two lists of ids.

    Args:
        first: The list that needs partners, such as images.
        second: The list in which they are looked up, such as the rows of a table.
        do: What the user should do if nothing is repaired by spelling.
        strict: Whether ids that differ in spelling only are rejected even if most others match. Default: True.
        fault: First sentence of the error. Default: that the ids of the two lists do not match.
        complete: Whether every id needs a partner. Default: False.

    Raises:
        GatemaskError: (Almost) nothing matches, many ids differ in nothing but their spelling, or an id has no partner
            although `complete` is set.
    """
    ours, theirs = set(first.ids), set(second.ids)
    alone = sorted(ours - theirs), sorted(theirs - ours)
    join = IdJoin(first, second, frozenset(ours & theirs), *alone, find_repair(*alone))
    if join.share <= NEAR_EMPTY:
        amount = "none" if not join.matched else "almost none"
    elif strict and join.repair and len(join.repair.pairs) >= max(FEW[0], FEW[1] * min(len(ours), len(theirs))):
        amount = f"{len(join.repair.pairs)} only in another spelling"
    elif complete and (join.first_only or join.second_only):
        amount = f"{len(join.second_only)} unknown ids, {len(join.first_only)} missing ids"
    else:
        return join
    raise GatemaskError(
        fault or f"The ids of two lists do not match: {first.what} and {second.what}.",
        where=second.where,
        received=f"{amount}: {join.summary}",
        expected="the same ids in both",
        do=f"{join.repair.advice} {do}" if join.repair else do,
    )


def examples(ids: Iterable[str]) -> str:
    """Return the first few ids, for messages."""
    listed = sorted(ids)
    return ", ".join(listed[:EXAMPLES]) + (", ..." if len(listed) > EXAMPLES else "")


# --- repairs -----------------------------------------------------------------------------------------------


def find_repair(first: Collection[str], second: Collection[str]) -> Repair | None:
    """Return the difference in spelling that matches most ids of two lists without partners.

    Args:
        first: Ids of the first list that are not in the second.
        second: Ids of the second list that are not in the first.

    Returns:
        None if no difference explains half of the shorter list.
    """
    if not first or not second:
        return None
    needed = max(1, REPAIRED * min(len(first), len(second)))
    best: Repair | None = None
    for cause, key in REPAIRS:
        keys: dict[str, list[str]] = {}
        for ours in first:
            keys.setdefault(key(ours), []).append(ours)
        pairs = [(keys[key(theirs)][0], theirs) for theirs in sorted(second) if len(keys.get(key(theirs), ())) == 1]
        if len(pairs) >= needed and (best is None or len(pairs) > len(best.pairs)):
            best = Repair(cause, sorted(pairs))
    for part, cut in (("a prefix", _ends), ("a suffix", _beginnings)):
        for longer, shorter, swapped in ((first, second, False), (second, first, True)):
            shorter = set(shorter)
            found = [(name, part_) for name in sorted(longer) for part_ in cut(name) if part_ in shorter]
            if len({name for name, _ in found}) >= needed and (best is None or len(found) > len(best.pairs)):
                side = "second" if swapped else "first"
                pairs = [(short, long) if swapped else (long, short) for long, short in found]
                best = Repair(f"The ids of the {side} list have {part} such as a folder, extension or number", pairs)
    return best


def _digits_without_zeros(text: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def _without_decimals(text: str) -> str:
    return re.sub(r"(?<=[0-9])\.0+$", "", text)


def _without_any_extension(text: str) -> str:
    return re.sub(r"(\.[A-Za-z][A-Za-z0-9]{0,9})+$", "", text)


def _in_one_form(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    return "".join("-" if unicodedata.category(letter) == "Pd" else letter for letter in text)


def _without_blanks(text: str) -> str:
    return "".join(letter for letter in text if not letter.isspace() and letter not in INVISIBLE)


def _without_quotes(text: str) -> str:
    return re.sub(r"[\"'`\u2018\u2019\u201c\u201d]", "", text)


def _without_separators(text: str) -> str:
    return re.sub(r"[\s_\-./\\:]+", "", text)


def _all_at_once(text: str) -> str:
    for _, repair in REPAIRS[:-1]:
        text = repair(text)
    return text


REPAIRS: list[tuple[str, Callable[[str], str]]] = [
    ("Leading zeros were lost, as happens when a table is opened as numbers", _digits_without_zeros),
    ("Ids were written as decimal numbers", lambda text: _digits_without_zeros(_without_decimals(text))),
    ("Only the letter case differs", str.casefold),
    ("Only an extension differs", _without_any_extension),
    ("Only the Unicode form differs", _in_one_form),
    ("Only blanks differ", _without_blanks),
    ("Only quotes differ", _without_quotes),
    ("Only separators (_, -, blanks, points) differ", _without_separators),
    ("Several things differ (zeros, letter case, extension, blanks or separators)", _all_at_once),
]

SEPARATORS = re.compile(r"[/\\_\-. ]+")


def _ends(text: str) -> list[str]:
    """Return what follows each separator."""
    return [text[match.end() :] for match in SEPARATORS.finditer(text)]


def _beginnings(text: str) -> list[str]:
    """Return what precedes each separator."""
    return [text[: match.start()] for match in SEPARATORS.finditer(text)]
