"""Write a training kernel: one script that contains everything, and its metadata.

    <folder>/train.py               kaggle_kernels/train/train.py with the payload in it
    <folder>/kernel-metadata.json   every key set, see `client.kernel_metadata`

The payload holds lib/gatemask/, experiments/<comp>/ resolved, folds/<comp>.csv and session.json, the kernel's task.
"""

from __future__ import annotations

import base64
import hashlib
import io
import lzma
import zipfile
from collections.abc import Sequence
from pathlib import Path

from gatemask.config import Competition, Experiment
from gatemask.config.machines import machine
from gatemask.files import fresh_folder, write_text
from gatemask.kaggle.client.kernel_metadata import KernelMetadata
from gatemask.project import Project
from gatemask.results.kaggle_training import SessionRequest
from gatemask.secrets.guard import refuse_secrets
from gatemask.shipped import package_files, shipped_folder
from gatemask.yaml12 import dump_yaml

SCRIPT = shipped_folder("kaggle_kernels") / "train" / "train.py"
# Commands, and what only uses trained runs, stay at home: a smaller script.
NOT_NEEDED = frozenset(
    {"commands", "cli", "__main__", "clean", "doctor", "finalists", "loop", "new", "report", "runs", "search", "stages"}
)
SCRIPT_LIMIT = 1_000_000  # bytes; Kaggle refuses larger sources


def build_payload(
    project: Project, comp: Competition, exp: Experiment, request: SessionRequest, folds: bytes | None = None
) -> bytes:
    """Return all that the kernel needs except data, compressed. The same input gives the same bytes.

    Args:
        project: Project whose folds are included, unless `folds` is given.
        comp: competition.yaml, resolved.
        exp: Experiment, resolved.
        request: Task of the session.
        folds: Content of another fold file. Default: the project's.

    Raises:
        GatemaskError: A secret would be uploaded.
    """
    files = {f"lib/{name}": path.read_bytes() for name, path in package_files().items() if _is_needed(name)}
    files[f"experiments/{comp.name}/competition.yaml"] = _resolved(comp)
    files[f"experiments/{comp.name}/{exp.name}.yaml"] = _resolved(_pinned_to_machine(exp, request))
    files[f"folds/{project.label}.csv"] = folds or project.folds.read_bytes()
    files["session.json"] = request.to_json()
    refuse_secrets(files, project.root)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            # A fixed time, since the files' own would make each payload different.
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), files[name])
    return lzma.compress(packed.getvalue(), preset=9)  # similar files together: half the size of zip's own compression


def write_kernel(
    folder: Path, payload: bytes, request: SessionRequest, datasets: Sequence[str] = (), kernels: Sequence[str] = ()
) -> bool:
    """Write script and metadata, and return whether the script contains the payload.

    Args:
        folder: Folder of the kernel; emptied first.
        payload: Payload. If it is too large for the script, it must be attached as a dataset.
        request: Task of the session.
        datasets: Datasets to attach, each as owner/slug.
        kernels: Kernels whose output to attach, each as owner/slug.
    """
    fresh_folder(folder)
    script = _script(request.push, payload, base64.b85encode(payload).decode())
    fits = len(script.encode()) < SCRIPT_LIMIT
    write_text(folder / SCRIPT.name, script if fits else _script(request.push, payload, ""))
    wanted = machine(request.machine)
    KernelMetadata(
        request.ref,
        SCRIPT.name,
        machine_shape=None if wanted.name == "none" else wanted.name,
        gpu=wanted.kind == "gpu",
        tpu=wanted.kind == "tpu",
        internet=True,  # for published weights, and for W&B where a secret is attached
        datasets=datasets,
        kernels=kernels,
    ).write(folder)
    return fits


def _is_needed(name: str) -> bool:
    """Return whether a training kernel may need a file of the package, such as gatemask/cli.py."""
    return name.split("/")[1].removesuffix(".py") not in NOT_NEEDED


def _pinned_to_machine(exp: Experiment, request: SessionRequest) -> Experiment:
    """Return the experiment with the requested accelerator, which is not among the settings that decide the result."""
    runtime = exp.runtime.model_copy(update={"accelerator": machine(request.machine).kind})
    return exp.model_copy(update={"runtime": runtime, "hours": None})


def _resolved(config: Competition | Experiment) -> bytes:
    values = config.model_dump(mode="json", exclude={"quick", "search"}, exclude_none=True)
    return dump_yaml(values).encode()


def _script(push: str, payload: bytes, encoded: str) -> str:
    """Return the script with its constants filled in. Base 85 has neither quotes nor backslashes."""
    script = SCRIPT.read_text(encoding="utf-8")
    for name, value in {"PUSH": push, "SHA256": hashlib.sha256(payload).hexdigest(), "PAYLOAD": encoded}.items():
        placeholder = f'\n{name} = ""\n'
        assert script.count(placeholder) == 1, name
        script = script.replace(placeholder, f'\n{name} = "{value}"\n')
    return script
