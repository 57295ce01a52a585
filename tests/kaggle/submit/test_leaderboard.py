"""`gatemask leaderboard`: scores from Kaggle or from the records, ranks, correlation, verdict, figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
from scipy.stats import spearmanr

from gatemask import files
from gatemask.errors import GatemaskError
from gatemask.files import read_json
from gatemask.kaggle.client import account
from gatemask.kaggle.submit import leaderboard, submission_records
from gatemask.kaggle.submit.leaderboard import rank_correlation, verdict
from gatemask.project import Project
from gatemask.results.submission import SubmissionRecord
from tests.kaggle.cloud import Entry, Fault, stand_in
from tests.kaggle.submit.shipping import COMPETITION, KERNEL, SAMPLE, Desk, prepare, ship
from tests.kaggle.warm import warm

pytestmark = pytest.mark.integration

SCORES = [(0.80, 0.79, 0.78), (0.82, 0.80, 0.80), (0.84, 0.83, 0.79), (0.86, 0.82, 0.83), (0.88, 0.85, 0.84)]


@pytest.fixture(scope="module")
def quick_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_command: Any) -> Iterator[Desk]:
    """Return a fake Kaggle and a project without submissions."""
    project = prepare(tmp_path / "project")
    with stand_in(tmp_path, monkeypatch) as cloud:
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", quick_command)
        cloud.competitions[COMPETITION] = {"sample_submission.csv": SAMPLE.encode()}
        yield Desk(cloud, project)


def store(
    project: Project, scores: Sequence[tuple[float | None, float | None, float | None]]
) -> list[SubmissionRecord]:
    """Write records as `gatemask submit` does."""
    records = []
    for number, (local, public, private) in enumerate(scores, start=1):
        date = f"2026-11-{number:02d}T12:00:00+00:00"
        record = SubmissionRecord(
            id=f"{number:012x}",
            package=f"package{number}",
            competition=COMPETITION,
            description=f"gatemask {number:012x}: local {local}",
            at=date,
            local=local,
            public=public,
            private=private,
            state="scored",
            ref=KERNEL,
            version=number,
            submitted_at=date,
            members=["unet_b0-fold0", "gate_r18-fold0"],
            experiments=["unet_b0", "gate_r18"],
        )
        submission_records.save_record(project, record)
        records.append(record)
    return records


def put_on_kaggle(desk: Desk, record: SubmissionRecord, public: float, private: float | None) -> None:
    """Add a record's submission to the fake Kaggle."""
    request = {"fileName": "submission.csv", "submissionDescription": record.description}
    entry = Entry(int(record.id, 16), request, Path("none"), "2026-11-01T12:00:00Z", 0, "COMPLETE")
    entry.scores = (public, private)
    desk.cloud.entries.setdefault(COMPETITION, []).append(entry)


def test_a_submission_is_on_the_leaderboard(desk: Desk) -> None:
    ship(desk.project)
    desk.cloud.score = lambda file: (0.75, 0.7)
    desk.submit()
    result = desk.leaderboard()
    (row,) = result.submissions
    assert (row.local, row.public, row.private, row.members) == (0.8, 0.75, 0.7, 3)
    assert row.ranks == {"local": 1, "public": 1, "private": 1}
    assert result.up_to_date
    assert "Too few scores" in result.verdict
    assert result.picture
    assert cv2.imread(result.picture).shape[0] > 300


def test_private_scores_appear_when_the_competition_has_ended(desk: Desk) -> None:
    records = store(desk.project, [(local, public, None) for local, public, _ in SCORES])
    for record, (_, public, private) in zip(records, SCORES, strict=True):
        put_on_kaggle(desk, record, public, private)
    result = desk.leaderboard()
    assert [row.private for row in result.submissions] == [private for _, _, private in SCORES]
    assert [row.ranks["private"] for row in result.submissions] == [5, 3, 4, 2, 1]
    for side, board in ((1, "public"), (2, "private")):
        rho = spearmanr([row[0] for row in SCORES], [row[side] for row in SCORES]).statistic
        assert result.correlation[board].rho == pytest.approx(rho)
        assert result.correlation[board].n == 5
    assert "can be trusted" in result.verdict
    assert [record.private for record in desk.records()] == [private for _, _, private in SCORES], "they are recorded"
    leaderboard.print_leaderboard(result)


