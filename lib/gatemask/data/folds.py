"""`gatemask folds make | import`: assign each image to a validation fold. No group is ever on both sides.

    folds/<comp>.csv              image_id, fold, group, stratum; sorted by id; fold -1 is the hold-out
    data/<comp>/folds-made.json   hash of the CSV as it was made here
    data/<comp>/folds.json        the stamp

The CSV belongs under version control: a split is part of a result. A CSV that was not made here (fetched with the
repository, or imported) is checked and adopted, and never overwritten.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gatemask.config import Competition, Folds
from gatemask.console import say
from gatemask.data.fold_files import read_fold_file
from gatemask.data.ids import train_rule
from gatemask.data.joins import IdList, join_ids
from gatemask.data.split import HOLDOUT, class_table, read_folds, read_manifest, reject_leak
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object, sha256, write_json, write_text
from gatemask.project import Project
from gatemask.results.data import FoldsResult, FoldSummary
from gatemask.stage import Stage
from gatemask.storage import storage_errors


def make_folds(project: Project, comp: Competition) -> FoldsResult:
    """Write the folds of a competition, or adopt an existing fold file.

    Raises:
        GatemaskError: There is no manifest, the existing file does not fit it, or a fold would have no positive image.
    """
    manifest = read_manifest(project, "train")

    def write() -> tuple[FoldsResult, list[Path]]:
        adopted = _is_foreign(project)
        if adopted:
            say(f"{project.folds} was not made here: adopted unchanged.")
            frame = _checked(project, manifest, comp.folds)
            if (k := len(set(frame["fold"]) - {HOLDOUT})) != comp.folds.k:
                say(f"It has {k} folds, but folds.k is {comp.folds.k}. Delete it to make new ones.")
        else:
            frame = assign_folds(manifest, comp.folds)
            _write(project, frame)
        folds, per_fold = _summarize(frame, manifest, comp.classes)
        return FoldsResult(adopted=adopted, folds=folds, per_fold=per_fold), [project.folds]

    return _stage(project, comp).run(write)


def import_folds(project: Project, comp: Competition, file: Path, force: bool = False) -> FoldsResult:
    """Import a foreign fold file: its ids and folds, with the manifest's groups.

    Args:
        project: Project folders.
        comp: competition.yaml.
        file: CSV with a column of image ids (extensions are ignored) and a column `fold`.
        force: Replace existing folds.

    Raises:
        GatemaskError: The folds leak or do not fit the manifest, or folds exist already.
    """
    started = time.monotonic()
    manifest = read_manifest(project, "train").sort_values("image_id", ignore_index=True)
    if project.folds.exists() and not force:
        raise GatemaskError(
            "There are folds already.", where=project.folds, do="Use --force to replace them; their runs are kept."
        )
    fold_file = read_fold_file(file, train_rule(comp), known=set(manifest["image_id"]))
    if fold_file.duplicated:
        received = f"{len(fold_file.duplicated)} images, such as {fold_file.duplicated[0]}"
        raise GatemaskError("An image is in several folds.", where=file, received=received, do="Correct the file.")
    folds = _numbered(fold_file.folds, file)
    numbers = set(folds.values()) - {HOLDOUT}
    if numbers == set(range(1, len(numbers) + 1)):
        say("The file counts folds from 1; they are renumbered from 0.")
        folds = {image_id: fold - 1 if fold != HOLDOUT else fold for image_id, fold in folds.items()}
    _require_same_images(set(manifest["image_id"]), set(folds), file)
    fold_column = manifest["image_id"].map(folds).astype(int)
    frame = _fold_table(manifest, fold_column, comp.folds)
    _require_same_holdout(frame, comp.folds, file)
    reject_leak(frame, file)
    stage = _stage(project, comp)
    with stage.locked(), storage_errors(project.folds):
        _write(project, frame)
        count, per_fold = _summarize(frame, manifest, comp.classes)
        result = FoldsResult(adopted=True, imported=str(file), folds=count, per_fold=per_fold)
        return stage.finish(result, [project.folds], started)


def assign_folds(manifest: pd.DataFrame, settings: Folds) -> pd.DataFrame:
    """Return the most even of several grouped, stratified splits.

    Like scikit-learn's StratifiedGroupKFold, groups are dealt out one by one, large ones first, each to the fold where
    it disturbs the balance least. Images, strata, combinations of classes, images of each class and the columns of
    `stratify` are balanced, all as shares of their totals. The cost of a group in all folds is one small product, which
    makes a try some twenty times as fast, so many tries can be compared; between equally even splits, finer area bins
    decide.

    Args:
        manifest: Training images with image_id, group, label, mask_area, classes (if there are several) and the columns
            to stratify by.
        settings: Section `folds` of competition.yaml.

    Returns:
        image_id, fold, group, stratum, sorted by image_id. Depends on nothing but the arguments.

    Raises:
        GatemaskError: There are fewer groups than folds, or a fold would have no positive image.
    """
    manifest = manifest.sort_values("image_id", ignore_index=True)
    parts = settings.k + settings.holdout
    codes, names = pd.factorize(manifest["group"], sort=True)
    if len(names) < parts:
        raise GatemaskError(
            "There are fewer groups than folds.",
            received=f"{len(names)} groups",
            expected=f"{parts} or more",
            do="Lower folds.k, or check 'groups' in competition.yaml.",
        )
    counts = _counts(manifest, settings, codes, len(names))
    finer = _counts(manifest, settings.model_copy(update={"area_bins": 3 * settings.area_bins}), codes, len(names))
    best, best_cost = np.zeros(len(names), int), (np.inf, np.inf)
    for attempt in range(settings.tries):
        fold_of = _deal(counts, parts, np.random.default_rng([settings.seed, attempt]))
        if (cost := (_unevenness(counts, fold_of, parts), _unevenness(finer, fold_of, parts))) < best_cost:
            best, best_cost = fold_of, cost
    fold = best[codes]
    _require_positives(manifest, fold, parts)
    if settings.holdout:
        fold = np.where(fold == settings.k, HOLDOUT, fold)
    return _fold_table(manifest, fold, settings)


def _fold_table(manifest: pd.DataFrame, fold: np.ndarray | pd.Series, settings: Folds) -> pd.DataFrame:
    columns = {"image_id": manifest["image_id"], "fold": fold, "group": manifest["group"]}
    return pd.DataFrame({**columns, "stratum": _stratum(manifest, settings)})


def _summarize(
    frame: pd.DataFrame, manifest: pd.DataFrame, classes: Sequence[str]
) -> tuple[int, dict[str, FoldSummary]]:
    """Return the number of folds and a summary per fold; report classes that a fold lacks."""
    joined = frame.merge(manifest.drop(columns=["group"]), on="image_id")
    present = class_table(joined, len(classes)) if len(classes) > 1 else None
    per_fold = {
        str(fold): FoldSummary(
            images=len(part),
            positives=round(float(part["label"].mean()), 4),
            median_area=int(part["mask_area"][part["label"] == 1].median() if part["label"].any() else 0),
            **({} if present is None else {"classes": _shares(present[part.index], classes)}),
        )
        for fold, part in joined.groupby("fold")
    }
    for name in classes:
        if lacking := [fold for fold, summary in per_fold.items() if summary.classes and not summary.classes[name]]:
            say(f"No image of fold {', '.join(lacking)} has the class {name}: scores of that class rest on the others.")
    return len(set(frame["fold"]) - {HOLDOUT}), per_fold


def _shares(present: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {name: round(float(share), 4) for name, share in zip(classes, present.mean(axis=0).tolist(), strict=True)}


# --- assignment --------------------------------------------------------------------------------------------


def _strata(manifest: pd.DataFrame, settings: Folds) -> list[pd.Series]:
    """Return the strata: 0 for an empty image, 1 to `area_bins` by the rank of its area; then the columns."""
    rank = manifest["mask_area"].where(manifest["label"] == 1).rank(method="first")
    positives = max(1, int(manifest["label"].sum()))
    area = np.ceil(rank * settings.area_bins / positives).fillna(0).astype(int).astype(str)
    combinations = [_combinations(manifest["classes"], settings)] if "classes" in manifest else []
    return [area, *combinations, *(_levels(manifest[name]) for name in settings.stratify)]


def _combinations(classes: pd.Series, settings: Folds) -> pd.Series:
    """Return the classes of each image as one word; combinations with fewer images than folds are one stratum."""
    words = classes.str.replace(" ", "+").replace("", "none")
    counts = words.map(words.value_counts())
    return words.where(counts >= settings.k + settings.holdout, "rare").astype(str)


def _stratum(manifest: pd.DataFrame, settings: Folds) -> list[str]:
    """Return the strata as one word per image, for the file."""
    return ["|".join(values) for values in zip(*_strata(manifest, settings), strict=True)]


def _levels(column: pd.Series) -> pd.Series:
    """Return a column's values as text; columns of many numbers become quartiles."""
    numbers = pd.to_numeric(column.str.removesuffix("Y"), errors="coerce")  # DICOM writes ages as 045Y
    if numbers.notna().mean() > 0.9 and numbers.nunique() > 10:
        quartile = np.ceil(numbers.rank(method="average") * 4 / numbers.notna().sum()).clip(1, 4)
        return ("q" + quartile.fillna(0).astype(int).astype(str)).astype(str)
    return column.astype(str)


