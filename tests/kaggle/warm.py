"""The real kaggle command without its half second of imports, for tests that do not concern the start itself.

Like a process started by `gatemask.kaggle.client.cli.start`, each call reads the credentials, writes to the caller's
files and can be killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.warm import Call, Warm


@contextmanager
def warm(folder: Path) -> Iterator[Any]:
    """Yield a replacement for `gatemask.kaggle.client.cli.start`; its socket is in `folder`."""
    # Its imports read credentials; here are none.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")}
    helper = Warm(folder, ["kaggle.cli"], {**variables, "HOME": str(folder)})

    def start(
        arguments: Sequence[str], *, stdout: IO[bytes], stderr: int, environment: Mapping[str, str] | None = None
    ) -> Call:
        variables = {**os.environ, **(environment or {})}
        return helper.start(["-m", "kaggle", *arguments], stdout=stdout, stderr=stderr, environment=variables)

    try:
        yield start
    finally:
        helper.close()
