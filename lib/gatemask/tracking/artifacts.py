"""Artifacts on W&B: what a run was made from and what it made, so that lineage can be followed to the submission.

    records, folds -> fold runs -> weights -> "tuned" -> rule -> "ensemble" -> ensemble -> submission

Artifacts are made from complete files, by a client that is online: those of offline runs would be lost. W&B identifies
the content of an artifact by its hash, so one that is logged again does not become another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gatemask import files
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.stage import Stamp

COMMIT_S = 600.0  # time limit for the upload of one artifact
ALIAS = 12  # characters of a hash that name a version


@dataclass(frozen=True)
class ArtifactFiles:
    """An artifact, and the files it consists of.

    Args:
        name: Name on W&B; the names of a competition start with its label.
        type: "dataset", "folds", "weights", "rule", "ensemble" or "submission".
        files: Files by their names in the artifact, the one that names the version first.
    """

    name: str
    type: str
    files: Mapping[str, Path]

    @property
    def alias(self) -> str:
        """Name of the version: the beginning of the first file's SHA-256."""
        return content_hash(next(iter(self.files.values())))[:ALIAS]

    @property
    def digest(self) -> str:
        """Hash of names and contents."""
        return files.fingerprint(
            [self.name, self.type, {name: content_hash(path) for name, path in self.files.items()}]
        )


def records_artifact(project: Project, records: Path) -> ArtifactFiles | None:
    """Return the list of the records and the manifest, with their hashes but without the images; None if missing.

    Args:
        project: Project that holds the manifest.
        records: Folder of the records.
    """
    paths = {"index.json": records / "index.json", "manifest.csv": project.data / "manifest.csv"}
    return _complete(f"{project.label}-records", "dataset", paths)


def folds_artifact(project: Project) -> ArtifactFiles | None:
    """Return the split; None if it is missing."""
    return _complete(f"{project.label}-folds", "folds", {project.folds.name: project.folds})


def weights_artifact(project: Project, experiment: str, fold: int) -> ArtifactFiles | None:
    """Return the weights of a finished fold; None if it is not finished."""
    folder = project.fold(experiment, fold)
    paths = {name: folder / name for name in ("best.weights.h5", "result.json")}
    return _complete(weights_name(project.label, experiment, fold), "weights", paths)


def weights_name(label: str, experiment: str, fold: int) -> str:
    """Return the name of the artifact that holds the weights of a fold."""
    return f"{label}-{experiment}-fold{fold}"


def log_artifact(run: Any, artifact: ArtifactFiles) -> None:
    """Add an artifact to the outputs of a W&B run that is online, and wait until it is complete on the server."""
    made = run.log_artifact(_client_artifact(artifact), aliases=["latest", artifact.alias])
    made.wait(timeout=COMMIT_S)


def use_artifact(run: Any, artifact: ArtifactFiles) -> None:
    """Add an artifact to the inputs of a W&B run that is online. One that the server lacks is uploaded."""
    run.use_artifact(_client_artifact(artifact))


def _client_artifact(artifact: ArtifactFiles) -> Any:
    import wandb

    made = wandb.Artifact(artifact.name, artifact.type, metadata={"sha256": artifact.digest})
    for name, path in sorted(artifact.files.items()):
        made.add_file(str(path), name=name, policy="immutable", skip_cache=True)  # no copies of large files
    return made


def _complete(name: str, kind: str, paths: Mapping[str, Path]) -> ArtifactFiles | None:
    return ArtifactFiles(name, kind, paths) if all(path.is_file() for path in paths.values()) else None


def records_fingerprint(records: Path) -> str | None:
    """Return the `made_from["records"]` of folds that were trained on the present records; None without records."""
    try:
        outputs = Stamp.load(records / "index.json").outputs
    except GatemaskError:
        return None
    return files.fingerprint({name: str(digest) for name, digest in outputs.items()})


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file; that of one version of it is computed once per process."""
    status = path.stat()
    return _sha256_of_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _sha256_of_version(path: Path, changed: int, size: int) -> str:
    """All folds share the records and the split."""
    return files.sha256(path)
