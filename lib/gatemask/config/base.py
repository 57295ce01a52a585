"""Types that all YAML documents share."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**31 - 1  # of whole numbers: what every library takes
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Natural
Size = Annotated[int, Field(ge=32, le=LARGEST, multiple_of=32, description="pixels; encoders halve five times")]
Pair = pydantic.Strict(False)  # marks a tuple that may be written as a list; its items stay strict


def _require_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a number is required here, not {str(value).lower()}")
    return value


NotBool = pydantic.BeforeValidator(_require_number)  # for choices of numbers: Python takes true for 1


class Strict(BaseModel):
    """A section of a YAML: unknown keys are rejected, and values cannot change after loading.

    Values keep their type: true is not the number 1, "3" is not 3, and no number is infinite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
