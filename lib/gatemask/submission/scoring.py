"""Score a submission file by the competition's metric, from what can be read in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition, Rle
from gatemask.data.submission_format import SubmissionFormat
from gatemask.data.submission_table import SubmissionTable
from gatemask.data.truth import Masks
from gatemask.masks import rle
from gatemask.masks.mask_metrics import Scorer, Worth, scorer
from gatemask.masks.metrics import total
from gatemask.masks.objects import label_objects, number_objects
from gatemask.parallel import cores, ordered_map
from gatemask.submission.reading import SubmissionLine, by_image, read_lines

AHEAD = 16  # images whose masks are decoded before they are needed


class ReadSubmission(NamedTuple):
    """A submission as it is read.

    Args:
        lines: Rows of each image, by id.
        dialect: Dialect in which masks are decoded.
        by_object: Whether a row holds one object; otherwise all of a class.
    """

    lines: Mapping[str, Sequence[SubmissionLine]]
    dialect: Rle
    by_object: bool


def read_submission(
    path: Path,
    comp: Competition,
    table: SubmissionTable | None = None,
    truth: Masks | None = None,
    dialect: Rle | None = None,
) -> ReadSubmission:
    """Read a submission that is to be scored.

    Args:
        path: The submission file.
        comp: Competition, for the format.
        table: Header and delimiter of the sample. Default: those of competition.yaml.
        truth: True masks, for the sizes of masks in an archive. Default: those of competition.yaml.
        dialect: Dialect in which masks are decoded. Default: that of the format.
    """
    from gatemask.data.mask_sizes import MaskSizes

    sizes = None if truth is None else MaskSizes(None, _TruthSizes(truth))
    lines = by_image(read_lines(path, comp, table, sizes))
    return ReadSubmission(lines, dialect or SubmissionFormat.of(comp).dialect, comp.submission.by_object)


class _TruthSizes(dict[str, tuple[int, int]]):
    """Sizes of true masks by image id."""

    def __init__(self, truth: Masks) -> None:
        self._truth = truth

    def __contains__(self, image_id: object) -> bool:
        return True

    def __missing__(self, image_id: str) -> tuple[int, int]:
        return self._truth.size(image_id)


def score_submission(
    path: Path, comp: Competition, truth: Masks, folder: Path | None = None, ids: Sequence[str] | None = None
) -> float:
    """Return the competition's metric for the images of a submission.

    Args:
        path: The submission file.
        comp: Competition, for format and metric.
        truth: True masks of the test images.
        folder: Folder of competition.yaml, where a metric of the user's own may be. Default: only the Python path.
        ids: Ids of the images; those without a row have no mask. Default: those of the file.
    """
    read = read_submission(path, comp, truth=truth)
    return score_masks(read, list(read.lines) if ids is None else ids, truth, scorer(comp, folder))


def score_masks(read: ReadSubmission, ids: Iterable[str], truth: Masks, metric: Scorer) -> float:
    """Return the metric for some images; one without a row has no mask.

    Args:
        read: The submission.
        ids: Ids of the images.
        truth: True masks.
        metric: The competition's metric.

    Raises:
        GatemaskError: A mask cannot be decoded.
    """

    def score_image(image_id: str) -> list[Worth]:
        ignored = truth.ignored(image_id)
        worths = []
        for index in range(len(truth.classes)):
            true = truth.objects(image_id, index) if metric.objects else truth[image_id][:, :, index]
            lines = [line for line in read.lines.get(image_id, ()) if line.row.class_index == index]
            made = _decode(lines, truth.size(image_id), read, metric.objects)
            if ignored is not None:
                true, made = (np.where(ignored, np.zeros((), plane.dtype), plane) for plane in (true, made))
            worths.append(metric.metric(np.ascontiguousarray(true), np.ascontiguousarray(made)))
        return worths

    with ThreadPoolExecutor(cores()) as pool:
        scored = np.array(list(ordered_map(pool, score_image, ids, AHEAD)), float)
    scored = scored.reshape(-1, len(truth.classes), 2)
    return total(scored[:, :, 0], scored[:, :, 1])


def _decode(lines: Sequence[SubmissionLine], size: tuple[int, int], read: ReadSubmission, numbered: bool) -> np.ndarray:
    """Return the mask of a class, bool (height, width), or its objects, int32 (height, width)."""
    masks = [
        rle.decode(line.encoded, size, read.dialect, line.where)
        for line in lines
        if not rle.is_empty(line.encoded, read.dialect)
    ]
    if numbered and read.by_object:
        return number_objects(masks, size)
    united: np.ndarray = np.zeros(size, bool)
    for mask in masks:
        united = united | mask
    return label_objects(united, united.astype(np.uint8)) if numbered else united
