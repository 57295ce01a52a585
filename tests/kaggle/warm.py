"""The real kaggle command without its half second of imports, for tests that do not concern the start itself.

Like a process started by `gatemask.kaggle.client.cli.start`, each call reads the credentials, writes to the caller's
files, can be killed and ends with its caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.tiny import ROOT
from tests.warm import Call, Warm, start

# gatemask with the warm kaggle command whose socket is in WARM_KAGGLE.
GATEMASK = f"""import os, sys
sys.path.insert(0, {ROOT!r})
from pathlib import Path
from gatemask.kaggle.client import cli
from tests.kaggle import warm
cli.start = warm.starter(Path(os.environ["WARM_KAGGLE"]))
from gatemask.cli import main
main()
"""


def starter(place: Path) -> Callable[..., Call]:
    """Return a replacement for `gatemask.kaggle.client.cli.start`, in any process.

    Args:
        place: Socket of the warm process.
    """

    def start_kaggle(
        arguments: Sequence[str],
        *,
        stdout: IO[bytes],
        stderr: int,
        held: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Call:
        variables, command = {**os.environ, **(environment or {})}, ["-m", "kaggle", *arguments]
        return start(place, command, stdout=stdout, stderr=stderr, environment=variables, held=held, bound=True)

    return start_kaggle


@contextmanager
def warm_process(folder: Path) -> Iterator[Path]:
    """Yield the socket of a warm process, which is in `folder`."""
    # Its imports read credentials; here are none.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")}
    helper = Warm(folder, ["kaggle.cli"], {**variables, "HOME": str(folder)})
    try:
        yield helper.place
    finally:
        helper.close()


@contextmanager
def warm(folder: Path) -> Iterator[Callable[..., Call]]:
    """Yield a replacement for `gatemask.kaggle.client.cli.start`; its socket is in `folder`."""
    with warm_process(folder) as place:
        yield starter(place)
