"""`gatemask folds audit`: read the files, audit the folds, print a table and draw a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gatemask.config import Competition, load_competition
from gatemask.console import say, table
from gatemask.data import label_report, table_columns
from gatemask.data.audit import HOLDOUT_NAME, audit_folds
from gatemask.data.fold_files import NO_IDS, read_fold_file
from gatemask.data.groups import group_names
from gatemask.data.ids import ADVICE, DEFAULT, IdRule, SharedIdError, train_rule
from gatemask.data.joins import IdList, join_ids
from gatemask.data.tables import parse_area, read_table
from gatemask.data.truth import IGNORED, SOFT
from gatemask.errors import GatemaskError
from gatemask.plots.audit import FoldBars, draw_audit, draw_audit_panels
from gatemask.plots.style import save
from gatemask.project import Project, find_root, open_project
from gatemask.results.data import AuditResult


def audit_file(
    file: Path,
    groups: Path | None,
    prefix: int | None,
    labels: Path | None,
    picture: Path | None,
    id_column: str | None = None,
    competition: str | None = None,
) -> AuditResult:
    """Audit a fold file and draw a figure.

    For folds/<comp>.csv, masks and copies are read from that competition's data where no other file is named, and ids
    are made by the rule of its competition.yaml.

    Args:
        file: Fold file: a column of image ids, and a column `fold`.
        groups: CSV of image ids and groups. Default: the groups in `file`.
        prefix: Number of leading characters that name a group. Default: all.
        labels: manifest.csv or label table. Default: the competition's manifest.
        picture: Figure to write. Default: runs/audit/<name>.png inside a project, else none.
        id_column: Name of the column of image ids. Default: found by its contents.
        competition: Competition whose rule makes the ids. Default: that of folds/<comp>.csv; for any other file, ids
            are names of files without their folders.

    Raises:
        GatemaskError: A file cannot be read, or no groups are known.
    """
    rule = _id_rule(file, competition)
    try:
        ids = set(read_fold_file(file, rule, id_column).folds)
    except SharedIdError as error:
        do = f"{ADVICE} Then name that competition here, with --comp."
        raise GatemaskError(error.what, **{**error.details, "do": do}) from None  # type: ignore[arg-type]
    data = _data_folder(file, competition)
    manifest = data / "manifest.csv" if data and (data / "manifest.csv").exists() else None
    source = labels or manifest
    result, frame = audit_folds(
        file,
        _read_groups(groups, ids, prefix, rule) if groups else None,
        _areas(source, ids, rule) if source else None,
        _copies(data / "duplicates.csv") if data and (data / "duplicates.csv").exists() else None,
        id_column,
        rule,
        _classes(data) if manifest is not None else None,
    )
    if not result.groups:
        raise GatemaskError(
            "The groups of the images are unknown.",
            where=file,
            expected="a column 'group', or --groups FILE (image_id, group)",
            do="Name a file with --groups; leaks cannot be measured without groups.",
        )
    if picture is None and data is not None:
        picture = data.parent.parent / "runs" / "audit" / f"{file.stem}.png"
    if picture is not None:
        figure = draw_audit(_bars(result, frame), result.leak, result.balance.positives)
        result = result.model_copy(update={"picture": str(save(figure, picture))})
    return result


def audit_split(project: Project, comp: Competition) -> tuple[AuditResult, pd.DataFrame]:
    """Audit the fold file of a competition with its manifest, masks and copies.

    Returns:
        The result, and the table behind it; see `audit_folds`.

    Raises:
        GatemaskError: A file cannot be read.
    """
    rule, data = train_rule(comp), project.data
    ids = set(read_fold_file(project.folds, rule, None).folds)
    copies = _copies(data / "duplicates.csv") if (data / "duplicates.csv").exists() else None
    areas = _areas(data / "manifest.csv", ids, rule) if (data / "manifest.csv").exists() else None
    return audit_folds(project.folds, None, areas, copies, None, rule, _classes(data))


def print_audit(findings: AuditResult) -> None:
    """Print one row per fold, and the leaks."""
    classes = list(next((fold.classes for fold in findings.per_fold.values() if fold.classes), {}))
    columns = ["fold", "images", "leak", "positives", "area_quartiles", *classes]
    rows = [
        [
            number,
            fold.images,
            fold.leak,
            "-" if fold.positives is None else fold.positives,
            str(fold.area_quartiles or "-"),
            *((fold.classes or {}).get(name, "-") for name in classes),
        ]
        for number, fold in findings.per_fold.items()
    ]
    table(findings.file, columns, rows)
    for sentence in findings.chosen:
        say(sentence)
    say(
        f"{findings.images} images in {findings.groups} groups, {findings.without_group} in none. "
        f"Group also in training: {100 * findings.leak:.1f} % of the images. Duplicates: {findings.duplicates}."
    )
    for name in findings.duplicated[:5]:
        say(f"  {name}")
    say("It leaks." if findings.leak or findings.duplicates else "No leak.")
    if findings.picture is not None:
        say(f"picture: {findings.picture}")


def _id_rule(file: Path, competition: str | None) -> IdRule:
    """Return how the competition makes ids; the default rule for a file of no competition."""
    if competition is None:
        folder = file.resolve().parents[1] / "experiments" / file.stem.removesuffix("-quick")
        if file.resolve().parent.name != "folds" or not (folder / "competition.yaml").exists():
            return DEFAULT
        return train_rule(load_competition(folder))
    return train_rule(load_competition(open_project(competition).experiments))


def _data_folder(file: Path, competition: str | None) -> Path | None:
    """Return data/<comp> of the project, or data/<name> for a file named <name>.csv; None outside a project."""
    try:
        return find_root() / "data" / (competition or file.stem)
    except GatemaskError:
        return None


def _read_groups(file: Path, ids: set[str], prefix: int | None, rule: IdRule) -> dict[str, str]:
    """Read a table of image id and group, with or without a header."""
    read = read_table(file, header=False)
    if len(read.header) < 2:
        raise GatemaskError("A group file has one column.", where=file, expected="image_id, group")
    id_column = table_columns.find_id_column(read, (), "a table of two columns", ids, rule).column
    names = group_names(read, id_column, table_columns.find_group_column(read, id_column), prefix, rule)
    join = join_ids(
        IdList("images of the fold file", ids),
        IdList(f"ids of {file.name}", names, file),
        "Name a table of image ids and groups with --groups.",
    )
    join.report()
    return names


def _areas(file: Path, ids: set[str], rule: IdRule) -> dict[str, int]:
    """Read the mask areas of the images in a fold file from a manifest or a competition's label table."""
    areas = _read_areas(file)
    join = join_ids(
        IdList("images of the fold file", ids),
        IdList(f"ids of {file.name}", {rule.of_cell(name) for name in areas}, file),
        "Name the label table of these images with --labels.",
    )
    join.report()
    return areas


