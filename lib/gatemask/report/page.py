"""`gatemask report`: one self-contained HTML file.

runs/<comp>/report/report.html
runs/<comp>/report/result.json   written last
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gatemask.config import Competition, Ensemble, metric_title
from gatemask.data.raw_folder import raw_folder
from gatemask.data.split import HOLDOUT, read_folds, read_manifest
from gatemask.ensemble.select import selection_paths
from gatemask.files import fingerprint, sha256, write_text
from gatemask.masks import rule as rules
from gatemask.masks import rule_files
from gatemask.masks.metrics import guide
from gatemask.plots import curves, style
from gatemask.plots.gallery import class_color
from gatemask.plots.selection import draw_selection
from gatemask.project import Project
from gatemask.report.gallery import Gallery, choose_images, fold_rows
from gatemask.results.data import ManifestResult
from gatemask.results.report import ReportResult
from gatemask.results.rules import RuleValues
from gatemask.results.submission import RehearsalResult
from gatemask.results.training import FoldResult
from gatemask.results.tuning import ALL_EMPTY, CandidateSummary, GateBand, GateNumbers, Selections, TunedResult
from gatemask.stage import Stage
from gatemask.tracking.run_folder import read_readable_metrics
from gatemask.tuning.final_pass import searched_on_masks
from gatemask.tuning.members import open_members
from gatemask.tuning.outdated import as_trained_notes
from gatemask.tuning.tune import load_counted, require_tuned

GATE_NOTE = (
    "The gate is tuned together with the masks: where the mask networks recognize empty images themselves, "
    "the best gate passes almost every image, and its own specificity says little."
)
ON_MASKS_NOTE = (
    "The scores above are those of masks at full size, since counted pixels do not decide them. These curves come from "
    "counted pixels, each class by itself: a guide, not the score."
)
# Figures of `gatemask oof-tune`, by the section that shows them.
FIGURES = {
    "Thresholds": {
        "surface.png": "The score over two thresholds: a wide bright plateau means a robust rule.",
        "slices.png": "The score along each number of the rule, the others as chosen (red).",
        "folds.png": "The rules that were tuned on all folds but one (dots), the shipped rule (red), and the scores.",
        "optuna.png": "Optuna's trials, which show how hard the search is.",
    },
    "Gate": {
        "gate.png": "ROC curve, probabilities and calibration of the averaged gates, out of fold.",
        "confusion.png": "Confusion matrices of the gate and of the final masks, and the inconclusive band.",
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


Runs = Mapping[tuple[str, int], FoldResult]  # by experiment and fold


class Card(NamedTuple):
    """A large number with a caption."""

    value: str
    caption: str


def write_report(project: Project, comp: Competition, ensemble: Ensemble) -> ReportResult:
    """Write the page from the outputs of the other stages.

    Raises:
        GatemaskError: The rule is missing or outdated.
    """
    tuned = require_tuned(project, comp, ensemble)
    rehearsed = _read_rehearsal(project, comp)
    runs, notes = _read_runs(project, ensemble), as_trained_notes(project, comp, ensemble)
    reports = ManifestResult.load(project.data / "manifest.json").reports
    made_from: dict[str, object] = {
        "title": comp.title,
        "tuned": fingerprint(tuned.stamped()),
        "folds": sha256(project.folds),
        "rehearsal": fingerprint(rehearsed),
        "runs": fingerprint([run.stamped() for run in runs.values()]),
        "raw files": raw_folder(project, comp).is_dir(),  # without them the gallery is gray
    }
    if notes:
        made_from["as_trained"] = fingerprint(notes)
    if reports:
        made_from["data"] = fingerprint(reports)
    stage = Stage("report", project.runs / "report" / "result.json", made_from, ReportResult)

    def work() -> tuple[ReportResult, list[Path]]:
        page = _page(project, comp, ensemble, tuned, runs, rehearsed, notes, reports)
        output = write_text(stage.stamp.with_name("report.html"), page)
        return ReportResult(report=str(output)), [output]

    return stage.run(work)


def _page(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    tuned: TunedResult,
    runs: Runs,
    rehearsed: Mapping[str, object],
    notes: Sequence[str],
    reports: Sequence[str],
) -> str:
    sections = [
        _headline(comp, tuned, rehearsed.get("submission_score")),
        rule_section(tuned),
        _members(runs, notes),
        *_selection(tuned.selection, tuned.metric),
        _learning_curves(project, runs),
        _thresholds(project, tuned),
        _gate(project, tuned),
        _figures(project, tuned, "Masks"),
        _gallery(project, comp, ensemble, tuned),
        _data(reports),
        _folds(project),
        _submission(project, rehearsed, comp.metric),
    ]
    title = html.escape(comp.title + (" (quick try)" if project.quick else ""))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{title}</title><style>{STYLE}</style>"
    body = "\n".join(sections)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _read_rehearsal(project: Project, comp: Competition) -> dict[str, object]:
    """Read the result of the rehearsal, empty if there is none; without its score if the metric has changed since."""
    path = project.runs / "rehearsal" / "result.json"
    if not path.exists():
        return {}
    result = RehearsalResult.load(path)
    rehearsed: dict[str, object] = {**result.stamped(), "submission": os.path.relpath(result.submission, project.root)}
    if rehearsed.get("metric") != comp.metric:
        rehearsed.pop("submission_score", None)
    return rehearsed


def _read_runs(project: Project, ensemble: Ensemble) -> Runs:
    """Read the results of all folds; their presence was checked with the rule."""
    folds = sorted(set(read_folds(project)["fold"]) - {HOLDOUT})
    return {
        (name, fold): FoldResult.load(project.fold(name, fold) / "result.json")
        for name in [*ensemble.gate.experiments, *ensemble.mask.experiments]
        for fold in folds
    }


def _headline(comp: Competition, tuned: TunedResult, submission_score: object) -> str:
    low, high = tuned.ci95
    title = metric_title(tuned.metric)
    caption = f"cross-fitted {title}, gate plus masks: the score to trust; 95 % from {low:.4f} to {high:.4f}"
    cards = [Card(f"{tuned.cross_fitted:.4f}", caption)]
    if tuned.masks_alone is not None and tuned.gate_weights:
        cards.append(Card(f"{tuned.masks_alone:.4f}", "masks alone, without a gate, cross-fitted"))
        cards.append(Card(f"{tuned.passing:.1%}", "of the images pass the tuned gate"))
    cards += [
        Card(f"{tuned.in_sample:.4f}", "in-sample: optimistic, the rule was tuned on these images"),
        Card(f"{tuned.all_empty:.4f}", "all empty: the number to beat"),
    ]
    if submission_score is not None:
        cards.append(Card(f"{submission_score:.4f}", "submission, on images no training used"))
    boxes = "".join(
        f'<div class="card{" first" if index == 0 else ""}"><b>{card.value}</b>'
        f"<span>{html.escape(card.caption)}</span></div>"
        for index, card in enumerate(cards)
    )
    counts = f"{tuned.images} images, {tuned.positives} with a mask ({tuned.positives / tuned.images:.1%})."
    warning = f"<p><b>{html.escape(tuned.warning)}</b></p>" if tuned.warning else ""
    return f'<h1>{html.escape(comp.title)}</h1><p>{counts}</p>{warning}<div class="cards">{boxes}</div>'


def rule_section(tuned: TunedResult) -> str:
    """Return the shipped rule among the candidates and the reference rules, then fold by fold, as HTML."""
    text = (
        "An image is empty if its gate probability is below the gate, or if fewer than min_area pixels reach the upper "
        "threshold; else its mask is every pixel that reaches the lower one, without the connected components that are "
        "smaller than min_component. Cross-fitting tunes on all folds but one and scores that one. Rules "
        "beside were given, not searched: where a name has several, the best on the tuned folds."
    )
    if tuned.classes:
        return f"<h2>Rules</h2><p>{text} Each class has a rule of its own.</p>" + _rules_by_class(tuned)
    candidates = _named(tuned.candidates, "candidate", tuned.shipped) | _named(tuned.beside, "beside", "")
    names = _shown_numbers([candidate.rules[0] for candidate in candidates.values()])
    rows = [
        [name, *_cells(candidate.rules[0], names, name), candidate.cross_fitted, candidate.in_sample]
        for name, candidate in candidates.items()
    ]
    folds = [
        [f"all but fold {fold}", *_cells(part.rules[0], names), f"fold {fold}", part.score]
        for fold, part in tuned.per_fold.items()
    ]
    return (
        f"<h2>Rule</h2><p>{text}</p>"
        + style.table_html(["rule", *names, "cross-fitted", "in-sample"], rows)
        + style.table_html(["tuned on", *names, "scored on", "score"], folds)
    )


def _rules_by_class(tuned: TunedResult) -> str:
    candidates = _named(tuned.candidates, "candidate", tuned.shipped) | _named(tuned.beside, "beside", "")
    names = _shown_numbers(tuned.rules)
    scores: list[list[object]] = [
        [name, candidate.cross_fitted, candidate.in_sample] for name, candidate in candidates.items()
    ]
    classes: list[list[object]] = [
        [
            part.name,
            part.positives,
            part.cross_fitted,
            "{:.4f} to {:.4f}".format(*part.ci95),
            part.in_sample,
            part.all_empty,
            f"{part.passing:.1%}",
            *_cells(part.rule, names, tuned.shipped),
        ]
        for part in tuned.classes
    ]
    folds: list[list[object]] = [
        [f"all but fold {fold}", part.name, *_cells(chosen.rules[index], names), f"fold {fold}", chosen.score]
        for fold, chosen in tuned.per_fold.items()
        for index, part in enumerate(tuned.classes)
    ]
    heads = ["class", "with a mask", "cross-fitted", "95 %", "in-sample", "all empty", "pass the gate", *names]
    return (
        style.table_html(heads, classes)
        + style.table_html(["rules", "cross-fitted", "in-sample"], scores)
        + style.table_html(["tuned on", "class", *names, "scored on", "score of all classes"], folds)
    )


def _shown_numbers(rules: Sequence[RuleValues]) -> list[str]:
    """Return the names of a rule's numbers that tables show: `split` only where a rule uses it."""
    return [name for name in RuleValues.model_fields if name != "split" or any(rule.split for rule in rules)]


