"""The numbers of a decision rule as files hold them; `gatemask.masks.rule.Rule` applies them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of the parts of a result: unknown keys are ignored, nothing changes after construction."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class RuleValues(Frozen):
    """A decision rule as plain values; see `gatemask.masks.rule.Rule` for their meaning.

    >>> RuleValues(gate=0.5, upper=0.75, lower=0.4, min_area=200).min_component
    0
    """

    gate: float
    upper: float
    lower: float
    min_area: int
    min_component: int = 0
    hysteresis: bool = False
