"""Result of `gatemask dashboard push`."""

from __future__ import annotations

from gatemask.stage import CommandResult


class PushedDashboard(CommandResult):
    """Workspace and report on W&B.

    Args:
        project: W&B project, as entity/project.
        workspace: Address of the workspace.
        report: Address of the report.
        created: Which of the two did not exist before.
    """

    project: str
    workspace: str
    report: str
    created: list[str]
