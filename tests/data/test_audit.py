"""`gatemask folds audit` finds leaks of every kind and passes sound folds."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gatemask.data.audit import audit_folds
from gatemask.data.fold_files import read_fold_file
from gatemask.data.ids import DEFAULT
from gatemask.errors import GatemaskError
from gatemask.report.audit import audit_file
from gatemask.results.data import FoldBalance
from tests.conftest import SHARED, gatemask, needs_siim
from tests.data.test_manifest import competition

pytestmark = pytest.mark.integration  # takes seconds

UID = "1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027"


def written(folder: Path, lines: list[str], name: str = "folds.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_the_leak_is_the_share_of_images_whose_group_is_trained_on(tmp_path: Path) -> None:
    file = written(tmp_path, ["id,fold", "a.png,0", "b.png,0", "c.png,1", "d.png,1", "e.png,1", "f.png,-1"])
    groups = {"a": "p", "c": "p", "b": "q", "d": "r", "e": "r", "f": "q"}
    result, frame = audit_folds(file, groups)
    # a and c share p across folds. b's q is in the hold-out, which trains nothing but is scored: f leaks.
    assert result.leak == 0.5
    assert result.per_fold["0"].leak == 0.5
    assert result.per_fold["1"].leak == pytest.approx(1 / 3, abs=1e-4)
    assert result.per_fold["-1"].leak == 1.0, "its group is trained on"
    assert sorted(frame["image_id"][frame["leaks"]]) == ["a", "c", "f"]
    assert (result.images, result.folds, result.groups, result.without_group) == (6, 2, 3, 0)


def test_images_in_several_folds_and_copies_are_duplicates(tmp_path: Path) -> None:
    file = written(tmp_path, ["id,fold", "a,0", "b,0", "c,1", "a,1", "d,1", "d,1"])
    result, _ = audit_folds(file, {}, copies=[("b", "c"), ("c", "d")])
    assert result.duplicates == 2
    assert result.duplicated == ["a", "b = c"]


def test_balance_of_positives_and_areas(tmp_path: Path) -> None:
    rows = [f"i{n},{n % 2},{100 if n < 4 else 0}" for n in range(8)]
    result, _ = audit_folds(written(tmp_path, ["id,fold,mask_area", *rows]), {})
    assert result.balance == FoldBalance.model_validate(
        {
            "images": [4, 4],
            "positives": 0.5,
            "positives_deviation": 0.0,
            "area_quartiles": [100, 100, 100],
            "area_deviation": 0.0,
        }
    )
    rows = [f"i{n},{n % 2},{int(n % 2 and n < 4)}" for n in range(8)]
    result, _ = audit_folds(written(tmp_path, ["id,fold,exist", *rows]), {})
    assert (result.balance.positives, result.balance.positives_deviation) == (0.25, 0.25)


def test_ids_lose_folders_and_the_extensions_of_images_only() -> None:
    assert [DEFAULT.of_cell(name) for name in ("train/a.png", "b.DCM", " c ", UID, UID + ".png")] == [
        "a",
        "b",
        "c",
        UID,
        UID,
    ]


def test_group_files_with_and_without_a_header(tmp_path: Path) -> None:
    folds = written(tmp_path, ["id,fold", "a,0", "b,1"])
    for header in (["image_id,group"], []):
        groups = written(tmp_path, [*header, "a.png,0001_x", "b.png,0001_y"], "groups.csv")
        assert audit_file(folds, groups, 4, None, None).leak == 1.0
        assert audit_file(folds, groups, None, None, None).leak == 0.0


def test_a_group_file_of_other_images_is_rejected(tmp_path: Path) -> None:
    folds = written(tmp_path, ["id,fold", "a,0", "b,1"])
    with pytest.raises(GatemaskError, match="ids of two lists do not match"):
        audit_file(folds, written(tmp_path, ["c,p", "d,p"], "groups.csv"), None, None, None)


def test_a_fold_may_have_a_name(tmp_path: Path) -> None:
    read = read_fold_file(written(tmp_path, ["id,fold,group", "a,0.0,g", "b,test,h", "c,1,i"]))
    assert read.folds == {"a": "0", "b": "test", "c": "1"}
    assert read.groups == {"a": "g", "b": "h", "c": "i"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["id,fold", "a,0", "b,"], r"no fold[\s\S]*row 3, image b"),
        (["id,fold", "a,0", "b,0"], "fewer than two folds"),
        (["id,part", "a,0"], "lacks the column 'fold'"),
        (["id,fold,mask_area", "a,0,x", "b,1,4"], r"area is not a whole number[\s\S]*row 2"),
    ],
)
def test_a_table_that_is_not_a_fold_file_is_rejected(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(GatemaskError, match=words):
        read_fold_file(written(tmp_path, lines))


@pytest.mark.integration
@needs_siim
def test_the_command_on_the_winners_folds(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    names = pd.read_csv(SHARED / "siim/nih_id.csv")
    groups = pd.DataFrame({"image_id": names["Kaggle_ID"], "group": names["NIH_ID"].str[:8]})
    groups.to_csv(tmp_path / "patients.csv", index=False)
    file, picture = SHARED / "siim/winner_folds_stage_1.csv", tmp_path / "leak.png"
    options = ["--groups", tmp_path / "patients.csv", "--labels", SHARED / "siim/stage_2_train.csv"]
    done = gatemask("folds", "audit", file, *options, "--picture", picture, "--json", root=tmp_path)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert 0.58 < result["leak"] < 0.62
    assert all(0.55 < fold["leak"] < 0.65 for fold in result["per_fold"].values())
    assert result["duplicates"] == 0
    assert 0.215 < result["balance"]["positives"] < 0.23
    assert picture.stat().st_size > 10_000
    by_prefix = gatemask("folds", "audit", file, "--groups", SHARED / "siim/nih_id.csv", "--prefix", 8, root=tmp_path)
    assert by_prefix.returncode == 1
    assert f"{100 * result['leak']:.1f} % of the images" in by_prefix.stderr
    assert (tmp_path / "runs/audit/winner_folds_stage_1.png").exists()


@pytest.mark.integration
def test_the_command_on_sound_folds(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    file = written(tmp_path, ["image_id,fold,group,stratum", "a,0,p,1", "b,1,q,1", "c,0,p,0", "d,1,r,0"])
    done = gatemask("folds", "audit", file, root=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No leak." in done.stderr


def test_one_leaking_pair_among_very_many_is_a_leak(tmp_path: Path) -> None:
    rows = [f"i{n},{n % 2},g{n}" for n in range(60_000)]
    result, _ = audit_folds(written(tmp_path, ["id,fold,group", *rows, "x,0,pair", "y,1,pair"]))
    assert 0 < result.leak < 0.0001


def test_a_blank_group_counts_as_none(tmp_path: Path) -> None:
    result, _ = audit_folds(written(tmp_path, ["id,fold,group", "a,0,", "b,1,", "c,0,p", "d,1,q"]))
    assert (result.leak, result.without_group, result.groups) == (0.0, 2, 2)


def test_copies_outside_the_file_are_ignored(tmp_path: Path) -> None:
    result, _ = audit_folds(
        written(tmp_path, ["id,fold,group", "a,0,p", "b,1,q"]), copies=[("a", "gone"), ("gone", "b")]
    )
    assert result.duplicates == 0


def test_an_image_in_two_groups_is_rejected(tmp_path: Path) -> None:
    file = written(tmp_path, ["image_id,group", "a,p1", "a,p1", "b,p1", "a.png,p9"], "groups.csv")
    with pytest.raises(GatemaskError, match=r"in two groups[\s\S]*row 5, image a"):
        audit_file(written(tmp_path, ["id,fold", "a,0", "b,1"]), file, None, None, None)


def test_test_images_of_a_manifest_do_not_count(tmp_path: Path) -> None:
    manifest = ["image_id,split,mask_area", "a,train,10", "b,train,0", "a,test,0"]
    file = written(tmp_path, ["id,fold,group", "a,0,p", "b,1,q"])
    result = audit_file(file, None, None, written(tmp_path, manifest, "manifest.csv"), None)
    assert result.balance.positives == 0.5


@pytest.mark.parametrize(
    "lines",
    [
        ["fold,ImageId,group", "0,a,p", "1,b,p", "1,c,q"],
        [",ImageId,fold,group", "0,a,0,p", "1,b,1,p", "2,c,1,q"],
        ["Fish,image,Flower,fold,group", "1,a.png,0,0,p", "0,b.png,1,1,p", "1,c.png,1,1,q"],
        ["patient,fold,file,group", "p,0,x/a.png,p", "p,1,x/b.png,p", "q,1,x/c.png,q"],
    ],
)
def test_the_ids_may_be_in_any_column(tmp_path: Path, lines: list[str]) -> None:
    result, frame = audit_folds(written(tmp_path, lines))
    assert sorted(frame["image_id"]) == ["a", "b", "c"]
    assert (result.leak, result.groups) == (pytest.approx(2 / 3), 2)
    assert result.chosen[0].startswith("Image ids: column ")


def test_two_columns_that_could_hold_the_ids_are_a_question(tmp_path: Path) -> None:
    file = written(tmp_path, ["Kaggle_ID,NIH_ID,fold,group", "a,x,0,p", "b,y,1,q"])
    with pytest.raises(GatemaskError, match=r"(?s)Several columns.*Kaggle_ID.*NIH_ID.*--id COLUMN"):
        read_fold_file(file)
    assert set(read_fold_file(file, id_column="NIH_ID").folds) == {"x", "y"}
    assert set(read_fold_file(file, known={"a", "b"}).folds) == {"a", "b"}


def test_columns_of_zeros_and_ones_are_named(tmp_path: Path) -> None:
    named = read_fold_file(written(tmp_path, ["id,sex,exist,fold", "a,0,1,0", "b,1,0,1"]))
    assert named.labels == {"a": 1, "b": 0}
    assert any("'sex' is ignored" in sentence for sentence in named.chosen)
    unnamed = read_fold_file(written(tmp_path, ["id,fish,flower,fold", "a,0,1,0", "b,1,0,1"]))
    assert unnamed.labels == {}
    assert "several hold zeros and ones (fish, flower)" in unnamed.chosen[-1]


def test_ids_that_are_unique_only_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of competition.yaml makes the ids, for folds/<comp>.csv and for any file with --comp."""
    comp = competition(train={"images": "{case}/{slice}.png", "id": "{case}_{slice}"})
    folder = tmp_path / "experiments/tiles"
    folder.mkdir(parents=True)
    (folder / "competition.yaml").write_text(yaml.safe_dump(comp.model_dump(mode="json", exclude={"name"})))
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    rows = ["image,fold", "c1/s1.png,0", "c1/s2.png,1", "c2/s1.png,0", "c2/s2.png,0"]
    file = written(tmp_path, rows, "theirs.csv")
    groups = written(tmp_path, ["image,patient", *(f"{n.split(',')[0]},{n[:2]}" for n in rows[1:])], "groups.csv")
    labels = written(
        tmp_path, ["image,rle", "c1/s1.png,1 5", "c1/s2.png,", "c2/s1.png,1 7", "c2/s2.png,"], "labels.csv"
    )
    with pytest.raises(GatemaskError, match=r"Two paths of a table become one id[\s\S]*--comp"):
        audit_file(file, groups, None, labels, None)
    result = audit_file(file, groups, None, labels, None, competition="tiles")
    assert (result.images, result.groups, result.leak) == (4, 2, 0.5), "patient c1 is in both folds"
    assert result.per_fold["0"].positives == pytest.approx(2 / 3, abs=1e-4)
    (tmp_path / "folds").mkdir()
    own = written(tmp_path / "folds", rows, "tiles.csv")
    assert audit_file(own, groups, None, labels, None).leak == 0.5


def test_numbers_of_folds_are_read_as_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, ["id,fold", "a,0", "b,1", "c,01", "d,+1", "e,1.0", "f,-1.0", "g,late"])
    assert read_fold_file(file).folds == {"a": "0", "b": "1", "c": "1", "d": "1", "e": "1", "f": "-1", "g": "late"}


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "None", "NA", "<NA>", "null"])
def test_an_image_without_a_fold_is_rejected(tmp_path: Path, cell: str) -> None:
    with pytest.raises(GatemaskError, match=r"An image has no fold[\s\S]*row 4, image c"):
        read_fold_file(written(tmp_path, ["id,fold", "a,0", "b,1", f"c,{cell}"]))
