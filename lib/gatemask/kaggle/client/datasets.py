"""Upload datasets to Kaggle, the same bytes once.

dist/<comp>/kaggle/<slug>/                       links to the files, flat, and dataset-metadata.json
dist/<comp>/kaggle/<slug>/gatemask-<kind>.json   marks the dataset for kernels: hash of every file, and their digest
runs/.kaggle/<slug>.json                         what is on Kaggle: digest and version
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, fresh_folder, read_json_object, write_json
from gatemask.kaggle.client import api
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.client.polling import poll
from gatemask.project import Project
from gatemask.secrets.guard import refuse_secrets_in

UPLOAD_ATTEMPTS = 3  # uploads of one version in which Kaggle lost files
PROCESSING_LIMIT_S = 3600.0  # for Kaggle to process a version; minutes are usual


@dataclass(frozen=True)
class Dataset:
    """Files to be uploaded as one dataset.

    Args:
        kind: Kind, such as "records"; kernels find the dataset by it.
        slug: Name on Kaggle.
        files: Files by name. Kaggle skips folders, so names are flat.
        hashes: SHA-256 of each file.
        facts: Other values that the kernel needs, kept in the marker file.
        owner: What the files belong to, such as a competition. Nothing else may use the name. Default: everything.
    """

    kind: str
    slug: str
    files: dict[str, Path]
    hashes: dict[str, str]
    facts: Mapping[str, object] = field(default_factory=dict)
    owner: str = ""

    @property
    def digest(self) -> str:
        return fingerprint([self.hashes, self.facts])

    @property
    def of(self) -> str:
        """Kind and owner, for messages."""
        return f"{self.kind} of {self.owner}" if self.owner else self.kind

    @property
    def marker(self) -> str:
        return f"gatemask-{self.kind}.json"


@dataclass(frozen=True)
class _Upload:
    """The record of an upload, written before it begins.

    Args:
        ref: Dataset, as owner/slug.
        digest: Digest of the files.
        version: Number that the version gets.
        whole: Whether Kaggle was seen to hold all files.
        of: Kind and owner of the dataset. Default: unknown, as in records of earlier versions.
    """

    ref: str
    digest: str
    version: int
    whole: bool
    of: str = ""


def write_upload_folder(project: Project, dataset: Dataset, owner: str) -> Path:
    """Write the folder to upload: links to the files, since records are large, the marker, and Kaggle's metadata."""
    folder = fresh_folder(project.dist / "kaggle" / dataset.slug)
    for name, path in dataset.files.items():
        (folder / name).symlink_to(path.resolve())
    write_json(folder / dataset.marker, {"digest": dataset.digest, "files": dataset.hashes, **dataset.facts})
    title = dataset.slug.replace("-", " ")
    metadata = {"id": f"{owner}/{dataset.slug}", "title": title, "licenses": [{"name": "unknown"}]}
    write_json(folder / api.METADATA, metadata)
    return folder


def ensure_uploaded(project: Project, dataset: Dataset, owner: str, poll_s: float) -> int:
    """Return the version on Kaggle that holds exactly these files, uploading them unless it exists.

    Args:
        project: Project that the files belong to.
        dataset: Files and name.
        owner: Account that owns the dataset.
        poll_s: Pause between two requests to Kaggle, in seconds.

    Raises:
        GatemaskError: A file contains a secret, or Kaggle refuses the files, loses some repeatedly, or does not finish
            processing them.
    """
    ref, record = f"{owner}/{dataset.slug}", project.root / "runs" / ".kaggle" / f"{dataset.slug}.json"
    upload = _read_upload(record)
    _require_own_name(dataset, upload)
    folder = write_upload_folder(project, dataset, owner)
    if upload and (upload.ref, upload.digest) == (ref, dataset.digest):
        # Recorded before the upload: a command that was killed during it finds its version here, and verifies it.
        status = _wait_until_processed(ref, 0, poll_s)
        if status.version == upload.version and (upload.whole or not _lost_files(ref, folder)):
            write_json(record, asdict(replace(upload, whole=True, of=dataset.of)))
            say(f"{ref}: version {status.version} is already there")
            return upload.version
    refuse_secrets_in([folder], project.root)
    for _ in range(UPLOAD_ATTEMPTS):
        version = _upload(ref, folder, dataset, record, poll_s)
        if not (lost := _lost_files(ref, folder)):
            write_json(record, asdict(_Upload(ref, dataset.digest, version, whole=True, of=dataset.of)))
            return version
        say(f"{ref}: version {version} lacks {', '.join(lost)}; uploading again")
    raise GatemaskError(
        "Kaggle loses files of a dataset.",
        where=ref,
        received=f"after {UPLOAD_ATTEMPTS} uploads, {', '.join(lost)} missing or of another size",
        do="Run it again later.",
    )


