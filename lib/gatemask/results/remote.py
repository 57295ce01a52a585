"""Results of `gatemask remote`."""

from __future__ import annotations

from gatemask.stage import CommandResult


class Transferred(CommandResult):
    """Report of `gatemask remote pull` and `gatemask remote push`.

    Args:
        remote: Address of the remote.
        files: Number of files that were copied.
        megabytes: Their size, in MB.
        equal: Number of files that were equal on both sides.
        differ: Paths of files that differ on both sides and were left alone.
    """

    remote: str
    files: int
    megabytes: float
    equal: int
    differ: tuple[str, ...] = ()
