"""`gatemask folds audit`: how much any fold file leaks, whoever made it, and how even it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatemask.data.foldfile import HOLDOUT, area_of, plain_id, read_fold_file, read_group_file
from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError
from gatemask.project import find_root


def run(
    file: Path, groups: Path | None, prefix: int | None, labels: Path | None, picture: Path | None
) -> dict[str, Any]:
    """`audit` with its files read, and what lies in the project of the file's name beside; draws a picture.

    For folds/<comp>.csv, the manifest of that competition says masks and copies where nothing else does.
    """
    ids = set(read_fold_file(file).folds)
    data = _data_folder(file)
    manifest = data / "manifest.csv" if data and (data / "manifest.csv").exists() else None
    source = labels or manifest
    findings, frame = audit(
        file,
        read_group_file(groups, ids, prefix) if groups else None,
        _areas(source) if source else None,
        _copies(data / "duplicates.csv") if data and (data / "duplicates.csv").exists() else None,
    )
    if not findings["groups"]:
        raise GatemaskError(
            "Nothing says which images belong together.",
            where=file,
            expected="a column 'group', or --groups FILE (image_id, group)",
            do="Name a file with --groups; without one, no leak can be seen.",
        )
    if picture is None and data is not None:
        picture = data.parent.parent / "runs" / "audit" / f"{file.stem}.png"
    if picture is not None:
        findings["picture"] = str(draw(findings, frame, picture))
    return findings


def show(findings: dict[str, Any]) -> None:
    """The findings for people."""
    from gatemask.console import say, table

    columns = ["fold", "images", "leak", "positives", "area_quartiles"]
    rows = [[name, *(one.get(column, "-") for column in columns[1:])] for name, one in findings["per_fold"].items()]
    table(findings["file"], columns, [[str(c) if isinstance(c, list) else c for c in row] for row in rows])
    say(
        f"{findings['images']} images in {findings['groups']} groups, {findings['without_group']} in none. "
        f"Group also in training: {100 * findings['leak']:.1f} % of the images. Duplicates: {findings['duplicates']}."
    )
    for name in findings["duplicated"][:5]:
        say(f"  {name}")
    say("It leaks." if findings["leak"] or findings["duplicates"] else "No leak.")
    if "picture" in findings:
        say(f"picture: {findings['picture']}")


def _data_folder(file: Path) -> Path | None:
    """data/<name> of the project, for a file called <name>.csv; None outside a project."""
    try:
        return find_root() / "data" / file.stem
    except GatemaskError:
        return None


def _areas(file: Path) -> dict[str, int]:
    """Mask areas from a manifest, or from a label table as competitions publish them."""
    table = read_table(file)
    if "mask_area" in table.header:
        cells = enumerate(zip(table.column(0), table.column("mask_area"), strict=True))
        return {image_id: area_of(text, table, row) for row, (image_id, text) in cells}
    from gatemask.data import inspect

    return inspect.areas(file)


def _copies(file: Path) -> list[tuple[str, str]]:
    table = read_table(file)
    splits = zip(table.column("split"), table.column("other_split"), strict=True)
    pairs = zip(table.column("image_id"), table.column("other_id"), strict=True)
    return [pair for pair, split in zip(pairs, splits, strict=True) if split == ("train", "train")]


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
        leak: share of all validation images whose group is also in the training images of their fold. duplicates:
        images in several folds, and copies in different folds. balance: how far the folds differ.
    """
    read = read_fold_file(file)
    frame = pd.DataFrame({"image_id": list(read.folds), "fold": list(read.folds.values())})
    known = {plain_id(name): group for name, group in groups.items()} if groups is not None else read.groups
    frame["group"] = [known.get(i, f"\0{i}") for i in frame["image_id"]]  # no group's name holds a NUL
    frame["leaks"] = _leaks(frame)
    by_area = {plain_id(name): area for name, area in areas.items()} if areas is not None else read.areas
    frame["area"] = frame["image_id"].map(by_area)
    frame["label"] = (frame["area"] > 0).astype(float).where(frame["area"].notna()) if by_area else np.nan
    if not by_area and read.labels:
        frame["label"] = frame["image_id"].map(read.labels)
    apart = [p for p in copies or [] if len({read.folds.get(plain_id(i), HOLDOUT) for i in p}) > 1]
    duplicated = [*read.duplicated, *(f"{one} = {other}" for one, other in apart)]
    held = frame[frame["fold"] != HOLDOUT]
    findings = {
        "file": str(file),
        "images": len(frame),
        "folds": int(held["fold"].nunique()),
        "groups": len(set(frame["group"]) & set(known.values())),
        "without_group": int(frame["group"].str.startswith("\0").sum()),
        "leak": round(float(held["leaks"].mean()), 4),
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


def draw(findings: dict[str, Any], frame: pd.DataFrame, path: Path) -> Path:
    """The findings as a picture: leak, positives and mask area, fold by fold."""
    from gatemask.files import write_with
    from gatemask.report.draw import BLUE, GREY, RED, figure, label

    drawn, axes = figure(11, 3.2, 1, 3)
    names = list(findings["per_fold"])
    leaks = [findings["per_fold"][name]["leak"] for name in names]
    axes[0].bar(names, leaks, color=[RED if leak else BLUE for leak in leaks])
    axes[0].set_ylim(0, max(1.0, *leaks) if any(leaks) else 1)
    label(axes[0], "fold", "share of images", f"group also in training: {findings['leak']:.3f}")
    if (shares := [findings["per_fold"][name].get("positives") for name in names]) and None not in shares:
        axes[1].bar(names, shares, color=BLUE)
        axes[1].axhline(findings["balance"]["positives"], color=GREY, linewidth=1)
        label(axes[1], "fold", "share", "positive images")
    masked = frame[frame["area"] > 0]
    if len(masked):
        parts = [masked["area"][masked["fold"] == name] for name in names]
        axes[2].boxplot(parts, tick_labels=names, showfliers=False, medianprops={"color": RED})
        axes[2].set_yscale("log")
        label(axes[2], "fold", "pixels", "mask area")
    for ax in axes[1:]:
        if not ax.has_data():
            ax.set_axis_off()
            ax.text(0.5, 0.5, "not known: name --labels", ha="center", color=GREY, transform=ax.transAxes)
    return write_with(path, lambda tmp: drawn.savefig(tmp, dpi=110, facecolor="white"))
