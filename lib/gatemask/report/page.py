"""`gatemask report`: one HTML file that opens anywhere, network or not.

runs/<comp>/report/report.html
runs/<comp>/report/result.json   written last
"""

from __future__ import annotations

import html
import os
import time
from typing import Any

import numpy as np

from gatemask.config.schema import Competition, Ensemble
from gatemask.data.folds import HOLDOUT, read_folds
from gatemask.data.manifest import raw_folder, read_manifest
from gatemask.files import fingerprint, is_current, read_json, sha256, stamped_result, write_stamp, write_text
from gatemask.masks import rule as rules
from gatemask.oof.tables import Tables
from gatemask.project import Project
from gatemask.report import draw, pictures
from gatemask.report.gallery import Gallery, choose, fold_table
from gatemask.tracking.local import read_metrics
from gatemask.tuning.tune import require_current

GATE_NOTE = (
    "The gate is tuned together with the masks: where the mask networks tell empty images by themselves, "
    "the best gate passes almost every image, and its own specificity says little."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5c6b7a; --line: #d9e0e6; --page: #fbfcfd; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9fb0c0; --line: #33404d; --page: #161b21; --card: #1e252d; } }
body { margin: 0 auto; max-width: 1080px; padding: 2rem 1.5rem 4rem; color: var(--ink); background: var(--page);
  font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p, figcaption { color: var(--soft); max-width: 72ch; } figure { margin: 1rem 0; }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1.1rem;
  min-width: 9rem; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; } .card.first b { color: #0072B2; }
.card span { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } .number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def report(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Write the page from what the other stages left."""
    folder = project.runs / "report"
    tuned = require_current(project, comp, ensemble)
    rehearsal = project.runs / "rehearsal" / "result.json"
    rehearsed = read_json(rehearsal) if rehearsal.exists() else {}
    runs = _runs(project, ensemble)
    made_from = {
        "title": comp.title,
        "tuned": fingerprint(tuned),
        "folds": sha256(project.folds),
        "rehearsal": fingerprint(rehearsed),
        "runs": fingerprint(list(runs.values())),
        "raw files": raw_folder(project, comp).is_dir(),  # without them the gallery is grey
    }
    if is_current(folder / "result.json", made_from):
        return {"current": True, **stamped_result(folder / "result.json")}
    started = time.monotonic()
    sections = [
        _headline(comp, tuned, rehearsed),
        _rule(tuned),
        _members(runs),
        _curves(project, runs),
        *_from_tables(project, comp, ensemble),
        _folds(project),
        _submission(project, rehearsed),
    ]
    title = html.escape(comp.title + (" (quick try)" if project.quick else ""))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{title}</title><style>{STYLE}</style>"
    page = (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(sections) + "\n</body></html>\n"
    )
    output = write_text(folder / "report.html", page)
    return write_stamp(folder / "result.json", made_from, {"report": str(output)}, [output], started)


def _runs(project: Project, ensemble: Ensemble) -> dict[tuple[str, int], dict[str, Any]]:
    """(experiment, fold) -> result.json; that none is missing was checked with the rule."""
    found = {}
    for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]:
        for fold in sorted(set(read_folds(project)["fold"]) - {HOLDOUT}):
            found[name, fold] = read_json(project.fold(name, fold) / "result.json")
    return found


def _headline(comp: Competition, tuned: dict[str, Any], rehearsed: dict[str, Any]) -> str:
    cards = [
        ("cross-fitted Dice: the score to believe", tuned["cross_fitted"]),
        ("in-sample: optimistic, its rule saw these images", tuned["in_sample"]),
        ("all empty: the number to beat", tuned["all_empty"]),
    ]
    if "submission_dice" in rehearsed:
        cards.append(("submission, on images no training saw", rehearsed["submission_dice"]))
    drawn = "".join(
        f'<div class="card{" first" if index == 0 else ""}"><b>{value:.4f}</b><span>{html.escape(text)}</span></div>'
        for index, (text, value) in enumerate(cards)
    )
    counts = f"{tuned['images']} images, {tuned['positives']} with a mask ({tuned['positives'] / tuned['images']:.1%})."
    return f'<h1>{html.escape(comp.title)}</h1><p>{counts}</p><div class="cards">{drawn}</div>'


def _rule(tuned: dict[str, Any]) -> str:
    names = ["gate", "upper", "lower", "min_area"]
    rows = [["shipped", *(tuned["rule"][name] for name in names), "in-sample", tuned["in_sample"]]]
    for fold, part in tuned["per_fold"].items():
        rows.append([f"all but fold {fold}", *(part["rule"][name] for name in names), f"fold {fold}", part["score"]])
    text = (
        "An image is empty if its gate probability is below the gate, or if fewer than min_area pixels reach the upper "
        "threshold; else its mask is every pixel that reaches the lower one. Cross-fitting tunes on all folds but one "
        "and scores that one."
    )
    return f"<h2>Rule</h2><p>{text}</p>" + draw.table(["tuned on", *names, "scored on", "score"], rows)


def _members(runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    rows = [
        [name, str(fold), r["best_epoch"] + 1, r["monitor"], float(r["score"]), f"{r['seconds_training']:.0f} s"]
        for (name, fold), r in runs.items()
    ]
    return "<h2>Members</h2>" + draw.table(["experiment", "fold", "best epoch", "monitor", "score", "training"], rows)


def _curves(project: Project, runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    histories: dict[str, pictures.History] = {}
    for name, fold in runs:
        histories.setdefault(name, {})[fold] = read_metrics(project.fold(name, fold) / "metrics.jsonl")
    monitors = {name: run["monitor"] for (name, _), run in runs.items()}
    drawn = draw.as_html(
        pictures.learning_curves(histories, monitors), "Loss and validation score, epoch by epoch, a colour a fold."
    )
    return f"<h2>Learning curves</h2>{drawn}"


def _from_tables(project: Project, comp: Competition, ensemble: Ensemble) -> list[str]:
    """Thresholds, gate, masks: everything that the threshold tables tell."""
    tables, rule = Tables.load(project.tuned / "tables.npz"), rules.load(project.tuned / "rule.yaml")
    surface = pictures.threshold_surface(tables, rule, comp.metric)
    slices = pictures.threshold_slices(tables, rule, comp.metric)
    confusion, numbers = pictures.confusion(tables, rule)
    said = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    sections = [
        "<h2>Thresholds</h2>"
        + draw.as_html(surface, "The score over two thresholds: a wide bright plateau means a rule that will hold.")
        + draw.as_html(slices, "The score against each number of the rule, the others as chosen (red)."),
        f"<h2>Gate</h2><p>{said}. {GATE_NOTE}</p>"
        + draw.as_html(confusion, "Confusion matrix, ROC curve and probabilities of the averaged gates, out of fold."),
    ]
    if (tables.truth > 0).any():
        caption = "Dice of the images that have a mask, under the rule, out of fold."
        sections.append("<h2>Masks</h2>" + draw.as_html(pictures.dice_of_positives(tables, rule), caption))
    gallery = Gallery(project, comp, ensemble, tables, rule)
    rows = [
        f"<h3>{kind}</h3>"
        + draw.as_html(gallery.row(chosen), "Image, truth, averaged map, final mask: " + _ids(tables, chosen))
        for kind, chosen in choose(tables, rule).items()
        if len(chosen)
    ]
    gallery.close()
    return [*sections, "<h2>Gallery</h2>" + "".join(rows)]


def _ids(tables: Tables, chosen: np.ndarray) -> str:
    return ", ".join(tables.ids[chosen].tolist())


def _folds(project: Project) -> str:
    rows = fold_table(read_folds(project), read_manifest(project, "train"))
    columns = ["fold", "images", "groups", "with a mask", "median mask area (pixels)"]
    return "<h2>Folds</h2><p>No group is in two folds.</p>" + draw.table(columns, rows)


def _submission(project: Project, rehearsed: dict[str, Any]) -> str:
    if not rehearsed:
        return "<h2>Submission</h2><p>Not rehearsed yet.</p>"
    names = {
        "isolation": "rehearsed with",
        "images": "test images",
        "passed": "passed the gate",
        "empty": "empty masks",
        "empty_share": "share of empty masks",
        "train_empty_share": "the same in training",
        "unreadable": "unreadable images",
        "inference_seconds": "inference (seconds)",
        "submission_dice": "Dice",
        "submission": "file",
    }
    shown = {**rehearsed, "submission": os.path.relpath(rehearsed["submission"], project.root)}
    rows = [[text, _listed(shown[key])] for key, text in names.items() if key in shown]
    return "<h2>Submission</h2>" + draw.table(["", ""], rows)


def _listed(value: Any) -> Any:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
