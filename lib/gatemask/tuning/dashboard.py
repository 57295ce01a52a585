"""Serve the study of `gatemask oof-tune` in optuna-dashboard (`gatemask dashboard`)."""

from __future__ import annotations

import socket

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.tuning.journal import storage_of

HOST = "127.0.0.1"


def serve_dashboard(project: Project, port: int, browser: bool) -> None:
    """Serve the competition's study until the command is stopped.

    Args:
        project: Project whose study is shown.
        port: Local port; 0 picks a free one.
        browser: Whether to open a browser.

    Raises:
        GatemaskError: No study exists yet, it is damaged, or the port is taken.
    """
    journal = project.tuned / "study.log"
    if not journal.exists():
        raise GatemaskError(
            "There is no study.",
            where=journal,
            do=f"Run gatemask oof-tune {project.comp}. Rules that are searched on masks (for objects, outlines and own "
            "metrics) have none.",
        )
    port = _usable_port(port)
    import optuna_dashboard

    storage = storage_of(journal)
    say(f"http://{HOST}:{port}/ shows {project.label}; stop with Ctrl-C")
    if browser:
        import webbrowser

        webbrowser.open(f"http://{HOST}:{port}/")
    optuna_dashboard.run_server(storage, HOST, port)


def _usable_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise GatemaskError(
                "The port cannot be used.", received=port, expected="a free port", do=f"--port 0 picks one ({error})."
            ) from None
        return int(probe.getsockname()[1])
