"""`gatemask submission check COMP --fold K`: score a training fold through the file that would be submitted.

The out-of-fold predictions of the fold become masks by the rules that were tuned without it, and the masks become a
file in the competition's format. The file is read as the competition reads it: in the dialect of its labels. It must
score what tuning found for the fold. A wrong dialect, order or name of a row shows as another score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from gatemask.config import Competition, Ensemble, Rle, RleLabels
from gatemask.console import say, table
from gatemask.data.ids import train_rule
from gatemask.data.mask_sizes import MaskSizes
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import read_manifest
from gatemask.data.submission_dialect import WORDS, describe, dialect_notes
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import SubmissionTable, read_sample, table_of
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.masks.mask_metrics import scorer
from gatemask.masks.rule import decide, decide_objects, gate_scores
from gatemask.masks.rule_files import of_values
from gatemask.oof.full_maps import FullImage, map_images
from gatemask.project import Project
from gatemask.results.submission import FoldCheckResult
from gatemask.results.tuning import TunedResult
from gatemask.submission.check import check_submission
from gatemask.submission.scoring import read_submission, score_masks
from gatemask.tuning.members import MemberPredictions, open_members, training_images
from gatemask.tuning.tune import require_tuned
from gatemask.tuning.weighing import MemberWeights

SAME = 1e-6  # difference of scores that rounding explains
NO_MASKS = "All masks of this fold are empty, so the check says nothing about how masks are encoded."


def check_fold(
    project: Project, comp: Competition, ensemble: Ensemble, fold: int, as_written: bool = False
) -> FoldCheckResult:
    """Write a fold's out-of-fold predictions as a submission, read them back, and compare the scores.

    Args:
        project: Project with the tuned rule.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml.
        fold: Number of the fold.
        as_written: Whether to read masks in the dialect of submission.rle even where that of the labels differs: for
            competitions that score another dialect than they publish. Default: False.

    Raises:
        GatemaskError: No rule was tuned, there is no such fold, the file is not a valid submission, or its score is not
            that of tuning.
    """
    tuned = require_tuned(project, comp, ensemble)
    if str(fold) not in tuned.per_fold:
        raise GatemaskError(
            "There is no such fold.", received=fold, expected=", ".join(sorted(tuned.per_fold, key=int))
        )
    fold_of = training_images(project).fold_of
    ids = sorted(image_id for image_id, of in fold_of.items() if of == fold)
    path = project.runs / "submission-check" / f"fold{fold}-{comp.submission.file_name}"
    written = _table(project, comp, ids)
    dialect = _dialect_of_readers(comp, as_written)
    with open_members(project, comp, ensemble, fold_of) as predictions:
        sizes = MaskSizes(None, {image_id: predictions.truth.size(image_id) for image_id in ids})
        masks = _encode(predictions, comp, tuned, fold, ids, written.format)
        written.write(path, masks, sizes)
        check_submission(path, comp, written, sizes)
        metric, truth = scorer(comp, project.experiments), predictions.truth
        try:
            score = score_masks(read_submission(path, comp, written, truth, dialect), ids, truth, metric)
        except GatemaskError as error:
            raise _not_readable(error, comp, dialect) from None
    expected = tuned.per_fold[str(fold)].score
    if not abs(score - expected) <= SAME:
        raise _other_score(path, comp, dialect, score, expected)
    return FoldCheckResult(
        fold=fold,
        images=len(ids),
        rows=len(written.rows),
        masks=len(masks),
        metric=comp.metric,
        submission=str(path),
        score=score,
        tuned=expected,
        notes=[*([] if masks else [NO_MASKS]), *dialect_notes(comp, raw_folder(project, comp))],
    )


def _table(project: Project, comp: Competition, ids: list[str]) -> SubmissionTable:
    """Return rows for the images of the fold, named and written as in the sample."""
    manifest = read_manifest(project, "train")
    path_of = dict(zip(manifest["image_id"].astype(str), manifest["path"], strict=True))
    layout, sample = SubmissionFormat(comp.submission, comp.classes, train_rule(comp)), comp.submission.sample
    files = {image_id: path_of.get(image_id, "") for image_id in ids}
    raw = raw_folder(project, comp)
    if not sample or not (raw / sample).is_file():
        return table_of(layout, ids)
    listed = read_sample(SubmissionFormat.of(comp), raw / sample, shared_allowed=True)
    # The sample's rows follow the rule of test images, these that of training images.
    return replace(listed, format=layout).for_images(files)


def _encode(
    predictions: MemberPredictions,
    comp: Competition,
    tuned: TunedResult,
    fold: int,
    ids: list[str],
    layout: SubmissionFormat,
) -> Mapping[tuple[str, int], list[str]]:
    """Return the encoded masks of the fold's images, decided as in inference by the rules tuned without them."""
    members = MemberWeights(tuned.weights, tuned.views, tuned.weighing, tuned.gate_weights, tuned.selection)
    weights, gate_weights = members.by_held_out_fold().get(fold, (tuned.weights, tuned.gate_weights))
    gated, rules = predictions.gated(gate_weights).gate, of_values(tuned.per_fold[str(fold)].rules)
    probabilities = np.stack([np.broadcast_to(gated[image_id], len(rules)) for image_id in ids])
    gate = dict(zip(ids, gate_scores(rules, probabilities, ids), strict=True))

    def encode(image: FullImage) -> list[list[str]]:
        given = rules, gate[image.image_id], image.full_map, comp.exclusive
        if comp.submission.by_object:
            label = decide_objects(*given)
            return [rle.encode_objects(label[:, :, index], layout.dialect) for index in range(label.shape[2])]
        masks = decide(*given) if comp.objects is None else decide_objects(*given) > 0
        return [[rle.encode(masks[:, :, index], layout.dialect)] for index in range(masks.shape[2])]

    used = [index for index, weight in enumerate(weights) if weight > 0]
    readers, shares = [predictions.readers[index] for index in used], [weights[index] for index in used]
    encoded = map_images(ids, readers, predictions.truth, "masks", shares, encode, predictions.frame)
    return {
        (image_id, index): texts
        for image_id, by_class in zip(ids, encoded, strict=True)
        for index, texts in enumerate(by_class)
        if any(not rle.is_empty(text, layout.dialect) for text in texts)
    }


