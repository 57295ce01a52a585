"""Push a kernel, and find out what became of a push whose answer was lost.

A push's id is in the source of its kernel, so Kaggle can be asked later whether it holds that source.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from gatemask.console import say
from gatemask.kaggle.client import api
from gatemask.kaggle.client.cli import KaggleError

UNCLEAR = ("network", "server", "partial", "other")  # errors after which the request may have been carried out
MAX_UNRECORDED = 100  # versions without a record that are read to find the number of a push


class PushOutcome(NamedTuple):
    """The outcome of a push.

    Args:
        state: "running"; "refused"; or "pushing" while unclear: Kaggle must be asked before anything else is done.
        version: Number of the new version, if known.
        error: Raised once the outcome is recorded. A version that runs without its sources has one too.
    """

    state: str
    version: int | None
    error: KaggleError | None = None


def push_and_reconcile(ref: str, push_id: str, folder: Path, timeout_s: int) -> PushOutcome:
    """Push the kernel in `folder`; after an unclear answer, ask Kaggle whether the push arrived.

    Args:
        ref: Kernel, as owner/slug.
        push_id: Id of this push; the script contains it.
        folder: Folder with script and metadata.
        timeout_s: Session limit, in seconds.
    """
    try:
        return PushOutcome("running", api.push_kernel(folder, timeout_s))
    except KaggleError as error:
        if error.kind not in UNCLEAR:
            return PushOutcome("running" if error.kind == "sources" else "refused", error.version, error)
        if not push_arrived(ref, push_id):  # it may still be on its way
            return PushOutcome("pushing", error.version, error)
        say(f"{ref}: the connection broke, but the push is on Kaggle")
        return PushOutcome("running", error.version)


def push_arrived(ref: str, push_id: str) -> bool:
    """Return whether the newest version on Kaggle comes from this push.

    The number of that version is given only in the answer to the push.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, _ = api.kernel_source(ref, Path(folder))
    return source is not None and push_id in source


def settle_push(ref: str, push_id: str) -> bool:
    """Report and return whether an interrupted push arrived."""
    arrived = push_arrived(ref, push_id)
    say(f"{ref}: an interrupted push {'is on Kaggle' if arrived else 'did not get to Kaggle'}")
    return arrived


def find_version(ref: str, mark: str, newest_recorded: int) -> int | None:
    """Return the number of the newest version if its source contains `mark`, or None where that is uncertain.

    Only the answer to a push contains its number, and neither status nor log does. Kaggle shows the source of a given
    version, so versions are read upward from the last recorded one. Usually the next one is the push.

    Args:
        ref: Kernel, as owner/slug.
        mark: Text in the source of the version.
        newest_recorded: Highest version number known so far; 0 if none is.
    """
    with tempfile.TemporaryDirectory() as folder:

        def source(number: int) -> str | None:
            return api.kernel_source(f"{ref}/{number}", Path(folder))[0]

        newest_source, number = api.kernel_source(ref, Path(folder))
        if mark not in (newest_source or ""):
            return None
        if number is not None:
            return number
        for number in range(newest_recorded + 1, newest_recorded + 1 + MAX_UNRECORDED):
            text = source(number)
            if text is None:
                return None
            if mark in text:  # a version after the newest means that Kaggle ignores the number in the request
                return number if source(number + 1) is None else None
    return None
