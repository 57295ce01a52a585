"""The gate: what it is worth, its errors, and the band in which it is inconclusive."""

from __future__ import annotations

from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.pictures import Pictures
from gatemask.report.sections.tuned_figures import figures
from gatemask.results.tuning import GateBand, GateNumbers, TunedResult

GATE_NOTE = (
    "The gate is tuned together with the masks: where the mask networks recognize empty images themselves, "
    "the best gate passes almost every image, and its own specificity says little."
)


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the quality of the gate.

    Raises:
        NotYet: No rule is tuned.
    """
    tuned = inputs.tuned
    if isinstance(tuned, NotYet):
        if not inputs.ensemble.gate.experiments:
            return markup.paragraph("The ensemble has no gate: every image passes.")
        raise NotYet(f"{inputs.command('oof-tune')} judges the gate together with the rule; Tuning says what it needs.")
    if not tuned.gate_weights:
        return markup.paragraph("The ensemble has no gate: every image passes.")
    parts = [markup.paragraph(_worth(tuned))] if tuned.masks_alone is not None else []
    own = [(part.name, part.gate) for part in tuned.classes if part.gate is not None]
    if own:
        parts.append(markup.paragraph(GATE_NOTE))
        parts += [markup.paragraph(f"{name}: {quality(gate)}. {band_text(gate.band)}") for name, gate in own]
    else:
        parts.append(markup.paragraph(f"{quality(tuned.gate)}.", GATE_NOTE))
        parts.append(markup.paragraph(band_text(tuned.gate.band)))
    return "".join(parts) + figures(inputs, pictures, tuned, "Gate")


def _worth(tuned: TunedResult) -> str:
    return (
        f"Cross-fitted, gate plus masks score {tuned.cross_fitted:.4f} and the masks alone {tuned.masks_alone:.4f}; "
        f"the tuned gate passes {tuned.passing:.1%} of the images."
    )


def quality(gate: GateNumbers) -> str:
    """Return the rates of a gate, separated by commas."""
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
