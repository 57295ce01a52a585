"""What a training kernel reads, as datasets on Kaggle: the same bytes are uploaded once.

    dist/<comp>/kaggle/<slug>/              links to the files, flat, and dataset-metadata.json
    dist/<comp>/kaggle/<slug>/gatemask-<kind>.json   marks the dataset for the kernel: every file's hash, their digest
    runs/.kaggle/<slug>.json                what of it is on Kaggle: digest and version

kinds: records (and the tables that they were made from), wheels, weights (of `model.weights`, where they are files),
payload (of a kernel that is too large for one script), submission (what `gatemask package` made).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Experiment
from gatemask.console import console, say
from gatemask.data import records as record_store
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, fresh_folder, read_json, sha256, write_json
from gatemask.kaggle.client import api, secret_scan
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.image import wheels
from gatemask.kaggle.train import bundle
from gatemask.project import Project
from gatemask.training.initial_weights import starting_weights
from gatemask.training.trainer import reads

TRIES = 3  # uploads of one version, where Kaggle lost some of its files
WAIT_S = 3600.0  # for Kaggle to process a version; minutes are usual


@dataclass(frozen=True)
class Source:
    """A dataset to be.

    Args:
        kind: records, wheels, weights, payload or submission.
        slug: its name on Kaggle.
        files: its files by name; Kaggle skips folders, hence flat.
        hashes: SHA-256 of each.
        facts: what the kernel has to know besides.
    """

    kind: str
    slug: str
    files: dict[str, Path]
    hashes: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return fingerprint([self.hashes, self.facts])

    @property
    def marker(self) -> str:
        return f"gatemask-{self.kind}.json"


def needed(project: Project, comp: Competition, exp: Experiment, folds: list[int]) -> list[Source]:
    """The datasets that a kernel for these folds reads."""
    found = [_records(project, reads(comp, exp)), _wheels(), _weights(project, exp, folds)]
    return [one for one in found if one is not None]


def payload(name: str, path: Path) -> Source:
    """A kernel's payload that is too large for its script; `path` is a file called payload.bin."""
    return Source("payload", bundle.slug(name, "payload"), {path.name: path}, {path.name: sha256(path)})


def stage(project: Project, source: Source, owner: str) -> Path:
    """Lay the dataset out for the upload, by links: records are large."""
    folder = fresh_folder(project.dist / "kaggle" / source.slug)
    for name, path in source.files.items():
        (folder / name).symlink_to(path.resolve())
    write_json(folder / source.marker, {"digest": source.digest, "files": source.hashes, **source.facts})
    for path in (folder / source.marker, *(p for p in folder.iterdir() if p.suffix in (".csv", ".json"))):
        secret_scan.refuse(path.read_bytes(), path.name, project.root)
    title = source.slug.replace("-", " ")
    about = {"id": f"{owner}/{source.slug}", "title": title, "licenses": [{"name": "unknown"}]}
    write_json(folder / "dataset-metadata.json", about)
    return folder


def ensure(project: Project, source: Source, owner: str, poll_s: float) -> int:
    """Have these very files on Kaggle, processed and current; uploads only what is not there yet.

    Returns:
        The version that holds them.

    Raises:
        GatemaskError: Kaggle refuses the files, loses some time and again, or does not get done.
    """
    ref, note = f"{owner}/{source.slug}", project.root / "runs" / ".kaggle" / f"{source.slug}.json"
    folder = stage(project, source, owner)
    known = read_json(note) if note.exists() else {}
    state = api.dataset_status(ref)
    if (known.get("ref"), known.get("digest")) == (ref, source.digest) and state.word != "absent":
        # Noted before the upload: one that was killed after it finds its version here, and looks whether it is whole.
        state = _wait(ref, state, 0, poll_s)
        if state.version == known["version"] and (known["whole"] or not _lost(ref, folder)):
            write_json(note, {**known, "whole": True})
            say(f"{ref}: version {state.version} is there already")
            return known["version"]
    for _ in range(TRIES):
        version = _upload(ref, folder, source, note, poll_s)
        if not (lost := _lost(ref, folder)):
            write_json(note, {"ref": ref, "digest": source.digest, "version": version, "whole": True})
            return version
        say(f"{ref}: version {version} lacks {', '.join(lost)}; uploading again")
    raise GatemaskError(
        "Kaggle loses files of a dataset.",
        where=ref,
        received=f"after {TRIES} uploads, {', '.join(lost)} missing or of another size",
        do="Run it again later.",
    )


