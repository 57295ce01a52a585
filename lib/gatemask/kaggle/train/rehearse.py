"""`gatemask rehearse EXP --train`: run a training kernel as Kaggle will, before spending Kaggle's hours on it.

    runs/<comp>/rehearsal-train/<experiment>/kernel/       the bundle, as it would be pushed
    runs/<comp>/rehearsal-train/<experiment>/kaggle/       input/ with the datasets mounted, working/ with the output
    runs/<comp>/rehearsal-train/<experiment>/log.txt
    runs/<comp>/rehearsal-train/<experiment>/result.json   written last

Script, package, YAML, records, wheels, backend and accounting are the same as on Kaggle, with only the packages of the
machine's image; but on the CPU, for one epoch of a few steps on a few images, without a network and without secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gatemask.builders import encoder_weights
from gatemask.config import Competition, Experiment
from gatemask.console import say
from gatemask.data.split import HOLDOUT, pick_half_positive, read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, read_json_object, write_bytes
from gatemask.kaggle.client.datasets import Dataset, write_upload_folder
from gatemask.kaggle.client.slugs import kaggle_slug
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.train import bundle
from gatemask.kaggle.train.inputs import input_datasets
from gatemask.parallel import peak_memory
from gatemask.project import Project
from gatemask.results.kaggle_training import ACCOUNT_FILE, SessionAccount, SessionRequest, TrainingRehearsal
from gatemask.stage import Stage
from gatemask.tracking import run_folder

STEPS = 3
VALIDATION_IMAGES = 8
BATCH_TO_FIND = 8
WORKING_LIMIT = 20e9  # bytes that Kaggle keeps of a session
TIME_LIMIT_S = 3600.0
RETRY = "rehearse again"


def rehearse_training(project: Project, comp: Competition, exp: Experiment, fold: int = 0) -> TrainingRehearsal:
    """Build the bundle, run it in the sandbox, and check its output.

    Args:
        project, comp, exp: Experiment to rehearse.
        fold: Fold to train. Default: 0.

    Raises:
        GatemaskError: The kernel failed, ran too long, or a full training would leave more than Kaggle keeps.
    """
    folder = project.runs / "rehearsal-train" / exp.name
    on_tpu = machine_for(comp, exp).kind == "tpu"
    short = _shortened(project, exp, on_tpu)
    datasets = input_datasets(project, comp, short, [fold])
    request = SessionRequest(
        push="rehearsal",
        ref=f"rehearsal/{kaggle_slug(project.label, exp.name)}",
        comp=comp.name,
        quick=project.quick,
        experiment=exp.name,
        folds=(fold,),
        machine="none",
        hours=TIME_LIMIT_S / 3600,
        commit=run_folder.commit(project.root),
        datasets={dataset.kind: dataset.digest for dataset in datasets},
    )
    payload = bundle.build_payload(project, comp, short, request, _few_images(project, exp, fold))

    def work() -> tuple[TrainingRehearsal, list[Path]]:
        payload_inside = bundle.write_kernel(folder / "kernel", payload, request)
        kaggle = _mount(project, fresh_folder(folder / "kaggle"), datasets)
        if not payload_inside:  # attached as a dataset, on Kaggle as here
            write_bytes(kaggle / "input" / "payload" / "payload.bin", payload)
        isolation = _run(folder, kaggle, sandbox.ON_TPU if on_tpu else sandbox.ON_KAGGLE)
        account = _finished_account(kaggle / "working", request)
        output = _measure_output(project, exp, kaggle / "working", account, fold)
        result = TrainingRehearsal(
            isolation=isolation,
            script_kilobytes=round((folder / "kernel" / "train.py").stat().st_size / 1e3, 1),
            payload_inside=payload_inside,
            kernel_seconds=account.seconds,
            files=len(account.files),
            output_megabytes=round(output.size / 1e6, 1),
            expected_megabytes=round(output.expected / 1e6, 1),
            peak_memory_megabytes=round(peak_memory(children=True) / 1e6),
        )
        return result, [folder / "log.txt"]

    made_from = {"payload": hashlib.sha256(payload).hexdigest(), "datasets": request.datasets}
    return Stage(f"rehearse {exp.name}", folder / "result.json", made_from, TrainingRehearsal).run(work)


def _shortened(project: Project, exp: Experiment, on_tpu: bool) -> Experiment:
    """Return the experiment cut to one epoch of a few steps, on the backend of the real machine.

    Weights that would be downloaded are omitted, since there is no network; so are those of another run, which was
    trained on validation images of this smaller split.
    """
    sampling = exp.sampling.model_copy(update={"epoch": STEPS * _batch(exp)})
    short = exp.model_copy(update={"epochs": 1, "sampling": sampling, "freeze": None})
    if on_tpu:
        short = short.model_copy(update={"runtime": exp.runtime.model_copy(update={"backend": "jax"})})
    published = exp.model.weights in ("imagenet", "noisy-student")
    missing = published and encoder_weights.find_weights_file(exp.model, project.root, download=False) is None
    if missing or exp.model.weights.startswith("run:"):
        say(f"The rehearsal does without the weights '{exp.model.weights}'.")
        short = short.model_copy(update={"model": exp.model.model_copy(update={"weights": "none"})})
    return short


def _batch(exp: Experiment) -> int:
    """Return the images per device for which images are set aside; a batch that the kernel finds is smaller."""
    return BATCH_TO_FIND if exp.batch.per_device == "auto" else exp.batch.per_device


def _mount(project: Project, kaggle: Path, datasets: Sequence[Dataset]) -> Path:
    """Make a folder that looks like /kaggle, with links in place of mounts."""
    for dataset in datasets:
        mount = kaggle / "input" / "datasets" / "rehearsal" / dataset.slug
        mount.parent.mkdir(parents=True, exist_ok=True)
        mount.symlink_to(write_upload_folder(project, dataset, "rehearsal"))
    (kaggle / "working").mkdir()
    return kaggle


def _few_images(project: Project, exp: Experiment, fold: int) -> bytes:
    """Return a fold file of a few images, with positives in both training and validation."""
    frame = read_folds(project)
    labels = read_manifest(project, "train").set_index("image_id")["label"]
    frame = frame[frame["fold"] != HOLDOUT].assign(label=lambda f: f["image_id"].map(labels))
    if fold not in set(frame["fold"]):
        raise GatemaskError("There is no such fold.", where=project.folds, received=fold)
    validation = frame["fold"] == fold
    training_images = max(2 * STEPS, STEPS * _batch(exp))
    parts = [
        _half_positives(frame[~validation], training_images),
        _half_positives(frame[validation], VALIDATION_IMAGES),
    ]
    return pd.concat(parts).drop(columns="label").to_csv(index=False).encode()


def _half_positives(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` rows, half of them positive if there are enough."""
    return frame.iloc[pick_half_positive(frame["label"], count)]


