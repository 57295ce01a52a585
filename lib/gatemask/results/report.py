"""Results of `gatemask report`, `gatemask augment show` and `gatemask builders`."""

from __future__ import annotations

from gatemask.stage import CommandResult, StageResult


class ReportResult(StageResult):
    """Result of `gatemask report`: the path of the page."""

    paths = ("report",)

    report: str


class ContactSheet(CommandResult):
    """Result of `gatemask augment show`.

    Args:
        picture: Path of the figure.
        images: Number of images shown.
        positives: Number of images with a mask.
    """

    picture: str
    images: int
    positives: int


class BuildersPage(CommandResult):
    """Result of `gatemask builders --write`: the path of the page."""

    written: str
