"""`gatemask folds audit`: how much any fold file leaks, whoever made it, and how even it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatemask.data.fold_files import HOLDOUT, plain_id, read_fold_file


def audit(
    file: Path,
    groups: dict[str, str] | None = None,
    areas: dict[str, int] | None = None,
    copies: list[tuple[str, str]] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure a fold file.

    Args:
        file: first column an id (its extension is ignored), a column `fold`; -1 is a hold-out.
        groups: image id -> group; default: the file's own column `group`. An image that is not in it stands alone.
        areas: image id -> mask area in pixels, 0 for empty; default: the file's own columns.
        copies: pairs of ids that are copies of each other.

    Returns:
        The findings, and the table that they come from (image_id, fold, group, leaks, label, area).
        leak: share of all images whose group is also in the training images of their fold; the hold-out, which is
        scored too, counts. duplicates:
        images in several folds, and copies in different folds. balance: how far the folds differ.
    """
    read = read_fold_file(file)
    frame = pd.DataFrame({"image_id": list(read.folds), "fold": list(read.folds.values())})
    known = {plain_id(name): group for name, group in groups.items()} if groups is not None else read.groups
    known = {name: group for name, group in known.items() if group}
    # A name that no group has; not with NUL, at which older pandas ends a text.
    frame["group"] = [known.get(i, f"\1{i}") for i in frame["image_id"]]
    frame["leaks"] = _leaks(frame)
    by_area = {plain_id(name): area for name, area in areas.items()} if areas is not None else read.areas
    frame["area"] = frame["image_id"].map(by_area)
    frame["label"] = (frame["area"] > 0).astype(float).where(frame["area"].notna()) if by_area else np.nan
    if not by_area and read.labels:
        frame["label"] = frame["image_id"].map(read.labels)
    placed = [pair for pair in copies or [] if set(pair) <= set(read.folds)]
    apart = [pair for pair in placed if read.folds[pair[0]] != read.folds[pair[1]]]
    duplicated = [*read.duplicated, *(f"{one} = {other}" for one, other in apart)]
    held = frame[frame["fold"] != HOLDOUT]
    findings = {
        "file": str(file),
        "images": len(frame),
        "folds": int(held["fold"].nunique()),
        "groups": len(set(frame["group"]) & set(known.values())),
        "without_group": int(frame["group"].str.startswith("\1").sum()),
        "leak": float(frame["leaks"].mean()),
        "duplicates": len(duplicated),
        "duplicated": duplicated[:20],
        "per_fold": {str(fold): _of_fold(part) for fold, part in frame.groupby("fold")},
        "balance": _balance(held),
    }
    return findings, frame


def _leaks(frame: pd.DataFrame) -> pd.Series:
    """Whether an image's group is also in a training fold: any other fold that is not the hold-out."""
    trained = frame[frame["fold"] != HOLDOUT]
    folds_of = trained.groupby("group")["fold"].nunique().reindex(frame["group"]).fillna(0).to_numpy()
    return pd.Series(np.where(frame["fold"] == HOLDOUT, folds_of > 0, folds_of > 1), frame.index)


def _of_fold(part: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {"images": len(part), "leak": round(float(part["leaks"].mean()), 4)}
    if part["label"].notna().any():
        found["positives"] = round(float(part["label"].mean()), 4)
    if len(areas := part["area"][part["area"] > 0]):
        found["area_quartiles"] = [round(float(q)) for q in areas.quantile([0.25, 0.5, 0.75])]
    return found


def _balance(held: pd.DataFrame) -> dict[str, Any]:
    """Shares of positives, in points, and quartiles of mask area, relative, by their largest deviation."""
    images = held.groupby("fold").size()
    found: dict[str, Any] = {"images": [int(images.min()), int(images.max())]}
    if held["label"].notna().any():
        shares = held.groupby("fold")["label"].mean()
        found["positives"] = round(float(held["label"].mean()), 4)
        found["positives_deviation"] = round(float((shares - held["label"].mean()).abs().max()), 4)
    masked = held[held["area"] > 0]
    if len(masked):
        levels = [0.25, 0.5, 0.75]
        overall = masked["area"].quantile(levels)
        per_fold = masked.groupby("fold")["area"].quantile(levels).unstack()
        found["area_quartiles"] = [round(float(q)) for q in overall]
        found["area_deviation"] = round(float((per_fold / overall.to_numpy() - 1).abs().max().max()), 4)
    return found
