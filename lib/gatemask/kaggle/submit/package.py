"""`gatemask package`: what is uploaded to Kaggle for an offline submission.

dist/<comp>/dataset/<member>.weights.h5
dist/<comp>/dataset/*.whl                     gatemask, and the four that Kaggle's images lack
dist/<comp>/dataset/ensemble.yaml             members, rule, facts of the competition, how to run
dist/<comp>/dataset/SHA256SUMS                of all of these; the kernel checks them first
dist/<comp>/dataset/dataset-metadata.json
dist/<comp>/kernel/inference.py kernel-metadata.json
dist/<comp>/package.json                      written last

The dataset is flat, since the kaggle command leaves folders out.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble
from gatemask.console import progress, say
from gatemask.ensemble.precision import check as check_precision
from gatemask.ensemble.select import facts, weights_file
from gatemask.ensemble.select import require_current as require_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import (
    fingerprint,
    fresh_folder,
    is_current,
    read_json,
    read_yaml,
    sha256,
    stamped_result,
    write_json,
    write_stamp,
    write_text,
    write_yaml,
)
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.kaggle.image import wheels
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble

UNKNOWN = "owner-not-set"


def package(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Write dataset and kernel; the ensemble must have been chosen, and be that of the present runs."""
    source = require_ensemble(project, comp, ensemble)
    stamp = project.dist / "package.json"
    owner = comp.kaggle.owner or os.environ.get("KAGGLE_USERNAME") or UNKNOWN
    made_from = {
        "ensemble": sha256(source),
        "code": wheels.source_fingerprint(),
        "owner": owner,
        "kaggle": comp.kaggle.model_dump(),
        "inference": ensemble.inference.model_dump(),
    }
    if is_current(stamp, made_from):
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    if owner == UNKNOWN:
        say("No owner is set: name yours as kaggle.owner in competition.yaml before you upload the package.")
    stamp.unlink(missing_ok=True)
    dataset, kernel = fresh_folder(project.dist / "dataset"), fresh_folder(project.dist / "kernel")
    fill_dataset(project, dataset, source, ensemble.inference.model_dump())
    precision = check_precision(project, comp, ShippedEnsemble.load(source), dataset, ensemble.inference.precision)
    fill_kernel(kernel, comp, owner, slug(project))
    write_json(
        dataset / "dataset-metadata.json",
        {"id": f"{owner}/{slug(project)}", "title": slug(project).replace("-", " "), "licenses": [{"name": "CC0-1.0"}]},
    )
    files = [path for folder in (dataset, kernel) for path in sorted(folder.rglob("*")) if path.is_file()]
    result = {
        "dataset": str(dataset),
        "kernel": str(kernel),
        "files": len(files),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "precision": precision,
    }
    return write_stamp(stamp, made_from, result, files, started)


def require_current(project: Project, comp: Competition) -> str:
    """What is packaged, as one name: the same bytes that run the same way have the same, whenever they were packaged.

    Raises:
        GatemaskError: nothing is packaged, or it is older than the ensemble or competition.yaml.
    """
    stamp, chosen = project.dist / "package.json", project.runs / "ensemble" / "ensemble.yaml"
    do = f"Run gatemask package {project.comp}."
    if not stamp.exists():
        raise GatemaskError("Nothing is packaged yet.", where=project.dist, do=do)
    if not chosen.exists() or read_json(stamp)["made_from"].get("ensemble") != sha256(chosen):
        raise GatemaskError("The package is older than the ensemble.", where=stamp, do=do)
    metadata = read_json(project.dist / "kernel" / "kernel-metadata.json")
    sources = [comp.kaggle.competition] if comp.kaggle.competition else []
    known = read_yaml(chosen)["competition"] == facts(comp) and metadata["competition_sources"] == sources
    if not known:
        do = f"Run gatemask ensemble {project.comp}, and gatemask package {project.comp}."
        raise GatemaskError("The package is older than competition.yaml.", where=stamp, do=do)
    how = {key: metadata.get(key) for key in ("enable_gpu", "machine_shape", "competition_sources")}
    files = [project.dist / "dataset" / "SHA256SUMS", project.dist / "kernel" / "inference.py"]
    return fingerprint([how, *(sha256(path) for path in files)])


def slug(project: Project) -> str:
    """The dataset's name on Kaggle, 6 to 50 characters; the kernel's adds `-inference`."""
    suffix = "-quick" if project.quick else ""
    return f"gatemask-{project.comp}"[: 39 - len(suffix)].rstrip("-") + suffix


def fill_dataset(project: Project, dataset: Path, source: Path, settings: dict[str, Any]) -> None:
    """Lay weights, wheels and ensemble.yaml into an empty folder.

    Args:
        project: whose runs hold the weights.
        dataset: the folder.
        source: ensemble.yaml as it was chosen.
        settings: its section `inference`.
    """
    ensemble = {**read_yaml(source), "inference": settings}
    members = [*ensemble["gate"], *ensemble["mask"]]
    for member in progress(members, "weights", len(members)):
        original = weights_file(project, member)
        target = dataset / f"{member['name']}.weights.h5"
        shutil.copyfile(original, target)
        if sha256(target) != member["sha256"]:
            raise GatemaskError(
                "A member's weights are not those that were chosen.",
                where=original,
                do=f"Run gatemask ensemble {project.comp} again.",
            )
    write_yaml(dataset / "ensemble.yaml", ensemble)
    wheels.build_own(dataset)
    for wheel in wheels.shipped():
        shutil.copyfile(wheel, dataset / wheel.name)
    listed = [path for path in sorted(dataset.iterdir()) if path.is_file()]
    write_text(dataset / "SHA256SUMS", "".join(f"{sha256(path)}  {path.name}\n" for path in listed))


def fill_kernel(kernel: Path, comp: Competition, owner: str, dataset: str) -> None:
    """The script, and metadata that leave nothing to defaults."""
    script = (wheels.LIST.parent / "inference.py").read_text(encoding="utf-8")
    sample = json.dumps(comp.submission.sample or "")
    write_text(kernel / "inference.py", script.replace('SAMPLE = ""', f"SAMPLE = {sample}", 1))
    with_gpu = comp.kaggle.inference != "none"
    KernelMetadata(
        f"{owner}/{dataset}-inference",
        "inference.py",
        machine_shape=comp.kaggle.inference if with_gpu else None,
        gpu=with_gpu,
        datasets=[f"{owner}/{dataset}"],
        competitions=[comp.kaggle.competition] if comp.kaggle.competition else [],
    ).write(kernel)
