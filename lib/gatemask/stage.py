"""One way to write a stage: lock, skip if current, work, stamp.

A stage turns files into files. Its stamp, a JSON file, is written last and holds `made_from` (hashes of the inputs),
`outputs` (hashes of the files made), `seconds`, what the stage reports, and `hash`, the hash of all this. Killed at any
time, a stage is simply run again; one whose stamp matches its inputs and outputs does nothing. A stamp that was edited
is not believed. One without a hash, as earlier versions wrote them, is: nothing would be gained by making its outputs
again, which can take hours.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from gatemask.console import say
from gatemask.errors import GatemaskError, StorageError
from gatemask.files import fingerprint, json_default, locked, read_json_object, sha256, write_json
from gatemask.remote import work as remote
from gatemask.storage import storage_errors

Outputs = Iterable[Path] | Mapping[Path, str] | Mapping[Path, str | None]


HASH = "hash"  # key of a stamp

M = TypeVar("M", bound=BaseModel)


class EditedStampError(GatemaskError):
    """A stamp holds other values than its stage wrote."""


def load_document(kind: type[M], path: Path, do: str | None = None) -> M:
    """Read a JSON file that gatemask wrote.

    Args:
        kind: Class of its contents.
        path: The file.
        do: What the user should do if it is damaged. Default: delete it, as fits the stamp of a stage.

    Raises:
        GatemaskError: The file cannot be read, or lacks a field.
    """
    fields = read_json_object(path, do=do)
    if HASH in fields and "made_from" in fields and fields[HASH] != _hash(fields):
        raise EditedStampError(
            "The stamp of a stage was edited after gatemask wrote it.",
            where=path,
            received="values that do not have the recorded hash",
            do=_advice(path),
        )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise GatemaskError(
            "Missing or invalid field in a file that gatemask wrote.",
            where=path,
            received=f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            do=do or _advice(path),
        ) from None


def write_stamp(path: Path, fields: Mapping[str, object]) -> Path:
    """Write the fields of a stamp, with their hash."""
    plain = json.loads(
        json.dumps({name: value for name, value in fields.items() if name != HASH}, default=json_default)
    )
    return write_json(path, {**plain, HASH: _hash(plain)})


def _hash(fields: Mapping[str, object]) -> str:
    return fingerprint({name: value for name, value in fields.items() if name != HASH})


def _advice(stamp: Path) -> str:
    if (stamp.parent / "best.weights.h5").exists():
        return f"Undo the change, or restore {stamp} from a backup. Without it, this fold is trained again."
    return f"Delete {stamp} and run the command again; only its own stage is repeated."


class CommandResult(BaseModel):
    """Report of a command: typed fields, printed as JSON by `--json`. Each command has a subclass."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), defer_build=True)

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the fields as plain JSON values. Optional fields that were never set are left out."""
        return self.model_dump(mode="json", exclude_unset=True)


class StageResult(CommandResult):
    """Report of a stage, which is also kept in its stamp.

    Args:
        current: Whether the stage had nothing to do. Default: False.
        seconds: Duration of the run that made the outputs, in seconds.
    """

    paths: ClassVar[tuple[str, ...]] = ()  # fields that hold a path; stamps keep those below them as relative

    current: bool = False
    seconds: float = 0.0

    @classmethod
    def load(cls, stamp: Path) -> Self:
        """Read the result that a stamp holds.

        Raises:
            GatemaskError: The stamp cannot be read, or lacks a field.
        """
        result = load_document(cls, stamp)
        found = {name: str(stamp.parent / getattr(result, name)) for name in cls.paths}
        return result.model_copy(update=found) if found else result

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the fields as plain JSON values, `current` first. Optional fields that were never set are left out."""
        return {"current": self.current, **self.model_dump(mode="json", exclude_unset=True, exclude={"current"})}

    def stamped(self, folder: Path | None = None) -> dict[str, JsonValue]:
        """Return the fields that go into the stamp.

        Args:
            folder: Folder of the stamp, for paths below it. Default: paths stay as they are.
        """
        fields = self.model_dump(mode="json", exclude_unset=True, exclude={"current", "seconds"})
        if folder is not None:
            for name in self.paths:
                if (path := Path(str(fields[name]))).is_relative_to(folder):
                    fields[name] = path.relative_to(folder).as_posix()
        return fields


