"""Datasets that a training kernel reads: records, wheels, weights, and a payload that is too large for its script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.config import Competition, Experiment
from gatemask.data import records as record_store
from gatemask.data.extra_sources import ExtraSource
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.kaggle.client.datasets import Dataset
from gatemask.kaggle.client.slugs import kaggle_slug
from gatemask.kaggle.image import wheels
from gatemask.project import Project
from gatemask.training.fold_inputs import TrainingInputs, class_weights, with_record_size
from gatemask.training.initial_weights import find_initial_weights

SOURCE = "source-"  # how the kinds of datasets of sources begin
# Module of each wheel, by which the kernel knows whether its image has the package.
MODULES = {
    "segmentation-models": "segmentation_models",
    "efficientnet": "efficientnet",
    "image-classifiers": "classification_models",
    "Keras-Applications": "keras_applications",
}


def input_datasets(project: Project, comp: Competition, exp: Experiment, folds: Sequence[int]) -> list[Dataset]:
    """Return the datasets that a kernel needs to train these folds.

    Raises:
        GatemaskError: The experiment does not fit the competition, or an input is missing.
    """
    class_weights(comp, exp)
    datasets = [
        records_dataset(project, with_record_size(comp, exp)),
        wheels_dataset(),
        _weights_dataset(project, exp, folds),
        *(_source_dataset(source, folds) for source in TrainingInputs(project, comp, exp).extra),
    ]
    return [dataset for dataset in datasets if dataset is not None]


def payload_dataset(kernel: str, path: Path) -> Dataset:
    """Return the dataset for a payload that does not fit into its script.

    Args:
        kernel: Slug of the kernel.
        path: The payload, a file named payload.bin.
    """
    hashes = {path.name: sha256(path)}
    return Dataset("payload", kaggle_slug(kernel, "payload"), {path.name: path}, hashes, owner=kernel)


def records_dataset(project: Project, comp: Competition) -> Dataset:
    """Return the dataset of the records and of the tables that they were made from."""
    folder, hashes = project.records(comp.records.size), record_store.require_records(project, comp)
    files = {name: folder / name for name in [*hashes, "index.json"]}
    tables = {name: project.data / name for name in ("manifest.csv", "masks.csv")}
    others = {name: sha256(path) for name, path in {"index.json": folder / "index.json", **tables}.items()}
    slug, facts = kaggle_slug(project.label, folder.name), {"size": comp.records.size}
    return Dataset("records", slug, {**files, **tables}, {**hashes, **others}, facts, owner=project.label)


def _source_dataset(source: ExtraSource, folds: Sequence[int]) -> Dataset:
    """Return the dataset of a source of extra training images: its tables, and the records of these folds."""
    project, files = source.project, source.files(folds)
    places = {name: path.relative_to(project.root).as_posix() for name, path in files.items()}
    hashes = {name: sha256(path) for name, path in files.items()}
    folders = sorted({source.records(fold).relative_to(source.folder).as_posix() for fold in folds})
    slug = kaggle_slug(project.label, "source", source.name, *folders)
    owner = f"{project.label}/{source.name}"
    return Dataset(f"{SOURCE}{source.name}", slug, files, hashes, {"places": places}, owner=owner)


def wheels_dataset() -> Dataset:
    """Return the dataset of the wheels that Kaggle's images lack."""
    files = {path.name: path for path in wheels.shipped()}
    hashes = {name: sha256(path) for name, path in files.items()}
    return Dataset("wheels", "gatemask-wheels", files, hashes, {"modules": MODULES})


def _weights_dataset(project: Project, exp: Experiment, folds: Sequence[int]) -> Dataset | None:
    """Return the dataset of initial weights, or None where they are published or random."""
    places: dict[str, str] = {}  # path below the kernel's project folder, by name in the dataset
    for fold in folds:
        start = find_initial_weights(project, exp, fold)
        if start.kind == "file":
            assert start.path is not None
            places["start.h5"] = _path_below_project(project, exp.model.weights, start.path)
        elif start.kind == "run":
            assert start.path is not None
            for name in ("best.weights.h5", "result.json", "config.yaml"):
                place = start.path.with_name(name).relative_to(project.root).as_posix()
                places[f"{start.path.parent.parent.name}.{start.path.parent.name}.{name}"] = place
    if not places:
        return None
    files = {name: project.root / place for name, place in places.items()}
    hashes = {name: sha256(path) for name, path in files.items()}
    # Each fold starts from its own fold of another run: parallel kernels must not change each other's dataset.
    fold_part = [] if "start.h5" in places else ["f" + "-".join(map(str, folds))]
    slug = kaggle_slug(project.label, exp.name, "start", *fold_part)
    return Dataset("weights", slug, files, hashes, {"places": places}, owner=f"{project.label}/{exp.name}")


def _path_below_project(project: Project, name: str, path: Path) -> str:
    """Return the path of a weights file as the kernel will find it: as in the YAML, below the project's folder."""
    if Path(name).is_absolute() or name.startswith("~") or not (project.root / name).is_file():
        raise GatemaskError(
            "A kernel cannot find weights outside the project's folder.",
            where="model.weights",
            received=name,
            expected=f"a path below {project.root}, such as data/weights/{path.name}",
            do="Copy the file there and use that path.",
        )
    return name
