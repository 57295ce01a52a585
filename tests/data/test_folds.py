"""Folds have no leaks, are even, and stable to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatemask.config import Folds
from gatemask.data import folds
from gatemask.data.manifest import prepare
from gatemask.data.split import read_folds
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
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
    frame = folds.assign_folds(table, Folds(k=5))
    assert sorted(frame["image_id"]) == sorted(table["image_id"])
    assert set(frame["fold"]) == {0, 1, 2, 3, 4}
    assert (frame.groupby("group")["fold"].nunique() == 1).all()


def test_folds_have_even_shares_of_positives_and_of_areas() -> None:
    table = manifest()
    joined = folds.assign_folds(table, Folds(k=5)).merge(table, on="image_id")
    shares = joined.groupby("fold")["label"].mean()
    assert shares.max() - shares.min() < 0.04
    medians = joined[joined["label"] == 1].groupby("fold")["mask_area"].median()
    assert medians.max() / medians.min() < 1.6


def test_the_order_of_the_input_does_not_matter() -> None:
    table = manifest()
    shuffled = table.sample(frac=1, random_state=1)
    assert folds.assign_folds(table, Folds(k=3)).equals(folds.assign_folds(shuffled, Folds(k=3)))


def test_a_hold_out_is_a_fold_of_its_own() -> None:
    frame = folds.assign_folds(manifest(), Folds(k=4, holdout=True))
    assert set(frame["fold"]) == {-1, 0, 1, 2, 3}
    assert 0.15 < (frame["fold"] == -1).mean() < 0.25


def test_large_seeds_and_few_images() -> None:
    folds.assign_folds(manifest(), Folds(k=2, seed=2**31 - 1, tries=2))
    with pytest.raises(GatemaskError, match="no positive image"):
        folds.assign_folds(manifest(40).assign(label=np.arange(40) < 3, mask_area=(np.arange(40) < 3) * 5), Folds(k=5))


def test_too_few_groups_are_rejected() -> None:
    with pytest.raises(GatemaskError, match="fewer groups"):
        folds.assign_folds(manifest().assign(group="same"), Folds(k=2))


def test_columns_are_spread_evenly_numbers_by_quartile() -> None:
    table, rng = manifest(900), np.random.default_rng(3)
    table["view"] = np.where(rng.random(900) < 0.3, "AP", "PA")
    table["age"] = [f"{age:03d}Y" for age in rng.integers(1, 95, 900)]
    frame = folds.assign_folds(table, Folds(k=5, stratify=["view", "age"]))
    joined = frame.merge(table, on="image_id")
    shares = joined.groupby("fold")["view"].apply(lambda view: (view == "AP").mean())
    assert shares.max() - shares.min() < 0.03
    ages = joined.assign(years=joined["age"].str[:3].astype(int)).groupby("fold")["years"].median()
    assert ages.max() - ages.min() <= 8
    assert set(frame["stratum"].str.split("|").str[2]) == {"q1", "q2", "q3", "q4"}


def test_one_group_may_hold_most_images() -> None:
    table = manifest()
    table["group"] = np.where(np.arange(600) < 300, "giant", table["group"])
    frame = folds.assign_folds(table, Folds(k=3))
    assert frame[frame["group"] == "giant"]["fold"].nunique() == 1
    sizes = frame["fold"].value_counts()
    assert sizes.min() > 120, "the others share the rest"


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 120), st.integers(2, 5), st.integers(0, 99), st.booleans())
def test_no_split_ever_leaks(images: int, k: int, seed: int, holdout: bool) -> None:
    table = manifest(images, seed)
    try:
        frame = folds.assign_folds(table, Folds(k=k, seed=seed, holdout=holdout, tries=2))
    except GatemaskError as error:
        assert "no positive" in str(error) or "fewer groups" in str(error)
        return
    assert (frame.groupby("group")["fold"].nunique() == 1).all()
    assert set(frame["fold"]) == set(range(k)) | ({-1} if holdout else set())
    assert frame["image_id"].is_monotonic_increasing


def test_the_same_input_always_gives_the_same_bytes() -> None:
    """A fold file is part of a result, and must not change with a library or a machine."""
    frame = folds.assign_folds(manifest(60), Folds(k=3, seed=1))
    assert fingerprint(frame.to_csv(index=False, lineterminator="\n")) == "80d144580764bf60"


@needs_siim
def test_siim_folds_do_not_leak_and_are_even(tmp_path: Path) -> None:
    """Split the images of the winner's folds as a competitor would."""
    from gatemask.data.audit import audit_folds
    from gatemask.data.groups import group_names
    from gatemask.data.label_report import mask_areas
    from gatemask.data.tables import read_table

    siim = SHARED / "siim"
    patients = group_names(read_table(siim / "nih_id.csv"), "Kaggle_ID", "NIH_ID", 8)
    masks = mask_areas(siim / "stage_1_train.csv")
    table = pd.DataFrame({"image_id": list(masks), "mask_area": list(masks.values())})
    table["label"] = (table["mask_area"] > 0).astype(int)
    table["group"] = table["image_id"].map(patients)
    folds.assign_folds(table, Folds(k=5)).to_csv(tmp_path / "own.csv", index=False)
    own, _ = audit_folds(tmp_path / "own.csv", patients, masks)
    theirs, _ = audit_folds(siim / "winner_folds_stage_1.csv", patients, masks)
    assert 0.58 < theirs.leak < 0.62
    assert (own.leak, own.duplicates, own.folds, own.images) == (0.0, 0, 5, 10675)
    assert own.balance.positives_deviation < 0.005
    for fold in own.per_fold.values():
        assert abs(fold.positives - 0.2215) < 0.005
    assert own.balance.area_deviation < 0.05 < theirs.balance.area_deviation


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, "tiles")
    write_tiles(tmp_path / "raw", 24)
    prepare(project, competition())
    return project


