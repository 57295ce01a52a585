"""Refuse to upload secrets: search files for the keys that this machine holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.kaggle.client import cli

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
SHORTEST = 8  # characters; shorter values would match by chance


def refuse_secrets(files: Mapping[str, bytes], root: Path) -> None:
    """Raise if a file contains a secret. The message names where the secret is kept, never the secret.

    Args:
        files: Contents by file name.
        root: Project folder; its .env file is read for secrets.

    Raises:
        GatemaskError: A file contains a secret.
    """
    secrets = [(place, secret.encode()) for place, secret in _secrets(root)]
    for name, content in files.items():
        for place, secret in secrets:
            if secret in content:
                raise GatemaskError(
                    "A secret would be uploaded.",
                    where=name,
                    received=f"the value of {place}",
                    do="Remove it from the YAML or file; on Kaggle, attach it to the kernel as a secret.",
                )


def _secrets(root: Path) -> Iterator[tuple[str, str]]:
    """Yield where each secret is kept, and the secret: environment, .env files, Kaggle's and W&B's own files."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST and not _is_path(value):
            yield name, value
    for path in {root / ".env", Path.cwd() / ".env"}:
        for line in _lines(path):
            name, _, value = line.partition("=")
            if SECRET_NAME.search(name) and len(value := value.strip().strip("\"'")) >= SHORTEST:
                yield f"{path}, {name.strip()}", value
    for path in cli.credential_files():
        yield from _credentials(path)
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    for line in _lines(netrc):
        if match := re.search(r"\bpassword\s+(\S{8,})", line):
            yield str(netrc), match[1]


def _is_path(value: str) -> bool:
    """Return whether the value names a file, such as the one that holds the key."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def _credentials(path: Path) -> Iterator[tuple[str, str]]:
    text = "\n".join(_lines(path))
    try:
        values = json.loads(text)
    except ValueError:
        values = {"token": text.strip()}
    if isinstance(values, dict):
        for name, value in values.items():
            if name not in ("username", "user_name") and isinstance(value, str) and len(value) >= SHORTEST:
                yield str(path), value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