def _named(candidates: Mapping[str, CandidateSummary], kind: str, shipped: str) -> dict[str, CandidateSummary]:
    """Return the rules by the names that the table shows, the shipped one first."""
    ordered = sorted(candidates, key=lambda name: name != shipped)
    return {f"{name} ({'shipped' if name == shipped else kind})": candidates[name] for name in ordered}


def _cells(rule: RuleValues, names: Sequence[str], rule_name: str = "") -> list[object]:
    if rule_name.startswith(ALL_EMPTY):
        return ["" for _ in names]
    values = [getattr(rule, name) for name in names]
    return [("yes" if value else "no") if isinstance(value, bool) else value for value in values]


def _members(runs: Runs, notes: Sequence[str] = ()) -> str:
    rows = [
        [name, str(fold), run.best_epoch + 1, run.monitor, run.score, f"{run.seconds_training:.0f} s"]
        for (name, fold), run in runs.items()
    ]
    columns = ["experiment", "fold", "best epoch", "monitor", "score", "training"]
    text = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    warning = f"<p>Used as trained, not as the YAMLs and data say now:</p><ul>{text}</ul>" if notes else ""
    return "<h2>Members</h2>" + warning + style.table_html(columns, rows)


def _selection(selections: Selections, metric: str) -> list[str]:
    """Return the section on greedy selection, if there was one."""
    made = selections.made()
    if not made:
        return []
    text = (
        "Each round takes the experiment that helps most, even again, which raises its weight; the path is cut "
        "where its cross-fitted score is highest. Chosen on other folds: each fold is scored by weights and a rule "
        "that were chosen without it."
    )
    rows = [
        [kind, name, weight, selection.left_out.get(name, "taken")]
        for kind, selection in made.items()
        for name, weight in zip(selection.rounds[0].counts, selection.weights, strict=True)
    ]
    figure = draw_selection(selection_paths(selections), metric_title(guide(metric)))
    shown = style.figure_html(figure, "The score of each round; red is kept.")
    return [f"<h2>Selection</h2><p>{text}</p>{shown}{style.table_html(['', 'experiment', 'weight', ''], rows)}"]


