"""Write the submission: a complete, empty one at once, and a complete, predicted one in its place at the end."""

from __future__ import annotations

from pathlib import Path

from gatemask.data.mask_sizes import MaskSizes
from gatemask.data.submission_format import Encoded, reserve_disk_space
from gatemask.data.submission_table import SubmissionTable
from gatemask.errors import GatemaskError


class SubmissionFile:
    """The file that is submitted. At any moment it is complete, or does not exist.

    Args:
        path: Name of the file. The kernel's script may have written a copy of the sample submission there.
        table: Header and rows.
        sizes: Sizes of the masks, for an archive.
    """

    def __init__(self, path: Path, table: SubmissionTable, sizes: MaskSizes | None = None) -> None:
        self.path, self._table, self._sizes = path, table, sizes
        self._room = path.with_name(".room")
        self._present = "the sample submission" if path.exists() else ""

    def prepare(self, degraded: list[str], forgive: bool) -> None:
        """Write a valid submission with empty masks, and reserve disk space for a better one.

        Args:
            degraded: What went wrong; extended.
            forgive: Whether to continue on a full disk: there may be space at the end.

        Raises:
            GatemaskError: The disk is full; only without `forgive`.
        """
        try:
            self._write({})
            self._present = "an empty one"
            reserve_disk_space(self._room, len(self._table.rows))
        except GatemaskError as error:
            if not forgive:
                raise
            degraded.append(error.short())

    def replace(self, encoded: Encoded, degraded: list[str]) -> None:
        """Replace the file by one with the predicted masks; if that fails, the present one is kept.

        Args:
            encoded: Encoded masks, or objects, by image id and class index.
            degraded: What went wrong; extended.

        Raises:
            GatemaskError: The disk is full, and there is no file that could be kept.
        """
        self._room.unlink(missing_ok=True)
        try:
            self._write(encoded)
        except GatemaskError as error:
            if not self.path.exists():
                raise
            reason = error.details["received"]
            degraded.append(f"The submission could not be written, and {self._present} is in its place: {reason}.")

    def _write(self, encoded: Encoded) -> None:
        try:
            self._table.write(self.path, encoded, self._sizes)
        except OSError as error:
            raise GatemaskError(
                "Not enough disk space for the submission.",
                where=self.path,
                received=(error.strerror or str(error)).rstrip("."),
                do="Make room on the disk, and run it again.",
            ) from None
