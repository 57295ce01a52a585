"""Commands that copy files between the project and its remote."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask.commands.apps import remote_app
from gatemask.commands.options import Comp, Json, Quick, print_result


@remote_app.command("pull")
def remote_pull(
    comp: Comp,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Such as runs/COMP/EXPERIMENT/. Default: tables, runs and dist."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Copy raw files and records, too.")] = False,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Copy files of a competition from the remote (GATEMASK_REMOTE)."""
    from gatemask.project import open_project
    from gatemask.transfer import pull_files

    print_result(pull_files(open_project(comp, quick=quick), paths or (), everything), json_)


@remote_app.command("push")
def remote_push(comp: Comp, quick: Quick = False, json_: Json = False) -> None:
    """Copy files of a competition to the remote (GATEMASK_REMOTE): those it lacks, and those that changed here."""
    from gatemask.project import open_project
    from gatemask.transfer import push_files

    print_result(push_files(open_project(comp, quick=quick)), json_)
