"""Images and tables of a finished fold, made from its files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.config import load_competition
from gatemask.data.truth import Masks
from gatemask.masks.frame import resize_map
from gatemask.masks.metrics import dice_of_masks
from gatemask.oof import store
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.tracking import examples
from gatemask.tracking.examples import FoldExamples, outlined
from tests.tracking.finished import finish_fold, validation

pytestmark = pytest.mark.integration


def fold_examples(project: Project, task: str) -> FoldExamples:
    folder = finish_fold(project, task)
    comp = load_competition(project.experiments, quick=project.quick)
    return FoldExamples(project, comp, FoldResult.load(folder / "result.json"))


def test_the_table_of_masks_lists_each_image_with_its_dice(phantoms: Project) -> None:
    made = fold_examples(phantoms, "mask")
    table = made.table()
    assert table.columns == ["image_id", "fold", "dice", "true_area", "predicted_area"]
    assert sorted(row[0] for row in table.rows) == sorted(validation(phantoms))
    assert [row[2] for row in table.rows] == sorted(row[2] for row in table.rows)
    comp = load_competition(phantoms.experiments, quick=True)
    truth = Masks.of(phantoms, comp)
    folder = phantoms.fold("mask_net", 0)
    reader, cut = store.MapReader([folder / "oof.h5"]), FoldResult.load(folder / "result.json").threshold
    for image_id, fold, dice, true_area, area in table.rows:
        mask = resize_map(reader[image_id], (256, 256))[:, :, 0] >= round(cut * 255)
        assert (fold, true_area, area) == (0, truth[image_id].sum(), mask.sum())
        assert dice == pytest.approx(dice_of_masks(truth[image_id][:, :, 0], mask), abs=1e-6)
    reader.close()


def test_overlays_show_the_best_the_typical_and_the_worst(phantoms: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "SIDE", 100)
    made = fold_examples(phantoms, "mask")
    shown = made.overlays(6)
    assert [one.kind for one in shown] == ["best"] * 2 + ["typical"] * 2 + ["worst"] * 2
    assert len({one.image_id for one in shown}) == 6
    dice = {row[0]: row[2] for row in made.table().rows}
    by_kind = {kind: [dice[one.image_id] for one in shown if one.kind == kind] for kind in ("best", "typical", "worst")}
    assert min(by_kind["best"]) >= max(by_kind["typical"]) >= min(by_kind["typical"]) >= max(by_kind["worst"])
    assert by_kind["best"][0] < 1 or any(row[3] for row in made.table().rows), "images without any pixel show nothing"
    for one in shown:
        assert one.image.shape == (100, 100, 3) and one.image.dtype == np.uint8 and one.image.std() > 1
        assert one.truth.shape == one.prediction.shape == (100, 100)
        assert set(np.unique([one.truth, one.prediction])) == {0, 1}
        assert one.caption == f"{one.kind}: {one.image_id}, Dice {dice[one.image_id]:.3f}"
        picture = cv2.imdecode(np.frombuffer(outlined(one), np.uint8), cv2.IMREAD_COLOR)
        assert (picture != one.image[:, :, ::-1]).any(axis=2).sum() > 10
    assert [one.image_id for one in made.overlays(6)] == [one.image_id for one in shown]


def test_more_images_than_the_fold_has(phantoms: Project) -> None:
    ids = [one.image_id for one in fold_examples(phantoms, "mask").overlays(60)]
    assert 0 < len(ids) == len(set(ids)) < 60


def test_gates_show_the_most_wrong(phantoms: Project) -> None:
    made = fold_examples(phantoms, "gate")
    table = made.table()
    assert table.columns == ["image_id", "fold", "label", "probability", "error"]
    errors = [abs(row[2] - row[3]) for row in table.rows]
    assert errors == sorted(errors, reverse=True) and len(errors) == len(validation(phantoms))
    shown = made.overlays(3)
    assert [one.image_id for one in shown] == [row[0] for row in table.rows[:3]]
    assert all(one.kind == "wrong" and one.prediction is None for one in shown)
    assert f"probability {table.rows[0][3]:.3f}" in shown[0].caption


def test_a_missing_image_is_gray(phantoms: Project) -> None:
    made = fold_examples(phantoms, "mask")
    for path in phantoms.root.glob("data/**/train/**/*.dcm"):
        path.unlink()
    assert {int(one.image.min()) for one in made.overlays(3)} == {128}
