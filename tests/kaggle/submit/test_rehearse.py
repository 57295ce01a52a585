"""Rehearsals: the real kernel in the sandbox, on a competition of two classes, and faulty kernels.

Competitions of one class, with DICOM files and with pictures, are rehearsed by tests/test_loop.py.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from gatemask.config import Competition, Inference, Model, load_competition
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, read_yaml, sha256, write_json, write_yaml
from gatemask.kaggle.image import sandbox
from gatemask.kaggle.submit import hidden_files, package, rehearse
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts, ShippedEnsemble
from gatemask.results.submission import InferenceReport
from tests import tiny
from tests.kaggle.submit.shipping import write_stamp

pytestmark = pytest.mark.integration

CLASSES = ["fish", "sugar"]
COMP = {
    "name": "clouds",
    "title": "Two kinds of clouds",
    "raw": "data/clouds/raw",
    "image": {"size": [96, 128], "channels": 3},
    "train": {"images": "train/*.jpg"},
    "test": {"images": "test/*.jpg"},
    "labels": {"format": "rle", "file": "train.csv"},
    "classes": CLASSES,
    "submission": {
        "id": "Image_Label",
        "mask": "Pixels",
        "sample": "sample_submission.csv",
        "joined": "{id}.jpg_{class}",
    },
    "kaggle": {"owner": "someone", "competition": "clouds", "test_images": 1000},
}
IMAGES = 5


@pytest.fixture(scope="module", autouse=True)
def tiny_encoders() -> Iterator[None]:
    """Replace all encoders, here and in the kernels."""
    with pytest.MonkeyPatch.context() as patched:
        tiny.install(patched.setattr)
        tiny.install_in_rehearsals(patched.setattr)
        yield


@pytest.fixture(scope="module")
def packed(tiny_encoders: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with a package of two networks of random weights."""
    project = Project(tmp_path_factory.mktemp("clouds"), "clouds")
    write_yaml(project.experiments / "competition.yaml", COMP)
    raw, rng = project.root / "data/clouds/raw", np.random.default_rng(0)
    (raw / "test").mkdir(parents=True)
    rows = ["Image_Label,Pixels"]
    for number in range(IMAGES):
        cv2.imwrite(str(raw / f"test/c{number}.jpg"), rng.integers(0, 255, (96, 128, 3)).astype(np.uint8))
        rows += [f"c{number}.jpg_{name}," for name in CLASSES]
    (raw / "sample_submission.csv").write_text("\n".join(rows) + "\n")
    comp = load_competition(project.experiments)
    shipped = make_ensemble(project, comp)
    source = shipped.save(project.runs / "ensemble/ensemble.yaml")
    dataset, kernel = (fresh_folder(project.dist / name) for name in ("dataset", "kernel"))
    package.fill_dataset(project, dataset, shipped, Inference())
    slug = package.dataset_slug(project)
    package.fill_kernel(kernel, comp, "someone", slug)
    write_json(dataset / "dataset-metadata.json", {"id": f"someone/{slug}"})
    write_stamp(project.dist / "package.json", {"ensemble": sha256(source)}, list(dataset.iterdir()))
    return project


def make_ensemble(project: Project, comp: Competition) -> ShippedEnsemble:
    """Write the weights of a gate and a mask network into their run folders, and return an ensemble of them."""
    from gatemask.builders import models

    sections: dict[str, Any] = {"competition": CompetitionFacts.of(comp)}
    for kind, name, classes in (("gate", "gate", 1), ("mask", "unet", len(CLASSES))):
        config = Model(name=name, encoder="mobilenet", weights="none")
        path = project.fold(kind, 0) / "best.weights.h5"
        path.parent.mkdir(parents=True)
        models.build_network(config, 32, 3, classes, seed=1).model.save_weights(path)
        run = {"name": f"{kind}-fold0", "experiment": kind, "fold": 0, "task": kind, "sha256": sha256(path)}
        sections[kind] = [{**run, "size": 32, "records": 64, "model": config.model_dump(mode="json")}]
    rule = {"gate": 0.0, "upper": 0.5, "lower": 0.5, "min_area": 1}
    sections["rule"] = [rule, {**rule, "lower": 0.45, "upper": 0.45}]
    return ShippedEnsemble.model_validate(sections)


