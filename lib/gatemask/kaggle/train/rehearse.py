"""`gatemask rehearse EXP --train`: run a training kernel as Kaggle will, before Kaggle's hours are spent on it.

    runs/<comp>/rehearsal-train/<experiment>/kernel/       the bundle, as it would be pushed
    runs/<comp>/rehearsal-train/<experiment>/kaggle/       input/ with the datasets mounted, working/ with the output
    runs/<comp>/rehearsal-train/<experiment>/log.txt
    runs/<comp>/rehearsal-train/<experiment>/result.json   written last

The same script, package, YAML, records, wheels, backend and accounting as on Kaggle, and only the packages of the image
of its machine; but on the CPU, for one epoch of a few steps on a few images, without a network and without secrets.
"""

from __future__ import annotations

import hashlib
import resource
import time
from pathlib import Path
from typing import Any

import pandas as pd

from gatemask.builders import encoder_weights
from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data.split import HOLDOUT, pick_half_positive, read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, is_current, read_json, stamped_result, write_bytes, write_stamp
from gatemask.kaggle.client import datasets
from gatemask.kaggle.client.datasets import Dataset
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.image.machines import MACHINES, machine
from gatemask.kaggle.train import bundle, inputs
from gatemask.kaggle.train.session import OUTPUT
from gatemask.project import Project
from gatemask.tracking import run_folder

STEPS = 3
VALIDATION = 8  # images
WORKING_LIMIT = 20e9  # bytes that Kaggle keeps of a session
TIME_LIMIT_S = 3600.0


def rehearse(project: Project, comp: Competition, exp: Experiment, fold: int = 0) -> dict[str, Any]:
    """Build the bundle, run it in the sandbox, check its output.

    Returns:
        isolation, script and payload sizes, seconds, peak memory, output megabytes here and expected on Kaggle.

    Raises:
        GatemaskError: the kernel failed, ran too long, or would leave more than Kaggle keeps.
    """
    started, folder = time.monotonic(), project.runs / "rehearsal-train" / exp.name
    on_tpu = machine(comp, exp).kind == "tpu"
    small = _shortened(project, exp, on_tpu)
    sources = inputs.input_datasets(project, comp, small, [fold])
    session = bundle.Session(
        push="rehearsal",
        ref=f"rehearsal/{bundle.slug(project.label, exp.name)}",
        comp=comp.name,
        quick=project.quick,
        experiment=exp.name,
        folds=[fold],
        machine="none",
        hours=TIME_LIMIT_S / 3600,
        commit=run_folder.commit(project.root),
        datasets={source.kind: source.digest for source in sources},
    )
    data = bundle.payload(project, comp, small, session, _few_images(project, exp, fold))
    made_from = {"payload": hashlib.sha256(data).hexdigest(), "datasets": session.datasets}
    if is_current(folder / "result.json", made_from):
        return {"current": True, **stamped_result(folder / "result.json")}
    inside = bundle.write(fresh_folder(folder) / "kernel", data, session, MACHINES["none"], {})
    kaggle = _mounts(project, folder / "kaggle", sources)
    if not inside:  # then it comes as a dataset, on Kaggle as here
        write_bytes(kaggle / "input" / "payload" / "payload.bin", data)
    isolation = _run(folder, kaggle, sandbox.ON_TPU if on_tpu else sandbox.ON_KAGGLE)
    result = {
        "isolation": isolation,
        "script_kilobytes": round((folder / "kernel" / "train.py").stat().st_size / 1e3, 1),
        "payload_inside": inside,
        **_output(project, exp, fold, kaggle / "working", session.push),
        "peak_memory_megabytes": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
    }
    return write_stamp(folder / "result.json", made_from, result, [folder / "log.txt"], started)


def _shortened(project: Project, exp: Experiment, on_tpu: bool) -> Experiment:
    """One epoch of a few steps, on the backend of the real machine.

    Weights that would have to be downloaded are left out, since there is no network; and those of another run, which
    saw images of this shortened split's validation.
    """
    sampling = exp.sampling.model_copy(update={"epoch": STEPS * exp.batch.per_device})
    changes: dict[str, Any] = {"epochs": 1, "sampling": sampling, "freeze": None}
    if on_tpu:
        changes["runtime"] = exp.runtime.model_copy(update={"backend": "jax"})
    published = exp.model.weights in ("imagenet", "noisy-student")
    missing = published and encoder_weights.find_weights_file(exp.model, project.root, download=False) is None
    if missing or exp.model.weights.startswith("run:"):
        say(f"The rehearsal does without the weights '{exp.model.weights}'.")
        changes["model"] = exp.model.model_copy(update={"weights": "none"})
    return exp.model_copy(update=changes)