def test_a_foreign_fold_file_is_adopted_and_never_overwritten(project: Project) -> None:
    folds.make_folds(project, competition())
    ours = project.folds.read_text()
    assert folds.make_folds(project, competition()).current
    frame = pd.read_csv(project.folds, dtype=str)
    frame["fold"] = frame["fold"].replace({"0": "1", "1": "0"})
    frame.to_csv(project.folds, index=False)
    theirs = project.folds.read_text()
    assert theirs != ours
    folds.make_folds(project, competition())
    assert project.folds.read_text() == theirs
    folds.make_folds(project, competition(folds={"k": 3, "holdout": True, "seed": 5}))
    assert project.folds.read_text() == theirs, "even with other settings"
    with pytest.raises(GatemaskError, match="disagree about a hold-out"):
        folds.make_folds(project, competition(folds={"k": 3}, test={"images": "test/*.png"}))


@pytest.mark.parametrize("fault", ["missing row", "twice", "no column", "leak", "leak behind other groups"])
def test_a_foreign_fold_file_that_does_not_fit_is_rejected(project: Project, fault: str) -> None:
    folds.make_folds(project, competition())
    frame = pd.read_csv(project.folds)
    broken = {
        "missing row": frame.iloc[1:],
        "twice": pd.concat([frame, frame.iloc[:1]]),
        "no column": frame.drop(columns="group"),
        "leak": frame.assign(fold=np.arange(len(frame)) % 4 - 1),
        "leak behind other groups": frame.assign(fold=np.arange(len(frame)) % 4 - 1, group=frame["image_id"]),
    }[fault]
    broken.to_csv(project.folds, index=False)
    words = {"missing row": "lists other images", "twice": "an image twice", "no column": "lacks the column 'group'"}
    with pytest.raises(GatemaskError, match=words.get(fault, "more than one fold")):
        folds.make_folds(project, competition())


