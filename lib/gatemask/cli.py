"""The command `gatemask`: all its commands, and how it ends."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

gc.disable()  # modules are not garbage, and looking through them takes time

from gatemask import faults  # noqa: E402
from gatemask.commands.apps import app  # noqa: E402

gc.enable()

if TYPE_CHECKING:
    from typer import Typer

# Modules of commands/; --help lists their commands in this order.
MODULES = (
    "data",
    "training",
    "search",
    "table",
    "results",
    "runs",
    "dashboard",
    "submission",
    "finalists",
    "kaggle",
    "remote",
    "tools",
)
# Frequent commands that are defined in one module. The others would take a tenth of a second to import.
DEFINED_IN = {
    "train": "training",
    "plan": "training",
    "search": "search",
    "compare": "results",
    "sync": "results",
    "runs": "runs",
    "push": "kaggle",
    "status": "kaggle",
    "wait": "kaggle",
    "logs": "kaggle",
    "fetch": "kaggle",
    "loop": "tools",
}


def full_app() -> Typer:
    """Return the application with all commands, in the order of MODULES, whatever was imported first."""
    _app_with(MODULES)
    place = {f"gatemask.commands.{module}": number for number, module in enumerate(MODULES)}
    app.registered_commands.sort(key=lambda command: place[command.callback.__module__] if command.callback else 0)
    app.registered_groups.sort(key=lambda group: str(group.name) in DEFINED_IN)  # runs was added after the others
    return app


def _app_for(arguments: Sequence[str]) -> Typer:
    """Return the application with the command that the arguments name; with all commands for help and completion."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    is_help = {"-h", "--help"} & set(arguments[: arguments.index(command)] if command else arguments)
    if command not in DEFINED_IN or is_help or "_GATEMASK_COMPLETE" in os.environ:
        return full_app()
    return _app_with([DEFINED_IN[command]])


def _app_with(modules: Sequence[str]) -> Typer:
    """Import modules, which adds their commands."""
    gc.disable()
    try:
        for module in modules:
            import_module(f"gatemask.commands.{module}")
    finally:
        gc.enable()
    return app


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
        _app_for(sys.argv[1:] if arguments is None else arguments)(args=arguments)
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
