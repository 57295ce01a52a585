"""Labels of networks reach only the fold whose networks gave them, and never a copy of a validation image."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.data import extra_sources
from gatemask.data.example import Example
from gatemask.data.label_sets import label_image
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.input.feeding import filled_batches
from gatemask.input.pipeline import epoch_order, record_source
from gatemask.input.source import BatchPlan
from gatemask.project import Project
from gatemask.stage import write_stamp
from gatemask.tracking.run_folder import write_config
from gatemask.training import out_of_fold, pseudo, trainer
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.training.pseudo import PseudoOptions, make_pseudo
from tests.data.test_duplicates import scene
from tests.data.test_extra_sources import competition, experiment, project, write_image, write_source
from tests.fold_results import fold_result, mask_settings

__all__ = ["project"]

FOLDS = 3
GATE = {"task": "gate", "model": {"name": "gate", "encoder": "resnet18"}, "monitor": "auc"}


def marker(fold: int) -> np.ndarray:
    """Return the mask that the networks of a fold see in every image: a bar that no other fold draws."""
    mask = np.zeros((64, 64), np.float32)
    mask[:, 16 * fold + 2 : 16 * fold + 14] = 1
    return mask


def write_run(project: Project, name: str, fold: int, **changes: Any) -> Path:
    folder = project.fold(name, fold)
    folder.mkdir(parents=True)
    (folder / "best.weights.h5").write_bytes(b"%s of fold %d" % (name.encode(), fold))
    write_config(folder, {**mask_settings(), "name": name, **changes})
    made_from = {"folds": sha256(project.folds), "fold": fold}
    outputs = {"best.weights.h5": sha256(folder / "best.weights.h5")}
    result = fold_result(experiment=name, fold=fold, task=changes.get("task", "mask"))
    write_stamp(folder / "result.json", {**result.stamped(), "made_from": made_from, "outputs": outputs})
    return folder


@pytest.fixture
def predicted(project: Project, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Networks of three folds that draw their marker, and new images to label. Counts predictions."""
    for fold in range(FOLDS):
        write_run(project, "unet", fold)
    for number in range(4):
        write_image(project.root / "new", f"new{number}", scene(200 + number))
    write_image(project.root / "new", "planted", scene(4))  # tile04, which fold 1 validates
    counted: Counter[str] = Counter()

    class FakeTrainer:
        def __init__(self, inputs: TrainingInputs) -> None:
            self.exp, self.models = inputs.exp, SimpleNamespace(evaluator=SimpleNamespace())

    def load(model: Any, path: Path) -> None:
        model.fold = int(path.parent.name.removeprefix("fold"))

    def predict(fake: Any, examples: list[Any], label: str = "") -> Iterator[np.ndarray]:
        fold = fake.models.evaluator.fold
        counted[f"{fake.exp.name} fold {fold}"] += 1
        for example in examples:
            assert cv2.imdecode(np.frombuffer(example.mask, np.uint8), -1).max() == 0, "the image has no mask yet"
            if fake.exp.task == "gate":
                yield np.full((1, 1), 0.2 if example.image_id == "new0" else 0.9, np.float32)
            else:
                yield np.where(marker(fold) > 0, 0.8, 0.1).astype(np.float32)[None, :, :, None]

    monkeypatch.setattr(trainer, "Trainer", FakeTrainer)
    monkeypatch.setattr(pseudo, "load_weights", load)
    monkeypatch.setattr(out_of_fold, "predict_examples", predict)
    return counted


def label(project: Project, **changes: Any) -> Any:
    options = {"name": "round1", "experiments": ("unet",), "images": str(project.root / "new/images"), **changes}
    return make_pseudo(project, competition(), PseudoOptions(**options))


