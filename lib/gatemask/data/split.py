"""The two tables that describe the images, manifest.csv and the fold file: read and checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.stage import require_unchanged
from gatemask.storage import storage_errors

HOLDOUT = -1  # fold of the images that are never trained on


def read_manifest(project: Project, split: str | None = None) -> pd.DataFrame:
    """Read manifest.csv.

    Args:
        project: Project folders.
        split: "train" or "test"; None for both.

    Raises:
        GatemaskError: There is no finished manifest, or it was cut short or edited.
    """
    path = project.data / "manifest.csv"
    if not (project.data / "manifest.json").exists():
        raise GatemaskError("There is no manifest yet.", where=path, do=f"Run gatemask data prepare {project.comp}.")
    do = f"Run gatemask data prepare {project.comp}: it is made again."
    require_unchanged(project.data / "manifest.json", path, do)
    numbers = {"label": int, "mask_area": int, "height": int, "width": int}
    try:
        with storage_errors(path):
            frame = pd.read_csv(path, dtype=str, keep_default_na=False).astype(numbers)
        if missing := sorted({"image_id", "path", "split", "group"} - set(frame.columns)):
            raise ValueError(f"no column {', '.join(missing)}")
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        received = " ".join(str(error).split())
        raise GatemaskError("The manifest cannot be read.", where=path, received=received, do=do) from None
    return frame if split is None else frame[frame["split"] == split].reset_index(drop=True)


def class_table(manifest: pd.DataFrame, classes: int) -> np.ndarray:
    """Return which classes each image has, bool (images, classes).

    Args:
        manifest: Column `classes`, or `label` where there is one class.
        classes: Number of classes.
    """
    if "classes" not in manifest:
        return manifest["label"].to_numpy()[:, None] > 0
    present = np.zeros((len(manifest), classes), bool)
    for row, words in enumerate(manifest["classes"]):
        present[row, [int(word) for word in words.split()]] = True
    return present


def read_folds(project: Project) -> pd.DataFrame:
    """Read folds/<comp>.csv and check it: a file edited by hand must not leak either.

    Raises:
        GatemaskError: The file or a column is missing, an image is listed twice, or a group is in several folds.
    """
    path = project.folds
    if not path.exists():
        raise GatemaskError("There are no folds yet.", where=path, do=f"Run gatemask folds make {project.comp}.")
    table = read_table(path, ["image_id", "fold", "group", "stratum"])
    frame = pd.DataFrame(table.rows, columns=table.header)
    if not frame["fold"].str.fullmatch(r"-1|[0-9]{1,3}").all():
        received = ", ".join(sorted(set(frame["fold"]))[:5])
        raise GatemaskError("A fold is not a whole number.", where=path, received=received, expected="0, 1, ... or -1")
    frame["fold"] = frame["fold"].astype(int)
    if len(repeated := frame["image_id"][frame["image_id"].duplicated()]):
        raise GatemaskError("A fold file lists an image twice.", where=path, received=repeated.iloc[0])
    reject_leak(frame, path)
    return frame


def reject_leak(folds: pd.DataFrame, where: Path) -> None:
    """Raise if a group is in more than one fold.

    Args:
        folds: Columns group and fold.
        where: The fold file, for the message.
    """
    folds_per_group = folds.groupby("group")["fold"].nunique()
    if (folds_per_group > 1).any():
        raise GatemaskError(
            "A group is in more than one fold: its images would be trained and validated on.",
            where=where,
            received=f"{int((folds_per_group > 1).sum())} groups, such as {folds_per_group.idxmax()}",
            do="Run gatemask folds audit for details. Delete the fold file to make a new one, or correct 'groups'.",
        )


def pick_half_positive(labels: Sequence[int] | np.ndarray | pd.Series, count: int) -> np.ndarray:
    """Return positions of `count` images, half of them positive where there are enough; positives come first.

    Args:
        labels: 0 or 1 per image.
        count: Number of images to pick; fewer are returned if there are fewer.
    """
    positive, negative = (np.flatnonzero((np.asarray(labels) > 0) == sign) for sign in (True, False))
    positive = positive[: max(-(-count // 2), count - len(negative))]
    return np.concatenate([positive, negative[: count - len(positive)]])
