"""Extra images are trained on in every fold, except copies of what a fold validates, and are never validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition, Experiment
from gatemask.cost.plan import count_images
from gatemask.data.extra_sources import make_sources
from gatemask.data.manifest import prepare
from gatemask.data.records import make_records
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.training.fold_inputs import TrainingInputs
from tests.data.test_duplicates import scene
from tests.fold_results import mask_settings

IMAGES = 12  # image n is in fold n % 3, but the last two are held out
HELD_OUT = (10, 11)


def write_image(folder: Path, name: str, image: np.ndarray, mask: bool = True) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    drawn = np.zeros(image.shape[:2], np.uint8)
    if mask:
        cv2.circle(drawn, (image.shape[1] // 2, image.shape[0] // 2), image.shape[0] // 6, 255, -1)
    cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
    cv2.imwrite(str(folder / "masks" / f"{name}.png"), drawn)


def competition(**changes: Any) -> Competition:
    values = {
        "name": "tiles",
        "title": "t",
        "raw": "raw",
        "image": {"size": [256, 256]},
        "train": {"images": "images/*.png"},
        "labels": {"format": "png", "masks": "masks/{id}.png"},
        "folds": {"k": 3, "holdout": True},
        "records": {"size": 64},
    }
    return Competition.model_validate({**values, **changes})


def experiment(*extra: object, **changes: Any) -> Experiment:
    return Experiment.model_validate({**mask_settings(), "data": {"extra": list(extra)}, **changes})


def write_source(project: Project, name: str = "other", **changes: object) -> None:
    values = {
        "raw": f"raw-{name}",
        "train": {"images": "images/*.png"},
        "labels": {"format": "png", "masks": "masks/{id}.png"},
    }
    project.source_file(name).parent.mkdir(parents=True, exist_ok=True)
    project.source_file(name).write_text(json.dumps({**values, **changes}))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A competition with folds and records, and a source with two new images and three copies."""
    project = Project(tmp_path, "tiles")
    lines = ["image_id,fold,group,stratum"]
    for number in range(IMAGES):
        write_image(tmp_path / "raw", f"tile{number:02d}", scene(number), mask=number % 2 == 0)
        lines.append(f"tile{number:02d},{-1 if number in HELD_OUT else number % 3},g{number},0")
    project.folds.parent.mkdir()
    project.folds.write_text("\n".join(lines) + "\n")
    prepare(project, competition())
    make_records(project, competition())
    other = tmp_path / "raw-other"
    write_image(other, "new", scene(100))
    write_image(other, "tile00", scene(101, 200))  # the id of another image, and another size
    write_image(other, "exact", scene(4))
    write_image(other, "halved", cv2.resize(scene(5), (128, 128), interpolation=cv2.INTER_AREA))
    write_image(other, "held", scene(10))
    write_source(project)
    return project


def extra_ids(inputs: TrainingInputs, fold: int) -> set[str]:
    examples = inputs.examples(fold)
    ids = {example.image_id for example in examples.training}
    assert not any("/" in example.image_id for example in examples.validation), "a source is validated on"
    assert {f"tile{n:02d}" for n in range(10) if n % 3 != fold} == {name for name in ids if "/" not in name}
    return {name.removeprefix("other/") for name in ids if "/" in name}


def test_copies_of_validation_and_holdout_images_are_dropped(project: Project) -> None:
    (made,) = make_sources(project, competition()).sources
    assert (made.images, made.positives, made.copies, made.test_copies) == (5, 5, 3, 0)
    rows = (project.data / "sources/other/copies.csv").read_text().splitlines()[1:]
    assert rows == ["exact,tile04,train,exact", "halved,tile05,train,near", "held,tile10,train,exact"]
    inputs = TrainingInputs(project, competition(), experiment("other"))
    assert extra_ids(inputs, 0) == {"new", "tile00", "exact", "halved"}
    assert extra_ids(inputs, 1) == {"new", "tile00", "halved"}, "fold 1 validates tile04"
    assert extra_ids(inputs, 2) == {"new", "tile00", "exact"}, "fold 2 validates tile05"
    assert [inputs.examples(fold).extra[0].dropped for fold in range(3)] == [1, 2, 2]
    assert make_sources(project, competition()).sources[0].current


def test_only_identical_files_are_copies_where_the_competition_says_so(project: Project) -> None:
    comp = competition(groups={"duplicates": "exact"})
    assert make_sources(project, comp).sources[0].copies == 2


def test_groups_of_one_name_are_on_one_side(project: Project) -> None:
    comp = competition(groups={"regex": "^(tile0[0-2])"} | {"optional": True})
    prepare(project, comp)
    make_records(project, comp)
    write_source(project, groups={"regex": "^(tile00)", "optional": True})
    make_sources(project, comp)
    rows = (project.data / "sources/other/copies.csv").read_text().splitlines()
    assert "tile00,tile00,train,group" in rows
    inputs = TrainingInputs(project, comp, experiment("other"))
    assert "tile00" not in extra_ids(inputs, 0)
    assert "tile00" in extra_ids(inputs, 1)


