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
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from gatemask.config import Competition, Experiment
from gatemask.files import fresh_folder, write_text
from gatemask.kaggle.client import secret_scan
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.kaggle.image.machines import MACHINES, Machine
from gatemask.kaggle.image.wheels import SOURCE
from gatemask.project import Project

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
    secret_scan.refuse_secrets(files, project.root)
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
    kernel_metadata(session.ref, machine, sources).write(folder)
    return fits


def kernel_metadata(ref: str, machine: Machine, sources: dict[str, list[str]]) -> KernelMetadata:
    """Return the metadata of a training kernel."""
    return KernelMetadata(
        ref,
        "train.py",
        machine_shape=None if machine.name == "none" else machine.name,
        gpu=machine.kind == "gpu",
        tpu=machine.kind == "tpu",
        internet=True,  # for published weights, and W&B where a secret is attached
        datasets=sources.get("dataset_sources", []),
        kernels=sources.get("kernel_sources", []),
    )


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
