"""Keys of ensemble.yaml, with their defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from gatemask.config.base import Count, NotBool, NotNegative, Positive, Seed, Strict


class Members(Strict):
    experiments: list[str] = Field(min_length=1)
    folds: Literal["all"] | Count = Field("all", description="all folds of each experiment, or its best n")
    weights: list[NotNegative] | Literal["equal", "greedy", "tuned"] = Field(
        "equal",
        description="one number per experiment; 'greedy': repeatedly add the experiment that helps most; "
        "'tuned': masks only, searched by Optuna, including the weights of views that are kept apart",
    )
    members: Count | None = Field(None, description="maximum number of networks (experiments x folds) to ship")

    @model_validator(mode="after")
    def _weights_fit(self) -> Members:
        if repeated := [name for name in self.experiments if self.experiments.count(name) > 1]:
            raise ValueError(f"'{repeated[0]}' is named twice in 'experiments'; give it a weight instead")
        if isinstance(self.weights, str):
            return self
        if len(self.weights) != len(self.experiments):
            raise ValueError(f"there are {len(self.weights)} 'weights' for {len(self.experiments)} experiments")
        if not any(self.weights):
            raise ValueError("all 'weights' are 0: at least one must be positive")
        return self


class Gates(Members):
    experiments: list[str] = Field([], description="none: every image passes, as where no image is empty")


class Variant(Strict):
    """Parts of the decision rule to search."""

    gate: bool | Literal["quantile"] = Field(
        True,
        description="true: an image passes from a gate probability on; 'quantile': a share of the images passes, those "
        "of the highest probabilities; false: every image passes",
    )
    thresholds: Annotated[Literal[1, 2], NotBool] = Field(
        2, description="1: one level decides both whether there is a mask, and where"
    )
    components: bool = Field(False, description="search the minimum size of a connected component")
    hysteresis: bool = Field(False, description="also try keeping only components that reach the upper threshold")

    @property
    def by_quantile(self) -> bool:
        """Whether the gate is a share of images instead of a probability."""
        return self.gate == "quantile"

    @property
    def by_component(self) -> bool:
        return self.components or self.hysteresis


class Tune(Strict):
    rule: Variant = Variant()
    sampler: Literal["tpe", "cmaes"] = "tpe"
    trials: Count = Field(300, description="number of Optuna trials; the exact search needs none")
    seed: Seed = 0
    enqueue_exact: bool = Field(False, description="let Optuna start from the exact optimum")
    ship: Literal["best", "exact", "median", "optuna"] = Field(
        "best", description="candidate to ship; 'best': the one with the highest cross-fitted score"
    )
    bootstrap: Count = Field(2000, description="resamples of groups for the interval")
    optima: Count = Field(20, description="number of bootstrap optima whose median is the median rule")
    weightings: Count = Field(
        24, description="weightings to try where mask.weights is 'tuned'; each takes one pass over the maps"
    )
    rounds: Count = Field(12, description="rounds of greedy selection; each adds one experiment, possibly again")
    beside: list[str] = Field(
        [], description="files of rules to score for comparison, relative to the project: rule.yaml, or a grid of rules"
    )


class Inference(Strict):
    """Settings of the submission kernel."""

    precision: Literal["float32", "float16", "bfloat16", "auto"] = Field(
        "float32",
        description="precision of the layers, where the machine supports it; 'auto': float16 on a GPU, bfloat16 on "
        "a TPU",
    )
    batch: Literal["auto"] | Count = Field("auto", description="images per step; 'auto': by the device's memory")
    time_budget: Positive | None = Field(
        None, description="limit in hours; if it would be exceeded, the least important members are dropped"
    )
    hours: Positive = Field(
        9.0, description="Kaggle's time limit for a submission; larger ensembles are never selected"
    )


class Ensemble(Strict):
    gate: Gates = Gates()
    mask: Members
    tune: Tune = Tune()
    inference: Inference = Inference()
    as_trained: bool = Field(
        False,
        description="use runs that differ from the YAMLs and data as they are now; the report and the shipped "
        "ensemble.yaml say so",
    )
    quick: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _gate_weights_are_given(self) -> Ensemble:
        if self.gate.weights == "tuned":
            raise ValueError("gate.weights must be 'equal', 'greedy' or a list: only mask weights can be tuned")
        if self.tune.rule.by_quantile and not self.gate.experiments:
            raise ValueError("tune.rule.gate: quantile needs a gate; name one in gate.experiments")
        return self
