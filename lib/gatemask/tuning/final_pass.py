"""Score rules on masks at full size, made by the function that inference uses: the score of what tables cannot count.

Tables count each class by itself, pixel by pixel. So they know neither what exclusive classes take from each other, nor
objects, nor distances between outlines, nor a metric of the user's own. Here each image is decided by the rules that
were tuned without its fold, and the competition's metric is computed from the masks. One pass over the maps scores any
number of rules; memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gatemask.config import Competition
from gatemask.masks.mask_metrics import MaskMetric, Worth, scorer
from gatemask.masks.metrics import METRICS, Worths, ratio, total
from gatemask.masks.rule import Rule, decide, decide_objects, gate_scores
from gatemask.oof.full_maps import FullImage, map_images
from gatemask.tuning.candidates import Candidate
from gatemask.tuning.crossfit import CrossFit
from gatemask.tuning.members import GateValue, MemberPredictions

Rules = Sequence[Rule]  # one per class
Weights = tuple[Sequence[float], Sequence[float]]  # of the masks' readers, and of the gates


@dataclass(frozen=True)
class MaskScoring:
    """How the masks of a competition are made and scored.

    Args:
        metric: Function of truth and prediction.
        numbered: Whether it takes numbered objects instead of masks.
        exclusive: Whether a pixel belongs to at most one class.
        objects: Whether masks consist of objects.
    """

    metric: MaskMetric
    numbered: bool
    exclusive: bool
    objects: bool

    @classmethod
    def of(cls, comp: Competition, folder: Path | None = None) -> MaskScoring:
        """Return the scoring of a competition.

        Args:
            comp: Metric, classes and objects.
            folder: Folder of competition.yaml, where a metric of the user's own may be.

        Raises:
            GatemaskError: The metric cannot be loaded.
        """
        loaded = scorer(comp, folder)
        return cls(loaded.metric, loaded.objects, comp.exclusive, comp.objects is not None)

    def score_image(self, image: FullImage, truth: Sequence[np.ndarray], rules: Rules, gate: GateValue) -> list[Worth]:
        """Return the worth of each class of one image.

        Args:
            image: Averaged map at the scoring size, and what is ignored.
            truth: Truth of each class as `truth_of` returns it.
            rules: One rule per class.
            gate: Gate probability, or its quantile, one for all classes or float (classes,).
        """
        made = (decide_objects if self.objects else decide)(rules, gate, image.full_map, self.exclusive)
        if self.objects and not self.numbered:
            made = made > 0
        if image.ignored is not None:
            made[image.ignored] = 0
        return [self.metric(true, np.ascontiguousarray(made[:, :, index])) for index, true in enumerate(truth)]

    def truth_of(self, image: FullImage, predictions: MemberPredictions) -> list[np.ndarray]:
        """Return the truth of each class as the metric takes it: bool or int32 (height, width)."""
        classes = range(image.truth.shape[2])
        if self.numbered:
            truth = [predictions.truth.objects(image.image_id, index) for index in classes]
        else:
            truth = [np.ascontiguousarray(image.truth[:, :, index]) for index in classes]
        if image.ignored is None:
            return truth
        return [np.where(image.ignored, np.zeros((), plane.dtype), plane) for plane in truth]


def scored_on_masks(comp: Competition) -> bool:
    """Return whether the score of a competition is that of masks at full size, not of counted pixels."""
    return searched_on_masks(comp) or (comp.exclusive and len(comp.classes) > 1)


def searched_on_masks(comp: Competition) -> bool:
    """Return whether only whole masks tell a good rule from a bad one, not counted pixels."""
    return comp.objects is not None or comp.metric not in METRICS


def score_on_masks(
    predictions: MemberPredictions,
    weights: Sequence[float],
    scoring: MaskScoring,
    ways: Sequence[Mapping[int, Rules]],
    label: str = "final pass",
    together: int = 0,
) -> list[Worths]:
    """Score rules by fold on the masks that they make.

    Where a gate is a share of images, it is that of the images of each fold.

    Args:
        predictions: Images to score, their gates and maps.
        weights: Weights of the masks' readers.
        scoring: How masks are made and scored.
        ways: Rules by fold of the image, any number of times.
        label: Title of the progress bar.
        together: Number of ways, from the first on, whose shares are those of all images. Default: 0.

    Returns:
        Worth and weight for each of `ways`, float (n, classes), images in ascending order of their ids.
    """

    ids = sorted(predictions.fold_of)
    gates = [_gates(predictions, ids, way, index >= together) for index, way in enumerate(ways)]

    def work(image: FullImage) -> list[list[Worth]]:
        truth, fold = scoring.truth_of(image, predictions), predictions.fold_of[image.image_id]
        scored: dict[tuple[object, ...], list[Worth]] = {}  # ways often agree
        found = []
        for way, gate_of in zip(ways, gates, strict=True):
            gate = gate_of[image.image_id]
            key = (*way[fold], *gate)
            if key not in scored:
                scored[key] = scoring.score_image(image, truth, way[fold], np.array(gate))
            found.append(scored[key])
        return found

    used = [index for index, weight in enumerate(weights) if weight > 0]
    readers, shares = [predictions.readers[index] for index in used], [weights[index] for index in used]
    scored = np.array(
        list(map_images(ids, readers, predictions.truth, label, shares, work, predictions.frame)), float
    )  # (n, ways, classes, 2)
    return [(scored[:, way, :, 0], scored[:, way, :, 1]) for way in range(len(ways))]


def _gates(
    predictions: MemberPredictions, ids: Sequence[str], way: Mapping[int, Rules], by_fold: bool
) -> dict[str, tuple[float, ...]]:
    """Return what the rules of a way compare with their gates, by image id, for each class."""
    folds = np.array([predictions.fold_of[image_id] for image_id in ids])
    classes = len(next(iter(way.values())))
    values = np.stack([np.broadcast_to(predictions.gate[image_id], classes) for image_id in ids])
    names, scores = np.array(ids), values.astype(float)
    for fold in np.unique(folds).tolist():
        part = folds == fold
        among = part if by_fold else np.ones(len(ids), bool)
        scores[part] = gate_scores(way[fold], values[among], names[among])[part[among]]
    return dict(zip(ids, map(tuple, scores.tolist()), strict=True))


def rescore(
    candidates: Mapping[str, Candidate],
    predictions: MemberPredictions,
    scoring: MaskScoring,
    shipped: Weights,
    by_fold: Mapping[int, Weights],
) -> dict[str, Candidate]:
    """Return candidates with the scores of their masks: each fold by its own rules, and all images by the final ones.

    Args:
        candidates: Candidates by name.
        predictions: All images.
        scoring: How masks are made and scored.
        shipped: Weights of masks and gates that are shipped.
        by_fold: Weights that all folds but one chose, by that fold; empty where weights were given.
    """
    names, folds = list(candidates), sorted(set(predictions.fold_of.values()))
    fold_rules = [dict(candidates[name].fit.rules) for name in names]
    final_rules = [dict.fromkeys(folds, candidates[name].rules) for name in names]
    final = score_on_masks(
        predictions.gated(shipped[1]), shipped[0], scoring, [*final_rules, *fold_rules], together=len(names)
    )
    held_out = [(worth.copy(), weight.copy()) for worth, weight in final[len(names) :]]
    ids = sorted(predictions.fold_of)
    fold = np.array([predictions.fold_of[image_id] for image_id in ids])
    for number, (masks, gates) in by_fold.items():
        part = replace(predictions.gated(gates), fold_of={i: f for i, f in predictions.fold_of.items() if f == number})
        for (worth, weight), (new_worth, new_weight) in zip(
            held_out, score_on_masks(part, masks, scoring, fold_rules), strict=True
        ):
            worth[fold == number], weight[fold == number] = new_worth, new_weight
    return {name: _rescored(candidates[name], final[index], held_out[index], fold) for index, name in enumerate(names)}


def _rescored(candidate: Candidate, final: Worths, held_out: Worths, fold: np.ndarray) -> Candidate:
    worth, weight = held_out
    by_fold = {number: total(worth[fold == number], weight[fold == number]) for number in candidate.fit.rules}
    fit = CrossFit(candidate.fit.rules, worth, weight, by_fold)
    by_class = ratio(final[0].sum(axis=0), final[1].sum(axis=0)).tolist()
    return Candidate(candidate.rules, total(*final), fit, by_class)
