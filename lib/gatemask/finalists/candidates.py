"""The submissions that may be chosen, with the out-of-fold score of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.kaggle.submit import submission_records
from gatemask.oof.image_scores import ImageScores
from gatemask.project import Project
from gatemask.results.finalists import LeftOut
from gatemask.results.submission import SubmissionRecord

SAME = 1e-6  # difference of scores that rounding explains
TUNED = "tuned"


@dataclass(frozen=True)
class Candidate:
    """A submission, or the present rule.

    Args:
        id: Id of the submission, or "tuned".
        scores: Score of each image.
        digest: SHA-256 of their file.
        record: Record of the submission; None for the present rule.
    """

    id: str
    scores: ImageScores
    digest: str
    record: SubmissionRecord | None = None

    @property
    def public(self) -> float | None:
        """Public score, if there is one."""
        return self.record.public if self.record else None


def load_candidates(
    project: Project, records: Sequence[SubmissionRecord], fold_of: Mapping[str, int], with_tuned: bool
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the candidates, and the submissions that cannot be scored out of fold, with the reason.

    Args:
        project: Project with records of submissions.
        records: Submissions, oldest first.
        fold_of: Training images of the present folds.
        with_tuned: Whether the present rule is a candidate too.

    Raises:
        GatemaskError: There are fewer than two candidates, or the present rule has no image scores.
    """
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    expected = np.array(sorted(fold_of))
    for record in records:
        loaded = _load(project, record, candidates, expected)
        if isinstance(loaded, LeftOut):
            left_out.append(loaded)
        else:
            candidates.append(loaded)
    if with_tuned:
        candidates.append(_tuned(project, expected))
    if len(candidates) < 2:
        reasons = "; ".join(f"{left.id}: {left.reason}" for left in left_out)
        raise GatemaskError(
            "There are fewer than two submissions to choose from.",
            where=submission_records.submissions_folder(project),
            received=f"{len(candidates)} of {len(records)}" + (f" ({reasons})" if reasons else ""),
            expected="at least two, with the out-of-fold score of each image",
            do=f"Submit another ensemble, or add the present rule: gatemask finalists {project.comp} --tuned.",
        )
    return candidates, left_out


def _load(
    project: Project, record: SubmissionRecord, earlier: Sequence[Candidate], expected: np.ndarray
) -> Candidate | LeftOut:
    def left(reason: str) -> LeftOut:
        return LeftOut(id=record.id, reason=reason)

    if record.state == "failed":
        return left("it failed")
    path = submission_records.image_scores_path(project, record)
    if not path.exists():
        return left("it has no image scores; run gatemask ensemble, package and submit for them")
    try:
        scores = ImageScores.load(path).in_order()
    except GatemaskError as error:
        return left(error.short())
    if record.local is not None and abs(scores.score - record.local) > SAME:
        return left(f"its image scores make {scores.score:.4f}, not its local score of {record.local:.4f}")
    if difference := _difference(scores.ids, expected):
        return left(f"it was tuned on other images than those of the present folds: {difference}")
    if earlier and scores.worth.shape != earlier[0].scores.worth.shape:
        return left(f"it has {scores.worth.shape[1]} classes, not {earlier[0].scores.worth.shape[1]}")
    if twin := next((other.id for other in earlier if other.record and other.record.package == record.package), None):
        return left(f"it is the same package as {twin}")
    return Candidate(record.id, scores, sha256(path), record)


def _difference(ids: np.ndarray, expected: np.ndarray) -> str:
    missing, unknown = np.setdiff1d(expected, ids), np.setdiff1d(ids, expected)
    if not len(missing) and not len(unknown) and len(ids) == len(expected):
        return ""
    return f"{len(missing)} are missing, {len(unknown)} are unknown"


def _tuned(project: Project, expected: np.ndarray) -> Candidate:
    path = project.tuned / "scores.npz"
    if not path.exists():
        raise GatemaskError(
            "The present rule has no image scores.",
            where=path,
            do=f"Run gatemask oof-tune {project.comp}; delete {project.tuned / 'result.json'} first if it is current.",
        )
    scores = ImageScores.load(path).in_order()
    if difference := _difference(scores.ids, expected):
        raise GatemaskError(
            "The present rule was tuned on other images than those of the folds.",
            where=path,
            received=difference,
            do=f"Run gatemask oof-tune {project.comp}.",
        )
    return Candidate(TUNED, scores, sha256(path))
