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

from gatemask.config import Competition, Ensemble
from gatemask.data.manifest import raw_folder
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.files import fingerprint, is_current, read_json, sha256, stamped_result, write_stamp, write_text
from gatemask.masks import rule as rules
from gatemask.masks.metrics import TITLES
from gatemask.oof.tables import Scorable
from gatemask.plots import curves, style
from gatemask.plots.selection import selection_path
from gatemask.project import Project
from gatemask.report.gallery import Gallery, choose, fold_table
from gatemask.tracking.run_folder import read_metrics
from gatemask.tuning.members import opened
from gatemask.tuning.tune import load_counted, require_current

GATE_NOTE = (
    "The gate is tuned together with the masks: where the mask networks tell empty images by themselves, "
    "the best gate passes almost every image, and its own specificity says little."
)
# What `gatemask oof-tune` drew, by the section that shows it.
PICTURES = {
    "Thresholds": {
        "surface.png": "The score over two thresholds: a wide bright plateau means a rule that will hold.",
        "slices.png": "The score against each number of the rule, the others as chosen (red).",
        "folds.png": "The rules that were tuned on all folds but one (dots), the shipped rule (red), and the scores.",
        "optuna.png": "Optuna's trials, as a look at how hard the search is.",
    },
    "Gate": {
        "gate.png": "ROC curve, probabilities and calibration of the averaged gates, out of fold.",
        "confusion.png": "Confusion matrices of the gate and of the final masks, and the band between two gates.",
    },
    "Masks": {"dice.png": "Dice where there is a mask in truth, under the rule, out of fold."},
}
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
table { border-collapse: collapse; font-size: .9rem; margin: 0 0 1.2rem; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } .number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def report(project: Project, comp: Competition, ensemble: Ensemble) -> dict[str, Any]:
    """Write the page from what the other stages left."""
    folder = project.runs / "report"
    tuned = require_current(project, comp, ensemble)
    rehearsal = project.runs / "rehearsal" / "result.json"
    rehearsed = read_json(rehearsal) if rehearsal.exists() else {}
    if rehearsed.get("metric") != comp.metric:  # of another one: its score means something else
        rehearsed.pop("submission_score", None)
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
        *_selection(tuned),
        _curves(project, runs),
        _thresholds(project, tuned),
        _gate(project, tuned["gate"]),
        _drawn(project, "Masks"),
        _gallery(project, comp, ensemble, tuned),
        _folds(project),
        _submission(project, rehearsed, comp.metric),
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
    low, high = tuned["ci95"]
    name = TITLES[tuned["metric"]]
    cards = [
        (f"cross-fitted {name}, the score to believe; 95 % from {low:.4f} to {high:.4f}", tuned["cross_fitted"]),
        ("in-sample: optimistic, its rule saw these images", tuned["in_sample"]),
        ("all empty: the number to beat", tuned["all_empty"]),
    ]
    if "submission_score" in rehearsed:
        cards.append(("submission, on images no training saw", rehearsed["submission_score"]))
    drawn = "".join(
        f'<div class="card{" first" if index == 0 else ""}"><b>{value:.4f}</b><span>{html.escape(text)}</span></div>'
        for index, (text, value) in enumerate(cards)
    )
    counts = f"{tuned['images']} images, {tuned['positives']} with a mask ({tuned['positives'] / tuned['images']:.1%})."
    return f'<h1>{html.escape(comp.title)}</h1><p>{counts}</p><div class="cards">{drawn}</div>'


def _rule(tuned: dict[str, Any]) -> str:
    """The shipped rule among the candidates and the rules beside them, then fold by fold."""
    text = (
        "An image is empty if its gate probability is below the gate, or if fewer than min_area pixels reach the upper "
        "threshold; else its mask is every pixel that reaches the lower one, without the connected components that are "
        "smaller than min_component. Cross-fitting tunes on all folds but one and scores that one. Rules "
        "beside were given, not searched: of several of a name, the best on the tuned folds."
    )
    rules_of = {**_named(tuned["candidates"], "candidate", tuned["shipped"]), **_named(tuned["beside"], "beside", "")}
    rows = [[name, *_numbers(one["rule"]), one["cross_fitted"], one["in_sample"]] for name, one in rules_of.items()]
    folds = [
        [f"all but fold {fold}", *_numbers(part["rule"]), f"fold {fold}", part["score"]]
        for fold, part in tuned["per_fold"].items()
    ]
    names = list(tuned["rule"])
    return (
        f"<h2>Rule</h2><p>{text}</p>"
        + style.table(["rule", *names, "cross-fitted", "in-sample"], rows)
        + style.table(["tuned on", *names, "scored on", "score"], folds)
    )


def _named(found: dict[str, Any], kind: str, shipped: str) -> dict[str, Any]:
    """The same rules under the names that the table shows, the shipped one first."""
    ordered = sorted(found, key=lambda name: name != shipped)
    return {f"{name} ({'shipped' if name == shipped else kind})": found[name] for name in ordered}


def _numbers(rule: dict[str, Any]) -> list[Any]:
    return [("yes" if value else "no") if isinstance(value, bool) else value for value in rule.values()]