def masks_in_batches(inputs: TrainingInputs, fold: int) -> dict[str, np.ndarray]:
    """Return the mask by image, as the batches of one epoch show them, of all images of sources."""
    examples, exp, layout = inputs.examples(fold), inputs.exp, inputs.layout
    training = examples.training
    order = epoch_order(training, exp, 1, 0, fold, examples.extra_parts)
    source = record_source(training, exp, layout, [])
    shown = {}
    for number, batch in filled_batches(source, BatchPlan(order, 1, (fold, 0), range(len(order))), 0):
        if "/" in (image_id := training[order[number]].image_id):
            shown[image_id] = batch.masks[0, :, :, 0].copy()
    return shown


def test_no_fold_sees_the_labels_of_another(project: Project, predicted: Counter[str]) -> None:
    result = label(project)
    assert result.labeled == {"0": 5, "1": 5, "2": 5}
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    for fold in range(FOLDS):
        shown = masks_in_batches(inputs, fold)
        expected = {f"round1/new{number}" for number in range(4)} | ({"round1/planted"} if fold != 1 else set())
        assert set(shown) == expected, "a copy of a validation image is trained on, or an image is missing"
        for mask in shown.values():
            np.testing.assert_array_equal(mask > 0, marker(fold) > 0, "labels of another fold")


def test_soft_labels_keep_their_probabilities(project: Project, predicted: Counter[str]) -> None:
    label(project)
    assert not TrainingInputs(project, competition(), experiment("round1")).layout.soft
    label(project, name="soft", soft=True)
    inputs = TrainingInputs(project, competition(), experiment("soft"))
    assert inputs.layout.soft and not TrainingInputs(project, competition(), experiment()).layout.soft
    for mask in masks_in_batches(inputs, 2).values():
        np.testing.assert_array_equal(mask, np.where(marker(2) > 0, 204, 26))
    mixed = TrainingInputs(project, competition(), experiment("round1", "soft"))
    assert mixed.layout.soft
    shown = masks_in_batches(mixed, 2)
    assert set(np.unique(shown["round1/new0"])) == {0, 255}, "hard labels count in full next to soft ones"


def test_labels_of_another_fold_or_split_are_refused(project: Project, predicted: Counter[str]) -> None:
    label(project)
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    folder = project.data / "sources/round1"
    shutil.move(folder / "fold1", folder / "kept")
    shutil.copytree(folder / "fold2", folder / "fold1")
    with pytest.raises(GatemaskError, match="may have seen the validation images of fold 1"):
        inputs.made_from(1)
    shutil.rmtree(folder / "fold1")
    shutil.move(folder / "kept", folder / "fold1")
    inputs.made_from(1)
    project.folds.write_text(project.folds.read_text().replace("tile04,1", "tile04,0"))
    with pytest.raises(GatemaskError, match="may have seen") as raised:
        TrainingInputs(project, competition(), experiment("round1")).made_from(1)
    assert "another split" in raised.value.details["received"]
    with pytest.raises(GatemaskError, match="trained on another split"):
        label(project)


def test_the_fingerprint_of_a_fold_holds_its_own_labels(project: Project, predicted: Counter[str]) -> None:
    label(project)
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    before = [inputs.made_from(fold)["extra"] for fold in range(FOLDS)]
    assert len({str(entry) for entry in before}) == FOLDS
    shutil.rmtree(project.fold("unet", 2))
    write_run(project, "unet", 2, epochs=7)
    (project.fold("unet", 2) / "best.weights.h5").write_bytes(b"other")
    with pytest.raises(GatemaskError, match="not the one that gatemask wrote"):
        label(project)
    shutil.rmtree(project.fold("unet", 2))
    write_run(project, "unet", 2)
    assert label(project).current


