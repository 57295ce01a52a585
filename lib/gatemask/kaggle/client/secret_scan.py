"""Nothing secret leaves: what would be uploaded is searched for the keys that this machine knows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.kaggle.client import cli

NAMED_SO = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
SHORTEST = 8  # characters; anything shorter would be found by chance


def known(root: Path) -> Iterator[tuple[str, str]]:
    """Where a secret is kept, and the secret: environment, .env files, Kaggle's and W&B's own files."""
    for name, value in os.environ.items():
        if NAMED_SO.search(name) and len(value) >= SHORTEST and not _is_path(value):
            yield name, value
    for path in {root / ".env", Path.cwd() / ".env"}:
        for line in _lines(path):
            name, _, value = line.partition("=")
            if NAMED_SO.search(name) and len(value := value.strip().strip("\"'")) >= SHORTEST:
                yield f"{path}, {name.strip()}", value
    for path in cli.credential_files():
        yield from _in_file(path)
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    for line in _lines(netrc):
        if found := re.search(r"\bpassword\s+(\S{8,})", line):
            yield str(netrc), found[1]


def refuse(data: bytes, what: str, root: Path) -> None:
    """Raise where `data` holds a secret; the message names the secret's home, never the secret.

    Raises:
        GatemaskError: it does.
    """
    refuse_any({what: data}, root)


def refuse_any(files: Mapping[str, bytes], root: Path) -> None:
    """`refuse` for many files, by name; what is secret is looked up once."""
    secrets = [(home, secret.encode()) for home, secret in known(root)]
    for what, data in files.items():
        for home, secret in secrets:
            if secret in data:
                raise GatemaskError(
                    "A secret would be uploaded.",
                    where=what,
                    received=f"the value of {home}",
                    do="Take it out of the YAML or file that holds it; on Kaggle, attach it to the kernel as a secret.",
                )


def _is_path(value: str) -> bool:
    """A variable may name the file that holds the key."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def _in_file(path: Path) -> Iterator[tuple[str, str]]:
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
