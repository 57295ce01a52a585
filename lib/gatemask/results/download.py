"""Result and records of `gatemask data download`."""

from __future__ import annotations

from pydantic import Field

from gatemask.stage import CommandResult, StageResult


class DownloadResult(StageResult):
    """Result of `gatemask data download`.

    Args:
        competition: Name of the competition on Kaggle.
        files: Number of files.
        megabytes: Size of all files, in MB.
        folder: Folder of the files.
    """

    paths = ("folder",)

    competition: str
    files: int
    megabytes: float
    folder: str


class DownloadedFiles(CommandResult):
    """Contents of download-files.json: what the command wrote into the raw folder.

    Args:
        competition: Name of the competition on Kaggle.
        folder: Folder of the files, relative to the project if it is inside.
        moving: Whether files were being moved into the folder when this was written.
        files: Size of each file in bytes, by path.
    """

    competition: str
    folder: str
    moving: bool
    files: dict[str, int] = Field(default_factory=dict)
