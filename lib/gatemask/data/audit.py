"""`gatemask folds audit`: measure how much any fold file leaks, and how even its folds are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from gatemask.data.fold_files import read_fold_file
from gatemask.data.ids import DEFAULT, IdRule
from gatemask.data.split import HOLDOUT
from gatemask.results.data import AuditResult, FoldAudit, FoldBalance

HOLDOUT_NAME = str(HOLDOUT)
NO_GROUP = "\1"  # prefix of a name that no group has; NUL would end a text in older pandas
QUARTILES = [0.25, 0.5, 0.75]


def audit_folds(
    file: Path,
    groups: dict[str, str] | None = None,
    areas: dict[str, int] | None = None,
    copies: list[tuple[str, str]] | None = None,
    id_column: str | None = None,
    rule: IdRule = DEFAULT,
    classes: Mapping[str, Collection[str]] | None = None,
) -> tuple[AuditResult, pd.DataFrame]:
    """Measure a fold file.

    Args:
        file: CSV with a column of image ids (extensions are ignored) and a column `fold`; -1 is a hold-out.
        groups: Group by image id; an image without one is a group of its own. Default: the file's column `group`.
        areas: Mask area by image id, in pixels, 0 for empty. Default: the file's own columns.
        copies: Pairs of ids that are copies of each other.
        id_column: Name of the column of image ids. Default: found by its contents.
        rule: How ids are made. Default: from the name of the file.
        classes: Names of each image's classes, by image id. Default: there is only one class.

    Returns:
        The result, and the table behind it: image_id, fold, group, leaks, label, area. The leak is the share of all
        images whose group is also in the training images of their fold; the hold-out is scored too, so it counts.
    """
    fold_file = read_fold_file(file, rule, id_column)
    folds = fold_file.folds
    frame = pd.DataFrame({"image_id": list(folds), "fold": list(folds.values())})
    group_of = {rule.of_cell(name): group for name, group in groups.items()} if groups is not None else fold_file.groups
    group_of = {image_id: group for image_id, group in group_of.items() if group}
    frame["group"] = [group_of.get(image_id, f"{NO_GROUP}{image_id}") for image_id in frame["image_id"]]
    frame["leaks"] = _leaks(frame)
    area_of = {rule.of_cell(name): area for name, area in areas.items()} if areas is not None else fold_file.areas
    frame["area"] = frame["image_id"].map(area_of)
    frame["label"] = (frame["area"] > 0).astype(float).where(frame["area"].notna()) if area_of else np.nan
    if not area_of and fold_file.labels:
        frame["label"] = frame["image_id"].map(fold_file.labels)
    listed = [(first, second) for first, second in copies or [] if first in folds and second in folds]
    apart = [f"{first} = {second}" for first, second in listed if folds[first] != folds[second]]
    duplicated = [*fold_file.duplicated, *apart]
    validated = frame[frame["fold"] != HOLDOUT_NAME]
    result = AuditResult(
        file=str(file),
        images=len(frame),
        folds=int(validated["fold"].nunique()),
        groups=len(set(frame["group"]) & set(group_of.values())),
        without_group=int(frame["group"].str.startswith(NO_GROUP).sum()),
        leak=float(frame["leaks"].mean()),
        duplicates=len(duplicated),
        duplicated=duplicated[:20],
        per_fold={str(fold): _audit_fold(part, classes or {}) for fold, part in frame.groupby("fold")},
        balance=_balance(validated),
        chosen=fold_file.chosen,
    )
    return result, frame


def _leaks(frame: pd.DataFrame) -> pd.Series:
    """Whether an image's group is also in a training fold: any other fold except the hold-out."""
    trained = frame[frame["fold"] != HOLDOUT_NAME]
    folds_per_group = trained.groupby("group")["fold"].nunique().reindex(frame["group"]).fillna(0).to_numpy()
    return pd.Series(np.where(frame["fold"] == HOLDOUT_NAME, folds_per_group > 0, folds_per_group > 1), frame.index)


def _audit_fold(part: pd.DataFrame, classes: Mapping[str, Collection[str]]) -> FoldAudit:
    optional: dict[str, float | list[int] | dict[str, float]] = {}
    if part["label"].notna().any():
        optional["positives"] = round(float(part["label"].mean()), 4)
    if len(areas := part["area"][part["area"] > 0]):
        optional["area_quartiles"] = [round(float(quartile)) for quartile in areas.quantile(QUARTILES)]
    if names := sorted({name for several in classes.values() for name in several}):
        has = [[name in classes.get(image_id, ()) for name in names] for image_id in part["image_id"]]
        optional["classes"] = dict(zip(names, np.mean(has, axis=0).round(4).tolist(), strict=True))
    return FoldAudit.model_validate({"images": len(part), "leak": round(float(part["leaks"].mean()), 4), **optional})


def _balance(validated: pd.DataFrame) -> FoldBalance:
    """Return the largest deviations of positives (absolute) and of mask area quartiles (relative)."""
    images = validated.groupby("fold").size()
    optional: dict[str, float | list[int]] = {}
    if validated["label"].notna().any():
        share, shares = float(validated["label"].mean()), validated.groupby("fold")["label"].mean()
        optional["positives"] = round(share, 4)
        optional["positives_deviation"] = round(float((shares - share).abs().max()), 4)
    masked = validated[validated["area"] > 0]
    if len(masked):
        overall = masked["area"].quantile(QUARTILES)
        per_fold = masked.groupby("fold")["area"].quantile(QUARTILES).unstack()
        optional["area_quartiles"] = [round(float(quartile)) for quartile in overall]
        optional["area_deviation"] = round(float((per_fold / overall.to_numpy() - 1).abs().max().max()), 4)
    return FoldBalance.model_validate({"images": [int(images.min()), int(images.max())], **optional})