def _learning_curves(project: Project, runs: Runs) -> str:
    histories: dict[str, dict[int, list[dict[str, float]]]] = {}
    for name, fold in runs:
        histories.setdefault(name, {})[fold] = read_readable_metrics(project.fold(name, fold) / "metrics.jsonl")
    monitors = {name: run.monitor for (name, _), run in runs.items()}
    figure = curves.draw_learning_curves(histories, monitors)
    caption = "Loss and validation score, epoch by epoch, one color per fold."
    return f"<h2>Learning curves</h2>{style.figure_html(figure, caption)}"


def _thresholds(project: Project, tuned: TunedResult) -> str:
    gap, text = tuned.exact_gap, ""
    if gap is not None:
        text = f"<p>In-sample, the best of Optuna's {tuned.trials} trials is {gap:.6f} below the exact optimum.</p>"
    if tuned.on_masks:
        text += f"<p>{ON_MASKS_NOTE}</p>"
    return _figures(project, tuned, "Thresholds", text)


def _gate(project: Project, tuned: TunedResult) -> str:
    if not tuned.gate_weights:
        return "<h2>Gate</h2><p>The ensemble has no gate: every image passes.</p>"
    text = f"<p>{_worth_of_gate(tuned)}</p>" if tuned.masks_alone is not None else ""
    own = [(part.name, part.gate) for part in tuned.classes if part.gate is not None]
    if own:
        text += f"<p>{GATE_NOTE}</p>"
        for name, gate in own:
            text += f"<p>{html.escape(name)}: {_gate_quality(gate)}. {band_text(gate.band)}</p>"
    else:
        text += f"<p>{_gate_quality(tuned.gate)}. {GATE_NOTE}</p><p>{band_text(tuned.gate.band)}</p>"
    return _figures(project, tuned, "Gate", text)


