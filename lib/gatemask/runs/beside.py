"""The current ensemble, whose members are on the other side: gates in front of masks, and masks behind gates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from gatemask.config import Competition, Ensemble, Members
from gatemask.config.ensemble import Gates
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.tuning import Kind
from gatemask.runs.cache import RunCache, SelectedWeights, SplitFacts
from gatemask.runs.facts import Found
from gatemask.runs.scan import signature


class Beside:
    """The ensemble as far as it is trained.

    Args:
        project: Project and competition.
        comp: Competition.
        ensemble: Contents of ensemble.yaml; None if it does not exist or is invalid.
        split: Facts of the fold file.
        found: All experiments.
        cache: Cache of facts.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        ensemble: Ensemble | None,
        split: SplitFacts,
        found: Mapping[str, Found],
        cache: RunCache,
    ) -> None:
        self._project, self._comp, self._given = project, comp, ensemble
        self._split, self._found, self._cache = split, found, cache

    def folds_of(self, name: str) -> tuple[int, ...]:
        """Return the finished folds of an experiment that are folds of the present split."""
        if name not in self._found:
            return ()
        return tuple(
            fold
            for fold, facts in self._found[name].folds.items()
            if facts.finished
            and facts.digests
            and fold in self._split.folds
            and facts.made_from.get("folds") == self._split.sha256
        )

    def is_complete(self, name: str) -> bool:
        """Return whether all folds of an experiment are finished."""
        return bool(self._split.folds) and self.folds_of(name) == self._split.folds

    def others(self, task: Kind) -> tuple[str, ...]:
        """Return the experiments on the other side; empty unless all of them are trained in all folds."""
        return self._gates if task == "mask" else self._masks

    def section(self, task: Kind) -> Members:
        """Return the members of a task, with the weights by which they are averaged."""
        return self.ensemble.gate if task == "gate" else self.ensemble.mask

    @cached_property
    def ensemble(self) -> Ensemble:
        """The ensemble, with weights that were selected in place of 'greedy'; an empty one where there is none."""
        if self._given is None:
            nothing = Members.model_construct(experiments=[], folds="all", weights="equal")
            return Ensemble.model_construct(gate=Gates(), mask=nothing)
        selected = self._selected(self._given)
        changed: dict[str, Members] = {}
        for task, weights in (("gate", selected.gate), ("mask", selected.mask)):
            if weights is not None:
                changed[task] = getattr(self._given, task).model_copy(update={"weights": list(weights)})
        return self._given.model_copy(update=changed)

    @cached_property
    def _gates(self) -> tuple[str, ...]:
        return self._complete(self._given.gate if self._given else None)

    @cached_property
    def _masks(self) -> tuple[str, ...]:
        return self._complete(self._given.mask if self._given else None)

    def _complete(self, section: Members | None) -> tuple[str, ...]:
        names = tuple(section.experiments) if section else ()
        return names if all(map(self.is_complete, names)) else ()

    def _selected(self, ensemble: Ensemble) -> SelectedWeights:
        if "greedy" not in (ensemble.gate.weights, ensemble.mask.weights) or not (self._gates or self._masks):
            return SelectedWeights()
        names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
        members = [self._found[name] for name in names if name in self._found]
        parts = [
            ensemble.model_dump(mode="json"),
            self._split.sha256,
            signature([self._project.tuned / "result.json", self._project.data / "masks.csv"]),
            [member.yaml.signature if member.yaml else None for member in members],
            [[facts.signature for facts in member.folds.values()] for member in members],
            [self._project.overrides, self._comp.model_dump(mode="json")],
        ]
        signed = fingerprint(parts)
        if self._cache.facts.selected.signature != signed:
            self._cache.facts.selected = self._read_selected(ensemble, signed)
            self._cache.changed()
        return self._cache.facts.selected

    def _read_selected(self, ensemble: Ensemble, signed: str) -> SelectedWeights:
        from gatemask.tuning.tune import with_selected_weights

        chosen = with_selected_weights(self._project, self._comp, ensemble)
        gate, mask = (
            tuple(part.weights) if before.weights == "greedy" and isinstance(part.weights, list) else None
            for before, part in ((ensemble.gate, chosen.gate), (ensemble.mask, chosen.mask))
        )
        return SelectedWeights(signature=signed, gate=gate, mask=mask)
