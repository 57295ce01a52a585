"""A test set predicted in shards gives the bytes of one that is predicted whole, also after a shard was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.inference.shards import Source, predict_in_shards, shard_piece
from gatemask.pieces.piece import call
from gatemask.results.submission import InferenceReport
from tests.inference.fake_networks import COUNT, FakeNetwork, KaggleFolders, make_kaggle_folders, use_fake_networks
from tests.pieces.here import Here


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolders:
    return make_kaggle_folders(tmp_path / "kaggle")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    return use_fake_networks(monkeypatch)


def in_shards(kaggle: KaggleFolders, working: Path, count: int, place: Here | None = None) -> InferenceReport:
    working.mkdir(exist_ok=True)
    return predict_in_shards(Source.open(kaggle.dataset, kaggle.competition), working, count, place or Here())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_submission_does_not_depend_on_the_number_of_shards(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], tmp_path: Path, count: int
) -> None:
    whole = kaggle.predict()
    report = in_shards(kaggle, tmp_path / "shards", count)
    assert (tmp_path / "shards/submission.csv").read_bytes() == kaggle.submission.read_bytes()
    measured = {"seconds", "seconds_per_image", "peak_megabytes", "members"}
    assert report.model_dump(exclude=measured) == whole.model_dump(exclude=measured)
    assert {name: each.images for name, each in report.members.items()} == {
        name: each.images for name, each in whole.members.items()
    }
    assert whole.passed > 0


def test_a_lost_shard_is_predicted_again_and_the_others_are_kept(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], tmp_path: Path
) -> None:
    kaggle.predict()
    working = tmp_path / "shards"
    with pytest.raises(GatemaskError, match=r"(?s)1 of 3 pieces of work failed.*shard 2 of 3: killed"):
        in_shards(kaggle, working, 3, Here(lost=[1]))
    assert not (working / "submission.csv").exists()
    before = fakes["g0"].predicted
    in_shards(kaggle, working, 3)
    assert fakes["g0"].predicted - before == -(-COUNT // 3) - 1, "only the lost shard"
    assert (working / "submission.csv").read_bytes() == kaggle.submission.read_bytes()


def test_shards_of_other_images_are_predicted_again(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], tmp_path: Path
) -> None:
    working = tmp_path / "shards"
    in_shards(kaggle, working, 2)
    first = (working / "submission.csv").read_bytes()
    kaggle.image(4).write_bytes(kaggle.image(5).read_bytes())
    in_shards(kaggle, working, 2)
    kaggle.predict()
    assert (working / "submission.csv").read_bytes() == kaggle.submission.read_bytes() != first


def test_a_piece_of_another_package_is_refused(kaggle: KaggleFolders, tmp_path: Path) -> None:
    source = Source.open(kaggle.dataset, kaggle.competition)
    piece = shard_piece(source, tmp_path, source.made_from(), range(3), (0, 2))
    kaggle.change(rule={"min_area": 11})
    with pytest.raises(GatemaskError, match="not those of the command"):
        call(piece)
    assert not (tmp_path / "shard-0-of-2.json").exists()
