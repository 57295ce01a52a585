"""`gatemask package`: write the dataset and the kernel of an offline submission.

dist/<comp>/dataset/<member>.weights.h5
dist/<comp>/dataset/*.whl                     gatemask, four packages that Kaggle's images lack, decoders of DICOM
dist/<comp>/dataset/ensemble.yaml             members, rule, facts of the competition, inference settings
dist/<comp>/dataset/SHA256SUMS                hashes of these files; the kernel checks them first
dist/<comp>/dataset/dataset-metadata.json
dist/<comp>/kernel/inference.py kernel-metadata.json
dist/<comp>/package.json                      written last

The dataset is flat, since the kaggle command skips folders.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from gatemask.config import Competition, Ensemble, Inference
from gatemask.console import progress, say
from gatemask.data.dicom import SUFFIXES, is_dicom
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.ensemble.precision import check_precision
from gatemask.ensemble.select import require_ensemble, weights_file
from gatemask.errors import GatemaskError
from gatemask.files import copy_file, fingerprint, fresh_folder, read_json_object, sha256, write_json, write_text
from gatemask.hdf5 import require_self_contained
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.kaggle.client.slugs import LONGEST_SLUG, kaggle_slug
from gatemask.kaggle.image import own_wheel, wheels
from gatemask.kaggle.submit.outdated import present_settings
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts, ShippedEnsemble
from gatemask.results.submission import PackageResult
from gatemask.secrets.guard import refuse_secrets_in
from gatemask.stage import Outputs, Stage, Stamp

UNKNOWN_OWNER = "owner-not-set"


def write_package(project: Project, comp: Competition, ensemble: Ensemble) -> PackageResult:
    """Write the dataset and the kernel.

    Args:
        project: Project with the selected ensemble.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml.

    Raises:
        GatemaskError: No ensemble was selected, it is outdated, half precision costs too much Dice, or a file contains
            a secret.
    """
    source = require_ensemble(project, comp, ensemble)
    owner = comp.kaggle.owner or os.environ.get("KAGGLE_USERNAME") or UNKNOWN_OWNER
    made_from = {
        "ensemble": sha256(source),
        "code": own_wheel.source_fingerprint(),
        "owner": owner,
        "kaggle": comp.kaggle.model_dump(),
        "inference": ensemble.inference.model_dump(),
        "decoders": (with_decoders := reads_dicom(project, comp)),
        "yamls": present_settings(project, comp, ensemble, source),
    }
    stage = Stage("package", package_stamp(project), made_from, PackageResult)

    def work() -> tuple[PackageResult, Outputs]:
        if owner == UNKNOWN_OWNER:
            say("note: the package names no owner. gatemask submit enters the account in use.")
        stage.stamp.unlink(missing_ok=True)
        dataset, kernel = fresh_folder(project.dist / "dataset"), fresh_folder(project.dist / "kernel")
        shipped = ShippedEnsemble.load(source)
        fill_dataset(project, dataset, shipped, ensemble.inference, with_decoders)
        precision = check_precision(project, comp, shipped, dataset, ensemble.inference.precision)
        fill_kernel(kernel, comp, owner, dataset_slug(project), ensemble.inference.hours)
        _write_dataset_metadata(dataset, owner, dataset_slug(project))
        refuse_secrets_in([dataset, kernel], project.root)
        files = [path for folder in (dataset, kernel) for path in sorted(folder.rglob("*")) if path.is_file()]
        result = PackageResult(
            dataset=str(dataset),
            kernel=str(kernel),
            files=len(files),
            megabytes=round(sum(path.stat().st_size for path in files) / 1e6, 1),
            precision=precision,
        )
        return result, files

    return stage.run(work)


def package_stamp(project: Project) -> Path:
    return project.dist / "package.json"


def require_package(project: Project, comp: Competition) -> str:
    """Return the fingerprint of the package. Packages of the same bytes, run the same way, have the same.

    Raises:
        GatemaskError: Nothing is packaged, or the package is older than the ensemble or competition.yaml.
    """
    stamp, selected = package_stamp(project), project.runs / "ensemble" / "ensemble.yaml"
    do = f"Run gatemask package {project.comp}."
    if not stamp.exists():
        raise GatemaskError("Nothing is packaged yet.", where=project.dist, do=do)
    if not selected.exists() or Stamp.load(stamp).made_from.get("ensemble") != sha256(selected):
        raise GatemaskError("The package is older than the ensemble.", where=stamp, do=do)
    written = project.dist / "kernel" / "kernel-metadata.json"
    metadata = read_json_object(written, "competition_sources", do=f"Delete {stamp}. {do}")
    sources = [comp.kaggle.competition] if comp.kaggle.competition else []
    packaged_facts = ShippedEnsemble.load(selected).competition
    if packaged_facts != CompetitionFacts.of(comp) or metadata["competition_sources"] != sources:
        do = f"Run gatemask ensemble {project.comp}, and gatemask package {project.comp}."
        raise GatemaskError("The package is older than competition.yaml.", where=stamp, do=do)
    settings = {key: metadata.get(key) for key in ("enable_gpu", "machine_shape", "competition_sources")}
    files = [project.dist / "dataset" / "SHA256SUMS", project.dist / "kernel" / "inference.py"]
    return fingerprint([settings, *(sha256(path) for path in files)])


def dataset_slug(project: Project) -> str:
    """Return the dataset's name on Kaggle; the kernel's name adds `-inference`."""
    return kaggle_slug(project.label, longest=LONGEST_SLUG - len("-inference"))


def reads_dicom(project: Project, comp: Competition) -> bool:
    """Return whether images are DICOM files, by their names or, for one of each split, by content."""
    sources = [*comp.train.sources, *(comp.test.sources if comp.test is not None else [])]
    if any(Path(source.files).suffix.lower() in SUFFIXES for source in sources):
        return True
    if not (project.data / "manifest.json").exists():
        return False
    raw = raw_folder(project, comp)
    for _, images in read_manifest(project).groupby("split"):
        path = raw / str(images["path"].iloc[0])
        if path.suffix.lower() in SUFFIXES or (path.is_file() and is_dicom(path.read_bytes(), path)):
            return True
    return False


def fill_dataset(
    project: Project, dataset: Path, shipped: ShippedEnsemble, settings: Inference, with_decoders: bool = False
) -> None:
    """Write weights, ensemble.yaml, wheels and SHA256SUMS into an empty folder.

    Args:
        project: Project whose runs hold the weights.
        dataset: The empty folder.
        shipped: The selected ensemble.
        settings: Inference settings, added to ensemble.yaml.
        with_decoders: Whether to ship decoders of compressed DICOM files. Default: False.

    Raises:
        GatemaskError: Weights have changed since the ensemble was selected, or refer to other files.
    """
    for member in progress(shipped.members, "weights", len(shipped.members)):
        original = weights_file(project, member)
        require_self_contained(original)
        target = dataset / f"{member.name}.weights.h5"
        copy_file(original, target)
        if sha256(target) != member.sha256:
            raise GatemaskError(
                "A member's weights have changed since the ensemble was selected.",
                where=original,
                do=f"Run gatemask ensemble {project.comp} again.",
            )
    shipped.model_copy(update={"inference": settings}).save(dataset / "ensemble.yaml")
    own_wheel.build_own(dataset)
    for wheel in [*wheels.shipped(), *(wheels.decoders() if with_decoders else [])]:
        copy_file(wheel, dataset / wheel.name)
    files = [path for path in sorted(dataset.iterdir()) if path.is_file()]
    write_text(dataset / "SHA256SUMS", "".join(f"{sha256(path)}  {path.name}\n" for path in files))


def fill_kernel(kernel: Path, comp: Competition, owner: str, dataset: str, hours: float = Inference().hours) -> None:
    """Write the script and its metadata.

    Args:
        kernel: Folder for both.
        comp: Competition.
        owner: Account that owns the kernel and the dataset.
        dataset: Slug of the dataset.
        hours: Kaggle's time limit, in hours. Default: that of `inference.hours`.
    """
    script = (wheels.LIST.parent / "inference.py").read_text(encoding="utf-8")
    for placeholder, value in (
        ('SAMPLE = ""', comp.submission.sample or ""),
        ('NAME = "submission.csv"', comp.submission.file_name),
        ("HOURS = 9.0", float(hours)),
    ):
        assert script.count(f"\n{placeholder}  #") == 1, placeholder
        script = script.replace(placeholder, f"{placeholder.split()[0]} = {json.dumps(value)}", 1)
    write_text(kernel / "inference.py", script)
    with_gpu = comp.kaggle.inference != "none"
    KernelMetadata(
        f"{owner}/{dataset}-inference",
        "inference.py",
        machine_shape=comp.kaggle.inference if with_gpu else None,
        gpu=with_gpu,
        datasets=[f"{owner}/{dataset}"],
        competitions=[comp.kaggle.competition] if comp.kaggle.competition else [],
    ).write(kernel)


def _write_dataset_metadata(dataset: Path, owner: str, slug: str) -> None:
    licenses = [{"name": "CC0-1.0"}]
    metadata = {"id": f"{owner}/{slug}", "title": slug.replace("-", " "), "licenses": licenses}
    write_json(dataset / "dataset-metadata.json", metadata)
