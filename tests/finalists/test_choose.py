"""`gatemask finalists`: which submissions are candidates, what is written and printed, and what goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import load_competition
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.finalists import choose
from gatemask.finalists.choose import FinalistOptions, choose_finalists, print_finalists
from gatemask.kaggle.submit import submission_records
from gatemask.oof.image_scores import ImageScores
from gatemask.project import Project
from gatemask.results.finalists import FinalistsResult
from gatemask.results.submission import SubmissionRecord
from tests.conftest import ROOT

IMAGES = 120
IDS = np.array([f"image{number:03d}" for number in range(IMAGES)])
FAST = FinalistOptions(draws=200)


def scores_of(seed: int, mean: float = 0.8, ids: np.ndarray = IDS) -> ImageScores:
    """Return image scores; one patient has two images."""
    rng = np.random.default_rng(seed)
    worth = (mean + 0.1 * rng.standard_normal(len(ids)))[:, None]
    return ImageScores(ids, np.arange(len(ids)) // 2 % 2, worth, np.ones_like(worth), np.arange(len(ids)) % 4 == 0)


def write(project: Project, number: int, scores: ImageScores | None, **fields: Any) -> SubmissionRecord:
    """Write a submission as `gatemask submit` does."""
    record = SubmissionRecord(
        **{
            "id": f"{number:012x}",
            "package": f"package{number}",
            "competition": "c",
            "description": "d",
            "at": f"2026-11-{number:02d}T12:00:00+00:00",
            "submitted_at": f"2026-11-{number:02d}T13:00:00+00:00",
            "state": "scored",
            "version": number,
            "local": None if scores is None else scores.score,
            "public": 0.8,
            **fields,
        }
    )
    submission_records.save_record(project, record)
    if scores is not None:
        scores.save(submission_records.image_scores_path(project, record))
    return record


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with folds and three scored submissions; Kaggle is not asked."""
    shutil.copytree(ROOT / "experiments" / "phantom", tmp_path / "experiments" / "phantom")
    made = Project(tmp_path, "phantom")
    rows = "".join(f"{name},{number // 2 % 2},p{number // 2},0\n" for number, name in enumerate(IDS))
    write_text(made.folds, "image_id,fold,group,stratum\n" + rows + "held-out,-1,p999,0\n")
    monkeypatch.setattr(choose, "count_test_images", lambda *_: 100)
    monkeypatch.setattr(choose, "submitted_records", lambda project: (submission_records.load_records(project), True))
    for number, mean in enumerate((0.80, 0.82, 0.81), start=1):
        write(made, number, scores_of(number, mean), public=mean - 0.01)
    return made


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FinalistsResult]:
    """Return the command, which draws no figure."""

    def blank(path: Path, *_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr(choose, "_write_figure", blank)

    def call(opts: FinalistOptions = FAST, **changes: Any) -> FinalistsResult:
        return choose_finalists(project, load_competition(project.experiments), replace(opts, **changes))

    return call


def test_result_figure_and_table(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    result = choose_finalists(project, load_competition(project.experiments), FAST)
    assert not result.current
    assert result.candidates[0].label in ("v2", "v3")
    assert {row.id for row in result.candidates} == {f"{number:012x}" for number in (1, 2, 3)}
    assert sum(row.best for row in result.candidates) == pytest.approx(1)
    assert (result.images, result.groups, result.public_images, result.private_images) == (IMAGES, 60, 30, 70)
    expected = {row.id: row.expected for row in result.candidates}
    assert result.pair.expected > max(expected.values()), "of two chances, the better one counts"
    assert expected[result.pair.first] >= expected[result.pair.second]
    assert len(result.runners_up) == 2, "three candidates make three pairs"
    assert result.pair.expected >= max(pair.expected for pair in result.runners_up)
    assert all(pair.gain >= 0 for pair in result.alternatives.values())
    assert result.offset == pytest.approx(-0.01, abs=0.02)
    assert cv2.imread(result.picture).shape[0] > 200
    print_finalists(result)
    shown = capsys.readouterr().err
    assert "Choose v" in shown
    assert "two best public" in shown
    assert "left out" not in shown


def test_a_current_result_is_not_made_again(project: Project, run: Callable[..., FinalistsResult]) -> None:
    first = run()
    assert run() == first.model_copy(update={"current": True})
    assert not run(draws=201).current
    write(project, 1, scores_of(1, 0.80), public=0.9)
    assert not run(draws=201).current, "another public score"


def test_private_scores_are_shown_when_they_are_known(
    project: Project, run: Callable[..., FinalistsResult], capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, 1, scores_of(1, 0.80), private=0.7654)
    result = run()
    assert {row.private for row in result.candidates} == {0.7654, None}
    print_finalists(result)
    assert "0.7654" in capsys.readouterr().err


def test_ids_name_submissions_whose_versions_are_not_distinct(
    project: Project, run: Callable[..., FinalistsResult]
) -> None:
    write(project, 4, scores_of(4), version=2, id="abcdef123456")
    assert {row.label for row in run().candidates} == {"000000", "abcdef"}


def test_the_order_of_images_in_a_file_does_not_matter(project: Project, run: Callable[..., FinalistsResult]) -> None:
    before = run()
    scores = scores_of(2, 0.82)
    order = np.random.default_rng(0).permutation(IMAGES)
    write(project, 2, ImageScores(**{k: v[order] for k, v in vars(scores).items()}), public=0.81)
    assert [row.expected for row in run().candidates] == pytest.approx([row.expected for row in before.candidates])


def test_submissions_that_cannot_be_scored_are_left_out(
    project: Project, run: Callable[..., FinalistsResult], capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, 4, None)
    write(project, 5, scores_of(5), state="failed")
    write(project, 6, scores_of(6), local=0.9)
    write(project, 7, scores_of(7, ids=np.array([*IDS[1:], "other"])))
    write(project, 8, scores_of(1, 0.80), package="package1")
    write(project, 9, scores_of(9))
    submission_records.image_scores_path(project, submission_records.load_records(project)[-1]).write_bytes(b"x")
    result = run()
    reasons = {int(left.id, 16): left.reason for left in result.left_out}
    assert "no image scores" in reasons[4]
    assert reasons[5] == "it failed"
    assert "not its local score of 0.9000" in reasons[6]
    assert reasons[7].endswith("1 are missing, 1 are unknown")
    assert reasons[8] == "it is the same package as 000000000001"
    assert "cannot be read" in reasons[9]
    assert len(result.candidates) == 3
    print_finalists(result)
    assert capsys.readouterr().err.count("left out: ") == 6


def test_one_candidate_is_too_few(project: Project, run: Callable[..., FinalistsResult]) -> None:
    for path in submission_records.submissions_folder(project).glob("*[23].npz"):
        path.unlink()
    with pytest.raises(GatemaskError, match="fewer than two submissions") as caught:
        run()
    assert "1 of 3 (000000000002: it has no image scores" in str(caught.value)


def test_the_present_rule_can_be_a_candidate(
    project: Project, run: Callable[..., FinalistsResult], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GatemaskError, match="The present rule has no image scores"):
        run(tuned=True)
    scores_of(8, 0.85).save(project.tuned / "scores.npz")
    result = run(tuned=True)
    assert result.pair.first == "tuned"
    assert next(row for row in result.candidates if row.id == "tuned").public is None
    print_finalists(result)
    assert "has to be submitted first" in capsys.readouterr().err
    scores_of(8, ids=IDS[2:]).save(project.tuned / "scores.npz")
    with pytest.raises(GatemaskError, match="other images than those of the folds") as caught:
        run(tuned=True)
    assert "2 are missing" in str(caught.value)


def test_without_public_scores_local_scores_decide(
    project: Project, run: Callable[..., FinalistsResult], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, mean in enumerate((0.80, 0.82, 0.81), start=1):
        write(project, number, scores_of(number, mean), public=None, state="submitted")
    result = run()
    assert result.offset is None
    assert set(result.alternatives) == {"two best local"}
    assert result.pair.first == f"{2:012x}"
    print_finalists(result)
    assert "No public score is known" in capsys.readouterr().err


def test_the_prevalence_of_images_of_one_kind_cannot_be_changed(
    project: Project, run: Callable[..., FinalistsResult]
) -> None:
    for number in (1, 2, 3):
        write(project, number, replace(scores_of(number), positive=np.ones(IMAGES, bool)))
    assert run().prevalence.mean == 1.0
    with pytest.raises(GatemaskError, match="all training images are of one kind"):
        run(prevalence=(0.2, 0.3))


@pytest.mark.parametrize("text", ["", "a", "0.2,a", "0.3,0.2", "0", "1", "0.1,0.2,0.3", "nan"])
def test_a_prevalence_is_one_share_or_two(text: str) -> None:
    from gatemask.commands.finalists import _parse_prevalence

    with pytest.raises(GatemaskError, match="--prevalence requires"):
        _parse_prevalence(text)


def test_prevalences_are_parsed() -> None:
    from gatemask.commands.finalists import _parse_prevalence

    assert _parse_prevalence(None) is None
    assert _parse_prevalence("0.2") == (0.2, 0.2)
    assert _parse_prevalence("0.15, 0.3") == (0.15, 0.3)
