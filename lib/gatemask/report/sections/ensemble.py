"""The ensemble: its members, the path of greedy selection, and what ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatemask.config import metric_title
from gatemask.ensemble.select import selection_paths
from gatemask.masks.metrics import guide
from gatemask.plots.selection import draw_selection
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet, Run
from gatemask.report.pictures import Pictures
from gatemask.results.ensemble import EnsembleResult
from gatemask.results.training import FoldResult
from gatemask.results.tuning import TunedResult

SELECTION_NOTE = (
    "Each round takes the experiment that helps most, even again, which raises its weight; the path is cut where its "
    "cross-fitted score is highest. Chosen on other folds: each fold is scored by weights and a rule that were chosen "
    "without it."
)


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return selection, members that ship, and the runs of the ensemble.

    Raises:
        NotYet: No fold of the ensemble is finished.
    """
    names = [*inputs.ensemble.gate.experiments, *inputs.ensemble.mask.experiments]
    runs = {run: result for run, result in inputs.results.items() if run[0] in names}
    parts = []
    if isinstance(inputs.tuned, TunedResult):
        parts.append(selection(inputs.tuned, pictures))
    elif not runs:
        raise NotYet(_later(inputs))
    if isinstance(inputs.shipped, EnsembleResult):
        parts.append(_shipped(inputs.shipped))
    else:
        parts.append(markup.note(_later(inputs) if isinstance(inputs.tuned, NotYet) else str(inputs.shipped)))
    notes = inputs.as_trained if isinstance(inputs.tuned, TunedResult) else []
    parts.append(members(runs, notes))
    return "".join(parts)


def _later(inputs: Inputs) -> str:
    return (
        f"Once a rule is tuned, {inputs.command('ensemble')} chooses the members that ship; Tuning says what it needs."
    )


def selection(tuned: TunedResult, pictures: Pictures) -> str:
    """Return the path of greedy selection; nothing where weights were given or searched otherwise."""
    made = tuned.selection.made()
    if not made:
        return ""
    rows = [
        [kind, name, weight, selected.left_out.get(name, "taken")]
        for kind, selected in made.items()
        for name, weight in zip(selected.rounds[0].counts, selected.weights, strict=True)
    ]
    figure = draw_selection(selection_paths(tuned.selection), metric_title(guide(tuned.metric)))
    paths = "; ".join(
        f"{kind}: " + ", ".join(f"{step.taken} {step.score:.4f}" for step in selected.rounds[: selected.cut])
        for kind, selected in made.items()
    )
    alt = f"Score after each round of greedy selection. {paths}."
    shown = pictures.plot(figure, alt, "The score of each round; red is kept.", wide=True)
    table = markup.table(["kind", "experiment", "weight", "reason"], rows, "Greedy selection")
    return markup.heading("Selection") + markup.paragraph(SELECTION_NOTE) + shown + table


def _shipped(shipped: EnsembleResult) -> str:
    minutes = shipped.predicted_minutes
    duration = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.2g} seconds"
    text = (
        f"{shipped.gates} gates and {shipped.masks} mask networks ship. For {shipped.test_images} test images they are "
        f"expected to take {duration}, without the time to read images."
    )
    rows = [[name, shipped.weights[name], shipped.why[name]] for name in shipped.members]
    table = markup.table(["member", "weight", "reason"], rows, "Members that ship", sortable=True)
    return markup.heading("Members that ship") + markup.paragraph(text) + table


def members(runs: Mapping[Run, FoldResult], notes: Sequence[str] = ()) -> str:
    """Return the runs of the ensemble, with a warning where they differ from what the YAMLs say now."""
    rows = [
        [name, str(fold), run.best_epoch + 1, run.monitor, run.score, f"{run.seconds_training:.0f} s"]
        for (name, fold), run in runs.items()
    ]
    columns = ["experiment", "fold", "best epoch", "monitor", "score", "training"]
    said = markup.warning("Used as trained, not as the YAMLs and data say now:", notes) if notes else ""
    return markup.heading("Trained folds") + said + markup.table(columns, rows, "Trained folds", sortable=True)