def test_a_package_of_two_classes_passes(packed: Project) -> None:
    comp = load_competition(packed.experiments)
    result = rehearse.rehearse_package(packed, comp)
    assert result.isolation.startswith("no network")
    assert (result.images, result.hidden_images) == (IMAGES, IMAGES + hidden_files.REPEATED)
    assert result.rows == 2 * (IMAGES + hidden_files.REPEATED)
    assert result.test_images == 1000
    assert result.expected_seconds > result.kernel_seconds
    assert result.expected_peak_megabytes >= result.peak_megabytes > 100
    with Path(result.submission).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["Image_Label"] for row in rows] == [f"c{n}.jpg_{name}" for n in range(IMAGES) for name in CLASSES]
    assert any(row["Pixels"] for row in rows)
    mounted = packed.runs / "rehearsal/kaggle/input/competitions/clouds"
    hidden_ids = {path.stem for path in (mounted / "test").iterdir()}
    assert len(hidden_ids) == IMAGES + hidden_files.REPEATED
    assert not hidden_ids & {f"c{n}" for n in range(IMAGES)}
    assert not list(mounted.rglob("train*"))
    assert rehearse.rehearse_package(packed, comp).current
    rehearse.require_rehearsal(packed, comp)
    report = InferenceReport.load(packed.runs / "rehearsal/kaggle/working/inference.json")
    assert report.degraded == []
    assert report.members["mask-fold0"].images


@pytest.fixture
def copy(packed: Project, tmp_path: Path) -> tuple[Project, Competition]:
    shutil.copytree(packed.root, tmp_path / "project", ignore=shutil.ignore_patterns("rehearsal"))
    project = Project(tmp_path / "project", "clouds")
    return project, load_competition(project.experiments)


SOCKET = "import socket\nsocket.create_connection(('203.0.113.1', 80), timeout=2)\n"


@pytest.mark.parametrize("namespace", [True, False])
def test_a_kernel_that_opens_a_socket_fails(
    copy: tuple[Project, Competition], monkeypatch: pytest.MonkeyPatch, namespace: bool
) -> None:
    if not namespace:
        monkeypatch.setattr(sandbox, "isolation", lambda: ([], "no network (sockets refused inside Python)"))
    script = copy[0].dist / "kernel/inference.py"
    script.write_text(SOCKET + script.read_text())
    with pytest.raises(
        GatemaskError, match="tried to use the network, which is not available in the hidden rerun"
    ) as failed:
        rehearse.rehearse_package(*copy)
    assert "Network is unreachable" in str(failed.value) or "no network" in str(failed.value)
    with pytest.raises(GatemaskError, match="not rehearsed"):
        rehearse.require_rehearsal(*copy)


def test_a_kernel_without_a_wheel_fails(copy: tuple[Project, Competition]) -> None:
    (wheel,) = (copy[0].dist / "dataset").glob("segmentation_models-*.whl")
    wheel.unlink()
    with pytest.raises(GatemaskError, match="failed in the rehearsal") as failed:
        rehearse.rehearse_package(*copy)
    assert f"{wheel.name} is missing" in str(failed.value)
    assert "It would have failed on Kaggle too" in str(failed.value)


def test_a_broken_member_fails_although_the_kernel_continues(copy: tuple[Project, Competition]) -> None:
    project, comp = copy
    path = project.dist / "dataset/ensemble.yaml"
    ensemble = read_yaml(path)
    ensemble["mask"][0]["model"]["filters"] = [8, 8, 8, 8, 8]
    write_yaml(path, ensemble)
    sums = project.dist / "dataset/SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if "ensemble.yaml" not in line]
    sums.write_text("\n".join([*lines, f"{sha256(path)}  ensemble.yaml"]) + "\n")
    with pytest.raises(GatemaskError, match="mask-fold0 cannot be loaded"):
        rehearse.rehearse_package(project, comp)


