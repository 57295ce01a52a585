"""`gatemask compare`: is the second experiment better than the first, or was it luck with these images?

Both are scored on the out-of-fold predictions of the same images, each by rules of its own that were tuned on the other
folds. Images of one patient resemble each other, and the same image is easy or hard for both: so what is resampled is
whole groups, for both sides at once, and what is looked at is the difference. The trainings themselves are taken as
they are: what another seed would have given, no resampling of images can tell.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from gatemask.config import Competition, Ensemble, Members, load_experiment
from gatemask.console import say, table
from gatemask.data.split import HOLDOUT, read_folds
from gatemask.errors import GatemaskError, nearest
from gatemask.masks.metrics import TITLES, ratio, total
from gatemask.project import Project, experiment_files
from gatemask.tuning import exact, members
from gatemask.tuning.crossfit import CrossFit, cross_fit, resampled
from gatemask.tuning.tune import as_tuned

Scored = tuple[np.ndarray, np.ndarray]  # worth and weight, float (n, classes), see gatemask.masks.metrics
COARSE = range(2, 256, 2)  # levels that rules are searched on: every second costs a fraction of all
SAME = 1e-12  # scores this near differ by rounding alone


def compare(project: Project, comp: Competition, ensemble: Ensemble, first: str, second: str) -> dict[str, Any]:
    """Compare two experiments, or sums of experiments such as `unet_b0+unetpp_b0`, whose predictions are averaged.

    Mask experiments stand behind the ensemble's gates where all of those are trained, else no image is emptied by a
    gate. Gates stand in front of the ensemble's mask experiments. What stands on the other side is averaged by the
    weights that ensemble.yaml lists, or by those that `gatemask oof-tune` selected; by equal ones where neither is.

    Args:
        project: where things lie.
        comp: metric and size.
        ensemble: what stands on the other side of what is compared, and how to search and resample.
        first: names joined by +; any experiment of the competition that has predicted all folds.
        second: the same task as the first.

    Returns:
        What `paired` returns, with the names, the metric, `gate` and `mask` ('compared', or what stood there) and
        `seconds`.

    Raises:
        GatemaskError: an unknown or repeated name, a gate against a mask experiment, a fold without predictions.
    """
    started = time.monotonic()
    task, names = _parse(project, first, second)
    frame = read_folds(project)
    frame = frame[frame["fold"] != HOLDOUT]
    fold_of = {str(i): int(fold) for i, fold in zip(frame["image_id"], frame["fold"], strict=True)}
    group_of = dict(zip(frame["image_id"].astype(str), frame["group"].astype(str), strict=True))
    gated = task == "gate" or _trained(project, ensemble.gate.experiments, set(fold_of.values()))
    ensemble = as_tuned(project, comp, ensemble) if gated else ensemble
    sides = [_side(ensemble, task, part, gated) for part in names]
    for side in sides:  # all that can be missing is said before the first map is read
        members.predictions(project, side)
    fits = [_fit(project, comp, side, fold_of) for side in sides]
    groups = np.array([group_of[i] for i in sorted(fold_of)])
    scored = [(fit.worth, fit.weight) for fit in fits]
    return {
        "first": first,
        "second": second,
        "metric": comp.metric,
        **paired(scored[0], scored[1], groups, ensemble.tune.bootstrap, ensemble.tune.seed),
        "gate": "compared" if task == "gate" else "+".join(sides[0].gate.experiments) or "none",
        "mask": "compared" if task == "mask" else "+".join(sides[0].mask.experiments),
        "seconds": round(time.monotonic() - started, 2),
    }


def paired(first: Scored, second: Scored, groups: np.ndarray, times: int, seed: int) -> dict[str, Any]:
    """How much better the second is, and whether another draw of groups could have said otherwise.

    The interval is the middle 95 % of the difference over bootstrap resamples of groups, the same ones for both sides
    (the percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap, 1993). It alone decides.
    Beside it stands the signed-rank test of Wilcoxon (Biometrics Bulletin 1, 1945) on the score of each image, its
    mean over classes. It takes images for independent, so where groups are large its p is too small. Images on which
    both score the same are left out, as Wilcoxon did: most are rightly empty on both sides and tell nothing. Ranked
    along with the others (Pratt's way) they would lift all other ranks to nearly the same height, and the size of a
    difference would hardly count.

    Args:
        first: worth and weight, float (n, classes) each, see gatemask.masks.metrics.
        second: of the same images in the same order.
        groups: (n,) text: images that are drawn together, such as a patient's.
        times: resamples.
        seed: of the draws.

    Returns:
        first_score, second_score, difference (second minus first), ci95 of it, wilcoxon_p (two-sided); better, worse
        and equal (images on which the second is), images, groups; verdict: 'better', 'worse' or 'cannot tell'.
    """
    drawn = resampled(*second, groups, times, seed) - resampled(*first, groups, times, seed)
    low, high = (float(edge) for edge in np.quantile(drawn, [0.025, 0.975]))
    apart = ratio(*second).mean(axis=1) - ratio(*first).mean(axis=1)
    apart[np.abs(apart) <= SAME] = 0.0
    first_score, second_score = total(*first), total(*second)
    return {
        "first_score": first_score,
        "second_score": second_score,
        "difference": second_score - first_score,
        "ci95": (low, high),
        "wilcoxon_p": _wilcoxon(apart),
        "better": int((apart > 0).sum()),
        "worse": int((apart < 0).sum()),
        "equal": int((apart == 0).sum()),
        "images": len(apart),
        "groups": len(np.unique(groups)),
        "verdict": "better" if low > SAME else "worse" if high < -SAME else "cannot tell",
    }


def _wilcoxon(apart: np.ndarray) -> float:
    """Two-sided p of differences (n,); 1 where all are zero, which the test itself does not take."""
    if not apart.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(apart, zero_method="wilcox").pvalue)


def _parse(project: Project, first: str, second: str) -> tuple[str, list[list[str]]]:
    """The task that both sides share, and the experiments of each."""
    names = [[name.strip() for name in text.split("+")] for text in (first, second)]
    known = {path.rsplit("/", 1)[1].removesuffix(".yaml") for path in _files(project)}
    for name in (name for part in names for name in part):
        if name not in known:
            close = nearest(name, known)
            raise GatemaskError(
                f"There is no experiment '{name}'.",
                where=project.experiments,
                received=f"{first} and {second}",
                expected=", ".join(sorted(known)),
                do=f"Did you mean '{close}'?" if close else "Join several by +, without spaces.",
            )
    if any(len(set(part)) < len(part) for part in names) or set(names[0]) == set(names[1]):
        raise GatemaskError(
            "An experiment cannot be compared with itself, nor count twice in a sum.",
            where=project.experiments,
            received=f"{first} and {second}",
            expected="two different experiments or sums",
            do="Name each once; to weigh experiments, see mask.weights in ensemble.yaml.",
        )
    tasks = {name: _task(project, name) for part in names for name in part}
    if len(set(tasks.values())) > 1:
        raise GatemaskError(
            "Gates can be compared with gates, and masks with masks.",
            where=project.experiments,
            received=", ".join(f"{name} ({task})" for name, task in tasks.items()),
            expected="experiments of one task",
            do="Compare masks behind the ensemble's gate, and gates in front of its masks, one after the other.",
        )
    return next(iter(tasks.values())), names


def _files(project: Project) -> list[str]:
    return [path for path in experiment_files(project.root) if path.split("/")[-2] == project.comp]


def _task(project: Project, name: str) -> str:
    return load_experiment(project.experiments / f"{name}.yaml", quick=project.quick).task


def _trained(project: Project, names: list[str], folds: set[int]) -> bool:
    return all((project.fold(name, fold) / "result.json").exists() for name in names for fold in folds)


def _side(ensemble: Ensemble, task: str, names: list[str], gated: bool) -> Ensemble:
    """The ensemble with the experiments of one side in place of its own; without gates there are none of those."""
    changed = {task: Members(experiments=names)}
    if task == "gate" and ensemble.mask.weights == "tuned":  # for another gate they would be others
        changed["mask"] = ensemble.mask.model_copy(update={"weights": "equal"})
    if not gated:
        changed["gate"] = Members.model_construct(experiments=[], folds="all", weights="equal")
    return ensemble.model_copy(update=changed)


def _fit(project: Project, comp: Competition, side: Ensemble, fold_of: Mapping[str, int]) -> CrossFit:
    gates, names = side.gate.experiments, side.mask.experiments
    tables = members.build_tables(project, comp, side, fold_of)
    variant = side.tune.rule.model_copy(update={} if gates else {"gate": False})
    label = "+".join([*gates, *names])
    return cross_fit(tables, comp.metric, lambda some: exact.search(some, comp.metric, variant, COARSE)[0], label)


def show(result: dict[str, Any]) -> None:
    """Both scores and one sentence."""
    title = f"{TITLES[result['metric']]} of {result['images']} images in {result['groups']} groups, cross-fitted"
    if result["mask"] == "compared":
        title += ", without a gate" if result["gate"] == "none" else f", behind {result['gate']}"
    else:
        title += f", in front of {result['mask']}"
    rows = [[result[side], result[f"{side}_score"]] for side in ("first", "second")]
    table(title, ["", "score"], rows)
    counts = f"{result['better']} images better, {result['worse']} worse, {result['equal']} equal"
    say(f"{counts}; Wilcoxon's p {result['wilcoxon_p']:.2g}")
    say(sentence(result))


def sentence(result: dict[str, Any]) -> str:
    """What came out, in words."""
    first, second, verdict = result["first"], result["second"], result["verdict"]
    low, high = result["ci95"]
    said = f"cannot tell {second} from {first}" if verdict == "cannot tell" else f"{second} is {verdict} than {first}"
    return f"{said}: {result['difference']:+.4f} (95 % from {low:+.4f} to {high:+.4f})"