def _counts(manifest: pd.DataFrame, settings: Folds, codes: np.ndarray, groups: int) -> np.ndarray:
    """Return (groups, balanced quantities): images, each area stratum, each class, each value of each column."""
    strata = _strata(manifest, settings)
    if "classes" in manifest:  # each class as well, since rare combinations share a stratum
        highest = max((int(word) for words in manifest["classes"] for word in words.split()), default=-1)
        strata += [pd.Series(column.astype(str)) for column in class_table(manifest, highest + 1).T]
    balanced = [np.zeros(len(manifest), int), *(pd.factorize(values, sort=True)[0] for values in strata)]
    columns = []
    for values in balanced:
        table = np.zeros((groups, values.max() + 1), np.int64)
        np.add.at(table, (codes, values), 1)
        columns.append(table)
    return np.concatenate(columns, axis=1)


def _deal(counts: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Return a fold per group: each goes where the squared shares grow least."""
    # Integers, since sums of fractions differ between processors, and near ties with them.
    weights = np.rint(counts / counts.sum(axis=0) ** 2 * 2**50).astype(np.int64)
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled, 0], kind="stable")]
    filled = np.zeros((parts, counts.shape[1]), np.int64)
    fold_of = np.empty(len(counts), int)
    for group in order:
        # (n + g)^2 = n^2 + 2 n g + g^2, and only the middle term differs between folds.
        fold = int((filled @ weights[group]).argmin())
        filled[fold] += counts[group]
        fold_of[group] = fold
    return fold_of


def _unevenness(counts: np.ndarray, fold_of: np.ndarray, parts: int) -> float:
    """Return the largest deviation of any count in any fold from its even share, relative to that share."""
    filled = np.zeros((parts, counts.shape[1]))
    np.add.at(filled, fold_of, counts)
    even = counts.sum(axis=0) / parts
    return float((np.abs(filled - even) / np.maximum(even, 1)).max())


def _require_positives(manifest: pd.DataFrame, fold: np.ndarray, parts: int) -> None:
    positives = np.bincount(fold, weights=manifest["label"], minlength=parts)
    if manifest["label"].any() and (positives == 0).any():
        raise GatemaskError(
            "A fold has no positive image.",
            received=f"{int(manifest['label'].sum())} positive images in {parts} folds",
            do="Lower folds.k, or check 'groups' in competition.yaml: one group may hold most positives.",
        )


# --- files and checks --------------------------------------------------------------------------------------


def _stage(project: Project, comp: Competition) -> Stage[FoldsResult]:
    made_from = {"manifest": sha256(project.data / "manifest.csv"), "settings": comp.folds.model_dump()}
    return Stage("folds make", project.data / "folds.json", made_from, FoldsResult)


def _write(project: Project, frame: pd.DataFrame) -> Path:
    """Write the folds, after a note of their hash by which a killed run recognizes its own work."""
    text = frame.to_csv(index=False, lineterminator="\n")
    write_json(_note(project), {"sha256": hashlib.sha256(text.encode()).hexdigest()})
    return write_text(project.folds, text)


def _note(project: Project) -> Path:
    return project.data / "folds-made.json"


def _is_foreign(project: Project) -> bool:
    if not project.folds.exists():
        return False
    note, stamp = _note(project), project.data / "folds.json"
    made_here = note.exists() and read_json_object(note).get("sha256") == sha256(project.folds)
    return not made_here or (stamp.exists() and FoldsResult.load(stamp).adopted)


def _checked(project: Project, manifest: pd.DataFrame, settings: Folds) -> pd.DataFrame:
    """Return a foreign fold file that fits the manifest: the same images, no leak by the manifest's groups."""
    frame = read_folds(project)
    _require_same_images(set(manifest["image_id"]), set(frame["image_id"]), project.folds)
    _require_same_holdout(frame, settings, project.folds)
    groups = manifest.set_index("image_id")["group"]
    reject_leak(frame.assign(group=frame["image_id"].map(groups)), project.folds)
    return frame


def _numbered(folds: dict[str, str], file: Path) -> dict[str, int]:
    names = set(folds.values()) - {str(HOLDOUT)}
    if not all(name.isascii() and name.isdigit() and len(name) < 4 for name in names):
        received = ", ".join(sorted(names))
        raise GatemaskError("A fold is not a whole number.", where=file, received=received, expected="0, 1, ... or -1")
    return {image_id: int(fold) for image_id, fold in folds.items()}


def _require_same_images(expected: set[str], received: set[str], where: Path) -> None:
    join_ids(
        IdList("images of the manifest", expected),
        IdList("ids of the fold file", received, where),
        "Delete it to make new folds, or restore the data it was made from.",
        fault="The fold file lists other images than the manifest.",
        complete=True,
    )


def _require_same_holdout(frame: pd.DataFrame, settings: Folds, where: Path) -> None:
    if (HOLDOUT in set(frame["fold"])) != settings.holdout:
        raise GatemaskError(
            "The fold file and competition.yaml disagree about a hold-out.",
            where=where,
            received="fold -1 in the file" if not settings.holdout else "no fold -1 in the file",
            expected=f"folds.holdout: {str(settings.holdout).lower()}",
        )
