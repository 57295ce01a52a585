"""Records hold every image once, whatever the split, and give back those that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatemask.data import records
from gatemask.data.manifest import prepare
from gatemask.data.pipeline import decode
from gatemask.data.readers import read_image, resize_image
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.project import Project
from tests.conftest import write_tiles
from tests.data.test_manifest import competition

COMP = competition(records={"size": 64, "format": "png", "per_shard": 10})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "tiles")
    write_tiles(tmp_path / "raw", 24)
    prepare(project, COMP)
    return project


def test_images_and_masks_come_back_in_the_order_asked_for(project: Project) -> None:
    result = records.make(project, COMP)
    folder = project.records(64)
    assert (result["count"], len(list(folder.glob("*.tfrec")))) == (24, 3)
    found = records.read(folder, ["tile020", "tile003"])
    assert [(e.image_id, e.label) for e in found] == [("tile020", 1), ("tile003", 0)]
    image, mask = decode(found[0], 3)
    original = resize_image(read_image(project.root / "raw/images/tile020.png", 3), 64)
    assert (image == original).all(), "PNG keeps every pixel, and its colours"
    assert set(np.unique(mask)) == {0, 255}


def test_a_second_call_does_nothing_and_a_lost_shard_is_made_again(project: Project) -> None:
    records.make(project, COMP)
    shard = project.records(64) / "00001.tfrec"
    digest = sha256(shard)
    assert records.make(project, COMP)["current"]
    shard.unlink()
    assert "current" not in records.make(project, COMP)
    assert sha256(shard) == digest


def test_training_refuses_records_that_are_older_than_the_manifest(project: Project) -> None:
    records.make(project, COMP)
    assert len(records.require_current(project, COMP)) == 3
    (project.root / "raw/images/tile000.png").unlink()
    prepare(project, COMP)
    with pytest.raises(GatemaskError, match="another manifest"):
        records.require_current(project, COMP)


def test_unknown_ids_and_unfinished_records_are_refused(project: Project) -> None:
    records.make(project, COMP)
    folder = project.records(64)
    with pytest.raises(GatemaskError, match="tile999"):
        records.read(folder, ["tile001", "tile999"])
    (folder / "index.json").unlink()
    with pytest.raises(GatemaskError, match="no finished records"):
        records.read(folder, ["tile001"])