def _read_areas(file: Path) -> dict[str, int]:
    read = read_table(file)
    if "mask_area" in read.header:
        splits = read.column("split") if "split" in read.header else ["train"] * len(read.rows)
        id_column = table_columns.find_id_column(read, NO_IDS, "a column 'image_id'").column
        cells = enumerate(zip(read.column(id_column), read.column("mask_area"), splits, strict=True))
        return {name: parse_area(text, read, row) for row, (name, text, split) in cells if split == "train"}
    return label_report.mask_areas(file)


def _classes(data: Path | None) -> dict[str, set[str]] | None:
    """Return the classes of each training image; None for a competition of one class."""
    if data is None or not (data / "masks.csv").exists() or "classes" not in read_table(data / "manifest.csv").header:
        return None
    read = read_table(data / "masks.csv", ["image_id", "class"])
    classes: dict[str, set[str]] = {}
    for image_id, name in zip(read.column("image_id"), read.column("class"), strict=True):
        if name not in (IGNORED, SOFT):
            classes.setdefault(image_id, set()).add(name)
    return classes


def _copies(file: Path) -> list[tuple[str, str]]:
    read = read_table(file)
    splits = zip(read.column("split"), read.column("other_split"), strict=True)
    pairs = zip(read.column("image_id"), read.column("other_id"), strict=True)
    return [pair for pair, split in zip(pairs, splits, strict=True) if split == ("train", "train")]


def draw_panels(result: AuditResult, frame: pd.DataFrame) -> list[Figure]:
    """Draw leak, share of positives and mask areas of each fold; arguments as `audit_folds` returns them."""
    bars = {"hold-out" if name == HOLDOUT_NAME else name: fold for name, fold in _bars(result, frame).items()}
    return draw_audit_panels(bars, result.leak, result.balance.positives)


def _bars(result: AuditResult, frame: pd.DataFrame) -> dict[str, FoldBars]:
    masked = frame[frame["area"] > 0]
    return {
        name: FoldBars(fold.leak, fold.positives, masked["area"][masked["fold"] == name].tolist())
        for name, fold in result.per_fold.items()
    }
