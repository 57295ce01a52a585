"""The training kernel as it is pushed: one script with everything inside, and its metadata.

    <folder>/train.py               kaggle_kernels/train/train.py with the payload in it
    <folder>/kernel-metadata.json   nothing is left to a default of Kaggle's or of its command

The payload: lib/gatemask/, experiments/<comp>/ resolved, folds/<comp>.csv and session.json, which says what to do.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import lzma
import re
import subprocess
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, write_json, write_text
from gatemask.kaggle.client import secret_scan
from gatemask.kaggle.image.machines import MACHINES, Machine
from gatemask.kaggle.image.wheels import SOURCE
from gatemask.project import Project
from gatemask.tracking import run_folder

SCRIPT = SOURCE / "kaggle_kernels" / "train" / "train.py"
LIMIT = 1_000_000  # bytes: Kaggle refuses sources of 1 MB
LONGEST = 50  # characters of a title, and so of a slug


@dataclass(frozen=True)
class Session:
    """What a kernel has to know; session.json.

    Args:
        push: names this push among all: the kernel writes it into its output, so that one cannot be taken for another.
        ref: owner/slug of the kernel.
        comp: the competition's folder name.
        quick: whether everything carries the suffix -quick.
        experiment: its name.
        folds: to train, in this order.
        machine: name in MACHINES.
        hours: after which it must have ended.
        commit: of the project, `+dirty` where --allow-dirty let it pass.
        datasets: digest of each attached dataset by its kind (records, wheels, weights).
        goes_on: the state that each fold has to go on from, by its number, where it was begun before.
    """

    push: str
    ref: str
    comp: str
    quick: bool
    experiment: str
    folds: list[int]
    machine: str
    hours: float
    commit: str | None
    datasets: dict[str, str]
    goes_on: dict[str, str] = field(default_factory=dict)


def slug(*parts: str) -> str:
    """A name as Kaggle makes it from a title: small letters, digits and dashes, 50 characters at most.

    Longer ones are cut, and a hash keeps them apart.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", "-".join(["gatemask", *parts]).lower()).strip("-")
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 7].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def payload(
    project: Project, comp: Competition, exp: Experiment, session: Session, folds: bytes | None = None
) -> bytes:
    """All that the kernel needs but data, compressed; the same input gives the same bytes.

    Args:
        project: its folds are taken, unless `folds` holds others.
        comp: competition.yaml, resolved.
        exp: the experiment, resolved.
        session: what to do.
        folds: content of a fold file to take in place of the project's.
    """
    on_machine = insisting(exp, session)
    files = {f"lib/{p.relative_to(SOURCE / 'lib').as_posix()}": p.read_bytes() for p in _sources()}
    files[f"experiments/{comp.name}/competition.yaml"] = _resolved(comp)
    files[f"experiments/{comp.name}/{exp.name}.yaml"] = _resolved(on_machine)
    files[f"folds/{project.label}.csv"] = folds or project.folds.read_bytes()
    files["session.json"] = json.dumps(asdict(session), indent=2).encode()
    secret_scan.refuse_any(files, project.root)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            # Times of files would make each push another one.
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), files[name])
    return lzma.compress(packed.getvalue(), preset=9)  # files alike, together: half the size of zip's own way


def insisting(exp: Experiment, session: Session) -> Experiment:
    """The experiment, insisting on the machine that is asked for; that is no part of what decides its outcome."""
    runtime = exp.runtime.model_copy(update={"accelerator": MACHINES[session.machine].kind})
    return exp.model_copy(update={"runtime": runtime, "hours": None})


def write(folder: Path, data: bytes, session: Session, machine: Machine, sources: dict[str, list[str]]) -> bool:
    """Write script and metadata; returns whether the payload went into the script, or must come as a dataset.

    Args:
        folder: emptied first.
        data: the payload.
        session: of this push.
        machine: that is asked for.
        sources: `dataset_sources` and `kernel_sources`, as owner/slug.
    """
    fresh_folder(folder)
    inside = base64.b85encode(data).decode()
    script = _filled(session, data, inside)
    fits = len(script.encode()) < LIMIT
    write_text(folder / "train.py", script if fits else _filled(session, data, ""))
    owner, name = session.ref.split("/")
    write_json(folder / "kernel-metadata.json", metadata(owner, name, machine, sources))
    return fits


def metadata(owner: str, name: str, machine: Machine, sources: dict[str, list[str]]) -> dict[str, Any]:
    """kernel-metadata.json, each key said outright: defaults of command and service differ, and change."""
    shape = {} if machine.name == "none" else {"machine_shape": machine.name}
    return {
        "id": f"{owner}/{name}",
        "title": name.replace("-", " "),  # Kaggle makes the slug from it
        "code_file": "train.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": machine.kind == "gpu",
        "enable_tpu": machine.kind == "tpu",
        "enable_internet": True,  # for published weights, and W&B where a secret is attached
        **shape,
        "dataset_sources": sources.get("dataset_sources", []),
        "kernel_sources": sources.get("kernel_sources", []),
        "competition_sources": [],
        "model_sources": [],
        "keywords": [],
    }


def clean_commit(project: Project, allow_dirty: bool) -> str | None:
    """The commit that a push records.

    Raises:
        GatemaskError: there is none, or files that go into the bundle were changed since.
    """
    changed = {root: _changed(root) for root in {SOURCE, project.root}}
    commit = run_folder.commit(project.root)
    if allow_dirty:
        return commit
    if commit is None or None in changed.values():
        raise GatemaskError(
            "There is no commit to record with the run.",
            where=project.root,
            do="git init && git add . && git commit, or push with --allow-dirty.",
        )
    if files := [f"{root / name}" for root, names in changed.items() for name in names or []]:
        raise GatemaskError(
            "Files were changed since the last commit: nobody could tell later what was trained.",
            where=project.root,
            received=", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else ""),
            do="Commit them, or push with --allow-dirty.",
        )
    return commit.removesuffix("+dirty")  # what else was changed goes into no kernel


def _changed(root: Path) -> list[str] | None:
    """Changed and new files among those that a bundle is made from; None outside git."""
    folders = [f for f in ("lib/gatemask", "kaggle_kernels", "experiments", "folds") if (root / f).exists()]
    if root != SOURCE:
        folders = [f for f in folders if f in ("experiments", "folds")]
    git = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=all", "--", *folders]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [line[3:] for line in done.stdout.splitlines()]


def _sources() -> list[Path]:
    return sorted(p for p in (SOURCE / "lib" / "gatemask").rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _resolved(config: Competition | Experiment) -> bytes:
    values = config.model_dump(mode="json", exclude={"quick"}, exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _filled(session: Session, data: bytes, inside: str) -> str:
    """The script with its constants. Base 85 has neither quotes nor backslashes."""
    script = SCRIPT.read_text(encoding="utf-8")
    for name, value in {"PUSH": session.push, "SHA256": hashlib.sha256(data).hexdigest(), "PAYLOAD": inside}.items():
        before = f'\n{name} = ""\n'
        assert script.count(before) == 1, name
        script = script.replace(before, f'\n{name} = "{value}"\n')
    return script
