"""Keep a list of what is known to be on W&B: runs/<comp>/wandb-synced.json. It saves questions to the server."""

from __future__ import annotations

from collections.abc import Mapping

from gatemask.files import read_json_object, write_json
from gatemask.project import Project
from gatemask.results.tracking import UploadedRun


class SyncedRuns:
    """Contents of runs known to be on a server, by fingerprint. The file lists them per server.

    Args:
        project: Project with the runs.
        server: Address of the server.
    """

    def __init__(self, project: Project, server: str) -> None:
        self._path = project.runs / "wandb-synced.json"
        do = f"Restore it from a backup, or delete {self._path}: all runs are then compared with the server again."
        known = read_json_object(self._path, do=do) if self._path.exists() else {}
        self._servers: dict[str, dict[str, Mapping[str, object]]] = known
        self._entries = self._servers.setdefault(server, {})

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._entries

    def add(self, fingerprint: str, name: str, uploaded: UploadedRun, sent: bool) -> None:
        """Add a run, named by its folder, and write the file."""
        self._entries[fingerprint] = {"fragment": name, **uploaded.as_dict(), "sent": sent}
        write_json(self._path, self._servers)
