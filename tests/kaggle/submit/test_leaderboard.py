"""`gatemask leaderboard`: scores from Kaggle or from the store, ranks, correlation, verdict, picture."""

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
from gatemask.kaggle.submit.leaderboard import correlation, verdict
from gatemask.kaggle.submit.submission_records import Record
from gatemask.project import Project
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
    """Kaggle, and a project that has submitted nothing."""
    project = prepare(tmp_path / "project")
    with stand_in(tmp_path, monkeypatch) as cloud:
        monkeypatch.setattr("gatemask.kaggle.client.cli.start", quick_command)
        cloud.competitions[COMPETITION] = {"sample_submission.csv": SAMPLE.encode()}
        yield Desk(cloud, project)


def store(project: Project, scores: Sequence[tuple[float | None, float | None, float | None]]) -> list[Record]:
    """Records as `gatemask submit` leaves them."""
    records = []
    for number, (local, public, private) in enumerate(scores, start=1):
        at = f"2026-11-{number:02d}T12:00:00+00:00"
        record = Record(f"{number:012x}", f"package{number}", COMPETITION, f"gatemask {number:012x}: local {local}", at)
        record.local, record.public, record.private, record.state = local, public, private, "scored"
        record.ref, record.version, record.submitted_at = KERNEL, number, at
        record.members, record.experiments = ["unet_b0-fold0", "gate_b0-fold0"], ["unet_b0", "gate_b0"]
        submission_records.save(project, record)
        records.append(record)
    return records


def on_kaggle(desk: Desk, record: Record, public: float, private: float | None) -> None:
    """Have a record's submission there."""
    request = {"fileName": "submission.csv", "submissionDescription": record.description}
    entry = Entry(int(record.id, 16), request, Path("none"), "2026-11-01T12:00:00Z", 0, "COMPLETE")
    entry.scores = (public, private)
    desk.cloud.entries.setdefault(COMPETITION, []).append(entry)


def test_a_submission_is_on_the_leaderboard(desk: Desk) -> None:
    ship(desk.project)
    desk.cloud.score = lambda file: (0.75, 0.7)
    desk.submit()
    result = desk.leaderboard()
    (row,) = result["submissions"]
    assert (row["local"], row["public"], row["private"], row["members"]) == (0.8, 0.75, 0.7, 3)
    assert row["ranks"] == {"local": 1, "public": 1, "private": 1}
    assert result["up_to_date"]
    assert "Too few scores" in result["verdict"]
    assert cv2.imread(result["picture"]).shape[0] > 300


def test_private_scores_come_when_the_competition_has_ended(desk: Desk) -> None:
    records = store(desk.project, [(local, public, None) for local, public, _ in SCORES])
    for record, (_, public, private) in zip(records, SCORES, strict=True):
        on_kaggle(desk, record, public, private)
    result = desk.leaderboard()
    assert [row["private"] for row in result["submissions"]] == [private for _, _, private in SCORES]
    assert [row["ranks"]["private"] for row in result["submissions"]] == [5, 3, 4, 2, 1]
    for side, board in ((1, "public"), (2, "private")):
        rho = spearmanr([row[0] for row in SCORES], [row[side] for row in SCORES]).statistic
        assert result["correlation"][board]["rho"] == pytest.approx(rho)
        assert result["correlation"][board]["n"] == 5
    assert "can be trusted" in result["verdict"]
    assert [one.private for one in desk.records()] == [private for _, _, private in SCORES], "they are stored"
    leaderboard.show(result)


def test_without_a_network_the_stored_scores_stand(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    store(desk.project, SCORES)
    desk.cloud.faults.append(Fault("ListSubmissions", break_off=True, times=9))
    result = desk.leaderboard()
    assert not result["up_to_date"]
    assert result["correlation"]["public"]["rho"] == pytest.approx(0.9)
    leaderboard.show(result)
    assert "as they were stored" in capsys.readouterr().err
    desk.cloud.faults.clear()
    desk.cloud.key_valid = False
    assert not desk.leaderboard()["up_to_date"]


def test_while_another_command_waits_the_stored_scores_are_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store(desk.project, SCORES)
    monkeypatch.setattr(files, "LOCK_S", 0.0)
    with account.exclusive(desk.project):
        result = desk.leaderboard()
    assert not result["up_to_date"]
    assert len(result["submissions"]) == 5
    assert not desk.cloud.asked


def test_a_submission_that_kaggle_does_not_list_keeps_its_scores(desk: Desk) -> None:
    store(desk.project, SCORES[:2])
    result = desk.leaderboard()
    assert result["up_to_date"]
    assert [row["public"] for row in result["submissions"]] == [0.79, 0.80]


def test_a_pending_one_is_shown_without_a_score(desk: Desk) -> None:
    ship(desk.project)
    desk.cloud.scoring = 10
    desk.submit(wait=False)
    result = desk.leaderboard()
    assert result["submissions"][0]["state"] == "submitted"
    assert result["submissions"][0]["ranks"]["public"] is None
    assert result["picture"] is None
    leaderboard.show(result)


def test_nothing_was_submitted(desk: Desk) -> None:
    with pytest.raises(GatemaskError, match="Nothing was submitted"):
        desk.leaderboard()
    assert not desk.cloud.asked


def test_a_score_is_kept_as_kaggle_tells_it(desk: Desk) -> None:
    (record,) = store(desk.project, [(0.8, 0.7, None)])
    on_kaggle(desk, record, 0.71, 0.69)
    desk.leaderboard()
    stored = read_json(submission_records.folder(desk.project) / f"{record.id}.json")
    assert (stored["public"], stored["private"], stored["submission"]) == (0.71, 0.69, 1)


def pairs(*there: float | None) -> list[tuple[float | None, float | None]]:
    return [(0.1 * n, one) for n, one in enumerate(there)]


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
def test_rank_correlation(given: Any, rho: float | None, by_chance: float | None) -> None:
    found = correlation(given)
    assert found["rho"] == (None if rho is None else pytest.approx(rho))
    assert found["by_chance"] == (None if by_chance is None else pytest.approx(by_chance))


def test_rank_correlation_with_ties_is_that_of_scipy() -> None:
    here, there = [1, 2, 2, 3, 4, 4, 5, 6], [2, 1, 3, 3, 3, 5, 4, 6]
    assert correlation(list(zip(here, there, strict=True)))["rho"] == pytest.approx(spearmanr(here, there).statistic)


def test_many_submissions_are_not_tried_in_every_order() -> None:
    assert correlation(pairs(*range(40)))["by_chance"] < 1e-6


@pytest.mark.parametrize(
    ("public", "private", "words"),
    [
        (pairs(1, 2), pairs(), "Too few scores to tell: 2 of the 3"),
        (pairs(1, 2, 3), pairs(), "Not settled yet: a random order would agree as well in 17%"),
        (pairs(1, 2, 3, 4, 5), pairs(), "can be trusted to choose by"),
        (pairs(1, 2, 3, 4, 5), pairs(5, 4, 3, 2, 1), "do not choose by it (rank correlation with the private"),
        (pairs(0, 8, 1, 2, 9, 4, 5, 11, 7, 6), pairs(), "large differences, not small"),
        (pairs(2, 1, 4, 3), pairs(), "Not settled yet"),
        (pairs(3, 2, 1), pairs(), "so few submissions"),
    ],
)
def test_verdict(public: Any, private: Any, words: str) -> None:
    assert words in verdict({"public": correlation(public), "private": correlation(private)})