def test_a_foreign_file_is_imported_with_the_manifests_groups(project: Project, tmp_path: Path) -> None:
    folds.make_folds(project, competition())
    own = read_folds(project)
    theirs = own.assign(fname=own["image_id"] + ".png", fold=own["fold"].where(own["fold"] < 0, own["fold"] * 1.0))
    file = tmp_path / "theirs.csv"
    theirs[["fname", "fold"]].to_csv(file, index=False)
    with pytest.raises(GatemaskError, match=r"folds already[\s\S]*--force"):
        folds.import_folds(project, competition(), file)
    project.folds.unlink()
    assert folds.import_folds(project, competition(), file).adopted
    assert project.folds.read_text() == own.to_csv(index=False)
    assert folds.make_folds(project, competition()).current, "the imported folds are kept"


def test_folds_counted_from_one_are_renumbered(project: Project, tmp_path: Path) -> None:
    comp = competition(test={"images": "images/*0.png"}, folds={"k": 2})
    prepare(project, comp)
    folds.make_folds(project, comp)
    own = read_folds(project)
    file = tmp_path / "theirs.csv"
    own.assign(fold=own["fold"] + 1).to_csv(file, index=False)
    folds.import_folds(project, comp, file, force=True)
    assert read_folds(project)["fold"].tolist() == own["fold"].tolist()


@pytest.mark.parametrize("fault", ["leak", "other images", "names", "one fold", "two folds", "no column"])
def test_a_leaking_or_unfitting_foreign_file_is_not_imported(project: Project, tmp_path: Path, fault: str) -> None:
    folds.make_folds(project, competition())
    own = read_folds(project)
    before = project.folds.read_bytes()
    changed, words = {
        "leak": (own.assign(fold=np.arange(len(own)) % 4 - 1), r"more than one fold[\s\S]*folds audit"),
        "other images": (own.assign(image_id="x" + own["image_id"]), "lists other images"),
        "names": (own.assign(fold="fold" + own["fold"].astype(str)), "not a whole number"),
        "one fold": (own.assign(fold=0), "fewer than two folds"),
        "two folds": (pd.concat([own, own.assign(fold=(own["fold"] + 2) % 4 - 1)]), "in several folds"),
        "no column": (own.rename(columns={"fold": "folds"}), r"lacks the column 'fold'[\s\S]*Did you mean 'folds'"),
    }[fault]
    changed.to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(GatemaskError, match=words):
        folds.import_folds(project, competition(), tmp_path / "theirs.csv", force=True)
    assert project.folds.read_bytes() == before


def test_own_folds_are_recognized_after_a_kill_between_file_and_stamp(project: Project) -> None:
    folds.make_folds(project, competition())
    first = project.folds.read_bytes()
    (project.data / "folds.json").unlink()
    assert not folds.make_folds(project, competition()).adopted
    assert project.folds.read_bytes() == first
    assert folds.make_folds(project, competition(folds={"k": 2, "holdout": True})).folds == 2, "and made again"


def test_an_adopted_file_with_another_number_of_folds_is_reported(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folds.make_folds(project, competition())
    (project.data / "folds.json").unlink()
    (project.data / "folds-made.json").unlink()
    assert folds.make_folds(project, competition(folds={"k": 5, "holdout": True})).adopted
    assert "It has 3 folds, but folds.k is 5" in capsys.readouterr().err


def test_values_with_a_bar_are_spread_evenly_too() -> None:
    table, rng = manifest(800), np.random.default_rng(1)
    table["finding"] = rng.choice(["A", "A|B", "B|C"], 800)
    table["sex"] = rng.choice(["F", "M"], 800)
    joined = folds.assign_folds(table, Folds(k=4, stratify=["finding", "sex"])).merge(table, on="image_id")
    shares = joined.groupby("fold")["sex"].apply(lambda sex: (sex == "M").mean())
    assert shares.max() - shares.min() < 0.02


@pytest.mark.parametrize("content", ["", 'image_id,fold,group,stratum\n"a,0', "\xff"])
def test_a_malformed_fold_file_is_rejected(project: Project, content: str) -> None:
    folds.make_folds(project, competition())
    project.folds.write_bytes(content.encode("latin-1"))
    with pytest.raises(GatemaskError, match=r"is empty|cannot be read"):
        read_folds(project)
