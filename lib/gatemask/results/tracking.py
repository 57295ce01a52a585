"""Results of tracking: the report of `gatemask sync`."""

from __future__ import annotations

from gatemask.stage import CommandResult


class UploadedRun(CommandResult):
    """A run on W&B.

    Args:
        run: Its path there: entity, project and run id.
        server: Address of the server.
        epochs: Number of epochs in the last session that was uploaded.
    """

    run: str
    server: str
    epochs: int


class SyncResult(CommandResult):
    """Report of `gatemask sync`. Sessions are named by their folder, relative to the competition's runs.

    Args:
        current: Whether there was nothing to do.
        synced: Number of sessions uploaded now.
        already: Number of sessions uploaded before.
        later: Sessions that must wait, with the reason.
        failed: Sessions that failed, with the reason.
        runs: Runs that were uploaded, by run id.
    """

    current: bool
    synced: int
    already: int
    later: dict[str, str]
    failed: dict[str, str]
    runs: dict[str, UploadedRun]