class Stamp(CommandResult):
    """The part of a stamp that all stages write.

    Args:
        made_from: Hashes and settings that decided the outputs.
        outputs: SHA-256 of each file made, by path relative to the stamp's folder; None if it was not hashed.
        seconds: Duration of the run that made the outputs, in seconds.
    """

    made_from: dict[str, object] = {}
    outputs: dict[str, str | None] = {}
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the common part of a stamp.

        Raises:
            GatemaskError: The file is not a stamp.
        """
        return load_document(cls, path)


def require_unchanged(stamp: Path, file: Path, do: str) -> None:
    """Raise if a file differs from the one that its stage wrote. A file that the stamp does not list passes.

    Args:
        stamp: Stamp of the stage.
        file: File that the stage made.
        do: What the user should do then.

    Raises:
        GatemaskError: The file is missing, cut short or edited.
    """
    digest = Stamp.load(stamp).outputs.get(os.path.relpath(file, stamp.parent))
    if digest is None or (file.is_file() and sha256(file) == digest):
        return
    raise GatemaskError(
        "A file is not the one that gatemask wrote.",
        where=file,
        received="a file that was cut short or edited" if file.is_file() else "no file",
        expected=f"the file with the hash in {stamp.name}",
        do=do,
    )


def outputs_unchanged(stamp: Path) -> bool:
    """Return whether the files that a stamp lists exist with the recorded hashes."""
    recorded = Stamp.load(stamp).outputs
    return all((stamp.parent / name).exists() for name in recorded) and all(
        digest is None or sha256(stamp.parent / name) == digest for name, digest in recorded.items()
    )


R = TypeVar("R", bound=StageResult)


@dataclass(frozen=True)
class Stage(Generic[R]):
    """A step of the pipeline and the stamp that marks its completion.

    Args:
        name: Name for messages, such as "oof-tune".
        stamp: JSON file that is written last.
        made_from: Hashes and settings that decide the outputs.
        result: Class of the result.
        whole: Whether all files below the stamp's folder belong to this stage, and are in the remote too. Default:
            False, for the listed outputs and the files next to the stamp.
    """

    name: str
    stamp: Path
    made_from: Mapping[str, object]
    result: type[R]
    whole: bool = False

    def current(self) -> R | None:
        """Return the recorded result if inputs and outputs still match the stamp, else None."""
        if not self.stamp.exists():
            return None
        try:
            if Stamp.load(self.stamp).made_from != self.made_from or not outputs_unchanged(self.stamp):
                return None
            return self.result.load(self.stamp).model_copy(update={"current": True})
        except StorageError as error:
            if error.errno == errno.ENOENT:  # another process has just begun to make the outputs again
                return None
            raise

    def run(self, work: Callable[[], tuple[R, Outputs]], tidy: Callable[[], object] = lambda: None) -> R:
        """Return the recorded result if it is current; otherwise do the work under a lock and write the stamp.

        Args:
            work: Makes the files. Returns the result and the files made, with their hashes if available.
            tidy: Removes what only an unfinished stage needs. Called after the stamp is written, under the same lock.
                Default: nothing.

        Raises:
            GatemaskError: Another process is running this stage.
            StorageError: The disk is full or read-only, or access is denied. The stage can be run again.
        """
        with suppress(EditedStampError):
            if (done := self.current()) is not None and self.is_uploaded():
                return done
        with self.locked():
            try:
                if (done := self.current()) is not None:  # finished by another process in the meantime
                    return done
            except EditedStampError:
                say(f"{self.stamp} was edited after gatemask wrote it: {self.name} runs again.")
                self.stamp.unlink()
            started = time.monotonic()
            with storage_errors(self.stamp.parent):
                result, outputs = work()
                result = self.finish(result, outputs, started)
                tidy()
            return result

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this stage while the block runs: two processes never write its files at once.

        With a remote, no other machine writes them either, and they are uploaded after the block.

        Raises:
            GatemaskError: Another process holds it.
        """
        with (
            locked(self.stamp.with_name(f".{self.stamp.name}.lock"), f"Another process is running {self.name}."),
            remote.work_on(self.stamp, self.whole, f"Another machine is running {self.name}."),
        ):
            yield

    def is_uploaded(self) -> bool:
        """Return whether the remote, if there is one, has the files of this stage: a killed upload has not."""
        return remote.is_uploaded(self.stamp, self.whole)

    def finish(self, result: R, outputs: Outputs, started: float) -> R:
        """Write the stamp, the last act of a stage, and return the result with its duration.

        Args:
            result: What the stage reports.
            outputs: Files made, with their hashes if available.
            started: `time.monotonic()` when the stage began.
        """
        digests = outputs if isinstance(outputs, Mapping) else {path: sha256(path) for path in outputs}
        names = {os.path.relpath(path, self.stamp.parent): digest for path, digest in digests.items()}
        seconds = round(time.monotonic() - started, 2)
        reported = result.stamped(self.stamp.parent)
        fields = {"made_from": dict(self.made_from), "outputs": names, "seconds": seconds, **reported}
        write_stamp(self.stamp, fields)
        return result.model_copy(update={"seconds": seconds})

    def require(self, missing: str, outdated: str, do: str) -> R:
        """Return the recorded result.

        Args:
            missing: Error message if the stage has never run.
            outdated: Error message if its inputs or outputs have changed since.
            do: What the user should do then.

        Raises:
            GatemaskError: The stage has not run on these inputs.
        """
        if not self.stamp.exists():
            raise GatemaskError(missing, where=self.stamp, do=do)
        done = self.current()
        if done is None:
            raise GatemaskError(outdated, where=self.stamp, do=do)
        return done
