"""The command `gatemask`: all its commands, and how it ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

gc.disable()  # modules are not garbage, and looking through them takes time

from gatemask import faults  # noqa: E402
from gatemask.commands.apps import app  # noqa: E402

# Importing a module adds its commands; --help shows them in this order.
# isort: off
from gatemask.commands import (  # noqa: E402, F401
    data,
    training,
    search,
    table,
    results,
    runs,
    dashboard,
    submission,
    finalists,
    kaggle,
    tools,
)

# isort: on
gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Exit codes: 0, done; 1, an error that the user can fix; 2, wrong arguments; 70, a fault of gatemask, with the path
    of a log; 130, stopped with Ctrl-C. No error ends in a traceback.
    """
    code: str | int | None
    if sys.platform == "win32":
        faults.say_error("gatemask runs on Linux and macOS; on Windows, run it in WSL.")
        sys.exit(faults.USER_ERROR)
    try:
        app(args=arguments)
        code = 0
    except SystemExit as done:  # typer exits with 130 on Ctrl-C, and with 0 after success
        code = done.code
    except KeyboardInterrupt:
        code = faults.STOPPED
    except Exception as error:
        code = faults.report(error)
    if code == faults.STOPPED:
        faults.say_error("stopped; run the same command again to resume")
    sys.exit(faults.flush_output(code))