def _worth_of_gate(tuned: TunedResult) -> str:
    return (
        f"Cross-fitted, gate plus masks score {tuned.cross_fitted:.4f} and the masks alone {tuned.masks_alone:.4f}; "
        f"the tuned gate passes {tuned.passing:.1%} of the images."
    )


def _gate_quality(gate: GateNumbers) -> str:
    numbers = {
        "Sensitivity": gate.sensitivity,
        "specificity": gate.specificity,
        "accuracy": gate.accuracy,
        "precision": gate.precision,
        "F1": gate.f1,
        "AUC": gate.auc,
        "Brier score": gate.brier,
        "calibration error": gate.ece,
    }
    return ", ".join(f"{name} {value:.4f}" for name, value in numbers.items() if value is not None)


def band_text(band: GateBand) -> str:
    """Return what the inconclusive band is, in a few sentences."""
    if band.low is None or band.high is None or band.share is None:
        return "There is no inconclusive band: all images are of one kind."
    if band.low >= band.high:
        return (
            "There is no inconclusive band: any gate threshold between "
            f"{band.high:.4f} and {band.low:.4f} has both sensitivity and specificity of at least 0.95."
        )
    rates = {"sensitivity": band.sensitivity, "specificity": band.specificity}
    decided = [f"{kind} {rate:.4f}" for kind, rate in rates.items() if rate is not None]
    return (
        f"From {band.low:.4f}, the highest gate threshold with a sensitivity of 0.95, up to {band.high:.4f}, the "
        f"lowest with a specificity of 0.95, the gate is inconclusive: {band.images} images ({band.share:.1%}), "
        f"{band.positives} of them with a mask. Among the {band.decided} others, {band.missed} masks fall below "
        f"the band and {band.false_alarms} empty images above it"
        + (f": {', '.join(decided)} among them." if decided else ".")
    )


