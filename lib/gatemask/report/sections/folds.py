"""The data and its split: what was reported about the raw files, how even the folds are, and whether they leak."""

from __future__ import annotations

from gatemask.data.audit import HOLDOUT_NAME
from gatemask.report import markup
from gatemask.report.audit import audit_split, draw_panels
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.pictures import Pictures
from gatemask.results.data import AuditResult


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the audit of the fold file, and the reports about the raw files.

    Raises:
        NotYet: There is no manifest.
    """
    if inputs.manifest is None:
        raise NotYet(f"The raw files have not been read yet. Run {inputs.command('data prepare')}.")
    reports = data_reports(inputs.data_reports)
    if not inputs.project.folds.exists():
        return markup.note(f"There are no folds yet. Run {inputs.command('folds make')}.") + reports
    result, frame = audit_split(inputs.project, inputs.comp)
    panels = list(zip(draw_panels(result, frame), _alts(result), strict=True))
    if not result.leak:
        del panels[0]  # bars of no height
    drawn = "".join(pictures.plot(figure, alt) for figure, alt in panels)
    return f'{leaks(result)}{audit_table(result)}<div class="plots">{drawn}</div>{reports}'


def data_reports(reports: list[str]) -> str:
    """Return what `gatemask data prepare` reported about the raw files."""
    if not reports:
        return markup.paragraph("gatemask data prepare reported nothing unusual about the raw files.")
    return markup.heading("Reported by gatemask data prepare") + markup.bullets(reports)


def leaks(result: AuditResult) -> str:
    """Return whether the split leaks, in one sentence or as a warning."""
    groups = f"{result.images} images in {result.groups} groups"
    if result.without_group:
        groups += f", {result.without_group} of them without a group"
    shared, copies = round(result.leak * result.images), result.duplicates
    if not shared and not copies:
        return markup.paragraph(f"No leak: {groups}; no group and no copy of an image is on both sides of a fold.")
    found = f"{shared} images have their group in training, and {copies} copies of images are in different folds"
    return markup.warning(f"The split leaks: {groups}; {found}.", result.duplicated)


def audit_table(result: AuditResult) -> str:
    """Return one row per fold."""
    classes = list(next((fold.classes for fold in result.per_fold.values() if fold.classes), {}))
    columns = ["fold", "images", "leak", "with a mask", "mask area, quartiles (pixels)", *classes]
    rows = [
        [
            "hold-out" if name == HOLDOUT_NAME else name,
            fold.images,
            f"{fold.leak:.1%}",
            None if fold.positives is None else f"{fold.positives:.1%}",
            ", ".join(map(str, fold.area_quartiles)) if fold.area_quartiles else None,
            *(f"{(fold.classes or {}).get(each, 0):.1%}" for each in classes),
        ]
        for name, fold in result.per_fold.items()
    ]
    return markup.table(columns, rows, "Folds")


def _alts(result: AuditResult) -> list[str]:
    """Return what the three panels show."""
    shares = [
        f"fold {name} {fold.positives:.1%}" for name, fold in result.per_fold.items() if fold.positives is not None
    ]
    medians = [f"fold {name} {fold.area_quartiles[1]}" for name, fold in result.per_fold.items() if fold.area_quartiles]
    return [
        f"Bars of the share of images whose group is also in training, by fold: {result.leak:.1%} in all.",
        f"Bars of the share of images with a mask: {', '.join(shares) or 'unknown'}.",
        f"Boxes of mask areas. Medians in pixels: {', '.join(medians) or 'unknown'}.",
    ]
