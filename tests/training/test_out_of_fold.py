"""Tiles of an image become one prediction; gates per class become columns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition, Experiment, Tiles
from gatemask.data.example import Example
from gatemask.errors import GatemaskError
from gatemask.input.layout import Layout
from gatemask.masks.rule import as_uint8
from gatemask.masks.tiling import Origin, cut_tile, scaled_size, tile_origins
from gatemask.oof.store import MapReader, read_gates
from gatemask.oof.tables import Tables, count_image
from gatemask.project import Project
from gatemask.training import out_of_fold
from gatemask.training.fold_inputs import with_record_size

TILES = Tiles(size=32, overlap=8, scale=0.5)
SIZES = {"a": (150, 90), "b": (40, 200), "c": (64, 64)}


def png(stacked: np.ndarray) -> bytes:
    return cv2.imencode(".png", stacked)[1].tobytes()


def tiles_of(maps: dict[str, np.ndarray]) -> tuple[list[Example], list[np.ndarray]]:
    """Examples of all tiles, whose images are the first channel of the maps, and the tiles of the maps."""
    examples, cut = [], []
    for image_id, whole in maps.items():
        for origin in tile_origins((whole.shape[0], whole.shape[1]), TILES.size, TILES.overlap):
            cut.append(cut_tile(whole, origin, TILES.size))
            image = as_uint8(cut[-1][:, :, 0])
            examples.append(Example(image_id, png(image), png(np.zeros((64, 32), np.uint8)), 0, tuple(origin)))
    return examples, cut


def smooth_maps(outputs: int) -> dict[str, np.ndarray]:
    rng, maps = np.random.default_rng(0), {}
    for image_id, size in SIZES.items():
        height, width = scaled_size(size, TILES)
        coarse = rng.random((4, 4, outputs)).astype(np.float32)
        maps[image_id] = cv2.resize(coarse, (width, height)).reshape(height, width, outputs)
    return maps


def test_maps_of_tiles_become_maps_of_scaled_images() -> None:
    maps = smooth_maps(2)
    examples, cut = tiles_of(maps)
    batches = (np.stack(cut[start : start + 3]) for start in range(0, len(cut), 3))
    whole = list(out_of_fold.whole_maps(examples, batches, SIZES.__getitem__, TILES, 2))
    assert [one.shape for one in whole] == [(1, 75, 45, 2), (1, 20, 100, 2), (1, 32, 32, 2)]
    for one, expected in zip(whole, maps.values(), strict=True):
        assert np.abs(one[0].astype(int) - as_uint8(expected)).max() <= 1


@pytest.mark.parametrize("change", ["missing", "moved", "whole"])
def test_other_tiles_than_those_of_the_competition_are_rejected(change: str) -> None:
    examples, cut = tiles_of(smooth_maps(1))
    if change == "missing":
        del examples[1], cut[1]
    else:
        examples[1] = examples[1]._replace(origin=None if change == "whole" else Origin(0, 1))
    with pytest.raises(GatemaskError, match=r"other tiles[\s\S]*where: +a[\s\S]*records make"):
        list(out_of_fold.whole_maps(examples, iter([np.stack(cut)]), SIZES.__getitem__, TILES, 1))


def competition(**changes: Any) -> Competition:
    given = {
        "name": "c",
        "title": "C",
        "raw": "raw",
        "image": {"size": "mixed"},
        "train": {"images": "*.png"},
        "labels": {"format": "rle", "file": "labels.csv", "class_column": "class"},
        "classes": ["rice", 3],
        "submission": {"class_column": "class"},
        "folds": {"holdout": True},
        "tiles": TILES.model_dump(),
    }
    return Competition.model_validate({**given, **changes})


def experiment(task: str, **changes: Any) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18", "per_class": task == "gate"}
    given = {"name": "e", "task": task, "model": model, "input": {"size": 32}, "loss": {"bce": 1}, "epochs": 1}
    return Experiment.model_validate({**given, **changes})


def trainer(project: Project, exp: Experiment, comp: Competition, predict: Any) -> Any:
    """A trainer whose network is a function of images from 0 to 1."""
    predictor = SimpleNamespace(predict_on_batch=lambda images: predict(np.asarray(images, np.float32) / 255))
    devices = SimpleNamespace(strategy="one device", spread=lambda images: images)
    return SimpleNamespace(
        exp=exp,
        comp=comp,
        layout=Layout.of(comp),
        batch=4,
        evaluation_batch=4,
        models=SimpleNamespace(devices=devices),
        predictor=predictor,
        inputs=SimpleNamespace(project=project),
    )


def test_the_gate_of_an_image_is_the_largest_of_its_tiles(tmp_path: Path) -> None:
    maps = smooth_maps(1)
    examples, cut = tiles_of(maps)
    fake = trainer(
        Project(tmp_path, "c"),
        experiment("gate"),
        competition(),
        lambda images: np.stack([images.mean((1, 2, 3)), images.max((1, 2, 3))], axis=1),
    )
    predicted = out_of_fold.predict_out_of_fold(fake, 1, examples)
    assert predicted.files == ["oof.csv"]
    gates = read_gates([Project(tmp_path, "c").fold("e", 1) / "oof.csv"], ["rice", "3"])
    assert list(gates) == list(SIZES)
    means, largest = ([function(one) for one in cut] for function in (np.mean, np.max))
    for image_id, values in gates.items():
        own = [index for index, example in enumerate(examples) if example.image_id == image_id]
        expected = [max(means[index] for index in own), max(largest[index] for index in own)]
        assert values == pytest.approx(expected, abs=0.003)
    with pytest.raises(GatemaskError, match="image twice"):
        out_of_fold.predict_out_of_fold(fake, 1, [*examples, examples[3]])


@pytest.mark.parametrize("apart", [False, True])
def test_maps_of_tiled_images_are_stored_whole(tmp_path: Path, apart: bool) -> None:
    maps = smooth_maps(1)
    examples, _ = tiles_of(maps)
    exp = experiment("mask", **({"tta": ["hflip"], "tta_apart": True} if apart else {}))
    project = Project(tmp_path, "c")
    fake = trainer(project, exp, competition(), lambda images: np.concatenate([images, 1 - images], axis=3))
    files = out_of_fold._write_maps(fake, examples, list(SIZES), tmp_path / "oof.h5", SIZES.__getitem__)
    assert files == ["oof.h5", "oof-views.h5"][: 1 + apart]
    readers = [MapReader([tmp_path / "oof.h5"])]
    readers += [MapReader([tmp_path / "oof-views.h5"], view, 2) for view in (0, 1)] if apart else []
    for reader in readers:
        assert (reader.ids, reader.classes) == (set(SIZES), 2)
        for image_id, whole in maps.items():
            expected = as_uint8(np.concatenate([whole, 1 - whole], axis=2)).astype(int)
            assert np.abs(reader[image_id] - expected).max() <= 2


def test_experiments_of_tiled_competitions_have_no_records_of_their_own() -> None:
    exp = experiment("mask", input={"size": 32, "records": 64})
    with pytest.raises(GatemaskError, match=r"hold tiles[\s\S]*received: +64[\s\S]*expected: +32"):
        with_record_size(competition(), exp)
    assert with_record_size(competition(tiles=None), exp).records.size == 64


def test_each_class_has_its_own_best_threshold() -> None:
    maps = np.array([[[60, 200], [20, 120]], [[61, 199], [21, 240]]], np.uint8)  # images x pixels x classes
    truth = np.array([[True, True], [False, False]])
    counts = [count_image(one[None], truth[None]) for one in maps]
    area, intersection = (np.stack([pair[index] for pair in counts]) for index in (0, 1))
    names, folds, gate = np.array(["a", "b"]), np.zeros(2, int), np.ones(2)
    tables = Tables(names, folds, gate, area, intersection, intersection[:, :, 0].copy())
    found = out_of_fold._dice_full(tables, ["rice", "3"])
    assert found["dice_by_class"] == {"rice": 1.0, "3": pytest.approx((1 + 2 / 3) / 2)}
    assert found["dice_full"] == pytest.approx((1 + 5 / 6) / 2)
    low, high = (round(255 * value) for value in found["threshold_by_class"].values())
    assert 21 < low <= 60
    assert 120 < high <= 199
    alone = out_of_fold._dice_full(tables.of_class(0), ["rice"])
    assert alone["dice_full"] == 1.0
    assert round(255 * alone["threshold"]) == low


def test_records_of_padded_images_keep_their_aspect_ratio() -> None:
    padded = competition(tiles=None, image={"size": "mixed", "fit": "pad"}, records={"size": [64, 128]})
    assert with_record_size(padded, experiment("mask", input={"size": 32, "records": [32, 64]})).records.size == (
        32,
        64,
    )
    with pytest.raises(GatemaskError, match=r"same aspect ratio[\s\S]*64 x 64"):
        with_record_size(padded, experiment("mask", input={"size": 32, "records": 64}))
