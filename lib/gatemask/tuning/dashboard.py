"""Serve a study of `gatemask oof-tune` or `gatemask search` in optuna-dashboard (`gatemask dashboard show`)."""

from __future__ import annotations

import socket

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.optional import require
from gatemask.project import Project
from gatemask.tuning.journal import storage_of

HOST = "127.0.0.1"


def serve_dashboard(project: Project, port: int, browser: bool, searched: str | None = None) -> None:
    """Serve the study of the thresholds, or of a search, until the command is stopped.

    Args:
        project: Project whose study is shown.
        port: Local port; 0 picks a free one.
        browser: Whether to open a browser.
        searched: Experiment whose search is shown. Default: the thresholds are shown.

    Raises:
        GatemaskError: No study exists yet, it is damaged, optuna-dashboard is not installed, or the port is taken.
    """
    journal = project.tuned / "study.log" if searched is None else project.runs / "search" / searched / "study.log"
    if not journal.exists():
        raise GatemaskError(
            "There is no study.",
            where=journal,
            do=f"Run gatemask oof-tune {project.comp}. Rules that are searched on masks (for objects, outlines and own "
            "metrics) have none."
            if searched is None
            else f"Run gatemask search {project.comp}/{searched}.",
        )
    require("optuna_dashboard", "The dashboard")
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
