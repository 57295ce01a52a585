"""`gatemask dashboard`: the study of `oof-tune` in optuna-dashboard, in a browser."""

from __future__ import annotations

import socket

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.project import Project

HOST = "127.0.0.1"


def serve(project: Project, port: int, browser: bool) -> None:
    """Show the competition's study until the command is stopped.

    Args:
        port: on this machine only; 0 for any that is free.
        browser: open one.

    Raises:
        GatemaskError: nothing was tuned yet, or the port is taken.
    """
    journal = project.tuned / "study.log"
    if not journal.exists():
        raise GatemaskError("There is no study yet.", where=journal, do=f"Run gatemask oof-tune {project.comp}.")
    port = _free(port)
    import optuna
    import optuna_dashboard

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    say(f"http://{HOST}:{port}/ shows {project.label}; stop with Ctrl-C")
    if browser:
        import webbrowser

        webbrowser.open(f"http://{HOST}:{port}/")
    optuna_dashboard.run_server(storage, HOST, port)


def _free(port: int) -> int:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise GatemaskError(
                "The port cannot be used.", received=port, expected="a free one", do=f"--port 0 takes any ({error})."
            ) from None
        return int(one.getsockname()[1])
