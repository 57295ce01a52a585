"""Refuse to let secrets leave this machine."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.secrets.archives import Unpacker, UnreadableArchiveError
from gatemask.secrets.known import known_secrets
from gatemask.secrets.search import PatternSearch, read_blocks


def refuse_secrets(files: Mapping[str, bytes | Path], root: Path) -> None:
    """Raise if a file, or anything packed in it, contains a secret that this machine holds.

    The message names where the secret is kept, never the secret.

    Args:
        files: Contents, or paths, by file name.
        root: Project folder; its .env files are read for secrets.

    Raises:
        GatemaskError: A file contains a secret, or is an archive that cannot be searched.
    """
    secrets = known_secrets(root)
    if not secrets:
        return
    search = PatternSearch(secrets)
    for name, content in files.items():
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            try:
                for packed_name, packed in Unpacker().files(name, file):
                    if place := search.find([packed_name.encode("utf-8", "surrogateescape")]):
                        raise _refusal("the name of a file", place)
                    if place := search.find(read_blocks(packed)):
                        raise _refusal(packed_name, place)
            except UnreadableArchiveError as error:
                raise GatemaskError(
                    "An archive cannot be searched for secrets.",
                    where=name,
                    received=error,
                    do="Repair it, replace it by its files, or leave it out.",
                ) from None


def refuse_secrets_in(folders: Iterable[Path], root: Path) -> None:
    """Raise if a file in one of the folders contains a secret; links are followed.

    Args:
        folders: Folders whose files are about to leave.
        root: Project folder.

    Raises:
        GatemaskError: As for `refuse_secrets`.
    """
    paths = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    refuse_secrets({f"{folder.name}/{path.relative_to(folder)}": path for folder, path in paths}, root)


def _refusal(where: str, place: str) -> GatemaskError:
    return GatemaskError(
        "A secret would be uploaded.",
        where=where,
        received=f"the value of {place}",
        do="Remove it from the file; on Kaggle, attach it to the kernel as a secret. If the value is not a secret, "
        "rename the setting or choose another value.",
    )
