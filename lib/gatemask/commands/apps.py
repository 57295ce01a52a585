"""The command `gatemask` and its groups, to which the other modules add commands."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Segmentation competitions: from raw files to a rehearsed Kaggle submission.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Raw files: download, inspect labels, make the manifest.", no_args_is_help=True)
folds_app = typer.Typer(help="Folds without leaks: make, import, audit.", no_args_is_help=True)
records_app = typer.Typer(help="TFRecords of the training images, shared by all splits.", no_args_is_help=True)
augment_app = typer.Typer(help="Augmentation.", no_args_is_help=True)
dashboard_app = typer.Typer(
    help="Dashboards: Optuna's studies here, workspace and report on W&B.", no_args_is_help=True
)
submission_app = typer.Typer(help="Submission files.", no_args_is_help=True)
GROUPS = {
    "data": data_app,
    "folds": folds_app,
    "records": records_app,
    "augment": augment_app,
    "dashboard": dashboard_app,
    "submission": submission_app,
}
for group_name, group in GROUPS.items():
    app.add_typer(group, name=group_name)
