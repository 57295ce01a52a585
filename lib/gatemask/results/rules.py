"""The numbers of a decision rule as files hold them; `gatemask.masks.rule.Rule` applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

UNUSED = ("split", "quantile")  # added later: files hold them only where they are used


class Frozen(BaseModel):
    """Base of the parts of a result: unknown keys are ignored, nothing changes after construction."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), defer_build=True)


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
    split: float = 0.0
    quantile: bool = False

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if name not in UNUSED or value}


ClassRules = RuleValues | list[RuleValues]  # the rule of the only class, or one per class


class WithRules:
    """Mixin of the results with a field `rule` that holds the rule of the only class, or one per class."""

    if TYPE_CHECKING:
        rule: ClassRules

    @property
    def rules(self) -> list[RuleValues]:
        """One rule per class."""
        return self.rule if isinstance(self.rule, list) else [self.rule]
