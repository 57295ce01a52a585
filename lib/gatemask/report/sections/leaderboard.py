"""Local scores against the leaderboard: whether the local score can be trusted to choose by."""

from __future__ import annotations

from gatemask.config import metric_title
from gatemask.kaggle.submit.leaderboard import BOARDS, rank_correlation, verdict
from gatemask.plots.leaderboard import ScoredSubmission, draw_leaderboard
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.markup import Cell
from gatemask.report.pictures import Pictures
from gatemask.results.submission import SubmissionRecord


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the stored scores of submissions; Kaggle is not asked.

    Raises:
        NotYet: Nothing was submitted.
    """
    records = inputs.submissions
    if not records:
        raise NotYet(f"Nothing was submitted yet. {inputs.command('submit')} pushes and submits the rehearsed package.")
    found = {
        board: rank_correlation([(record.local, _scores(record).get(board)) for record in records]) for board in BOARDS
    }
    shown = [
        ScoredSubmission(f"v{record.version}", record.local, _scores(record))
        for record in records
        if record.local is not None and _scores(record)
    ]
    figure = ""
    if shown:
        drawn = draw_leaderboard(
            shown, {board: each.rho for board, each in found.items()}, metric_title(inputs.comp.metric), "Submissions"
        )
        pairs = "; ".join(
            f"{each.label} local {each.local:.4f}, " + ", ".join(f"{name} {s:.4f}" for name, s in each.boards.items())
            for each in shown
        )
        figure = pictures.plot(drawn, f"Leaderboard score over local score. {pairs}.", wide=True)
    text = f"{verdict(found)} Scores as last fetched; {inputs.command('leaderboard')} updates them."
    rows = [_row(record) for record in records]
    columns = ["submitted (UTC)", "version", "experiments", "members", "local", "public", "private", "state"]
    return markup.paragraph(text) + figure + markup.table(columns, rows, "Submissions", sortable=True)


def _scores(record: SubmissionRecord) -> dict[str, float]:
    both = {"public": record.public, "private": record.private}
    return {board: score for board, score in both.items() if score is not None}


def _row(record: SubmissionRecord) -> list[object]:
    experiments = ", ".join(record.experiments)
    return [
        (record.submitted_at or "")[:16].replace("T", " "),
        record.version,
        Cell(experiments, experiments, wide=True),
        len(record.members),
        record.local,
        record.public,
        record.private,
        record.state,
    ]