def _figures(project: Project, tuned: TunedResult, section: str, text: str = "") -> str:
    """Return a section of figures that the tuning stage wrote, class by class where there are several."""
    figures = FIGURES[section]
    if not tuned.classes:
        shown = "".join(style.png_html(project.tuned / name, caption) for name, caption in figures.items())
        return f"<h2>{section}</h2>{text}{shown}"
    together = section == "Gate" and tuned.classes[0].gate is None
    parts = [("", name, caption) for name, caption in figures.items()] if together else []
    if not together:
        for index, of_class in enumerate(tuned.classes):
            numbered = [(name.replace(".png", f"-{index}.png"), caption) for name, caption in figures.items()]
            parts += [(of_class.name, name, caption) for name, caption in numbered if not name.startswith("optuna")]
    shown = ""
    for number, (name, file, caption) in enumerate(parts):
        if name and (number == 0 or parts[number - 1][0] != name):
            shown += f"<h3>{html.escape(name)}</h3>"
        shown += style.png_html(project.tuned / file, caption)
    return f"<h2>{section}</h2>{text}{shown}"


def _gallery(project: Project, comp: Competition, ensemble: Ensemble, tuned: TunedResult) -> str:
    shipped = rule_files.load_rules(project.tuned / "rule.yaml", comp.classes)
    by_count = [rules.without_components(rule) for rule in shipped] if searched_on_masks(comp) else shipped
    counted = load_counted(project, by_count)
    fold_of = dict(zip(counted.ids.tolist(), counted.folds.tolist(), strict=True))
    rows = []
    with open_members(project, comp, ensemble, fold_of, tuned.gate_weights) as predictions:
        gallery = Gallery(project, comp, predictions, counted, shipped, tuned.weights)
        for kind, indices in choose_images(counted, by_count).items():
            if len(indices):
                caption = "Image, truth, averaged map, final mask: " + ", ".join(counted.ids[indices].tolist())
                rows.append(f"<h3>{kind}</h3>" + style.figure_html(gallery.draw_row(indices), caption))
    return "<h2>Gallery</h2>" + _legend(comp.classes) + "".join(rows)


def _legend(classes: Sequence[str]) -> str:
    """Return the colors of the classes, where there are several."""
    if len(classes) == 1:
        return ""
    parts = [
        f'<span style="color:{class_color(index)}">&#9632;</span> {html.escape(name)}'
        for index, name in enumerate(classes)
    ]
    return f"<p>{' &nbsp; '.join(parts)}</p>"


def _data(reports: Sequence[str]) -> str:
    """Return what `gatemask data prepare` reported about the raw files."""
    if not reports:
        return "<h2>Data</h2><p>gatemask data prepare reported nothing unusual.</p>"
    items = "".join(f"<li>{html.escape(report)}</li>" for report in reports)
    return f"<h2>Data</h2><p>Reported by gatemask data prepare:</p><ul>{items}</ul>"


def _folds(project: Project) -> str:
    rows = fold_rows(read_folds(project), read_manifest(project, "train"))
    columns = ["fold", "images", "groups", "with a mask", "median mask area (pixels)"]
    return "<h2>Folds</h2><p>No group is in two folds.</p>" + style.table_html(columns, rows)


def _submission(project: Project, rehearsed: Mapping[str, object], metric: str) -> str:
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
        "submission_score": metric_title(metric),
        "submission": "file",
    }
    rows = [[text, _listed(rehearsed[key])] for key, text in names.items() if key in rehearsed]
    return "<h2>Submission</h2>" + style.table_html(["", ""], rows)


def _listed(value: object) -> object:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
