"""`gatemask leaderboard`: what was submitted, its scores here and there, and whether those here can be trusted.

    runs/<comp>/leaderboard/leaderboard.png    local score against public and private score, a point a submission

All metrics grow with quality. The rank correlation (Spearman) says whether a better score here is a better one there,
which is all that choosing among models asks for; by how much the two differ is told besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from gatemask.config import Competition
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.kaggle.client import account
from gatemask.kaggle.submit import submission_records
from gatemask.kaggle.submit.submission_records import Record
from gatemask.project import Project

BOARDS = ("public", "private")
FEWEST = 3  # scores that have an order worth the name
ENOUGH = 5  # submissions whose lack of order says something
EXACT = 7  # submissions of which every order is tried
GOOD, POOR = 0.7, 0.3  # rank correlations
BY_CHANCE = 0.1  # above it, an agreement of the two orders says little
CLOSE = 0.05  # of the local scores' span: closer, and names would lie on each other


def leaderboard(project: Project, comp: Competition) -> dict[str, Any]:
    """Bring the scores up to date, compare, and draw.

    Returns:
        submissions (a row each, with ranks), correlation (by board), verdict, up_to_date (whether Kaggle was asked),
        picture (None where there is no score yet).

    Raises:
        GatemaskError: nothing was submitted yet.
    """
    records, up_to_date = _load(project)
    if not records:
        raise GatemaskError(
            "Nothing was submitted yet.",
            where=submission_records.folder(project),
            do=f"Run gatemask submit {project.comp}.",
        )
    ranks = {name: _ranks([getattr(one, name) for one in records]) for name in ("local", *BOARDS)}
    rows = [_row(record, {name: ranks[name][n] for name in ranks}) for n, record in enumerate(records)]
    found = {board: correlation([(one.local, getattr(one, board)) for one in records]) for board in BOARDS}
    scored = any(record.local is not None and _scores(record) for record in records)
    path = project.runs / "leaderboard" / "leaderboard.png"
    return {
        "submissions": rows,
        "correlation": found,
        "verdict": verdict(found),
        "up_to_date": up_to_date,
        "picture": str(draw(path, records, comp, found)) if scored else None,
    }


def _load(project: Project) -> tuple[list[Record], bool]:
    """What was submitted, and whether its scores are up to date: while `submit` waits, only that one asks for them."""
    with ExitStack() as held:
        try:
            held.enter_context(account.exclusive(project))
        except GatemaskError as busy:
            say(busy.what)
            return [record for record in submission_records.load(project) if record.made], False
        records = [record for record in submission_records.load(project) if record.made]
        return records, submission_records.refresh(project, records)


def _row(record: Record, ranks: dict[str, int | None]) -> dict[str, Any]:
    names = ("id", "submitted_at", "ref", "version", "state", "experiments", "local", *BOARDS, "commit", "message")
    told = {name: getattr(record, name) for name in names}
    return {**told, "members": len(record.members), "ranks": ranks}


def _scores(record: Record) -> list[float]:
    return [score for board in BOARDS if (score := getattr(record, board)) is not None]


def _ranks(scores: Sequence[float | None]) -> list[int | None]:
    """1 for the best; equal scores share the better rank."""
    known = [score for score in scores if score is not None]
    return [None if score is None else 1 + sum(other > score for other in known) for score in scores]


def correlation(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any]:
    """Spearman's rank correlation of local and leaderboard scores.

    Returns:
        n; rho, by_chance (how often a random order would agree as well) and offset (local less leaderboard, mean), each
        None where there are fewer than three different scores on either side.
    """
    known = [(here, there) for here, there in pairs if here is not None and there is not None]
    result: dict[str, Any] = {"n": len(known), "rho": None, "by_chance": None, "offset": None}
    here, there = (np.array([pair[side] for pair in known], float) for side in (0, 1))
    if min(len(set(here)), len(set(there))) < FEWEST:
        return result
    a, b = _average_ranks(here), _average_ranks(there)
    rho = float(np.corrcoef(a, b)[0, 1])
    return {**result, "rho": rho, "by_chance": _by_chance(a, b, rho), "offset": float((here - there).mean())}


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """From 1 for the least; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _by_chance(a: np.ndarray, b: np.ndarray, rho: float) -> float:
    """The share of all orders of `b` whose correlation with `a` is as high: exact for few, by t for more."""
    if len(a) <= EXACT:
        spread = (a - a.mean()) / (a.std() * b.std() * len(a))
        orders = np.array(list(permutations(b - b.mean())))
        return float((orders @ spread >= rho - 1e-9).mean())
    from scipy.stats import spearmanr

    return float(spearmanr(a, b, alternative="greater").pvalue)