def test_without_a_network_the_stored_scores_are_shown(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    store(desk.project, SCORES)
    desk.cloud.faults.append(Fault("ListSubmissions", break_off=True, times=9))
    result = desk.leaderboard()
    assert not result.up_to_date
    assert result.correlation["public"].rho == pytest.approx(0.9)
    leaderboard.print_leaderboard(result)
    assert "the stored scores" in capsys.readouterr().err
    desk.cloud.faults.clear()
    desk.cloud.key_valid = False
    assert not desk.leaderboard().up_to_date


def test_while_another_command_waits_the_stored_scores_are_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store(desk.project, SCORES)
    monkeypatch.setattr(files, "LOCK_S", 0.0)
    with account.exclusive(desk.project):
        result = desk.leaderboard()
    assert not result.up_to_date
    assert len(result.submissions) == 5
    assert not desk.cloud.asked


def test_a_submission_missing_from_kaggles_list_keeps_its_scores(desk: Desk) -> None:
    store(desk.project, SCORES[:2])
    result = desk.leaderboard()
    assert result.up_to_date
    assert [row.public for row in result.submissions] == [0.79, 0.80]


def test_a_pending_submission_is_shown_without_a_score(desk: Desk) -> None:
    ship(desk.project)
    desk.cloud.scoring = 10
    desk.submit(wait=False)
    result = desk.leaderboard()
    assert result.submissions[0].state == "submitted"
    assert result.submissions[0].ranks["public"] is None
    assert result.picture is None
    leaderboard.print_leaderboard(result)


def test_without_submissions(desk: Desk) -> None:
    with pytest.raises(GatemaskError, match="Nothing was submitted"):
        desk.leaderboard()
    assert not desk.cloud.asked


def test_scores_are_updated_from_kaggle(desk: Desk) -> None:
    (record,) = store(desk.project, [(0.8, 0.7, None)])
    put_on_kaggle(desk, record, 0.71, 0.69)
    desk.leaderboard()
    stored = read_json(submission_records.submissions_folder(desk.project) / f"{record.id}.json")
    assert (stored["public"], stored["private"], stored["submission"]) == (0.71, 0.69, 1)


def pairs(*board: float | None) -> list[tuple[float | None, float | None]]:
    """Return pairs of rising local scores and the given leaderboard scores."""
    return [(0.1 * number, score) for number, score in enumerate(board)]


@pytest.mark.parametrize(
    ("given", "rho", "by_chance"),
    [
        (pairs(1, 2, 3), 1.0, 1 / 6),
        (pairs(3, 2, 1), -1.0, 1.0),
        (pairs(1, 2, 3, 4, 5), 1.0, 1 / 120),
        (pairs(1, None, 2, 3), 1.0, 1 / 6),
        (pairs(1, 1, 2), None, None),
        (pairs(1, 2), None, None),
        ([(None, 1.0), (None, 2.0), (None, 3.0)], None, None),
        ([(0.5, 1.0), (0.5, 2.0), (0.5, 3.0)], None, None),
    ],
)
def test_rank_correlation_and_chance(given: Any, rho: float | None, by_chance: float | None) -> None:
    result = rank_correlation(given)
    assert result.rho == (None if rho is None else pytest.approx(rho))
    assert result.by_chance == (None if by_chance is None else pytest.approx(by_chance))


def test_rank_correlation_with_ties_equals_scipys() -> None:
    local, board = [1, 2, 2, 3, 4, 4, 5, 6], [2, 1, 3, 3, 3, 5, 4, 6]
    rho = rank_correlation(list(zip(local, board, strict=True))).rho
    assert rho == pytest.approx(spearmanr(local, board).statistic)


def test_orders_of_many_submissions_are_not_enumerated() -> None:
    by_chance = rank_correlation(pairs(*range(40))).by_chance
    assert by_chance is not None and by_chance < 1e-6


@pytest.mark.parametrize(
    ("public", "private", "words"),
    [
        (pairs(1, 2), pairs(), "Too few scores to tell: 2, and"),
        (pairs(1, 2, 3), pairs(), "Not settled yet: a random order would agree as well in 17%"),
        (pairs(1, 2, 3, 4, 5), pairs(), "can be trusted to choose by"),
        (pairs(1, 2, 3, 4, 5), pairs(5, 4, 3, 2, 1), "do not choose by it (rank correlation with the private"),
        (pairs(0, 8, 1, 2, 9, 4, 5, 11, 7, 6), pairs(), "large differences, but not small"),
        (pairs(2, 1, 4, 3), pairs(), "Not settled yet"),
        (pairs(3, 2, 1), pairs(), "so few submissions"),
    ],
)
def test_verdict(public: Any, private: Any, words: str) -> None:
    assert words in verdict({"public": rank_correlation(public), "private": rank_correlation(private)})
