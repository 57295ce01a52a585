"""Workspaces and reports on the W&B server, which it calls views."""

from __future__ import annotations

from collections.abc import Mapping

from gatemask.errors import GatemaskError
from gatemask.tracking.wandb_server import Account, ask

_FIND = """query Views($project: String!, $entity: String!, $type: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: $type, viewName: $name) { edges { node { id name } } }
  }
}"""
_UPSERT = """mutation UpsertView($id: ID, $entity: String, $project: String, $type: String, $name: String,
  $displayName: String, $description: String, $spec: String) {
  upsertView(input: {id: $id, entityName: $entity, projectName: $project, type: $type, name: $name,
    displayName: $displayName, description: $description, spec: $spec, createdUsing: WANDB_SDK}) {
    view { id name } inserted
  }
}"""


def find_view(account: Account, entity: str, project: str, kind: str, name: str) -> str | None:
    """Return the id of a workspace ("project-view") or a report ("runs"), or None if the project has none of this name.

    Raises:
        GatemaskError: W&B does not have the project, or does not answer.
    """
    variables = {"entity": entity, "project": project, "type": kind, "name": name}
    found = ask(account, _FIND, variables).get("project")
    if not found:
        raise GatemaskError(
            "W&B does not have this project yet.",
            where=f"{account.server}, {entity}/{project}",
            do="Run gatemask sync first: it uploads the runs.",
        )
    nodes = [edge["node"] for edge in (found.get("allViews") or {}).get("edges") or []]
    return next((str(node["id"]) for node in nodes if node["name"] == name), None)


def upsert_view(account: Account, entity: str, project: str, fields: Mapping[str, str]) -> str:
    """Create a workspace or a report, or change the one with the `id` in `fields`; return its id.

    Raises:
        GatemaskError: The server does not answer, or refuses.
    """
    answer = ask(account, _UPSERT, {"entity": entity, "project": project, **fields})
    view = (answer.get("upsertView") or {}).get("view")
    if not view:
        raise GatemaskError("W&B does not accept the dashboard.", where=f"{entity}/{project}", received=answer)
    return str(view["id"])