def _mounts(project: Project, kaggle: Path, sources: list[Dataset]) -> Path:
    """A folder that looks as /kaggle does, with links in place of mounts."""
    for source in sources:
        mount = kaggle / "input" / "datasets" / "rehearsal" / source.slug
        mount.parent.mkdir(parents=True, exist_ok=True)
        mount.symlink_to(datasets.write_upload_folder(project, source, "rehearsal"))
    (kaggle / "working").mkdir()
    return kaggle


def _few_images(project: Project, exp: Experiment, fold: int) -> bytes:
    """A fold file of a few images, positives among them, in training and validation."""
    frame = read_folds(project)
    labels = read_manifest(project, "train").set_index("image_id")["label"]
    frame = frame[frame["fold"] != HOLDOUT].assign(label=lambda f: f["image_id"].map(labels))
    if fold not in set(frame["fold"]):
        raise GatemaskError("There is no such fold.", where=project.folds, received=fold)
    inside = frame["fold"] == fold
    parts = [_mixed(frame[~inside], max(2 * STEPS, STEPS * exp.batch.per_device)), _mixed(frame[inside], VALIDATION)]
    return pd.concat(parts).drop(columns="label").to_csv(index=False).encode()


def _mixed(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` rows, half of them positive where there are as many."""
    return frame.iloc[pick_half_positive(frame["label"], count)]


def _run(folder: Path, kaggle: Path, packages: list[str]) -> str:
    prefix, isolation = sandbox.isolation()
    say(f"rehearsal: {isolation}; only the packages of Kaggle's image")
    python, _ = sandbox.make_image(folder / "image", not prefix, packages)
    code = sandbox.run([*prefix, str(python), str(folder / "kernel" / "train.py")], kaggle, folder, TIME_LIMIT_S)
    sandbox.remove(folder / "image")
    sandbox.require_success(code, folder / "log.txt", "and rehearse again")
    return isolation


def _output(project: Project, exp: Experiment, fold: int, working: Path, push: str) -> dict[str, Any]:
    """What the kernel left: verified as a fetched one is, and extrapolated to the whole training."""
    account = read_json(working / OUTPUT)
    if account["push"] != push or not account["folds"].get(str(fold), {}).get("done"):
        raise GatemaskError(
            "The kernel failed in the rehearsal.",
            where=working / OUTPUT,
            received=account["error"] or account["state"],
            do="It would have failed on Kaggle too. Read the log, mend, and rehearse again.",
        )
    run = working / "runs" / exp.name / f"fold{fold}"
    sizes = {name: (working / name).stat().st_size for name in account["files"]}
    weight = (run / "best.weights.h5").stat().st_size
    predicted = sum(size for name, size in sizes.items() if "/oof" in name or name.endswith("tables.npz"))
    images = read_folds(project)
    images = images[images["fold"] != HOLDOUT]
    seen = read_json(run / "result.json")["validation_images"]
    folds = images["fold"].nunique()
    # The newest two states hold weights and two moments, beside the best epochs' weights and the one that is written.
    state = weight * (2 * 3 + exp.checkpoints.keep + 1)
    expected = folds * weight + predicted * len(images) / seen + state
    if expected > WORKING_LIMIT:
        raise GatemaskError(
            "The output would be larger than what Kaggle keeps of a session.",
            where=exp.name,
            received=f"about {expected / 1e9:.0f} GB for {folds} folds in one session",
            expected=f"{WORKING_LIMIT / 1e9:.0f} GB",
            do="Push fewer folds at once, or predict at a smaller input.size.",
        )
    return {
        "kernel_seconds": account["seconds"],
        "files": len(sizes),
        "output_megabytes": round(sum(sizes.values()) / 1e6, 1),
        "expected_megabytes": round(expected / 1e6, 1),
    }
