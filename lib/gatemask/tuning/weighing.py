"""Choose the weights of the members: given, searched, or selected greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gatemask.config import Competition, Ensemble
from gatemask.cost.kernel_time import KernelEstimate, estimate_kernel
from gatemask.masks.metrics import guide
from gatemask.project import Project
from gatemask.results.tuning import Selections, Weighing
from gatemask.tuning.candidates import TuningImages
from gatemask.tuning.member_selection import select_gates, select_masks
from gatemask.tuning.members import count_tables, given_weights
from gatemask.tuning.weight_search import search_weights
from gatemask.tuning.weighted_tables import WeightedTables, with_gates


@dataclass(frozen=True)
class MemberWeights:
    """Weights of all members, and how they were chosen.

    Args:
        weights: Weights of the mask members' views.
        views: Number of views that are weighed apart, for each mask experiment.
        weighing: How `weights` were searched, where they were.
        gate_weights: Weight of each gate experiment.
        selection: Greedy selections.
    """

    weights: list[float]
    views: list[int]
    weighing: Weighing | None
    gate_weights: list[float]
    selection: Selections

    def by_held_out_fold(self) -> dict[int, tuple[list[float], list[float]]]:
        """Return the weights of masks and gates that all folds but one chose, by that fold; empty for given weights."""
        masks, gates = self._chosen_masks(), {}
        if self.selection.gate:
            gates = self.selection.gate.per_fold
        return {
            int(fold): (masks.get(fold, self.weights), gates.get(fold, self.gate_weights)) for fold in masks or gates
        }

    def _chosen_masks(self) -> dict[str, list[float]]:
        if self.selection.mask:
            return self.selection.mask.per_fold
        if self.weighing and self.weighing.taken:
            return {fold: choice.weights for fold, choice in self.weighing.per_fold.items()}
        return {}


def weigh_members(project: Project, comp: Competition, ensemble: Ensemble, weighted: WeightedTables) -> MemberWeights:
    """Choose the weights of all members as ensemble.yaml asks.

    Masks are chosen first, behind the gates as given; then the gates, in front of the chosen masks.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric.
        ensemble: Experiments, and how their weights are chosen.
        weighted: Threshold tables by weighting.
    """
    gate, mask = ensemble.gate, ensemble.mask
    members = MemberWeights(
        weights=given_weights(mask),
        views=list(weighted.predictions.views),
        weighing=None,
        gate_weights=given_weights(gate),
        selection=Selections(mask=None, gate=None),
    )
    if mask.weights == "tuned":
        members = _searched(comp, ensemble, weighted, members)
    if "greedy" in (gate.weights, mask.weights):
        costs = estimate_kernel(project, comp, ensemble)
        if mask.weights == "greedy":
            members = _with_selected_masks(comp, ensemble, weighted, members, costs)
        if gate.weights == "greedy" and gate.experiments:
            members = _with_selected_gates(comp, ensemble, weighted, members, costs)
    return members


def count_for_tuning(
    weighted: WeightedTables, weights: list[float], gate_weights: list[float], levels: Sequence[int]
) -> TuningImages:
    """Count the images as these weights average them.

    Args:
        weighted: Threshold tables by weighting.
        weights: Weights of the mask members' views.
        gate_weights: Weight of each gate experiment.
        levels: Lower thresholds at which components are listed; empty for none.
    """
    predictions = weighted.predictions.gated(gate_weights)
    cached = weighted.cached(weights)
    tables = count_tables(predictions, weights) if cached is None else with_gates(cached, predictions.gate.__getitem__)
    if not levels:
        return TuningImages(tables)
    from gatemask.oof.components import count_components

    components = count_components(
        predictions.fold_of,
        predictions.readers,
        predictions.truth,
        "components",
        tables,
        levels,
        weights,
        predictions.frame,
    )
    return TuningImages(tables, components)


def count_for_held_out_folds(
    weighted: WeightedTables, members: MemberWeights, images: TuningImages, levels: Sequence[int]
) -> dict[int, TuningImages] | None:
    """Count the images as the weights chosen by the other folds average them, by held-out fold.

    Otherwise each fold would have influenced the weights that the headline score uses.

    Returns:
        Images by held-out fold; None where the weights were given.
    """
    counted = [(members.weights, images)]
    by_fold = {}
    for fold, (weights, gate_weights) in members.by_held_out_fold().items():
        same = next((shared for other, shared in counted if other == weights), None)
        if same is None:
            same = count_for_tuning(weighted, weights, members.gate_weights, levels)
            counted.append((weights, same))
        by_fold[fold] = same.behind(weighted.predictions.gated(gate_weights).gate)
    return by_fold or None


def _searched(comp: Competition, ensemble: Ensemble, weighted: WeightedTables, members: MemberWeights) -> MemberWeights:
    tune = ensemble.tune
    equal = [1 / views for views in members.views for _ in range(views)]
    weights, weighing = search_weights(weighted, guide(comp.metric), tune.rule, tune.weightings, tune.seed, equal)
    return replace(members, weights=weights, weighing=weighing)


def _with_selected_masks(
    comp: Competition, ensemble: Ensemble, weighted: WeightedTables, members: MemberWeights, costs: KernelEstimate
) -> MemberWeights:
    gate, mask = ensemble.gate, ensemble.mask
    gates = _with_weight(gate.experiments, members.gate_weights)
    if gate.weights == "greedy" and gates:  # at least one will be shipped: its time is reserved, that of the cheapest
        gates = [min(gate.experiments, key=lambda name: costs.gate.seconds[name])]
    selection = select_masks(weighted, guide(comp.metric), ensemble.tune, costs, mask.experiments, gates)
    return replace(
        members, weights=selection.weights, selection=members.selection.model_copy(update={"mask": selection})
    )


def _with_selected_gates(
    comp: Competition, ensemble: Ensemble, weighted: WeightedTables, members: MemberWeights, costs: KernelEstimate
) -> MemberWeights:
    by_view = [name for name, views in zip(ensemble.mask.experiments, members.views, strict=True) for _ in range(views)]
    masks = _with_weight(by_view, members.weights)
    of_others = {fold: weights for fold, (weights, _) in members.by_held_out_fold().items()}
    selection = select_gates(
        weighted.predictions,
        weighted,
        guide(comp.metric),
        ensemble.tune,
        costs,
        ensemble.gate.experiments,
        masks,
        members.weights,
        of_others,
    )
    return replace(
        members, gate_weights=selection.weights, selection=members.selection.model_copy(update={"gate": selection})
    )


def _with_weight(names: Sequence[str], weights: Sequence[float]) -> list[str]:
    return list(dict.fromkeys(name for name, weight in zip(names, weights, strict=True) if weight))