def test_a_killed_command_continues(project: Project, predicted: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = pseudo.write_label_set, []

    def killed(folder: Path, *arguments: Any) -> Any:
        calls.append(folder.parent.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(folder, *arguments)

    monkeypatch.setattr(pseudo, "write_label_set", killed)
    with pytest.raises(KeyboardInterrupt):
        label(project)
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    with pytest.raises(GatemaskError, match="is not prepared"):
        inputs.made_from(0)
    label(project)
    assert calls == ["fold0", "fold1", "fold1", "fold2"]
    assert set(predicted.values()) == {1}, "a network predicted twice"
    assert not list((project.data / "sources/round1").rglob("*.npy"))
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    assert set(masks_in_batches(inputs, 1)) == {f"round1/new{number}" for number in range(4)}
    assert label(project).current and set(predicted.values()) == {1}


def test_gates_empty_the_masks_of_images_without_an_object(project: Project, predicted: Counter[str]) -> None:
    for fold in range(FOLDS):
        write_run(project, "gate", fold, **GATE)
    assert label(project, experiments=("unet", "gate")).positives == {"0": 4, "1": 4, "2": 4}
    inputs = TrainingInputs(project, competition(), experiment("round1"))
    shown = masks_in_batches(inputs, 0)
    assert not shown["round1/new0"].any() and shown["round1/new1"].any()


def test_labels_of_gates_alone_train_no_masks(project: Project, predicted: Counter[str]) -> None:
    for fold in range(FOLDS):
        write_run(project, "gate", fold, **GATE)
    label(project, experiments=("gate",))
    with pytest.raises(GatemaskError, match="has no masks"):
        TrainingInputs(project, competition(), experiment("round1")).made_from(0)
    (part,) = TrainingInputs(project, competition(), experiment("round1", **GATE)).examples(0).extra
    assert {example.image_id: example.label for example in part.examples} == {
        "round1/new0": 0,
        **{f"round1/new{number}": 1 for number in (1, 2, 3)},
        "round1/planted": 1,
    }


def test_unsure_labels_are_left_out(project: Project, predicted: Counter[str]) -> None:
    for fold in range(FOLDS):
        write_run(project, "gate", fold, **GATE)
    # The map's soft Dice with itself, row by row; 0.1 is stored as 26 of 255.
    sure = 2 * 0.8 * 12 / (0.8 * 12 + 26 / 255 * 52 + 12)
    table = project.data / "sources/round1/fold0/records-64/images.csv"
    label(project)
    assert table.read_text().splitlines()[1] == f"new0,1,{sure:.4f},1"
    with pytest.raises(GatemaskError, match="No label is sure enough"):
        label(project, confidence=0.75)
    assert label(project, experiments=("gate",), confidence=0.85).labeled == {"0": 4, "1": 4, "2": 4}


def test_the_label_of_an_ensemble() -> None:
    """Worked out by hand: two classes, gates that find only the first."""
    maps = np.zeros((2, 2, 3), np.float32)
    maps[0, 0] = (0.9, 0.8, 0.7)
    made = label_image(Example("a", b"", b"", 0), maps, np.array([0.7, 0.4], np.float32), 2)
    assert made.label == 0b01
    np.testing.assert_allclose(made.planes[0, 0], (0.9, 0, 0.7), rtol=1e-6)
    assert made.confidence == pytest.approx(0.6)  # the gate's of the second class
    empty = label_image(Example("a", b"", b"", 0), maps, np.array([0.1], np.float32), 2)
    assert empty.label == 0 and not empty.planes.any() and empty.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiments": ("nothing",)}, "not trained"),
        ({"experiments": ()}, "which networks"),
        ({"name": "Round 1"}, "cannot name a source"),
        ({"name": "other"}, "has this name"),
        ({"images": "nowhere"}, "do not exist"),
        ({"images": None}, "no test images"),
        ({"confidence": 1.5}, "below 1"),
    ],
)
def test_impossible_wishes_are_refused(
    project: Project, predicted: Counter[str], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(GatemaskError, match=words):
        label(project, **changes)
    assert not (project.data / "sources/round1").exists()
    assert not predicted


def test_a_yaml_cannot_take_the_name_of_labels(project: Project, predicted: Counter[str]) -> None:
    label(project)
    write_source(project, "round1")
    with pytest.raises(GatemaskError, match="labeled by networks"):
        extra_sources.make_sources(project, competition(), ["round1"])
