"""`gatemask compare`: test whether the second experiment is better than the first, or luck with these images.

Both are scored on the out-of-fold predictions of the same images, each by its own rules tuned on the other folds.
Images of one patient resemble each other, and an image is easy or hard for both sides: so whole groups are resampled,
for both sides at once, and the difference is what counts. The trainings are taken as they are: resampling images
cannot show what another seed would have given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from gatemask.config import Competition, Ensemble, load_experiment, metric_title
from gatemask.console import say, table
from gatemask.errors import GatemaskError, nearest
from gatemask.masks.metrics import ratio, total
from gatemask.project import Project, experiment_files
from gatemask.results.tuning import ComparisonResult, Kind, PairedComparison, Verdict
from gatemask.tuning.crossfit import bootstrap_scores, middle_95
from gatemask.tuning.members import prediction_hashes, training_images
from gatemask.tuning.sides import fit_side, is_trained, side_of
from gatemask.tuning.tune import with_selected_weights

Scored = tuple[np.ndarray, np.ndarray]  # worth and weight, float (n, classes), see gatemask.masks.metrics
SAME = 1e-12  # scores this close differ by rounding alone


def compare(project: Project, comp: Competition, ensemble: Ensemble, first: str, second: str) -> ComparisonResult:
    """Compare two experiments, or sums such as `unet_b0+unetpp_b0`, whose predictions are averaged.

    Mask experiments are scored behind the ensemble's gates where all of these are trained, else without a gate. Gates
    are scored in front of the ensemble's mask experiments. The other side is averaged by the weights that ensemble.yaml
    lists, or those that `gatemask oof-tune` selected; by equal weights where there are neither.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        ensemble: Members on the other side of the comparison, and how to search and resample.
        first: Names joined by +, of any experiments of the competition that have predicted all folds.
        second: Names joined by +, of the same task as the first.

    Raises:
        GatemaskError: Unknown or repeated name, gates against mask networks, or a fold without predictions.
    """
    started = time.monotonic()
    task, names = _parse(project, first, second)
    fold_of, group_of = training_images(project)
    gated = task == "gate" or is_trained(project, ensemble.gate.experiments, set(fold_of.values()))
    ensemble = with_selected_weights(project, comp, ensemble) if gated else ensemble
    sides = [side_of(ensemble, task, part, gated) for part in names]
    for side in sides:  # everything that is missing is reported before the first map is read
        prediction_hashes(project, comp, side)
    fits = [fit_side(project, comp, side, fold_of) for side in sides]
    groups = np.array([group_of[i] for i in sorted(fold_of)])
    scored = [(fit.worth, fit.weight) for fit in fits]
    paired = compare_paired(scored[0], scored[1], groups, ensemble.tune.bootstrap, ensemble.tune.seed)
    return ComparisonResult(
        first=first,
        second=second,
        metric=comp.metric,
        **dict(paired),
        **({"classes": _by_class(comp, scored, groups, ensemble)} if len(comp.classes) > 1 else {}),
        gate="compared" if task == "gate" else "+".join(sides[0].gate.experiments) or "none",
        mask="compared" if task == "mask" else "+".join(sides[0].mask.experiments),
        seconds=round(time.monotonic() - started, 2),
    )


def _by_class(
    comp: Competition, scored: Sequence[Scored], groups: np.ndarray, ensemble: Ensemble
) -> dict[str, PairedComparison]:
    tune = ensemble.tune
    columns = {name: slice(index, index + 1) for index, name in enumerate(comp.classes)}
    return {
        name: compare_paired(
            (scored[0][0][:, column], scored[0][1][:, column]),
            (scored[1][0][:, column], scored[1][1][:, column]),
            groups,
            tune.bootstrap,
            tune.seed,
        )
        for name, column in columns.items()
    }


def compare_paired(first: Scored, second: Scored, groups: np.ndarray, times: int, seed: int) -> PairedComparison:
    """Compare two scored sets of predictions of the same images.

    The interval is the middle 95 % of the difference over bootstrap resamples of groups, the same ones for both sides
    (the percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap, 1993). It alone decides the
    verdict. The signed-rank test of Wilcoxon (Biometrics Bulletin 1, 1945) on the score of each image, its mean over
    classes, is reported next to it. It treats images as independent, so its p-value is too small where groups are
    large. Images on which both score the same are left out, as Wilcoxon did: most are rightly empty on both sides.
    Ranked along with the others (Pratt's way) they would raise all other ranks to nearly the same height, and the size
    of a difference would hardly count.

    Args:
        first: Worth and weight, float (n, classes) each; see gatemask.masks.metrics.
        second: The same for the second side, images in the same order.
        groups: Group of each image, text (n,). Images of one group, such as a patient's, are drawn together.
        times: Number of resamples.
        seed: Seed of the draws.

    >>> scores, weight = np.array([[0.5], [0.7], [0.6]]), np.ones((3, 1))
    >>> compare_paired((scores, weight), (scores + 0.1, weight), np.array(["a", "b", "c"]), 100, 0).verdict
    'better'
    """
    differences = bootstrap_scores(*second, groups, times, seed) - bootstrap_scores(*first, groups, times, seed)
    low, high = middle_95(differences)
    by_image = ratio(*second).mean(axis=1) - ratio(*first).mean(axis=1)
    by_image[np.abs(by_image) <= SAME] = 0.0
    first_score, second_score = total(*first), total(*second)
    return PairedComparison(
        first_score=first_score,
        second_score=second_score,
        difference=second_score - first_score,
        ci95=(low, high),
        wilcoxon_p=_wilcoxon(by_image),
        better=int((by_image > 0).sum()),
        worse=int((by_image < 0).sum()),
        equal=int((by_image == 0).sum()),
        images=len(by_image),
        groups=len(np.unique(groups)),
        verdict=verdict_of(low, high),
    )


def verdict_of(low: float, high: float) -> Verdict:
    """Return what the interval of a difference, second less first, says about the second."""
    return "better" if low > SAME else "worse" if high < -SAME else "cannot tell"


def _wilcoxon(differences: np.ndarray) -> float:
    """Return the two-sided p-value of differences (n,); 1 where all are zero, which the test itself rejects."""
    if not differences.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, zero_method="wilcox").pvalue)


def _parse(project: Project, first: str, second: str) -> tuple[Kind, list[list[str]]]:
    """Return the task of both sides, and the experiments of each."""
    sides = [[name.strip() for name in text.split("+")] for text in (first, second)]
    experiments = {path.rsplit("/", 1)[1].removesuffix(".yaml") for path in _experiment_files(project)}
    for name in (name for side in sides for name in side):
        if name not in experiments:
            close = nearest(name, experiments)
            raise GatemaskError(
                f"Unknown experiment '{name}'.",
                where=project.experiments,
                received=f"{first} and {second}",
                expected=", ".join(sorted(experiments)),
                do=f"Did you mean '{close}'?" if close else "Join several by +, without spaces.",
            )
    if any(len(set(side)) < len(side) for side in sides) or set(sides[0]) == set(sides[1]):
        raise GatemaskError(
            "An experiment cannot be compared with itself, nor count twice in a sum.",
            where=project.experiments,
            received=f"{first} and {second}",
            expected="two different experiments or sums",
            do="Name each once; to weigh experiments, see mask.weights in ensemble.yaml.",
        )
    tasks: dict[str, Kind] = {name: _task(project, name) for side in sides for name in side}
    if len(set(tasks.values())) > 1:
        raise GatemaskError(
            "Gates can be compared with gates, and masks with masks.",
            where=project.experiments,
            received=", ".join(f"{name} ({task})" for name, task in tasks.items()),
            expected="experiments of one task",
            do="Compare masks behind the ensemble's gate, and gates in front of its masks, one after the other.",
        )
    return next(iter(tasks.values())), sides


def _experiment_files(project: Project) -> list[str]:
    return [path for path in experiment_files(project.root) if path.split("/")[1] == project.comp]


def _task(project: Project, name: str) -> Kind:
    return load_experiment(project.experiment_file(name), quick=project.quick).task


def print_comparison(result: ComparisonResult) -> None:
    """Print both scores and the verdict."""
    title = f"{metric_title(result.metric)} of {result.images} images in {result.groups} groups, cross-fitted"
    if result.mask == "compared":
        title += ", without a gate" if result.gate == "none" else f", behind {result.gate}"
    else:
        title += f", in front of {result.mask}"
    table(title, ["", "score"], [[result.first, result.first_score], [result.second, result.second_score]])
    counts = f"{result.better} images better, {result.worse} worse, {result.equal} equal"
    say(f"{counts}; Wilcoxon's p {result.wilcoxon_p:.2g}")
    if result.classes:
        rows: list[list[object]] = [
            [name, part.first_score, part.second_score, "{:+.4f} to {:+.4f}".format(*part.ci95), part.verdict]
            for name, part in result.classes.items()
        ]
        table("by class", ["class", result.first, result.second, "difference, 95 %", result.second], rows)
    say(verdict_sentence(result.first, result.second, result))


def verdict_sentence(first: str, second: str, paired: PairedComparison) -> str:
    """Return the verdict in words."""
    low, high = paired.ci95
    verdict = f"cannot tell {second} from {first}"
    if paired.verdict != "cannot tell":
        verdict = f"{second} is {paired.verdict} than {first}"
    return f"{verdict}: {paired.difference:+.4f} (95 % from {low:+.4f} to {high:+.4f})"
