"""Keys of ensemble.yaml, with their defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gatemask.config.base import Count, Positive, Seed, Strict, Weight


class Members(Strict):
    experiments: list[str] = Field(min_length=1)
    folds: Literal["all"] | Count = Field("all", description="all folds of each experiment, or its best n")
    weights: list[Weight] | Literal["equal", "greedy", "tuned"] = Field(
        "equal",
        description="one number an experiment; 'greedy': those that help are taken, one after another, and again; "
        "'tuned': of masks, found by Optuna's sampler, views too if apart",
    )
    members: Count | None = Field(None, description="most networks (experiments x folds) that may be shipped")

    @model_validator(mode="after")
    def _weights_fit(self) -> Members:
        if twice := [name for name in self.experiments if self.experiments.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named twice in 'experiments'; give it a weight instead")
        if isinstance(self.weights, str):
            return self
        if len(self.weights) != len(self.experiments):
            raise ValueError(f"there are {len(self.weights)} 'weights' for {len(self.experiments)} experiments")
        if not any(self.weights):
            raise ValueError("all 'weights' are 0: nothing would be left to average")
        return self


class Variant(Strict):
    """Which parts of the rule are searched."""

    gate: bool = Field(True, description="false: every image passes the gate")
    thresholds: Literal[1, 2] = Field(2, description="1: the same level decides whether there is a mask, and where")
    components: bool = Field(False, description="search the smallest connected component that is kept")
    hysteresis: bool = Field(False, description="try keeping only components that somewhere reach the upper threshold")

    @property
    def by_component(self) -> bool:
        return self.components or self.hysteresis


class Tune(Strict):
    rule: Variant = Variant()
    sampler: Literal["tpe", "cmaes"] = "tpe"
    trials: Count = Field(300, description="of Optuna; the exact search needs none")
    seed: Seed = 0
    enqueue_exact: bool = Field(False, description="let Optuna start from the exact optimum")
    ship: Literal["best", "exact", "median", "optuna"] = Field(
        "best", description="the candidate that is shipped; 'best': that of the highest cross-fitted score"
    )
    bootstrap: Count = Field(2000, description="resamples of groups for the interval")
    optima: Count = Field(20, description="bootstrap optima of which the median rule is the median")
    weightings: Count = Field(24, description="tried where mask.weights is 'tuned'; each takes a pass over the maps")
    rounds: Count = Field(12, description="of greedy selection; each takes one more experiment, or one once more")
    beside: list[str] = Field([], description="rules to score beside the tuned one: known names, or rule.yaml files")


class Inference(Strict):
    """How the submission's kernel runs."""

    precision: Literal["float32", "float16", "bfloat16", "auto"] = Field(
        "float32", description="of the layers, where the machine has it; 'auto': float16 on a GPU, bfloat16 on a TPU"
    )
    batch: Literal["auto"] | Count = Field("auto", description="images a step; 'auto': by the device's memory")
    time_budget: Positive | None = Field(
        None, description="hours; what would take longer drops the members taken last, from then on"
    )
    hours: Positive = Field(9.0, description="that Kaggle lets a submission run; no larger ensemble is chosen")


class Ensemble(Strict):
    gate: Members
    mask: Members
    tune: Tune = Tune()
    inference: Inference = Inference()
    quick: dict[str, Any] = {}

    @model_validator(mode="after")
    def _gates_are_given(self) -> Ensemble:
        if self.gate.weights == "tuned":
            raise ValueError("gate.weights are 'equal' or a list: only those of masks can be tuned")
        return self
