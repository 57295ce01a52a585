"""The space of a search: its keys and values, checked against the schema before the first trial."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from gatemask.config import Experiment, Search, load_experiment, read_experiment, validate_experiment
from gatemask.config.merging import Document
from gatemask.config.search import Range
from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    import optuna

DIGITS = 4  # significant digits of a drawn number: more would not be read
MOST_CORNERS = 128  # combinations of extreme values that are checked beforehand

Values = Mapping[str, JsonValue]  # by dotted key
Param = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """A key of the space.

    Args:
        key: Dotted key, as in `--set`.
        values: Its range or choices.
        place: File and line of the key.
        whole: Whether whole numbers are drawn from the range.
    """

    key: str
    values: Range | list[JsonValue]
    place: str
    whole: bool = False

    @property
    def ends(self) -> list[JsonValue]:
        """All choices, or the two ends of the range."""
        if isinstance(self.values, Range):
            low, high = self.values.low, self.values.high
            return [low, high] if self.whole else [float(low), float(high)]
        return self.values

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if not isinstance(self.values, Range):
            return CategoricalDistribution([_encoded(value) for value in self.values])
        low, high, log, step = self.values.low, self.values.high, self.values.log, self.values.step
        if self.whole:
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        return FloatDistribution(float(low), float(high), log=log, step=step)

    def value(self, param: Param) -> JsonValue:
        """Return the value of a parameter of a trial, as it is written to the trial's YAML."""
        if not isinstance(self.values, Range):
            return next(value for value in self.values if _encoded(value) == param)
        assert isinstance(param, int | float), self.key
        if self.whole:
            return int(param)
        rounded = round(param, DIGITS - 1 - math.floor(math.log10(abs(param)))) if param else 0.0
        return min(max(rounded, float(self.values.low)), float(self.values.high))

    def param(self, value: JsonValue) -> Param:
        """Return the parameter of a value.

        Raises:
            ValueError: The space does not hold the value.
        """
        if not isinstance(self.values, Range):
            if value in self.values:
                return _encoded(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            inside = self.values.low <= value <= self.values.high
            on_a_step = self.values.step is None or math.isclose((value - self.values.low) % self.values.step, 0)
            if inside and on_a_step:
                return int(value) if self.whole else float(value)
        raise ValueError(f"{self.key} is {value}")


def _encoded(value: JsonValue) -> Param:
    """Return a choice as Optuna stores it: sections and lists as JSON."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


class Space:
    """What a search varies.

    Args:
        path: YAML of the searched experiment.
        quick: Whether its `quick:` section applies.
        overrides: `--set` options of the experiment; those of `search` change the search, not the trials.

    Raises:
        GatemaskError: The YAML is invalid or has no section `search`, or a key or value is not valid in it.
    """

    def __init__(self, path: Path, quick: bool = False, overrides: Sequence[str] = ()) -> None:
        self.path, self.quick = path, quick
        self.exp = load_experiment(path, quick=quick, overrides=overrides)
        self.overrides = [option for option in overrides if option.partition("=")[0].strip().split(".")[0] != "search"]
        self.document = read_experiment(path, quick=quick)
        self._with_overrides = self.document.copy()
        self._with_overrides.override(overrides)
        if self.exp.search is None:
            raise GatemaskError(
                "The experiment has no section 'search'.",
                where=path,
                do="Add one, such as search: {trials: 20, space: {schedule.peak: {low: 1.0e-4, high: 1.0e-2, log: "
                "true}}}; docs/how_to/search.md explains it.",
            )
        self.search: Search = self.exp.search
        self._refuse_overridden_keys()
        self.dimensions = [self._dimension(key, values) for key, values in self.search.space.items()]
        self._check_combinations()

    def experiment(self, values: Values, name: str | None = None) -> Experiment:
        """Return the experiment with these values, merged as `--set` merges them.

        Raises:
            GatemaskError: A value is not valid.
        """
        document = self.with_values(self.document, values)
        document.values["name"] = name or self.exp.name
        document.values["search"] = None
        return validate_experiment(document, self.path)

    def with_values(self, document: Document, values: Values) -> Document:
        """Return a document with the values and the `--set` options of the search."""
        changed = document.copy()
        changed.override([*self.overrides, *(f"{key}={_text(value)}" for key, value in values.items())])
        return changed

    @cached_property
    def own_params(self) -> dict[str, Param] | None:
        """The parameters of the experiment as it is; None where its values lie outside the space."""
        try:
            return {dimension.key: dimension.param(self._own_value(dimension.key)) for dimension in self.dimensions}
        except ValueError:
            return None

    def values(self, params: Mapping[str, Param]) -> dict[str, JsonValue]:
        """Return the values of a trial's parameters."""
        return {dimension.key: dimension.value(params[dimension.key]) for dimension in self.dimensions}

    def spec(self) -> dict[str, JsonValue]:
        """Return what decides the trials, but for their number."""
        spec: dict[str, JsonValue] = self.search.model_dump(mode="json", exclude={"trials"})
        return spec

    def _own_value(self, key: str) -> JsonValue:
        written = self._with_overrides.value(key)
        if written is None:
            inner: object = self.exp.model_dump(mode="json")
            for part in key.split("."):
                inner = inner.get(part) if isinstance(inner, dict) else None
            return inner if isinstance(inner, str | int | float | list | dict) else None
        is_loss = key.startswith("loss.") and isinstance(written, dict)  # {weight: 1, gamma: 2}
        return written.get("weight", 1.0) if is_loss and isinstance(written, dict) else written

    def _place(self, key: str) -> str:
        places, full = self._with_overrides.places, ("search", "space", key)
        return next((places[full[:n]] for n in (3, 2, 1) if full[:n] in places), str(self.path))

    def _refuse_overridden_keys(self) -> None:
        for option in self.overrides:
            given = option.partition("=")[0].strip()
            for key in self.search.space:
                if f"{key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{key}."):
                    raise GatemaskError(
                        f"'{key}' is searched, so it cannot be set.",
                        where=f"--set {option}",
                        do=f"Leave it out, or remove '{key}' from search.space ({self._place(key)}).",
                    )

    def _dimension(self, key: str, values: Range | list[JsonValue]) -> Dimension:
        place = self._place(key)
        whole = isinstance(values, Range) and all(float(end).is_integer() for end in (values.low, values.high))
        if isinstance(values, Range) and whole:
            whole = not self._accepts({key: values.low + 0.5})
        dimension = Dimension(key, values, place, whole)
        if whole and isinstance(values, Range) and values.step is not None and not values.step.is_integer():
            raise GatemaskError(f"'{key}' takes whole numbers.", where=place, received=f"step: {values.step}")
        for value in dimension.ends:
            try:
                self.experiment({key: value})
            except GatemaskError as error:
                raise _at(place, error, key, value) from None
        return dimension

    def _accepts(self, values: Values) -> bool:
        try:
            self.experiment(values)
        except GatemaskError:
            return False
        return True

    def _check_combinations(self) -> None:
        """Check combinations of choices and ends of ranges: all of them, or a random part of many."""
        for values in self._corners():
            try:
                self.experiment(values)
            except GatemaskError as error:
                raise GatemaskError(
                    "Values of the search do not go together.",
                    where=self._place(next(iter(values))),
                    received=", ".join(f"{key}={_text(value)}" for key, value in values.items()),
                    expected=error.what,
                    do="Change the ranges, or list whole sections as choices of one key: model: [{...}, {...}].",
                ) from None

    def _corners(self) -> Iterator[dict[str, JsonValue]]:
        keys = [dimension.key for dimension in self.dimensions]
        ends = [dimension.ends for dimension in self.dimensions]
        if math.prod(len(some) for some in ends) <= MOST_CORNERS:
            yield from (dict(zip(keys, corner, strict=True)) for corner in itertools.product(*ends))
            return
        rng = np.random.default_rng(self.search.seed)
        for _ in range(MOST_CORNERS):
            yield {key: some[int(rng.integers(len(some)))] for key, some in zip(keys, ends, strict=True)}


def _text(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _at(place: str, error: GatemaskError, key: str, value: JsonValue) -> GatemaskError:
    """Return an error about a value, with the place of the key in `search.space`."""
    details = error.details
    text = str(details["do"]) if details["do"] else None
    if option := re.match(r"Add --set ([\w.]+)=null", text or ""):
        text = f"Add '{option[1].rsplit('.', 1)[-1]}: null' to the choice: it keeps the experiment's own otherwise."
    return GatemaskError(
        error.what,
        where=f"{place} (search.space)",
        received=details["received"] if details["received"] is not None else f"{key}={_text(value)}",
        expected=details["expected"],
        do=text,
    )