def _run(folder: Path, kaggle: Path, packages: list[str]) -> str:
    prefix, isolation = sandbox.isolation()
    say(f"rehearsal: {isolation}; {sandbox.packages_note(packages)}")
    python, _ = sandbox.make_image(folder / "image", not prefix, packages)
    code = sandbox.run([*prefix, str(python), str(folder / "kernel" / "train.py")], kaggle, folder, TIME_LIMIT_S)
    sandbox.remove(folder / "image")
    sandbox.require_success(code, folder / "log.txt", RETRY)
    return isolation


def _finished_account(working: Path, request: SessionRequest) -> SessionAccount:
    """Return the kernel's account, if it says that the fold is finished."""
    account = SessionAccount.load(working / ACCOUNT_FILE)
    done = {fold for fold, outcome in account.folds.items() if outcome.done}
    if account.push != request.push or done != {str(fold) for fold in request.folds}:
        raise GatemaskError(
            "The kernel failed in the rehearsal.",
            where=working / ACCOUNT_FILE,
            received=account.error or account.state,
            do=f"It would have failed on Kaggle too. Read the log, fix the cause, and {RETRY}.",
        )
    return account


class _OutputSize(NamedTuple):
    """Size of the rehearsal's output, and expected size of the output of a full training, in bytes."""

    size: int
    expected: float


def _measure_output(
    project: Project, exp: Experiment, working: Path, account: SessionAccount, fold: int
) -> _OutputSize:
    """Extrapolate the output of the rehearsal to the whole training.

    Raises:
        GatemaskError: Kaggle would not keep all of it.
    """
    run = working / "runs" / exp.name / f"fold{fold}"
    sizes = {name: (working / name).stat().st_size for name in account.files}
    weights = (run / "best.weights.h5").stat().st_size
    predictions = sum(size for name, size in sizes.items() if "/oof" in name or name.endswith("tables.npz"))
    images = read_folds(project)
    images = images[images["fold"] != HOLDOUT]
    predicted_images = read_json_object(run / "result.json", "validation_images")["validation_images"]
    folds = images["fold"].nunique()
    # Two states with weights and two moments each, the weights of the best epochs, and the file being written.
    state = weights * (2 * 3 + exp.checkpoints.keep + 1)
    expected = folds * weights + predictions * len(images) / predicted_images + state
    if expected > WORKING_LIMIT:
        raise GatemaskError(
            "The output would be larger than what Kaggle keeps of a session.",
            where=exp.name,
            received=f"about {expected / 1e9:.0f} GB for {folds} folds in one session",
            expected=f"{WORKING_LIMIT / 1e9:.0f} GB",
            do="Push fewer folds at once, or predict at a smaller input.size.",
        )
    return _OutputSize(sum(sizes.values()), expected)
