"""Search rules for metrics that only whole masks decide, such as those of objects or outlines.

A gate, an upper threshold and a minimum area only empty images; what is left of a rule says how a mask is made: the
lower threshold and, for objects, their split and minimum size. A few dozen of these ways are tried on a sample of the
images, once: the worth of each image made each way is a table, from which the exact sweep finds the best way with the
best of all gate cuts, upper thresholds and area cuts. The ways do not depend on any score, so the rules of all folds
are found in the same table, each without its own fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition, Tune, Variant
from gatemask.masks.metrics import ratio
from gatemask.masks.rule import LEVELS, Rule, probability
from gatemask.oof.full_maps import FullImage, map_images
from gatemask.oof.tables import Tables
from gatemask.results.tuning import EVERYTHING_PASSES, SEARCHED
from gatemask.tuning import exact
from gatemask.tuning.candidates import Candidate
from gatemask.tuning.crossfit import CrossFit
from gatemask.tuning.final_pass import MaskScoring
from gatemask.tuning.members import MemberPredictions
from gatemask.tuning.weight_search import sobol_points

PIXELS = 2**24  # of all images of the sample together
LEAST, MOST = 16, 400  # images of the sample
LEVEL_STEP = 12  # between the lower thresholds that are tried
WAYS, FEWEST = 48, 12  # points of the sequence; images of 10,000 pixels' side are tried in the fewest ways
UPPERS = range(4, LEVELS, 4)
SAME = 1e-12


class Way(NamedTuple):
    """A way to make a mask of a map.

    Args:
        lower: Lower threshold, as a level.
        min_component: Pixels of the smallest component, or object, that is kept.
        split: Level of the seeds of a watershed; 0 for none.
    """

    lower: int
    min_component: int = 0
    split: int = 0

    def rule(self, gate: float = 0.0, upper: int = 0, min_area: int = 0) -> Rule:
        """Return the rule that makes masks this way."""
        upper = max(upper, self.lower)
        split = probability(self.split) if self.split else 0.0
        return Rule(gate, probability(upper), probability(self.lower), min_area, self.min_component, split=split)


@dataclass(frozen=True)
class MaskTables:
    """Worths of the images of a sample, made each way; rows as in `tables`.

    Args:
        tables: Threshold tables of the sample.
        ways: Ways to make masks.
        worth: Worth of each image made each way, float (ways, n, classes).
        weight: Weight of the same.
        empty_worth: Worth of an empty mask, float (n, classes).
        empty_weight: Weight of the same.
    """

    tables: Tables
    ways: Sequence[Way]
    worth: np.ndarray
    weight: np.ndarray
    empty_worth: np.ndarray
    empty_weight: np.ndarray

    def search(self, images: np.ndarray, variant: Variant) -> list[Rule]:
        """Return the best rule of each class on some images.

        Args:
            images: bool (n,).
            variant: Numbers of the rule to search.
        """
        return [self._search_class(images, index, variant) for index in range(self.tables.classes)]

    def _search_class(self, images: np.ndarray, index: int, variant: Variant) -> Rule:
        """Maximize worth over weight by Dinkelbach's iteration; constant weights need one round."""
        tables = self.tables.of_class(index).subset(images)
        worth, weight = self.worth[:, images, index], self.weight[:, images, index]
        empty = self.empty_worth[images, index], self.empty_weight[images, index]
        lowers = np.array([way.lower for way in self.ways])
        reached = float(ratio(empty[0].sum(), empty[1].sum()))
        best = Rule(float(bool(variant.gate)), 1.0, 1.0, 2**31 - 1)  # leaves everything empty
        while True:
            gains = (worth - reached * weight) - (empty[0] - reached * empty[1])
            sweep = exact.sweep_input(gains, lowers, tables, variant)
            corner = exact.best_corner(sweep, variant, _uppers(self.ways), range(len(self.ways)))
            if corner.way is None:
                return best
            rule = self.ways[corner.way].rule(corner.gate, corner.upper, corner.min_area)
            kept = tables.kept(rule)[:, 0]
            made = worth[corner.way], weight[corner.way]
            sums = [np.where(kept, full, none).sum() for full, none in zip(made, empty, strict=True)]
            value = float(ratio(*sums))
            if value <= reached + SAME:
                return rule if value >= reached - SAME else best
            best, reached = rule, value


def _uppers(ways: Sequence[Way]) -> list[int]:
    return sorted({*UPPERS, *(way.lower for way in ways)})


@dataclass(frozen=True)
class SearchSetup:
    """What is searched, and how masks are scored.

    Args:
        comp: Competition.
        tune: Settings of the search.
        scoring: How masks are made and scored.
        weights: Weights of the masks' readers.
    """

    comp: Competition
    tune: Tune
    scoring: MaskScoring
    weights: Sequence[float]


def tabulate_masks(predictions: MemberPredictions, tables: Tables, setup: SearchSetup) -> MaskTables:
    """Score a sample of the images, made in every way that is tried.

    Args:
        predictions: All images.
        tables: Threshold tables of all images.
        setup: What is searched.
    """
    chosen = sample(tables, predictions, setup.tune.seed)
    ways = ways_to_try(setup.comp, setup.tune, int(chosen.sum()) * _pixels(tables, predictions))
    single = replace(setup.scoring, exclusive=False)  # each class by itself
    ids = tables.ids[chosen].tolist()
    nothing = Rule(0.0, 1.0, 1.0, 2**31 - 1)

    def work(image: FullImage) -> list[list[tuple[float, float]]]:
        truth = single.truth_of(image, predictions)
        classes = len(truth)
        rules = [nothing, *(way.rule() for way in ways)]
        return [list(single.score_image(image, truth, [rule] * classes, 1.0)) for rule in rules]

    scored = np.array(
        list(map_images(ids, predictions.readers, predictions.truth, "rules", setup.weights, work, predictions.frame)),
        float,
    )  # (n, 1 + ways, classes, 2)
    made = np.moveaxis(scored[:, 1:], 1, 0)
    return MaskTables(tables.subset(chosen), ways, made[..., 0], made[..., 1], scored[:, 0, :, 0], scored[:, 0, :, 1])


