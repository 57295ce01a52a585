"""Workspaces and reports on the server of tests/tracking/wandb_server.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Views:
    """Workspaces and reports, by id, with the fields of their last push.

    Args:
        projects: Names of the existing projects; None if all exist.
    """

    projects: set[str] | None = None
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a request that concerns views; None for any other."""
        if operation == "Views":
            return {"project": self._project(given)}
        return self._upsert(given) if operation == "UpsertView" else None

    def _project(self, given: dict[str, Any]) -> dict[str, Any] | None:
        if self.projects is not None and given["project"] not in self.projects:
            return None
        nodes = [
            {"id": key, "name": view["name"]}
            for key, view in self.stored.items()
            if (view["project"], view["type"], view["name"]) == (given["project"], given["type"], given["name"])
        ]
        return {"allViews": {"edges": [{"node": node} for node in nodes]}}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        """Store a view: under its id, or as a new one, as the real server does without an id."""
        key = given.get("id") or f"VmlldzoxMjM{len(self.stored)}="
        inserted = key not in self.stored
        self.stored[key] = {**given, "id": key}
        return {"upsertView": {"view": {"id": key, "name": given["name"]}, "inserted": inserted}}
