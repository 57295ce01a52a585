"""Types that all YAML documents share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=32, multiple_of=32, description="pixels; encoders halve five times")]


class Strict(BaseModel):
    """A section of a YAML: unknown keys are rejected, and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
