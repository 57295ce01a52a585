"""The command `gatemask` and its groups, to which the other modules add commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gatemask import __version__
from gatemask.console import VERBOSE
from gatemask.faults import DEBUG, print_out

app = typer.Typer(
    help="Segmentation competitions: from raw files to a rehearsed Kaggle submission.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_out(f"gatemask {__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print times, and the commands that gatemask runs.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of every error.")] = False,
) -> None:
    """Segmentation competitions: from raw files to a rehearsed Kaggle submission."""
    # Through the environment, they reach the processes that a command starts.
    for wanted, variable in ((verbose, VERBOSE), (debug, DEBUG)):
        if wanted:
            os.environ[variable] = "1"


data_app = typer.Typer(help="Raw files: download, inspect labels, make the manifest.", no_args_is_help=True)
folds_app = typer.Typer(help="Folds without leaks: make, import, audit.", no_args_is_help=True)
records_app = typer.Typer(help="TFRecords of the training images, shared by all splits.", no_args_is_help=True)
sources_app = typer.Typer(help="Labeled images from elsewhere, to train on as well.", no_args_is_help=True)
augment_app = typer.Typer(help="Augmentation.", no_args_is_help=True)
dashboard_app = typer.Typer(
    help="Dashboards: Optuna's studies here, workspace and report on W&B.", no_args_is_help=True
)
submission_app = typer.Typer(help="Submission files.", no_args_is_help=True)
remote_app = typer.Typer(help="Files in a remote, such as a bucket on S3.", no_args_is_help=True)
GROUPS = {
    "data": data_app,
    "folds": folds_app,
    "records": records_app,
    "sources": sources_app,
    "augment": augment_app,
    "dashboard": dashboard_app,
    "submission": submission_app,
    "remote": remote_app,
}
for group_name, group in GROUPS.items():
    app.add_typer(group, name=group_name)
