"""Section `search:` of an experiment: the keys that `gatemask search` varies, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from gatemask.config.base import Count, Natural, Positive, Seed, Share, Strict

# Keys that name files and processes, or without which the scores of two trials could not be compared.
NOT_SEARCHED = ("extends", "hours", "monitor", "name", "quick", "runtime", "search", "task", "tracking")


class Range(Strict):
    """Numbers from `low` to `high`. A key that takes whole numbers gets whole numbers."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="draw the logarithm evenly, as fits a learning rate")
    step: Positive | None = Field(None, description="draw only low, low + step, low + 2 step ...")

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low, {self.low}, must be below high, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, not at {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a range has either log or step, not both")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step, {self.step}, is larger than the range from {self.low} to {self.high}")
        return self


Choices = Annotated[list[JsonValue], Field(min_length=2)]


class Pruner(Strict):
    """Whether a trial deserves its next fold. See docs/how_to/search.md."""

    name: Literal["interval", "wilcoxon", "median", "none"] = Field(
        "interval", description="the rule; wilcoxon and median are Optuna's, none trains all folds of all trials"
    )
    hope: Share = Field(
        0.1, description="interval: least chance of beating the best trial; wilcoxon: threshold of the p-value"
    )
    startup: Count = Field(2, description="number of trials that train all folds before any is stopped")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class Search(Strict):
    trials: Count = Field(20, description="number of trials, the experiment itself included")
    space: dict[str, Range | Choices] = Field(
        min_length=1, description="range or list of choices by dotted key, as in --set"
    )
    folds: Annotated[list[Natural], Field(min_length=1)] | None = Field(
        None, description="folds of each trial, in the order of training; default: all"
    )
    seed: Seed = 0
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Pruner = Pruner()

    @field_validator("space")
    @classmethod
    def _keys_can_vary(cls, space: dict[str, Range | list[JsonValue]]) -> dict[str, Range | list[JsonValue]]:
        for key, values in space.items():
            if key.split(".")[0] in NOT_SEARCHED:
                raise ValueError(f"'{key}' cannot be searched")
            if isinstance(values, list) and len({repr(value) for value in values}) < len(values):
                raise ValueError(f"'{key}' lists a choice twice")
            if other := next((other for other in space if other.startswith(f"{key}.")), None):
                raise ValueError(f"'{other}' is part of '{key}': search one of the two")
        return space

    @field_validator("folds")
    @classmethod
    def _folds_differ(cls, folds: list[int] | None) -> list[int] | None:
        if folds and len(set(folds)) < len(folds):
            raise ValueError(f"search.folds names a fold twice: {folds}")
        return folds
