"""Folds without leaks, even, and stable to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gatemask.config.schema import Folds
from gatemask.data import folds
from gatemask.data.manifest import prepare
from gatemask.errors import GatemaskError
from gatemask.project import Project
from tests.conftest import SHARED, needs_siim, write_tiles
from tests.data.test_manifest import competition


def manifest(images: int = 600, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = (rng.random(images) < 0.22).astype(int)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in rng.permutation(images)],
            "group": rng.integers(0, 250, images).astype(str),
            "label": label,
            "mask_area": label * rng.lognormal(8, 1, images).astype(int),
        }
    )


def test_no_group_is_on_two_sides_and_every_image_has_one_fold() -> None:
    table = manifest()
    frame = folds.split(table, Folds(k=5))
    assert sorted(frame["image_id"]) == sorted(table["image_id"])
    assert set(frame["fold"]) == {0, 1, 2, 3, 4}
    assert (frame.groupby("group")["fold"].nunique() == 1).all()


def test_folds_have_even_shares_of_positives_and_of_areas() -> None:
    table = manifest()
    joined = folds.split(table, Folds(k=5)).merge(table, on="image_id")
    shares = joined.groupby("fold")["label"].mean()
    assert shares.max() - shares.min() < 0.04
    medians = joined[joined["label"] == 1].groupby("fold")["mask_area"].median()
    assert medians.max() / medians.min() < 1.6


def test_the_order_of_the_input_does_not_matter() -> None:
    table = manifest()
    one, two = (folds.split(t, Folds(k=3)).to_csv() for t in (table, table.sample(frac=1, random_state=1)))
    assert one == two


def test_a_hold_out_is_a_fold_of_its_own() -> None:
    frame = folds.split(manifest(), Folds(k=4, holdout=True))
    assert set(frame["fold"]) == {-1, 0, 1, 2, 3}
    assert 0.15 < (frame["fold"] == -1).mean() < 0.25


def test_large_seeds_and_few_images() -> None:
    folds.split(manifest(), Folds(k=2, seed=2**31 - 1, tries=2))
    with pytest.raises(GatemaskError, match="no positive image"):
        folds.split(manifest(40).assign(label=np.arange(40) < 3, mask_area=(np.arange(40) < 3) * 5), Folds(k=5))


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(GatemaskError, match="fewer groups"):
        folds.split(manifest().assign(group="same"), Folds(k=2))


@needs_siim
def test_siim_patients_stay_together() -> None:
    labels = pd.read_csv(SHARED / "siim/stage_2_train.csv")
    labels["positive"] = (labels["EncodedPixels"].str.strip() != "-1").astype(int)
    patients = pd.read_csv(SHARED / "siim/nih_id.csv")
    table = labels.groupby("ImageId")["positive"].max().rename("label").reset_index()
    table = table.merge(patients, left_on="ImageId", right_on="Kaggle_ID").rename(columns={"ImageId": "image_id"})
    table["group"], table["mask_area"] = table["NIH_ID"].str[:8], table["label"]
    frame = folds.split(table, Folds(k=5, tries=1))
    assert (frame.groupby("group")["fold"].nunique() == 1).all()
    shares = frame.merge(table, on="image_id").groupby("fold")["label"].mean()
    assert np.abs(shares - 0.2215).max() < 0.01


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "tiles")
    write_tiles(tmp_path / "raw", 24)
    prepare(project, competition())
    return project


def test_a_foreign_fold_file_is_adopted_and_never_overwritten(project: Project) -> None:
    folds.make(project, competition())
    mine = project.folds.read_text()
    assert folds.make(project, competition())["current"]
    frame = pd.read_csv(project.folds, dtype=str)
    frame["fold"] = frame["fold"].replace({"0": "1", "1": "0"})
    frame.to_csv(project.folds, index=False)
    theirs = project.folds.read_text()
    assert theirs != mine
    folds.make(project, competition())
    assert project.folds.read_text() == theirs
    folds.make(project, competition(folds={"k": 3, "holdout": True, "seed": 5}))
    assert project.folds.read_text() == theirs, "other settings do not make it ours"
    with pytest.raises(GatemaskError, match="disagree about a hold-out"):
        folds.make(project, competition(folds={"k": 3}, test={"images": "test/*.png"}))


@pytest.mark.parametrize("fault", ["missing row", "twice", "no column", "leak", "leak behind other groups"])
def test_a_foreign_fold_file_that_does_not_fit_is_refused(project: Project, fault: str) -> None:
    folds.make(project, competition())
    frame = pd.read_csv(project.folds)
    broken = {
        "missing row": frame.iloc[1:],
        "twice": pd.concat([frame, frame.iloc[:1]]),
        "no column": frame.drop(columns="group"),
        "leak": frame.assign(fold=np.arange(len(frame)) % 4 - 1),
        "leak behind other groups": frame.assign(fold=np.arange(len(frame)) % 4 - 1, group=frame["image_id"]),
    }[fault]
    broken.to_csv(project.folds, index=False)
    words = {"missing row": "not about these images", "twice": "twice", "no column": "lacks 'group'"}
    with pytest.raises(GatemaskError, match=words.get(fault, "more than one fold")):
        folds.make(project, competition())