def _members(runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    rows = [
        [name, str(fold), r["best_epoch"] + 1, r["monitor"], float(r["score"]), f"{r['seconds_training']:.0f} s"]
        for (name, fold), r in runs.items()
    ]
    return "<h2>Members</h2>" + style.table(["experiment", "fold", "best epoch", "monitor", "score", "training"], rows)


def _selection(tuned: dict[str, Any]) -> list[str]:
    """How greedy selection went, where it was asked for."""
    there = {kind: found for kind, found in tuned["selection"].items() if found}
    if not there:
        return []
    text = (
        "Each round takes the experiment that helps most, again if need be, which raises its weight; the path is cut "
        "where its cross-fitted score is highest. Chosen on other folds: each fold is scored by weights and a rule "
        "that were chosen without it."
    )
    rows = [
        [kind, name, weight, found["left_out"].get(name, "taken")]
        for kind, found in there.items()
        for name, weight in zip(found["rounds"][0]["counts"], found["weights"], strict=True)
    ]
    drawn = style.as_html(selection_path(tuned["selection"], tuned["metric"]), "The score of each round; red is kept.")
    listed = style.table(["", "experiment", "weight", ""], rows)
    return [f"<h2>Selection</h2><p>{text}</p>{drawn}{listed}"]


def _curves(project: Project, runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    histories: dict[str, curves.History] = {}
    for name, fold in runs:
        histories.setdefault(name, {})[fold] = read_metrics(project.fold(name, fold) / "metrics.jsonl")
    monitors = {name: run["monitor"] for (name, _), run in runs.items()}
    drawn = style.as_html(
        curves.learning_curves(histories, monitors), "Loss and validation score, epoch by epoch, a colour a fold."
    )
    return f"<h2>Learning curves</h2>{drawn}"


def _thresholds(project: Project, tuned: dict[str, Any]) -> str:
    gap = tuned["exact_gap"]
    if gap is None:
        return _drawn(project, "Thresholds")
    said = f"In-sample, the best of Optuna's {tuned['trials']} trials is {gap:.6f} below the exact optimum."
    return _drawn(project, "Thresholds", f"<p>{said}</p>")


def _gate(project: Project, gate: dict[str, Any]) -> str:
    names = {
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "accuracy": "accuracy",
        "precision": "precision",
        "f1": "F1",
        "auc": "AUC",
        "brier": "Brier score",
        "ece": "calibration error",
    }
    said = ", ".join(f"{text} {gate[key]:.4f}" for key, text in names.items() if gate[key] is not None)
    return _drawn(project, "Gate", f"<p>{said[0].upper()}{said[1:]}. {GATE_NOTE}</p><p>{_band(gate['band'])}</p>")


def _band(band: dict[str, Any]) -> str:
    """What the inconclusive band is, in a sentence or three."""
    if band["low"] is None:
        return "There is no inconclusive band: all images are of one kind."
    if band["low"] >= band["high"]:
        return (
            "There is no inconclusive band: any gate threshold between "
            f"{band['high']:.4f} and {band['low']:.4f} has both sensitivity and specificity of at least 0.95."
        )
    decided = [f"{kind} {band[kind]:.4f}" for kind in ("sensitivity", "specificity") if band[kind] is not None]
    return (
        f"From {band['low']:.4f}, the highest gate threshold with a sensitivity of 0.95, up to {band['high']:.4f}, the "
        f"lowest with a specificity of 0.95, the gate is inconclusive: {band['images']} images ({band['share']:.1%}), "
        f"{band['positives']} of them with a mask. Of the {band['decided']} others, {band['missed']} masks lie below "
        f"the band and {band['false_alarms']} empty images above it"
        + (f": {', '.join(decided)} among them." if decided else ".")
    )


def _drawn(project: Project, section: str, text: str = "") -> str:
    """A section of pictures that the tuning stage wrote."""
    drawn = [style.file_as_html(project.tuned / name, caption) for name, caption in PICTURES[section].items()]
    return f"<h2>{section}</h2>{text}{''.join(drawn)}"


def _gallery(project: Project, comp: Competition, ensemble: Ensemble, tuned: dict[str, Any]) -> str:
    rule = rules.load_rule(project.tuned / "rule.yaml")
    counted = load_counted(project, rule)
    fold_of = dict(zip(counted.ids.tolist(), counted.folds.tolist(), strict=True))
    with opened(project, comp, ensemble, fold_of, tuned["gate_weights"]) as predicted:
        gallery = Gallery(project, comp, predicted, counted, rule, tuned["weights"])
        rows = [
            f"<h3>{kind}</h3>"
            + style.as_html(gallery.row(chosen), "Image, truth, averaged map, final mask: " + _ids(counted, chosen))
            for kind, chosen in choose(counted, rule).items()
            if len(chosen)
        ]
    return "<h2>Gallery</h2>" + "".join(rows)


def _ids(counted: Scorable, chosen: np.ndarray) -> str:
    return ", ".join(counted.ids[chosen].tolist())


def _folds(project: Project) -> str:
    rows = fold_table(read_folds(project), read_manifest(project, "train"))
    columns = ["fold", "images", "groups", "with a mask", "median mask area (pixels)"]
    return "<h2>Folds</h2><p>No group is in two folds.</p>" + style.table(columns, rows)


def _submission(project: Project, rehearsed: dict[str, Any], metric: str) -> str:
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
        "submission_score": TITLES[metric],
        "submission": "file",
    }
    shown = {**rehearsed, "submission": os.path.relpath(rehearsed["submission"], project.root)}
    rows = [[text, _listed(shown[key])] for key, text in names.items() if key in shown]
    return "<h2>Submission</h2>" + style.table(["", ""], rows)


def _listed(value: Any) -> Any:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