def test_labels_come_with_their_image_at_the_size_of_the_records(project: Project) -> None:
    make_sources(project, competition())
    (part,) = TrainingInputs(project, competition(), experiment("other")).examples(0).extra
    assert [example.label for example in part.examples] == [1] * 4
    for example in part.examples:
        mask = cv2.imdecode(np.frombuffer(example.mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == (64, 64)
        assert (mask > 0).mean() == pytest.approx(np.pi / 36, abs=0.01)


def test_the_fingerprint_holds_the_source(project: Project) -> None:
    make_sources(project, competition())
    without = TrainingInputs(project, competition(), experiment()).made_from(0)
    inputs = TrainingInputs(project, competition(), experiment("other"))
    before = inputs.made_from(0)
    assert "extra" not in without and "data" not in experiment().settings
    assert without["settings"] != before["settings"]
    write_image(project.root / "raw-other", "new", scene(100), mask=False)
    make_sources(project, competition())
    after = TrainingInputs(project, competition(), experiment("other")).made_from(0)
    assert before["extra"] != after["extra"]
    assert {key: value for key, value in before.items() if key != "extra"} == {
        key: value for key, value in after.items() if key != "extra"
    }


def test_plans_count_the_images_of_sources(project: Project) -> None:
    make_sources(project, competition())
    exp = experiment({"source": "other", "weight": 0.5})
    images = count_images(project, competition(), exp)
    # Fold 0 trains on 6 images, and on half of the four that are not held out.
    assert (images.train, images.first_epoch, images.last_epoch) == (10, 8, 8)


def test_a_new_split_needs_no_new_source(project: Project) -> None:
    make_sources(project, competition())
    project.folds.write_text(project.folds.read_text().replace("tile04,1", "tile04,0"))
    inputs = TrainingInputs(project, competition(), experiment("other"))
    ids = [{example.image_id for example in inputs.examples(fold).training} for fold in (0, 1)]
    assert ["other/exact" in part for part in ids] == [False, True]


def test_copies_searched_in_other_images_are_rejected(project: Project) -> None:
    make_sources(project, competition())
    write_image(project.root / "raw", "tile12", scene(100))
    project.folds.write_text(project.folds.read_text() + "tile12,0,g12,0\n")
    prepare(project, competition())
    make_records(project, competition())
    inputs = TrainingInputs(project, competition(), experiment("other"))
    with pytest.raises(GatemaskError, match="searched in other images") as raised:
        inputs.examples(0)
    assert raised.value.details["do"] == "Run gatemask sources make tiles other."
    make_sources(project, competition())
    inputs = TrainingInputs(project, competition(), experiment("other"))
    assert {example.image_id for example in inputs.examples(0).extra[0].examples} == {
        "other/tile00",
        "other/exact",
        "other/halved",
    }


def test_an_edited_table_of_copies_is_rejected(project: Project) -> None:
    make_sources(project, competition())
    path = project.data / "sources/other/copies.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(GatemaskError, match="not the one that gatemask wrote"):
        TrainingInputs(project, competition(), experiment("other")).examples(1)


def test_other_records_are_rejected(project: Project) -> None:
    make_sources(project, competition())
    inputs = TrainingInputs(project, competition(), experiment("other"))
    write_source(project, image={"window": [10, 20]})
    with pytest.raises(GatemaskError, match="other settings") as raised:
        inputs.made_from(0)
    assert raised.value.details["do"] == "Run gatemask sources make tiles other."


@pytest.mark.parametrize("name", ["other", "nowhere"])
def test_a_source_that_is_not_prepared_is_rejected(project: Project, name: str) -> None:
    with pytest.raises(GatemaskError, match=f"'{name}' is not prepared") as raised:
        TrainingInputs(project, competition(), experiment(name)).examples(0)
    assert raised.value.details["do"] == f"Run gatemask sources make tiles {name}."


def test_a_source_of_copies_alone_is_rejected(project: Project) -> None:
    for name in ("new", "tile00", "halved", "exact"):
        (project.root / f"raw-other/images/{name}.png").unlink()
        (project.root / f"raw-other/masks/{name}.png").unlink()
    make_sources(project, competition())
    with pytest.raises(GatemaskError, match="Nothing is left of the source 'other'"):
        TrainingInputs(project, competition(), experiment("other")).examples(0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"format": "png", "masks": "masks/{id}.png", "ignore": 128}}, "other planes"),
        ({"labels": {"format": "png", "masks": "masks/{case}.png"}}, "does not fit"),
        ({"image": {"fit": "pad"}}, "Unknown key"),
        ({"raw": "nowhere"}, "do not exist"),
    ],
)
def test_a_source_that_does_not_fit_is_rejected(project: Project, changes: dict[str, object], words: str) -> None:
    write_source(project, **changes)
    with pytest.raises(GatemaskError, match=words):
        make_sources(project, competition())
    assert not (project.data / "sources/other/copies.csv").exists()


def test_unknown_sources_are_rejected(project: Project) -> None:
    with pytest.raises(GatemaskError, match="Unknown source 'othr'") as raised:
        make_sources(project, competition(), ["othr"])
    assert raised.value.details["do"] == "Did you mean 'other'?"
    project.source_file("other").unlink()
    with pytest.raises(GatemaskError, match="no sources"):
        make_sources(project, competition())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["other", {"source": "other", "weight": 2}], "names 'other' twice"),
        (["Other"], "cannot name a source"),
        ([{"source": "other", "weight": 0}], "greater than 0"),
    ],
)
def test_impossible_settings_are_rejected(extra: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        experiment(*extra)