def _dialect_of_readers(comp: Competition, as_written: bool) -> Rle:
    """Return the dialect in which the competition reads masks, as far as anything shows it: that of its labels."""
    if comp.submission.archive is not None:
        return rle.INTERNAL
    if as_written or not isinstance(comp.labels, RleLabels):
        return comp.submission.rle
    # The text of an empty mask is the sample's matter; both are understood.
    return comp.labels.rle.model_copy(update={"empty": comp.submission.rle.empty})


def _differing_keys(comp: Competition, dialect: Rle) -> list[str]:
    if comp.submission.archive is not None:
        return []
    return [key for key in WORDS if getattr(comp.submission.rle, key) != getattr(dialect, key)]


def _advice(comp: Competition, dialect: Rle) -> str:
    keys = _differing_keys(comp, dialect)
    if not keys:
        return (
            "Compare the section submission with the sample: id, rows and the keys that name classes; and "
            "image.scoring_size with the competition's page."
        )
    named = " and ".join(f"submission.rle.{key}" for key in keys)
    return (
        f"Correct {named}, which differs from labels.rle. If the competition's page says that submissions are written "
        "in another dialect than its labels, check with --as-written."
    )


def _described(comp: Competition, dialect: Rle) -> str:
    keys = _differing_keys(comp, dialect) or tuple(WORDS)
    return f"{describe(comp.submission.rle, keys)}, read as {describe(dialect, keys)}"


def _other_score(path: Path, comp: Competition, dialect: Rle, score: float, expected: float) -> GatemaskError:
    written = "" if comp.submission.archive is not None else f": {_described(comp, dialect)}"
    return GatemaskError(
        "The submission file does not score what its masks score.",
        where=path,
        received=f"{score:.6f}{written}",
        expected=f"{expected:.6f}, the score of the fold in tuning",
        do=_advice(comp, dialect),
    )


def _not_readable(error: GatemaskError, comp: Competition, dialect: Rle) -> GatemaskError:
    return GatemaskError(
        "A mask of the submission cannot be read in the dialect of the labels.",
        where=error.details.get("where"),
        received=f"{error.what} {_described(comp, dialect)}",
        expected=error.details.get("expected"),
        do=_advice(comp, dialect),
    )


def print_fold_check(result: FoldCheckResult) -> None:
    """Print both scores."""
    rows: list[list[object]] = [
        ["images", result.images],
        ["masks", result.masks],
        ["score read from the file", f"{result.score:.6f}"],
        ["score of the fold in tuning", f"{result.tuned:.6f}"],
        ["file", result.submission],
    ]
    table(f"Fold {result.fold} as a submission: both scores agree", ["", ""], rows)
    for note in result.notes:
        say(f"note: {note}")