def test_a_script_without_a_submission_fails(copy: tuple[Project, Competition]) -> None:
    script = copy[0].dist / "kernel/inference.py"
    script.write_text("print('I do nothing')\n")
    with pytest.raises(GatemaskError, match="submission file is missing"):
        rehearse.rehearse_package(*copy)
    script.write_text("raise SystemExit('I refuse')\n")
    with pytest.raises(GatemaskError, match="I refuse"):
        rehearse.rehearse_package(*copy)


def test_a_package_older_than_competition_yaml_is_rejected(copy: tuple[Project, Competition]) -> None:
    project, comp = copy
    fingerprint = package.require_package(project, comp)
    again = comp.kaggle.model_copy(update={"test_images": 7, "accelerator": "none"})
    same = package.require_package(project, comp.model_copy(update={"kaggle": again}))
    assert same == fingerprint, "settings that do not affect the kernel do not change the fingerprint"
    other = comp.model_copy(update={"kaggle": comp.kaggle.model_copy(update={"competition": "another"})})
    with pytest.raises(GatemaskError, match=r"older than competition.yaml"):
        package.require_package(project, other)
    with pytest.raises(GatemaskError, match=r"older than competition.yaml"):
        rehearse.rehearse_package(project, comp.model_copy(update={"classes": ["fish", "flower"]}))
    assert 'SAMPLE = "sample_submission.csv"' in (project.dist / "kernel/inference.py").read_text()


def test_a_missing_package_or_rehearsal_is_rejected(copy: tuple[Project, Competition]) -> None:
    project = copy[0]
    with pytest.raises(GatemaskError, match="not rehearsed"):
        rehearse.require_rehearsal(*copy)
    write_json(project.runs / "rehearsal/result.json", {"made_from": {"package": "another"}})
    with pytest.raises(GatemaskError, match="belongs to another package"):
        rehearse.require_rehearsal(*copy)
    (project.dist / "package.json").unlink()
    with pytest.raises(GatemaskError, match="Nothing is packaged"):
        rehearse.rehearse_package(*copy)


def test_no_more_images_than_requested_are_mounted(copy: tuple[Project, Competition]) -> None:
    rehearsal = rehearse._Rehearsal(*copy, copy[0].root)
    visible_ids = rehearsal.mount(rehearse.choose_images(*copy, most=2))
    assert sorted(visible_ids.values()) == ["c0", "c0", "c1", "c1"]
    sample = (copy[0].root / "kaggle/input/competitions/clouds/sample_submission.csv").read_text().splitlines()
    assert sample[0] == "Image_Label,Pixels"
    assert len(sample) == 1 + 2 * 4


def test_several_classes_need_a_column_or_a_joined_id(tmp_path: Path) -> None:
    (tmp_path / "competition.yaml").write_text(yaml.safe_dump({**COMP, "submission": {"id": "a", "mask": "b"}}))
    with pytest.raises(GatemaskError, match=r"several classes need submission\.class_column"):
        load_competition(tmp_path)


def test_the_kernel_runs_on_the_versions_of_kaggles_image(copy: tuple[Project, Competition]) -> None:
    """Runs only if `make test-kaggle` has created that environment, which takes minutes."""
    from gatemask.shipped import SOURCE

    if not (SOURCE / sandbox.VERSIONS / "ready").exists():
        pytest.skip("there is no environment with the versions of Kaggle's image: make test-kaggle makes one")
    python = sandbox.python_of_image_versions()
    assert python is not None
    inside, hidden = sandbox.make_image(copy[0].root / "image", refuse_sockets=True, python=python)
    code = "import numpy, keras, pip; print(numpy.__version__, keras.__version__)"
    done = subprocess.run([inside, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2.0.2", "3.13.2"], done.stderr
    assert "gatemask" in hidden
    result = rehearse.rehearse_package(*copy, image=True)
    assert result.versions_of_the_image
    assert result.rows == 2 * (IMAGES + hidden_files.REPEATED)


def test_versions_that_cannot_be_installed_are_reported(
    copy: tuple[Project, Competition], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox, "VERSIONS", ".venv-of-another-kind")  # make has no rule for it
    assert sandbox.python_of_image_versions() is None
    assert "cannot be installed here" in capsys.readouterr().err
