"""What each experiment adds to the current ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gatemask.config import Competition, Ensemble, Members
from gatemask.console import progress, say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.runs import Gain
from gatemask.results.tuning import Kind
from gatemask.runs.beside import Beside
from gatemask.runs.cache import RunCache
from gatemask.runs.facts import Found
from gatemask.runs.scores import Scorer, difference_of

Sides = tuple[Ensemble, Ensemble]  # without and with an experiment


class Gains:
    """Scores the ensemble with and without each experiment, both cross-fitted on all folds.

    An experiment that joins gets the mean weight of the members. For a member, the ensemble is scored without it.

    Args:
        project: Project whose runs hold the predictions.
        comp: Metric and image size.
        beside: The ensemble.
        scorer: Knows which folds are finished.
        found: All experiments.
        cache: Cache of gains.
    """

    def __init__(
        self,
        project: Project,
        comp: Competition,
        beside: Beside,
        scorer: Scorer,
        found: Mapping[str, Found],
        cache: RunCache,
    ) -> None:
        self._project, self._comp, self._beside, self._scorer = project, comp, beside, scorer
        self._found, self._cache = found, cache

    def known(self, name: str) -> Gain | None:
        """Return the gain of an experiment, if it has been computed."""
        if not self._cache.facts.gains or (sides := self._sides(name)) is None:
            return None
        return self._cache.facts.gains.get(self._key(sides))

    def compute_all(self, names: Iterable[str]) -> None:
        """Compute the gains that are not known, with a progress bar."""
        sides = {name: pair for name in names if (pair := self._sides(name)) is not None}
        missing = [name for name, pair in sides.items() if self._key(pair) not in self._cache.facts.gains]
        if not missing:
            return
        from gatemask.runs.computing import Computing

        computing = Computing(self._project, self._comp, self._beside, self._found, self._cache)
        for name in progress(missing, "joining the ensemble"):
            try:
                values = []
                for side in sides[name]:
                    key = f"joined-{fingerprint(self._part_key(side))}"
                    resamples = self._cache.resamples(key)
                    if resamples is None:
                        resamples = computing.joined(side)
                        self._cache.keep_resamples(key, resamples)
                    values.append(resamples)
                difference = difference_of(*values)
                gain = Gain(value=difference.difference, ci95=difference.ci95)
                self._cache.facts.gains[self._key(sides[name])] = gain
                self._cache.changed()
            except GatemaskError as error:
                say(f"{name} cannot join the ensemble: {error.short()}")

    def _sides(self, name: str) -> Sides | None:
        """Return the ensemble without and with an experiment; None where one of them cannot be scored."""
        task: Kind = self._scorer.task(name)
        section, ensemble = self._beside.section(task), self._beside.ensemble
        others = self._beside.others(task)
        needs_others = task == "gate" or bool(ensemble.gate.experiments)
        members = [member for member in section.experiments if member != name]
        if not members or (needs_others and not others) or not all(map(self._beside.is_complete, [name, *members])):
            return None
        listed = section.weights if isinstance(section.weights, list) else [1.0] * len(section.experiments)
        weights = dict(zip(section.experiments, listed, strict=True))
        positive = [weight for weight in listed if weight > 0]
        own = weights.pop(name, sum(positive) / len(positive))
        if not any(weights.values()) or not own:
            return None
        with_it = {**weights, name: own}
        return self._side(task, weights), self._side(task, with_it)

    def _side(self, task: Kind, weights: Mapping[str, float]) -> Ensemble:
        section = Members(experiments=list(weights), weights=list(weights.values()))
        ensemble = self._beside.ensemble
        changed: dict[str, Members] = {task: section}
        if task == "gate" and ensemble.mask.weights == "tuned":
            changed["mask"] = ensemble.mask.model_copy(update={"weights": "equal"})
        return ensemble.model_copy(update=changed)

    def _key(self, sides: Sides) -> str:
        return fingerprint([self._part_key(side) for side in sides])

    def _part_key(self, side: Ensemble) -> list[object]:
        parts = [
            [
                part.weights,
                [[name, self._scorer.digests(name, self._beside.folds_of(name))] for name in part.experiments],
            ]
            for part in (side.gate, side.mask)
        ]
        return [self._scorer.context, parts]
