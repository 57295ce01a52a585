"""`gatemask folds audit` as a whole: files in, findings, a table and a picture out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gatemask.console import say, table
from gatemask.data import label_report
from gatemask.data.audit import audit_folds
from gatemask.data.fold_files import read_fold_file
from gatemask.data.groups import group_names
from gatemask.data.tables import parse_area, read_table
from gatemask.errors import GatemaskError
from gatemask.files import write_with
from gatemask.plots.style import BLUE, GREY, RED, figure, label
from gatemask.project import find_root
from gatemask.results.data import AuditResult


def run(file: Path, groups: Path | None, prefix: int | None, labels: Path | None, picture: Path | None) -> AuditResult:
    """`audit` with its files read, and what lies in the project of the file's name beside; draws a picture.

    For folds/<comp>.csv, the manifest of that competition says masks and copies where nothing else does.
    """
    ids = set(read_fold_file(file).folds)
    data = _data_folder(file)
    manifest = data / "manifest.csv" if data and (data / "manifest.csv").exists() else None
    source = labels or manifest
    result, frame = audit_folds(
        file,
        _read_groups(groups, ids, prefix) if groups else None,
        _areas(source) if source else None,
        _copies(data / "duplicates.csv") if data and (data / "duplicates.csv").exists() else None,
    )
    if not result.groups:
        raise GatemaskError(
            "Nothing says which images belong together.",
            where=file,
            expected="a column 'group', or --groups FILE (image_id, group)",
            do="Name a file with --groups; without one, no leak can be seen.",
        )
    if picture is None and data is not None:
        picture = data.parent.parent / "runs" / "audit" / f"{file.stem}.png"
    if picture is not None:
        result = result.model_copy(update={"picture": str(draw(result, frame, picture))})
    return result


def show(findings: AuditResult) -> None:
    """The findings for people."""
    columns = ["fold", "images", "leak", "positives", "area_quartiles"]
    rows = [
        [
            name,
            fold.images,
            fold.leak,
            "-" if fold.positives is None else fold.positives,
            str(fold.area_quartiles or "-"),
        ]
        for name, fold in findings.per_fold.items()
    ]
    table(findings.file, columns, rows)
    say(
        f"{findings.images} images in {findings.groups} groups, {findings.without_group} in none. "
        f"Group also in training: {100 * findings.leak:.1f} % of the images. Duplicates: {findings.duplicates}."
    )
    for name in findings.duplicated[:5]:
        say(f"  {name}")
    say("It leaks." if findings.leak or findings.duplicates else "No leak.")
    if findings.picture is not None:
        say(f"picture: {findings.picture}")


def _data_folder(file: Path) -> Path | None:
    """data/<name> of the project, for a file called <name>.csv; None outside a project."""
    try:
        return find_root() / "data" / file.stem
    except GatemaskError:
        return None


def _read_groups(file: Path, ids: set[str], prefix: int | None) -> dict[str, str]:
    """Read a table of image id and group, with or without a header."""
    read = read_table(file, header=False)
    if len(read.header) < 2:
        raise GatemaskError("A group file has one column.", where=file, expected="image_id, group")
    names = group_names(read, 0, 1, prefix)
    if not ids & set(names):
        raise GatemaskError(
            "The group file lists none of the images.",
            where=file,
            received=f"ids such as {read.rows[-1][0]}",
            expected=f"ids such as {min(ids)}",
        )
    return names


def _areas(file: Path) -> dict[str, int]:
    """Mask areas from a manifest, or from a label table as competitions publish them."""
    read = read_table(file)
    if "mask_area" in read.header:
        splits = read.column("split") if "split" in read.header else ["train"] * len(read.rows)
        cells = enumerate(zip(read.column(0), read.column("mask_area"), splits, strict=True))
        return {name: parse_area(text, read, row) for row, (name, text, split) in cells if split == "train"}
    return label_report.mask_areas(file)


def _copies(file: Path) -> list[tuple[str, str]]:
    read = read_table(file)
    splits = zip(read.column("split"), read.column("other_split"), strict=True)
    pairs = zip(read.column("image_id"), read.column("other_id"), strict=True)
    return [pair for pair, split in zip(pairs, splits, strict=True) if split == ("train", "train")]


def draw(findings: AuditResult, frame: pd.DataFrame, path: Path) -> Path:
    """The findings as a picture: leak, positives and mask area, fold by fold."""
    drawn, axes = figure(11, 3.2, 1, 3)
    names = list(findings.per_fold)
    leaks = [fold.leak for fold in findings.per_fold.values()]
    axes[0].bar(names, leaks, color=[RED if leak else BLUE for leak in leaks])
    axes[0].set_ylim(0, max(1.0, *leaks) if any(leaks) else 1)
    label(axes[0], "fold", "share of images", f"group also in training: {findings.leak:.3f}")
    shares = [fold.positives for fold in findings.per_fold.values() if fold.positives is not None]
    if len(shares) == len(names):
        axes[1].bar(names, shares, color=BLUE)
        axes[1].axhline(findings.balance.positives, color=GREY, linewidth=1)
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
