"""masks.csv: several classes, objects, borders, ignored pixels, and sizes that differ from image to image."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatemask.config import Competition
from gatemask.data.truth import IGNORED, Annotation, Masks, write_masks
from gatemask.errors import GatemaskError
from gatemask.files import write_json, write_text
from gatemask.masks import rle
from gatemask.masks.frame import Frame, fit_mask
from gatemask.project import Project

SIZE = (20, 30)


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def rows(**masks: np.ndarray | list[np.ndarray]) -> list[Annotation]:
    """Return the annotations of one image, from one or several masks per class."""
    several = {name: one if isinstance(one, list) else [one] for name, one in masks.items()}
    return [
        Annotation(name.replace("ignored", IGNORED), rle.encode(one)) for name, all_ in several.items() for one in all_
    ]


def competition(**changes: Any) -> Competition:
    settings: dict[str, Any] = {
        "name": "c",
        "title": "t",
        "raw": "raw",
        "image": {"size": SIZE},
        "train": {"images": "images/*"},
        "labels": {"format": "png", "masks": "masks/{id}_{class}.png"},
        "classes": ["fish", "sugar"],
        "records": {"size": [32, 64]},
        "submission": {"class_column": "class"},
        "folds": {"k": 2, "holdout": True},
    }
    return Competition.model_validate({**settings, **changes})


ONE = {"classes": ["cell"], "submission": {}, "labels": {"format": "png", "masks": "masks/{id}/*.png"}}


def test_planes_are_in_the_order_of_the_classes(tmp_path: Path) -> None:
    fish, sugar = box(2, 3, 8, 9), box(5, 5, 12, 20)
    path = write_masks(tmp_path / "masks.csv", {"b": rows(sugar=sugar, fish=fish), "a": rows(fish=[fish, sugar])})
    masks = Masks(path, SIZE, ["fish", "sugar"])
    assert (masks["b"] == np.stack([fish, sugar], axis=2)).all()
    assert (masks["a"] == np.stack([fish | sugar, np.zeros(SIZE, bool)], axis=2)).all()
    assert masks["c"].shape == (*SIZE, 2) and not masks["c"].any()
    assert (masks.planes("b") == masks["b"]).all()
    assert (pickle.loads(pickle.dumps(masks.encoded("b"))).planes() == masks["b"]).all()


def test_one_class_of_any_name(tmp_path: Path) -> None:
    path = write_masks(tmp_path / "masks.csv", {"a": rows(x=box(2, 3, 8, 9))})
    assert path.read_text().splitlines()[0] == "image_id,class,rle"
    assert (Masks(path, SIZE)["a"][:, :, 0] == box(2, 3, 8, 9)).all()


def test_masks_of_classes_that_the_competition_lacks_are_rejected(tmp_path: Path) -> None:
    path = write_masks(tmp_path / "masks.csv", {"a": rows(flower=box(2, 3, 8, 9))})
    with pytest.raises(GatemaskError, match=r"(?s)other classes.*flower.*fish, sugar.*data prepare"):
        Masks(path, SIZE, ["fish", "sugar"])


def test_each_image_has_its_own_size_and_scores_at_another(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    manifest = "image_id,path,split,group,label,mask_area,height,width\n"
    manifest += "a,a.png,train,g,1,9,20,30\nb,b.png,train,h,1,9,40,10\na,t/a.png,test,i,0,0,7,8\n"
    write_text(project.data / "manifest.csv", manifest)
    write_json(project.data / "manifest.json", {"outputs": {}})
    tall = box(10, 2, 31, 9, (40, 10))
    write_masks(project.data / "masks.csv", {"a": rows(sugar=box(2, 3, 8, 9)), "b": rows(fish=tall)})
    write_masks(project.data / "test_masks.csv", {})
    masks = Masks.of(project, competition(image={"size": "mixed"}))
    assert (masks["a"].shape, masks["b"].shape) == ((20, 30, 2), (40, 10, 2))
    assert (masks["b"][:, :, 0] == tall).all()
    assert Masks.of(project, competition(image={"size": "mixed"}), "test_masks.csv")["a"].shape == (7, 8, 2)
    with pytest.raises(GatemaskError, match=r"(?s)size of an image is unknown.*manifest.csv.*zebra"):
        masks["zebra"]
    scored = Masks.of(project, competition(image={"size": "mixed", "scoring_size": [10, 10]}))
    assert (scored["b"][:, :, 0] == fit_mask(tall, Frame((10, 10)))).all()
    assert (scored.size("b"), scored.image_size("b")) == ((10, 10), (40, 10))
    assert scored.planes("b").shape == (40, 10, 2), "records are made from the image's own size"


def test_ignored_pixels_are_the_last_plane(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    void = box(0, 0, 3, 30)
    write_masks(project.data / "masks.csv", {"a": rows(fish=box(5, 5, 9, 9), ignored=void), "b": rows(ignored=void)})
    labels = {"format": "png", "masks": "masks/{id}.png", "values": {"fish": 1, "sugar": 2}, "ignore": 255}
    masks = Masks.of(project, competition(labels=labels, image={"size": SIZE, "scoring_size": [10, 15]}))
    assert masks.planes("b").shape == (*SIZE, 3) == masks.planes("absent").shape
    assert (masks.planes("b")[:, :, 2] == void).all() and not masks.planes("absent").any()
    ignored = masks.ignored("a")
    assert ignored is not None and (ignored == fit_mask(void, Frame((10, 15)))).all()
    assert masks.ignored("absent") is None
    assert not masks["b"].any()


def test_objects_keep_their_numbers(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    large, small = box(2, 2, 14, 14), box(6, 6, 9, 9)
    write_masks(project.data / "masks.csv", {"a": rows(cell=[small, large, box(15, 20, 20, 30)])})
    comp = competition(**ONE, objects={})
    numbers = Masks.of(project, comp).objects("a", 0)
    assert numbers.dtype == np.int32
    assert ((numbers == 1) == small).all(), "of objects that overlap, the smaller one is seen"
    assert ((numbers == 2) == (large & ~small)).all() and ((numbers == 3) == box(15, 20, 20, 30)).all()
    assert (Masks.of(project, comp)["a"][:, :, 0] == (numbers > 0)).all()
    scored = competition(**ONE, objects={}, image={"size": SIZE, "scoring_size": [10, 15]})
    halved = Masks.of(project, scored).objects("a", 0)
    assert ((halved == 3) == fit_mask(box(15, 20, 20, 30), Frame((10, 15)))).all()
    assert not Masks.of(project, comp).objects("b", 0).any()


def test_borders_are_near_two_objects(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    left, right = box(4, 2, 14, 10), box(4, 10, 14, 18)
    write_masks(project.data / "masks.csv", {"a": rows(cell=[left, right, box(4, 26, 14, 29)])})
    planes = Masks.of(project, competition(**ONE, objects={"border": True})).planes("a")
    assert planes.shape == (*SIZE, 2)
    border = planes[:, :, 1]
    assert (border[6:12] == box(0, 8, 20, 12)[6:12]).all(), "two pixels on each side, and none at the object apart"
    large = competition(**ONE, objects={"border": True}, image={"size": (200, 300)}, records={"size": 32})
    path = project.data / "masks.csv"
    pair = [box(40, 20, 140, 100, (200, 300)), box(40, 100, 140, 180, (200, 300))]
    write_masks(path, {"a": rows(cell=pair)})
    fitted = fit_mask(Masks.of(project, large).planes("a"), Frame((32, 32)))
    assert fitted[:, :, 1].any(), "borders are wide enough to be seen in small records"