def tabulate_held_out(
    table: MaskTables,
    predictions: MemberPredictions,
    weights: Mapping[int, Sequence[float]],
    tables: Mapping[int, Tables],
    setup: SearchSetup,
) -> dict[int, MaskTables]:
    """Score the sample as the weights that the other folds chose average it, by held-out fold.

    Args:
        table: The sample as the shipped weights average it.
        predictions: All images.
        weights: Weights of the masks' readers that all folds but one chose, by that fold; empty where they were given.
        tables: Threshold tables of all images under these weights, by fold.
        setup: What is searched.
    """
    done = [(list(setup.weights), table)]
    by_fold = {}
    for fold, chosen in weights.items():
        same = next((shared for other, shared in done if other == list(chosen)), None)
        if same is None:
            same = tabulate_masks(predictions, tables[fold], replace(setup, weights=chosen))
            done.append((list(chosen), same))
        in_sample = np.isin(tables[fold].ids, same.tables.ids)
        by_fold[fold] = replace(same, tables=tables[fold].subset(in_sample))  # behind the gates of these folds
    return by_fold


def find_on_masks(table: MaskTables, others: Mapping[int, MaskTables], tune: Tune) -> dict[str, Candidate]:
    """Find rules on masks, with and without a gate. Their scores are those of a final pass, and still 0 here.

    Args:
        table: Worths of a sample of the images.
        others: The same as the other folds' weights average them, by held-out fold; empty where weights were given.
        tune: Settings of the search.
    """
    gateless = tune.rule.model_copy(update={"gate": False})
    return {SEARCHED: _found(table, others, tune.rule), EVERYTHING_PASSES: _found(table, others, gateless)}


def _found(table: MaskTables, others: Mapping[int, MaskTables], variant: Variant) -> Candidate:
    folds = np.unique(table.tables.folds).tolist()
    rules: dict[int, Sequence[Rule]] = {
        fold: others.get(fold, table).search(table.tables.folds != fold, variant) for fold in folds
    }
    zeros = np.zeros((len(table.tables), table.tables.classes))
    return Candidate(table.search(np.ones(len(zeros), bool), variant), 0.0, CrossFit(rules, zeros, zeros, {}))


def sample(tables: Tables, predictions: MemberPredictions, seed: int) -> np.ndarray:
    """Return which images are searched on, bool (n,): all if they are few and small, otherwise equally many per fold.

    Half of them have a mask, where there are enough.
    """
    count = min(MOST, max(LEAST, PIXELS // _pixels(tables, predictions)))
    chosen = np.zeros(len(tables), bool)
    if len(tables) <= count:
        return ~chosen
    rng = np.random.default_rng(seed)
    positive: np.ndarray = np.any(tables.truth > 0, axis=1)
    folds = np.unique(tables.folds)
    for fold in folds.tolist():
        order = rng.permutation(np.flatnonzero(tables.folds == fold))
        masked, empty = order[positive[order]], order[~positive[order]]
        part = -(-count // len(folds))
        half = max(part // 2, part - len(empty))
        chosen[masked[:half]] = True
        chosen[empty[: part - min(half, len(masked))]] = True
    return chosen


def _pixels(tables: Tables, predictions: MemberPredictions) -> int:
    """Return the number of pixels of an image, taken from the first one."""
    height, width = predictions.truth[str(tables.ids[0])].shape[:2]
    return int(height * width)


def ways_to_try(comp: Competition, tune: Tune, pixels: int = PIXELS) -> list[Way]:
    """Return the ways to make masks that are tried, whatever the scores.

    Lower thresholds alone are evenly spread. Where components have a minimum size or objects are split, points of a
    scrambled Sobol sequence follow, with sizes spread over powers of two.

    Args:
        comp: Competition, for objects.
        tune: Settings of the search.
        pixels: Pixels of all images of the sample; where these are many, fewer ways are tried.
    """
    affordable = max(FEWEST, WAYS * 8 * PIXELS // max(1, pixels))
    lowers = range(LEVEL_STEP, LEVELS, LEVEL_STEP * (1 if affordable >= WAYS else 2))
    splits = comp.objects is not None and comp.objects.touching == "watershed"
    if comp.objects is None and not tune.rule.components:
        return [Way(lower) for lower in lowers]
    ways = [Way(lower) for lower in lowers[::3]]
    largest = np.log2(max(4, comp.records.shape[0] * comp.records.shape[1] / 64))
    for lower_share, size_share, split_share in sobol_points(3, min(WAYS, tune.trials, affordable), tune.seed).tolist():
        lower = round(8 + lower_share * (LEVELS - 24))
        split = round(lower + 2 * (split_share - 0.5) * (LEVELS - 4 - lower)) if splits and split_share > 0.5 else 0
        ways.append(Way(lower, round(2 ** (size_share * largest)) - 1, split))
    return list(dict.fromkeys(ways))