def _require_own_name(dataset: Dataset, upload: _Upload | None) -> None:
    """Raise if another dataset of this project has the same name: each upload would replace the other's files."""
    if upload is not None and upload.of not in ("", dataset.of):
        raise GatemaskError(
            "Two datasets have names that Kaggle cannot tell apart.",
            where=dataset.slug,
            received=f"{upload.of}, uploaded before, and {dataset.of}",
            expected="a name of its own for each",
            do="Rename one of the competitions or experiments.",
        )


def _read_upload(record: Path) -> _Upload | None:
    """Return the upload that a record describes; None if it is missing or damaged, after which Kaggle is asked."""
    try:
        return _Upload(**read_json_object(record)) if record.exists() else None
    except (GatemaskError, TypeError):
        return None


def _upload(ref: str, folder: Path, dataset: Dataset, record: Path, poll_s: float) -> int:
    """Create the dataset or a new version of it, and wait until that version is the current one."""
    status = _wait_until_processed(ref, 0, poll_s)  # no version can be made while another is being processed
    megabytes = sum(path.stat().st_size for path in dataset.files.values()) / 1e6
    say(f"{ref}: uploading {len(dataset.files)} files, {megabytes:.1f} MB")
    version = (status.version or 0) + 1
    write_json(record, asdict(_Upload(ref, dataset.digest, version, whole=False, of=dataset.of)))
    try:
        if status.word == "absent":
            api.create_dataset(folder)
        else:
            api.version_dataset(folder, f"gatemask {dataset.digest}")
    except KaggleError as error:
        if error.kind != "upload":  # a version was made without some files; Kaggle's list shows which
            raise
    status = _wait_until_processed(ref, version, poll_s)
    assert status.version is not None
    return status.version


def _wait_until_processed(ref: str, version: int, poll_s: float) -> api.DatasetStatus:
    """Wait until the dataset is ready in this version or a newer one; for version 0, an absent dataset will do."""
    last = api.DatasetStatus("absent")

    def processed() -> api.DatasetStatus | None:
        nonlocal last
        last = api.dataset_status(ref)
        if last.word == "error":
            raise KaggleError(
                "Kaggle could not process the dataset.",
                where=ref,
                do=f"See https://www.kaggle.com/datasets/{ref}, delete the dataset there, and run it again.",
            )
        done = last.word == "ready" and (last.version or 0) >= version
        return last if done or (last.word == "absent" and version == 0) else None

    status = poll(processed, poll_s, f"{ref}: Kaggle is processing it", PROCESSING_LIMIT_S)
    if status is None:
        raise GatemaskError(
            "Timed out waiting for Kaggle to process the dataset.",
            where=ref,
            received=f"{last.word}, version {last.version} after {PROCESSING_LIMIT_S / 60:.0f} minutes",
            expected=f"ready, version {version}",
            do="Run it again later; the uploaded files are kept there.",
        )
    return status


def _lost_files(ref: str, folder: Path) -> list[str]:
    """Return the files of the upload folder that Kaggle lacks or holds with another size."""
    sizes = api.dataset_files(ref)
    expected = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.name != api.METADATA}
    return [name for name, size in expected.items() if sizes.get(name) != size]
