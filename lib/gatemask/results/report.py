"""Results of `gatemask report`, `gatemask augment show` and `gatemask builders`."""

from __future__ import annotations

from pydantic import Field

from gatemask.stage import CommandResult, StageResult


class ReportResult(StageResult):
    """Result of `gatemask report`.

    Args:
        report: Path of the page.
        megabytes: Size of the page, in MB.
        missing: Titles of the sections that cannot be made yet.
        left_out: Number of pictures that were left out to limit the size.
        problems: What is damaged, one sentence each.
    """

    paths = ("report",)

    report: str
    megabytes: float = 0.0
    missing: list[str] = Field(default_factory=list)
    left_out: int = 0
    problems: list[str] = Field(default_factory=list)


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
