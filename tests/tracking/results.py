"""Trained folds, a tuned rule, an ensemble and a submission on disk, for tests that train and tune nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gatemask.config import Experiment, load_competition
from gatemask.files import sha256, write_json, write_text, write_yaml
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts, EnsembleResult, ShippedEnsemble, ShippedMember, ShippedScore
from gatemask.results.submission import MemberTiming, SubmissionRecord
from gatemask.results.tuning import Kind, Selections, TunedMember, TunedResult
from gatemask.stage import Stage, write_stamp
from gatemask.tracking.run_folder import write_metrics
from tests.fold_results import fold_result
from tests.tuned_results import RULE, tuned_result

FOLDS = (0, 1)
MEMBERS: list[tuple[Kind, str]] = [("gate", "gate_r18"), ("mask", "unet_b0")]


def experiment(name: str, task: str) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18"}
    settings = {"task": task, "model": model, "input": {"size": 32}, "loss": {"bce": 1}, "epochs": 1}
    return Experiment.model_validate({"name": name, **settings})


def write_fold(project: Project, task: Kind, name: str, fold: int, **made_from: object) -> Path:
    """Write a trained fold that W&B tracks, with invented weights, and return its folder."""
    folder = project.fold(name, fold)
    (folder / "wandb").mkdir(parents=True)
    exp = experiment(name, task)
    write_yaml(folder / "config.yaml", exp.model_dump(mode="json", exclude={"quick"}, exclude_none=True))
    weights = folder / "best.weights.h5"
    weights.write_bytes(f"weights of {name}, fold {fold}".encode())
    write_metrics(folder / "metrics.jsonl", [{"epoch": 0, "loss": 0.5, exp.monitor: 0.75}])
    result = fold_result(experiment=name, fold=fold, task=task, monitor=exp.monitor, score=0.75)
    made = {"made_from": {"settings": name, "fold": fold, **made_from}, "outputs": {weights.name: sha256(weights)}}
    write_stamp(folder / "result.json", {**made, **result.stamped()})
    return folder


def write_folds(project: Project, **made_from: object) -> None:
    """Write all folds of all members."""
    for task, name in MEMBERS:
        for fold in FOLDS:
            write_fold(project, task, name, fold, **made_from)


def write_tuned(project: Project, **changes: Any) -> TunedResult:
    """Write a tuned rule of all members, with two figures."""
    members = [
        TunedMember(experiment=name, fold=fold, task=task, sha256=sha256(project.fold(name, fold) / "best.weights.h5"))
        for task, name in MEMBERS
        for fold in FOLDS
    ]
    result = tuned_result(**{"members": members, **changes})
    rule = write_yaml(project.tuned / "rule.yaml", RULE.model_dump(mode="json"))
    outputs = [rule, write_figure(project.tuned / "surface.png"), write_figure(project.tuned / "gate.png")]
    made_from = {"settings": str(result.cross_fitted)}
    return Stage("oof-tune", project.tuned / "result.json", made_from, TunedResult).run(lambda: (result, outputs))


def write_ensemble(project: Project) -> EnsembleResult:
    """Write an ensemble of the first fold of each member, made from the tuned rule."""
    folder = project.runs / "ensemble"
    comp = load_competition(project.experiments)
    parts = {task: [_shipped(project, task, name)] for task, name in MEMBERS}
    shipped = ShippedEnsemble(
        competition=CompetitionFacts.of(comp),
        score=ShippedScore(cross_fitted=0.8, in_sample=0.9, all_empty=0.5),
        rule=RULE,
        gate=parts["gate"],
        mask=parts["mask"],
    )
    names = [member.name for member in shipped.members]
    result = EnsembleResult(
        gates=1,
        masks=1,
        cross_fitted=0.8,
        ci95=(0.7, 0.9),
        members=names,
        weights=dict.fromkeys(names, 1.0),
        why=dict.fromkeys(names, "best fold"),
        selection=Selections(),
        test_images=160,
        predicted_minutes=1.5,
    )
    made_from = {"rule": sha256(project.tuned / "rule.yaml")}
    files = [shipped.save(folder / "ensemble.yaml"), write_figure(folder / "selection.png")]
    return Stage("ensemble", folder / "result.json", made_from, EnsembleResult).run(lambda: (result, files))


def _shipped(project: Project, task: Kind, name: str) -> ShippedMember:
    return ShippedMember(
        name=f"{name}-fold0",
        experiment=name,
        fold=0,
        score=0.75,
        why="best fold",
        seconds_per_image=0.01,
        sha256=sha256(project.fold(name, 0) / "best.weights.h5"),
        task=task,
        size=32,
        records=64,
        model=experiment(name, task).model,
    )


def write_submission(project: Project, **changes: Any) -> SubmissionRecord:
    """Write the record of a submission of the ensemble, with a copy of its file."""
    folder = project.runs / "submissions"
    file = write_text(folder / "a1b2c3d4e5f6.csv", "ImageId,EncodedPixels\n1,-1\n")
    fields = {
        "id": "a1b2c3d4e5f6",
        "package": "p",
        "competition": "phantom-chest-x-rays",
        "description": "gatemask a1b2c3d4e5f6: local 0.8000",
        "at": "2026-01-01T00:00:00",
        "local": 0.8,
        "ensemble": sha256(project.runs / "ensemble" / "ensemble.yaml"),
        "experiments": [name for _, name in MEMBERS],
        "members": [f"{name}-fold0" for _, name in MEMBERS],
        "timings": {"unet_b0-fold0": MemberTiming(images=12, seconds_per_image=0.25)},
        "submission_sha256": sha256(file),
        "file": file.name,
        "images": 12,
        "submitted_at": "2026-01-01T01:00:00",
        "state": "submitted",
    }
    record = SubmissionRecord.model_validate({**fields, **changes})
    write_json(folder / f"{record.id}.json", record.model_dump(mode="json"))
    return record


def write_figure(path: Path) -> Path:
    """Write a small picture that depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_results(project: Project) -> None:
    """Write folds, tuned rule, ensemble and submission."""
    shutil.rmtree(project.runs, ignore_errors=True)
    write_folds(project)
    write_tuned(project)
    write_ensemble(project)
    write_submission(project)