def _upload(ref: str, folder: Path, source: Source, note: Path, poll_s: float) -> int:
    """Create the dataset, or a version of it, and wait until that is the current one."""
    state = _wait(ref, api.dataset_status(ref), 0, poll_s)  # no version can be made while another is processed
    megabytes = sum(path.stat().st_size for path in source.files.values()) / 1e6
    say(f"{ref}: uploading {len(source.files)} files, {megabytes:.1f} MB")
    after = (state.version or 0) + 1
    write_json(note, {"ref": ref, "digest": source.digest, "version": after, "whole": False})
    try:
        if state.word == "absent":
            api.create_dataset(folder)
        else:
            api.version_dataset(folder, f"gatemask {source.digest}")
    except KaggleError as error:
        if error.kind != "upload":  # it was made, but not of all files: which ones, Kaggle will tell
            raise
    state = _wait(ref, api.dataset_status(ref), after, poll_s)
    assert state.version is not None
    return state.version


def _wait(ref: str, state: api.DatasetStatus, version: int, poll_s: float) -> api.DatasetStatus:
    """Until the dataset is ready and at least this version is the current one; an absent one needs no waiting for 0."""
    deadline = time.monotonic() + WAIT_S
    with console().status(f"{ref}: Kaggle processes it"):
        while True:
            if state.word == "error":
                raise KaggleError(
                    "Kaggle could not process a dataset.",
                    where=ref,
                    do=f"Look at https://www.kaggle.com/datasets/{ref}, delete the dataset there, and run it again.",
                )
            if state.word == "ready" and (state.version or 0) >= version:
                return state
            if state.word == "absent" and version == 0:
                return state
            if time.monotonic() > deadline:
                raise GatemaskError(
                    "Kaggle does not get done with a dataset.",
                    where=ref,
                    received=f"{state.word}, version {state.version} after {WAIT_S / 60:.0f} minutes",
                    expected=f"ready, version {version}",
                    do="Run it again later; what was uploaded is kept there.",
                )
            time.sleep(poll_s)
            state = api.dataset_status(ref)


def _lost(ref: str, folder: Path) -> list[str]:
    """Files of the staged dataset that Kaggle does not have, or not whole."""
    there = api.dataset_files(ref)
    staged = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.name != "dataset-metadata.json"}
    return [name for name, size in staged.items() if there.get(name) != size]


def _records(project: Project, comp: Competition) -> Source:
    folder, hashes = project.records(comp.records.size), record_store.require_current(project, comp)
    files = {name: folder / name for name in [*hashes, "index.json"]}
    tables = {name: project.data / name for name in ("manifest.csv", "masks.csv")}
    others = {name: sha256(path) for name, path in {"index.json": folder / "index.json", **tables}.items()}
    name = bundle.slug(project.label, "records", str(comp.records.size))
    return Source("records", name, {**files, **tables}, {**hashes, **others}, {"size": comp.records.size})


MODULES = {
    "segmentation-models": "segmentation_models",
    "efficientnet": "efficientnet",
    "image-classifiers": "classification_models",
    "Keras-Applications": "keras_applications",
}


def _wheels() -> Source:
    files = {path.name: path for path in wheels.shipped()}
    hashes = {name: sha256(path) for name, path in files.items()}
    return Source("wheels", "gatemask-wheels", files, hashes, {"modules": MODULES})


def _weights(project: Project, exp: Experiment, folds: list[int]) -> Source | None:
    """Weights that the folds start from, where they are files of this project and not published ones."""
    places: dict[str, str] = {}  # name in the dataset: where the kernel looks for it, below the project's folder
    for fold in folds:
        start = starting_weights(project, exp, fold)
        if start.kind == "file":
            assert start.path is not None
            places["start.h5"] = _inside(project, exp.model.weights, start.path)
        elif start.kind == "run":
            assert start.path is not None
            for name in ("best.weights.h5", "result.json", "config.yaml"):
                at = start.path.with_name(name).relative_to(project.root).as_posix()
                places[f"{start.path.parent.parent.name}.{start.path.parent.name}.{name}"] = at
    if not places:
        return None
    files = {name: project.root / place for name, place in places.items()}
    hashes = {name: sha256(path) for name, path in files.items()}
    # Each fold starts from its own fold: kernels that run side by side must not change each other's dataset.
    own = [] if "start.h5" in places else ["f" + "-".join(map(str, folds))]
    return Source("weights", bundle.slug(project.label, exp.name, "start", *own), files, hashes, {"places": places})


def _inside(project: Project, named: str, path: Path) -> str:
    """The weights file's path as the kernel will find it: the YAML's own words, below the project's folder."""
    if Path(named).is_absolute() or named.startswith("~") or not (project.root / named).is_file():
        raise GatemaskError(
            "A kernel cannot find weights outside the project's folder.",
            where="model.weights",
            received=named,
            expected=f"a path below {project.root}, such as data/weights/{path.name}",
            do="Copy the file there and name it so.",
        )
    return named
