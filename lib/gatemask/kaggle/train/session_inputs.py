"""The inputs of a training session: find and verify what Kaggle mounted, and lay it out as a project.

<kaggle>/input/**/gatemask-<kind>.json       marks a dataset of gatemask's, wherever Kaggle mounts it
<kaggle>/input/**/gatemask-output.json       marks the output of an earlier session, to continue from
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, read_json_object, sha256, write_json
from gatemask.kaggle.train.inputs import SOURCE
from gatemask.kaggle.train.session_compiled import FOLDER, unpack_compiled
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, SessionAccount, SessionRequest
from gatemask.training.found_batch import write_found_batch

DEPTH = 6  # markers are fewer than so many folders below input/; mounts were found one to three deep


def find_inputs(mounts: Path, digests: Mapping[str, str]) -> dict[str, Path]:
    """Return the folder of each kind of dataset, with every file verified.

    Args:
        mounts: /kaggle/input.
        digests: Digest of each kind of dataset at the time of the push.

    Raises:
        GatemaskError: A dataset is not attached, has another version, or a file of it is missing or damaged.
    """
    folders: dict[str, Path] = {}
    rejected: list[str] = []
    for kind, digest in digests.items():
        for marker in _find_markers(mounts, f"gatemask-{kind}.json"):
            try:
                mounted_digest = read_json_object(marker, "digest")["digest"]
            except GatemaskError:
                rejected.append(f"{marker} is damaged")
                continue
            if mounted_digest == digest:
                folders[kind] = marker.parent
            else:
                rejected.append(f"{kind} of another version in {marker.parent}")
    if missing := [kind for kind in digests if kind not in folders]:
        raise GatemaskError(
            "A dataset that this kernel was pushed with is not attached, or Kaggle mounted another version of it.",
            where=mounts,
            received="; ".join(rejected) or "no dataset of gatemask's",
            expected=", ".join(f"{kind} with digest {digests[kind]}" for kind in missing),
            do="Push again: gatemask waits until the datasets' new versions are current. If that does not help, delete "
            "the dataset on Kaggle: it is uploaded again.",
        )
    for kind, folder in folders.items():
        do = "Delete the dataset on Kaggle and push again: it is uploaded again."
        _verify(folder, read_json_object(folder / f"gatemask-{kind}.json", "files", do=do)["files"], do)
    return folders


def link_project(root: Path, kaggle: Path, request: SessionRequest, inputs: Mapping[str, Path]) -> Project:
    """Make the payload's folder a project: data linked from the mounts, runs linked to the folder that Kaggle keeps.

    Args:
        root: The unpacked payload.
        kaggle: /kaggle.
        request: Task of the session.
        inputs: Folder of each kind of dataset.
    """
    project = Project(root, request.comp, request.quick)
    data, records = project.data, inputs["records"]
    data.mkdir(parents=True)
    for name in ("manifest.csv", "masks.csv"):
        (data / name).symlink_to(records / name)
    write_json(data / "manifest.json", {"made_from": {}})  # the original names folders that do not exist here
    project.records(read_json_object(records / "gatemask-records.json", "size")["size"]).symlink_to(records)
    working = kaggle / "working" / "runs" / request.experiment
    working.mkdir(parents=True, exist_ok=True)
    project.runs.mkdir(parents=True)
    (project.runs / request.experiment).symlink_to(working)
    if request.batch is not None:
        write_found_batch(project, request.experiment, request.batch)
    compiled = kaggle / "working" / FOLDER
    compiled.mkdir(exist_ok=True)
    project.compiled.symlink_to(compiled)
    for kind, folder in inputs.items():
        if kind != "weights" and not kind.startswith(SOURCE):
            continue
        for name, place in read_json_object(folder / f"gatemask-{kind}.json", "places")["places"].items():
            link = root / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder / name)
    return project


def restore_earlier_runs(mounts: Path, project: Project, request: SessionRequest) -> None:
    """Copy what earlier sessions left of the experiment's folds; of several states of a fold, the newest.

    Folds that this session does not train are copied too, since the next session gets only this one's output.

    Args:
        mounts: /kaggle/input.
        project: The session's project.
        request: Task of the session.

    Raises:
        GatemaskError: Kaggle did not mount a state that the push relied on; finished work would be repeated.
    """
    do = "Push again; if that does not help, push with --afresh, which begins from scratch."
    restored: dict[int, str] = {}
    for marker in _find_markers(mounts, ACCOUNT_FILE):
        account = SessionAccount.load(marker)
        if account.experiment != request.experiment:
            continue
        unpack_compiled(marker.parent, account.compiled, project.compiled)
        for fold, state in account.newest_states().items():
            if state > restored.get(fold, ""):
                files = account.files_of(fold)
                _verify(marker.parent, files, do)
                restored[fold] = state
                _copy_run(marker.parent, files, project.fold(request.experiment, fold))
                say(f"fold {fold}: continues from {state}, in {marker.parent}")
    for fold_number, state in request.resume_from.items():
        if restored.get(int(fold_number), "") < state:
            raise GatemaskError(
                "Kaggle did not mount the output that this session should continue from.",
                where=mounts,
                received=f"fold {fold_number}: {restored.get(int(fold_number), 'nothing')}",
                expected=state,
                do=do,
            )


def _find_markers(mounts: Path, name: str) -> list[Path]:
    """Return the files of this name in the mounts, whose depth varies."""
    return sorted(path for depth in range(1, DEPTH) for path in mounts.glob("/".join(["*"] * depth) + f"/{name}"))


def _verify(folder: Path, files: Mapping[str, str], do: str) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    faults = [f"{name} is missing" for name in missing] + [
        f"{name} is damaged"
        for name, digest in files.items()
        if name not in missing and sha256(folder / name) != digest
    ]
    if faults:
        raise GatemaskError(
            "Files attached to this kernel are missing or damaged.",
            where=folder,
            received=f"{len(faults)} of {len(files)} files: " + "; ".join(faults[:5]),
            do=do,
        )


def _copy_run(source: Path, files: Mapping[str, str], run: Path) -> None:
    """Copy a fold's files, whose names begin with runs/<experiment>/fold<k>/."""
    fresh_folder(run)
    for name in files:
        target = run.joinpath(*Path(name).parts[3:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
