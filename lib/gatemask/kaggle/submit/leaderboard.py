"""`gatemask leaderboard`: compare local scores with the leaderboard's, and judge whether they can be trusted.

    runs/<comp>/leaderboard/leaderboard.png    local score against public and private score, one point per submission

Higher is better for all metrics. The rank correlation (Spearman) shows whether a better local score means a better
leaderboard score, which is all that choosing among models needs; the mean difference is reported too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import numpy as np

from gatemask.config import Competition
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.kaggle.client import account
from gatemask.kaggle.submit import submission_records
from gatemask.project import Project
from gatemask.results.submission import LeaderboardResult, LeaderboardRow, RankCorrelation, SubmissionRecord
from gatemask.tracking.send_results import send_at_once

BOARDS = ("public", "private")
SCORES = ("local", *BOARDS)
MIN_SCORES = 3  # different scores needed for a rank correlation
SETTLED = 5  # submissions from which a lack of correlation is not put down to chance
EXACT = 7  # submissions up to which all orders are enumerated
GOOD, POOR = 0.7, 0.3  # rank correlations
CHANCE = 0.1  # probability of a random agreement above which a correlation says little

ScorePair = tuple[float | None, float | None]


def compare_with_leaderboard(project: Project, comp: Competition) -> LeaderboardResult:
    """Update the scores, correlate them with the local ones, and draw both.

    Args:
        project: Project with records of submissions.
        comp: Competition.

    Raises:
        GatemaskError: Nothing was submitted yet.
    """
    records, up_to_date = submitted_records(project)
    send_at_once(project, [submission_records.record_path(project, record) for record in records])
    if not records:
        raise GatemaskError(
            "Nothing was submitted yet.",
            where=submission_records.submissions_folder(project),
            do=f"Run gatemask submit {project.comp}.",
        )
    ranks = {name: _ranks([_score(record, name) for record in records]) for name in SCORES}
    rows = [_row(record, {name: ranks[name][index] for name in SCORES}) for index, record in enumerate(records)]
    correlations = {
        board: rank_correlation([(record.local, _score(record, board)) for record in records]) for board in BOARDS
    }
    scored = any(record.local is not None and record.board_scores for record in records)
    path = project.runs / "leaderboard" / "leaderboard.png"
    return LeaderboardResult(
        submissions=rows,
        correlation=correlations,
        verdict=verdict(correlations),
        up_to_date=up_to_date,
        picture=str(_write_figure(path, records, comp, correlations)) if scored else None,
    )


def submitted_records(project: Project) -> tuple[list[SubmissionRecord], bool]:
    """Return the submissions, and whether their scores are up to date; a waiting `submit` updates them itself."""
    with ExitStack() as stack:
        try:
            stack.enter_context(account.exclusive(project))
        except GatemaskError as busy:
            say(busy.what)
            return _load_submitted(project), False
        records = _load_submitted(project)
        return records, submission_records.refresh_scores(project, records)


def _load_submitted(project: Project) -> list[SubmissionRecord]:
    return [record for record in submission_records.load_records(project) if record.submitted]


def _score(record: SubmissionRecord, name: str) -> float | None:
    return {"local": record.local, "public": record.public, "private": record.private}[name]


def _row(record: SubmissionRecord, ranks: dict[str, int | None]) -> LeaderboardRow:
    fields = record.model_dump(include=set(LeaderboardRow.model_fields) - {"members", "ranks"})
    return LeaderboardRow(**fields, members=len(record.members), ranks=ranks)


def _ranks(scores: Sequence[float | None]) -> list[int | None]:
    """Return ranks from 1 for the best; equal scores share the better rank."""
    present = [score for score in scores if score is not None]
    return [None if score is None else 1 + sum(other > score for other in present) for score in scores]


def rank_correlation(pairs: Sequence[ScorePair]) -> RankCorrelation:
    """Return Spearman's rank correlation of local and leaderboard scores.

    Args:
        pairs: Local score and leaderboard score of each submission.
    """
    complete = [(local, board) for local, board in pairs if local is not None and board is not None]
    local, board = (np.array([pair[side] for pair in complete], float) for side in (0, 1))
    if min(len(set(local)), len(set(board))) < MIN_SCORES:
        return RankCorrelation(n=len(complete), rho=None, by_chance=None, offset=None)
    local_ranks, board_ranks = _average_ranks(local), _average_ranks(board)
    rho = float(np.corrcoef(local_ranks, board_ranks)[0, 1])
    by_chance = _probability_by_chance(local_ranks, board_ranks, rho)
    return RankCorrelation(n=len(complete), rho=rho, by_chance=by_chance, offset=float((local - board).mean()))


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 for the lowest; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _probability_by_chance(a: np.ndarray, b: np.ndarray, rho: float) -> float:
    """Return the share of all orders of `b` whose correlation with `a` is as high: exact for few, else by t-test."""
    if len(a) <= EXACT:
        normalized = (a - a.mean()) / (a.std() * b.std() * len(a))
        orders = np.array(list(permutations(b - b.mean())))
        return float((orders @ normalized >= rho - 1e-9).mean())
    from scipy.stats import spearmanr

    return float(spearmanr(a, b, alternative="greater").pvalue)


def verdict(correlations: Mapping[str, RankCorrelation]) -> str:
    """Return one sentence on the local score.

    Args:
        correlations: Correlation by board. The private board, which usually has more images, is preferred.
    """
    board = next((name for name in reversed(BOARDS) if correlations[name].rho is not None), None)
    if board is None:
        most = max(correlation.n for correlation in correlations.values())
        return f"Too few scores to tell: {most}, and a rank correlation needs {MIN_SCORES} different ones."
    n, rho = correlations[board].n, correlations[board].rho or 0.0
    chance, offset = correlations[board].by_chance or 0.0, correlations[board].offset or 0.0
    facts = f"rank correlation with the {board} score {rho:+.2f} over {n} submissions"
    facts += f"; {abs(offset):.4f} {'above' if offset > 0 else 'below'} it on average"
    if rho < POOR and n < SETTLED:
        return f"Not settled yet: with so few submissions, a wrong order may be due to chance ({facts})."
    if rho < POOR:
        return f"The local score does not order submissions as the leaderboard does: do not choose by it ({facts})."
    if chance > CHANCE:
        return f"Not settled yet: a random order would agree as well in {chance:.0%} of all cases ({facts})."
    if rho < GOOD:
        return f"The local score shows large differences, but not small ones ({facts})."
    return f"The local score can be trusted to choose by: it orders submissions as the leaderboard does ({facts})."


def _write_figure(
    path: Path, records: Sequence[SubmissionRecord], comp: Competition, correlations: Mapping[str, RankCorrelation]
) -> Path:
    from gatemask.plots.leaderboard import ScoredSubmission, draw_leaderboard
    from gatemask.plots.style import save

    submissions = []
    for record in records:
        scores = {board: score for board in BOARDS if (score := _score(record, board)) is not None}
        if record.local is not None and scores:
            submissions.append(ScoredSubmission(f"v{record.version}", record.local, scores))
    rhos = {board: correlation.rho for board, correlation in correlations.items()}
    return save(draw_leaderboard(submissions, rhos, comp.metric, comp.title), path)


def print_leaderboard(result: LeaderboardResult) -> None:
    """Print submissions, correlations and the verdict."""
    headings = [cell for name in SCORES for cell in (name, "#")]
    columns = ["UTC", "version", "experiments", "members", *headings, "state"]
    table("Submissions", columns, [_cells(row) for row in result.submissions])
    for board, correlation in result.correlation.items():
        label = f"{board + ':':<10}"
        if correlation.rho is None:
            say(f"{label}{correlation.n} scores; at least {MIN_SCORES} different ones are needed")
        else:
            offset = correlation.offset or 0.0
            say(f"{label}rank correlation {correlation.rho:+.2f}, {correlation.n} scores, offset {offset:+.4f}")
    if not result.up_to_date:
        say("Kaggle could not be asked; these are the stored scores.")
    say(result.verdict)
    if result.picture:
        say(result.picture)


def _cells(row: LeaderboardRow) -> list[object]:
    scores: list[object] = []
    for name, score in zip(SCORES, (row.local, row.public, row.private), strict=True):
        rank = row.ranks[name]
        scores += ["-" if score is None else float(score), "-" if rank is None else rank]
    time = (row.submitted_at or "")[5:16].replace("T", " ")
    return [time, row.version, len(row.experiments), row.members, *scores, row.state]
