"""Tags and notes on experiments: runs/<comp>/notes.json.

They are kept with the runs, not with the YAMLs: those are under version control, and a tag would make every commit
that is recorded with a run a "dirty" one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from gatemask.errors import GatemaskError
from gatemask.files import locked, read_json, write_json
from gatemask.project import Project
from gatemask.results.rules import Frozen
from gatemask.results.runs import NoteResult

FILE = "notes.json"
LONGEST_NOTE = 2000  # characters
_TAG = re.compile(r"[\w][\w.:+-]{0,49}")


class Notes(Frozen):
    """What was written about one experiment.

    Args:
        tags: Tags, in alphabetical order.
        note: Note.
    """

    tags: tuple[str, ...] = ()
    note: str = ""


class _File(Frozen):
    experiments: dict[str, Notes] = Field(default_factory=dict)


def read_notes(project: Project) -> dict[str, Notes]:
    """Return tags and notes by experiment.

    Raises:
        GatemaskError: The file is damaged.
    """
    path = project.runs / FILE
    if not path.exists():
        return {}
    do = "Correct it, or restore it from a backup: nothing else holds your tags and notes."
    value = read_json(path, do=do)
    try:
        return dict(_File.model_validate(value).experiments)
    except ValidationError as error:
        first = error.errors()[0]
        received = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise GatemaskError("Tags and notes cannot be read.", where=path, received=received, do=do) from None


def change_tags(project: Project, name: str, tags: Sequence[str], remove: bool = False) -> NoteResult:
    """Add tags to an experiment, or remove them.

    Args:
        project: Project and competition.
        name: Name of the experiment.
        tags: Tags.
        remove: Whether to remove them. Default: False.

    Raises:
        GatemaskError: A tag is not a word, or the file is damaged.
    """
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise GatemaskError(
                "A tag is one word.",
                received=tag,
                expected="up to 50 letters, digits, '_', '.', ':', '+' and '-'",
                do="Keep longer texts in a note: gatemask runs note.",
            )

    def change(notes: Notes) -> Notes:
        changed = set(notes.tags) - set(tags) if remove else {*notes.tags, *tags}
        return notes.model_copy(update={"tags": tuple(sorted(changed))})

    return _change(project, name, change)


def change_note(project: Project, name: str, text: str) -> NoteResult:
    """Replace the note of an experiment; an empty text removes it.

    Args:
        project: Project and competition.
        name: Name of the experiment.
        text: Note.

    Raises:
        GatemaskError: The note is too long, or the file is damaged.
    """
    note = " ".join(text.split())
    if len(note) > LONGEST_NOTE:
        expected = f"at most {LONGEST_NOTE} characters"
        raise GatemaskError("A note is too long.", received=f"{len(note)} characters", expected=expected)
    return _change(project, name, lambda notes: notes.model_copy(update={"note": note}))


def _change(project: Project, name: str, change: Callable[[Notes], Notes]) -> NoteResult:
    """Read, change and write the file under a lock: of two processes, neither loses what the other wrote."""
    path: Path = project.runs / FILE
    with locked(path.with_name(f".{FILE}.lock"), "Another process is writing tags or notes."):
        notes = read_notes(project)
        changed = change(notes.get(name, Notes()))
        kept = {**notes, name: changed}
        kept = {key: value for key, value in sorted(kept.items()) if value != Notes()}
        if kept != notes:
            write_json(path, {"experiments": {key: value.model_dump(mode="json") for key, value in kept.items()}})
    return NoteResult(experiment=name, tags=changed.tags, note=changed.note)