def verdict(found: dict[str, dict[str, Any]]) -> str:
    """One sentence; the private board, of more images mostly, goes before the public one."""
    board = next((name for name in reversed(BOARDS) if found[name]["rho"] is not None), None)
    if board is None:
        most = max(found[name]["n"] for name in BOARDS)
        return f"Too few scores to tell: {most} of the {FEWEST} different ones that an order takes."
    rho, chance, offset = (found[board][name] for name in ("rho", "by_chance", "offset"))
    told = f"rank correlation with the {board} score {rho:+.2f} over {found[board]['n']} submissions"
    told += f"; {abs(offset):.4f} {'above' if offset > 0 else 'below'} it on average"
    if rho < POOR and found[board]["n"] < ENOUGH:
        return f"Not settled yet: so few submissions show no order, or a wrong one, by chance ({told})."
    if rho < POOR:
        return f"The local score does not order submissions as the leaderboard does: do not choose by it ({told})."
    if chance > BY_CHANCE:
        return f"Not settled yet: a random order would agree as well in {chance:.0%} of all cases ({told})."
    if rho < GOOD:
        return f"The local score tells large differences, not small ones ({told})."
    return f"The local score can be trusted to choose by: it orders submissions as the leaderboard does ({told})."


def draw(path: Path, records: Sequence[Record], comp: Competition, found: dict[str, dict[str, Any]]) -> Path:
    """Local score to the right, leaderboard scores upwards; on the dashed line the two are equal."""
    from gatemask.plots import style as style

    figure, ax = style.figure(7.2, 5.6)
    shown = [record for record in records if record.local is not None and _scores(record)]
    looks = {"public": {"color": style.BLUE, "marker": "o"}, "private": {"color": style.ORANGE, "marker": "D"}}
    for record in shown:
        if len(scores := _scores(record)) == 2:
            ax.plot([record.local] * 2, scores, color=style.GREY, linewidth=0.8, alpha=0.6, zorder=1)
    for board, look in looks.items():
        points = [(one.local, getattr(one, board)) for one in shown if getattr(one, board) is not None]
        if points:
            told = found[board]["rho"]
            text = f"{board}: rank correlation {told:+.2f}" if told is not None else f"{board}: too few to correlate"
            ax.scatter(
                *zip(*points, strict=True), s=42, label=text, zorder=3, edgecolors="white", linewidths=0.7, **look
            )
    _name(ax, shown)
    _equal_line(ax, style.GREY)
    ax.legend(fontsize=8, frameon=False, loc="best")
    style.label(ax, f"local score, cross-fitted ({comp.metric})", "leaderboard score", comp.title)
    return style.save(figure, path)


def _name(ax: Any, shown: Sequence[Record]) -> None:
    """The kernel's version above the upper point of each submission; of two that stand close, to either side."""
    ordered = sorted(shown, key=lambda one: one.local or 0.0)
    places = np.array([one.local for one in ordered], float)
    close = np.diff(places) < CLOSE * max(float(np.ptp(places)), 1e-9)
    for number, record in enumerate(ordered):
        before, after = number > 0 and close[number - 1], number < len(close) and close[number]
        side = 0 if before == after else 1 if before else -1
        ax.annotate(
            f"v{record.version}",
            (record.local, max(_scores(record))),
            xytext=(3 * side, 7),
            textcoords="offset points",
            ha={0: "center", 1: "left", -1: "right"}[side],
            fontsize=8,
            color="#444444",
        )


def _equal_line(ax: Any, color: str) -> None:
    """Where local and leaderboard score are equal, as far as that lies in the picture."""
    ax.margins(0.12)
    ax.autoscale_view()
    limits = ax.get_xlim(), ax.get_ylim()
    if max(limits[0][0], limits[1][0]) >= min(limits[0][1], limits[1][1]):
        return
    ax.axline((0, 0), slope=1, color=color, linestyle="--", linewidth=0.9, label="equal", zorder=0)
    ax.set(xlim=limits[0], ylim=limits[1])


def show(result: dict[str, Any]) -> None:
    """The table, the correlations and the verdict."""
    boards = [cell for name in ("local", *BOARDS) for cell in (name, "#")]
    columns = ["UTC", "version", "experiments", "members", *boards, "state"]
    table("Submissions", columns, [_cells(row) for row in result["submissions"]])
    for board, one in result["correlation"].items():
        if one["rho"] is None:
            say(f"{board + ':':<10}{one['n']} scores: at least {FEWEST} different ones are needed")
        else:
            say(f"{board + ':':<10}rank correlation {one['rho']:+.2f}, {one['n']} scores, offset {one['offset']:+.4f}")
    if not result["up_to_date"]:
        say("Kaggle could not be asked: these scores are as they were stored.")
    say(result["verdict"])
    if result["picture"]:
        say(result["picture"])


def _cells(row: dict[str, Any]) -> list[object]:
    scores: list[object] = []
    for name in ("local", *BOARDS):
        value, rank = row[name], row["ranks"][name]
        scores += ["-" if value is None else float(value), "-" if rank is None else rank]
    when = (row["submitted_at"] or "")[5:16].replace("T", " ")
    return [when, row["version"], len(row["experiments"]), row["members"], *scores, row["state"]]
