"""`gatemask folds make`: which image is validated in which fold. No group is ever on both sides.

    folds/<comp>.csv         image_id, fold, group, stratum; sorted by id; fold -1 is the hold-out
    data/<comp>/folds.json   written last

The CSV belongs under version control: a split is part of a result. A CSV that was not made here (fetched with
the repository, or imported) is checked and adopted, and never overwritten.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatemask.config.schema import Competition, Folds
from gatemask.console import say
from gatemask.data.manifest import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import is_current, read_json, sha256, stamped_result, write_stamp, write_text
from gatemask.project import Project

HOLDOUT = -1


def make(project: Project, comp: Competition) -> dict[str, Any]:
    """Write the folds of a competition, or adopt the ones that are there."""
    stamp = project.data / "folds.json"
    manifest = read_manifest(project, "train")
    made_from = {"manifest": sha256(project.data / "manifest.csv"), "settings": comp.folds.model_dump()}
    if is_current(stamp, made_from):
        return {"current": True, **stamped_result(stamp)}
    started = time.monotonic()
    adopted = _is_foreign(project)
    if adopted:
        say(f"{project.folds} was not made here: adopted as it is.")
        frame = _checked(project, manifest, comp.folds)
    else:
        frame = split(manifest, comp.folds)
        write_text(project.folds, frame.to_csv(index=False, lineterminator="\n"))
    return write_stamp(stamp, made_from, {"adopted": adopted, **summary(frame, manifest)}, [project.folds], started)


def split(manifest: pd.DataFrame, settings: Folds) -> pd.DataFrame:
    """Folds of a manifest: the most even of several grouped, stratified splits.

    Args:
        manifest: training images with image_id, group, label and mask_area.
        settings: K, seed, number of tries, area bins, hold-out.

    Returns:
        image_id, fold, group, stratum, sorted by image_id.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    manifest = manifest.sort_values("image_id", ignore_index=True)
    parts = settings.k + settings.holdout
    if (groups := manifest["group"].nunique()) < parts:
        raise GatemaskError(
            "There are fewer groups than folds.", received=f"{groups} groups", expected=f"{parts} or more"
        )
    stratum = _strata(manifest, settings.area_bins)
    best, best_cost = None, np.inf
    for attempt in range(settings.tries):
        splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=(settings.seed * 1000 + attempt) % 2**32)
        fold = np.empty(len(manifest), int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a stratum smaller than K is fine here
            try:
                for number, (_, held) in enumerate(splitter.split(manifest, stratum, manifest["group"])):
                    fold[held] = number
            except ValueError as error:
                raise GatemaskError(
                    "These images cannot be split like this.",
                    received=f"{len(manifest)} images, {parts} folds: {error}",
                    do="Lower folds.k or folds.area_bins.",
                ) from None
        if (cost := _unevenness(fold, stratum, parts)) < best_cost:
            best, best_cost = fold, cost
    assert best is not None
    if settings.holdout:
        best = np.where(best == settings.k, HOLDOUT, best)
    columns = {"image_id": manifest["image_id"], "fold": best, "group": manifest["group"], "stratum": stratum}
    return pd.DataFrame(columns)


def read_folds(project: Project) -> pd.DataFrame:
    """folds/<comp>.csv, checked each time that it is read: whoever edits it by hand cannot make it leak.

    Raises:
        GatemaskError: no file, a column missing, an image twice, or a group in more than one fold.
    """
    path = project.folds
    if not path.exists():
        raise GatemaskError("There are no folds yet.", where=path, do=f"Run gatemask folds make {project.comp}.")
    frame = pd.read_csv(path, dtype={"image_id": str, "group": str}, keep_default_na=False)
    wanted = ["image_id", "fold", "group", "stratum"]
    if lacking := [column for column in wanted if column not in frame.columns]:
        received = ", ".join(frame.columns)
        raise GatemaskError(f"A fold file lacks '{lacking[0]}'.", where=path, received=received, expected=wanted)
    if not pd.api.types.is_integer_dtype(frame["fold"]):
        raise GatemaskError("A fold is not a whole number.", where=path, received=sorted(set(frame["fold"]))[:5])
    if len(twice := frame["image_id"][frame["image_id"].duplicated()]):
        raise GatemaskError("An image is in a fold file twice.", where=path, received=twice.iloc[0])
    _refuse_leak(frame, path)
    return frame


def _refuse_leak(frame: pd.DataFrame, where: Path) -> None:
    """One fold for each group."""
    folds = frame.groupby("group")["fold"].nunique()
    if (folds > 1).any():
        raise GatemaskError(
            "A group is in more than one fold: its images would be trained and validated on.",
            where=where,
            received=f"{int((folds > 1).sum())} groups, such as {folds.idxmax()}",
            do="Delete the fold file to make a new one, or correct 'groups' in competition.yaml.",
        )


def summary(frame: pd.DataFrame, manifest: pd.DataFrame) -> dict[str, Any]:
    """What is worth knowing of a split that was checked: sizes, share of positives, median mask area."""
    joined = frame.merge(manifest[["image_id", "label", "mask_area"]], on="image_id")
    per_fold = {
        str(fold): {
            "images": len(part),
            "positives": round(float(part["label"].mean()), 4),
            "median_area": int(part["mask_area"][part["label"] == 1].median() if part["label"].any() else 0),
        }
        for fold, part in joined.groupby("fold")
    }
    return {"folds": len(set(frame["fold"]) - {HOLDOUT}), "per_fold": per_fold}


def _strata(manifest: pd.DataFrame, bins: int) -> np.ndarray:
    """0 for an empty image, 1 to `bins` by the rank of the mask's area."""
    rank = manifest["mask_area"].where(manifest["label"] == 1).rank(method="first")
    positives = max(1, int(manifest["label"].sum()))
    return np.ceil(rank * bins / positives).fillna(0).astype(int).to_numpy()


def _unevenness(fold: np.ndarray, stratum: np.ndarray, parts: int) -> float:
    counts = np.zeros((parts, stratum.max() + 1))
    np.add.at(counts, (fold, stratum), 1)
    return float((np.abs(counts - counts.mean(axis=0)) / np.maximum(counts.mean(axis=0), 1)).max())


def _is_foreign(project: Project) -> bool:
    stamp = project.data / "folds.json"
    if not project.folds.exists():
        return False
    if not stamp.exists():
        return True
    old = read_json(stamp)
    return old["adopted"] or sha256(project.folds) not in old["outputs"].values()


def _checked(project: Project, manifest: pd.DataFrame, settings: Folds) -> pd.DataFrame:
    """A foreign fold file, held against the manifest: the same images, and no leak by the manifest's groups."""
    frame = read_folds(project)
    known, given = set(manifest["image_id"]), set(frame["image_id"])
    if known != given:
        raise GatemaskError(
            "The fold file is not about these images.",
            where=project.folds,
            received=f"{len(given - known)} unknown ids, {len(known - given)} missing ids",
            expected=f"{len(known)} ids",
            do="Delete it to make new folds, or bring back the data that it was made from.",
        )
    if (HOLDOUT in set(frame["fold"])) != settings.holdout:
        raise GatemaskError(
            "The fold file and competition.yaml disagree about a hold-out.",
            where=project.folds,
            received="fold -1 in the file" if not settings.holdout else "no fold -1 in the file",
            expected=f"folds.holdout: {str(settings.holdout).lower()}",
        )
    groups = manifest.set_index("image_id")["group"]
    _refuse_leak(frame.assign(group=frame["image_id"].map(groups)), project.folds)
    return frame
