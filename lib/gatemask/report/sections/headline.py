"""The head of the page: how far the competition is, and its most important numbers."""

from __future__ import annotations

from gatemask.config import Competition, metric_title
from gatemask.report import markup
from gatemask.report.inputs import Inputs
from gatemask.report.markup import Card
from gatemask.results.runs import ExperimentRun, RunScore
from gatemask.results.tuning import TunedResult


def body(inputs: Inputs) -> str:
    """Return title, progress and cards."""
    title = inputs.comp.title + (" (quick try)" if inputs.project.quick else "")
    parts = [f"<h1>{markup.text(title)}</h1>", markup.paragraph(*_progress(inputs))]
    if isinstance(inputs.tuned, TunedResult):
        rehearsed = inputs.rehearsed
        # Of another metric than the present one, a score would be compared with others by mistake.
        known = rehearsed is not None and rehearsed.metric == inputs.comp.metric
        parts.append(
            tuned_cards(inputs.comp, inputs.tuned, rehearsed.submission_score if rehearsed and known else None)
        )
    elif early := _early_cards(inputs):
        parts.append(markup.cards(early))
    return "".join(parts)


def tuned_cards(comp: Competition, tuned: TunedResult, submission_score: float | None) -> str:
    """Return the scores of the tuned rule, with a warning where it is of no use."""
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
    warning = markup.warning(tuned.warning) if tuned.warning else ""
    return warning + markup.cards(cards)


def _progress(inputs: Inputs) -> list[str]:
    """Return how many images there are, and how far training is."""
    sentences = []
    if (manifest := inputs.manifest) is not None and len(manifest):
        positives = int((manifest["label"] > 0).sum())
        share = f"{positives / len(manifest):.1%}"
        sentences.append(f"{len(manifest)} training images, {positives} with a mask ({share}).")
    experiments = inputs.listed.experiments if inputs.listed else ()
    begun = [run for run in experiments if run.state != "not started"]
    if begun:
        done, of = sum(len(run.folds_done) for run in begun), sum(run.folds for run in begun)
        plural = "s" if len(begun) > 1 else ""
        sentences.append(f"{done} of {of} folds are finished, in {len(begun)} experiment{plural}.")
    sentences += [_training(run) for run in begun if run.state == "training"]
    return sentences


def _training(run: ExperimentRun) -> str:
    left = {fold: done for fold, done in run.epochs_done.items() if fold not in run.folds_done}
    where = ", ".join(f"fold {fold} after {done} of {run.epochs} epochs" for fold, done in sorted(left.items()))
    return f"{run.name} is training: {where}." if where else f"{run.name} is training."


def _early_cards(inputs: Inputs) -> list[Card]:
    """Return the best score so far of each kind, before a rule is tuned."""
    best: dict[str, tuple[str, RunScore]] = {}
    for run in inputs.listed.experiments if inputs.listed else ():
        if run.score and (run.score.metric not in best or run.score.value > best[run.score.metric][1].value):
            best[run.score.metric] = run.name, run.score
    cards = []
    for metric, (name, score) in best.items():
        title = "AUC" if metric == "auc" else metric_title(metric)
        folds = f"{len(score.folds)} fold{'s' if len(score.folds) > 1 else ''}"
        caption = f"{score.kind.replace('auc', 'out-of-fold')} {title} of {name}, the best so far, on {folds}"
        interval = f"; 95 % from {score.ci95[0]:.4f} to {score.ci95[1]:.4f}"
        cards.append(Card(f"{score.value:.4f}", caption + interval))
    return cards
