"""Artifacts that are found by name and alias, for the runs that use those of others."""

from __future__ import annotations

from typing import Any

from tests.tracking.wandb_artifacts import Artifact, Artifacts


class NamedArtifacts(Artifacts):
    """Artifacts of a server, with their aliases: each belongs to the last version that it was given to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.aliases: dict[str, Artifact] = {}

    def put(self, name: str, kind: str, alias: str) -> Artifact:
        """Add a complete artifact, as if another run had logged it."""
        artifact = Artifact(f"artifact{len(self._by_id)}", name, kind, alias, "another run", 0, state="COMMITTED")
        self._by_id[artifact.id] = self.aliases[f"{name}:{alias}"] = artifact
        return artifact

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        answer = super()._CreateArtifact(given)
        artifact = self._by_id[answer["createArtifact"]["artifact"]["id"]]
        self.aliases |= {f"{artifact.name}:{one['alias']}": artifact for one in given.get("aliases") or []}
        return answer

    def _ArtifactMembershipByName(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = self.aliases.get(given["name"])
        if artifact is None or artifact.state != "COMMITTED":
            return {"project": {"artifactCollectionMembership": None}}
        described = self._ArtifactByID({"id": artifact.id})["artifact"]
        collection = described["artifactSequence"]
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": described["createdAt"],
            "aliases": [],
            "artifactCollection": collection,
            "artifact": described,
        }
        return {"project": {"artifactCollectionMembership": membership}}
