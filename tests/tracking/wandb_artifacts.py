"""The artifacts of the stand-in for a W&B server. As on the real one, content is identified by its hash."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote


@dataclass
class Artifact:
    """A version of an artifact.

    Args:
        id: Id on the server.
        name: Name of its collection.
        type: Name of its type.
        digest: Hash of its content.
        by: Run that made it.
        version: Number of the version in its collection.
        state: "PENDING" until it was committed.
        files: Its files, by name.
        used_by: Runs that used it.
        commits: Number of times it was committed.
    """

    id: str
    name: str
    type: str
    digest: str
    by: str
    version: int
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)
    used_by: set[str] = field(default_factory=set)
    commits: int = 0


class Artifacts:
    """All artifacts of a server.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._by_id: dict[str, Artifact] = {}
        self._of_client: dict[str, str] = {}

    def named(self, kind: str) -> dict[str, Artifact]:
        """Return the committed artifacts of a type, by name and version."""
        found = [one for one in self._by_id.values() if one.type == kind and one.state == "COMMITTED"]
        return {f"{one.name}:v{one.version}": one for one in found}

    def store(self, path: str, body: bytes) -> None:
        """Keep an uploaded file; the path holds artifact and name."""
        artifact, _, name = path.partition("/")
        self._by_id[artifact].files[unquote(name)] = body

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a GraphQL request; None if it does not concern artifacts."""
        method = getattr(self, f"_{operation}", None)
        return None if method is None else method(given)

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        kinds = [one.type for one in self._by_id.values() if one.name == given["name"].partition(":")[0]]
        return {"project": {"artifact": {"artifactType": {"name": kinds[0]}} if kinds else None}}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = (given.get("artifactCollectionNames") or [given.get("artifactCollectionName")])[0]
        versions = [one for one in self._by_id.values() if one.name == name]
        same = [one for one in versions if one.digest == given["digest"]]
        artifact = same[0] if same else None
        if artifact is None:
            number = str(len(self._by_id))
            kind, run = given["artifactTypeName"], given.get("runName") or ""
            artifact = Artifact(f"artifact{number}", name, kind, given["digest"], run, len(versions))
            self._by_id[artifact.id] = artifact
        if client := given.get("clientID"):
            self._of_client[client] = artifact.id
        latest = {"id": versions[-1].id} if versions else None
        described = {"id": artifact.id, "state": artifact.state, "artifactSequence": {"latestArtifact": latest}}
        return {"createArtifact": {"artifact": described}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"createArtifactManifest": {"artifactManifest": self._manifest(given["artifactID"])}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = given["artifactManifestID"].removeprefix("manifest-")
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(artifact)}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        name = "wandb_manifest.json"
        file = {"id": "f", "name": name, "displayName": name, "uploadUrl": self._place(artifact, name)}
        return {"id": f"manifest-{artifact}", "file": {**file, "uploadHeaders": []}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        nodes = [
            {
                "storagePath": f"{file['artifactID']}/{file['name']}",
                "uploadUrl": self._place(file["artifactID"], file["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in given["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _place(self, artifact: str, name: str) -> str:
        return f"{self._url}/storage/artifact/{artifact}/{quote(name, safe='')}"

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = self._by_id[given["artifactID"]]
        manifest = json.loads(artifact.files.pop("wandb_manifest.json"))
        assert set(artifact.files) == set(manifest["contents"]), "committed without all of its files"
        artifact.state = "COMMITTED"
        artifact.commits += 1
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _UseArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = self._by_id[given["artifactID"]]
        artifact.used_by.add(given["runName"])
        return {"useArtifact": {"artifact": {"id": artifact.id}}}

    def _ClientIDMapping(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._of_client.get(given["clientID"])
        return {"clientIDMapping": found and {"serverID": found}}

    def _ArtifactByID(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = self._by_id[given["id"]]
        project = {"id": "p", "internalId": "p", "name": "project", "entity": {"name": "me"}}
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": artifact.id,
                "artifactSequence": {"__typename": "ArtifactSequence", "name": artifact.name, "project": project},
                "versionIndex": artifact.version,
                "artifactType": {"name": artifact.type},
                **dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt")),
                "ttlDurationSeconds": -2,
                "ttlIsInherited": True,
                "tags": [],
                "state": artifact.state,
                "size": 1,
                "digest": artifact.digest,
                "digestAlgorithm": None,
                "fileCount": len(artifact.files),
                "createdAt": "2026-01-01T00:00:00",
                "aliases": [],
            }
        }
