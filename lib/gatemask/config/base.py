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
Sides = Annotated[tuple[Size, Size], pydantic.Strict(False), Field(description="height and width")]
Pair = pydantic.Strict(False)  # marks a tuple that may be written as a list; its items stay strict


def _require_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a number is required here, not {str(value).lower()}")
    return value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ClassName = Annotated[str, pydantic.BeforeValidator(_as_text), Field(min_length=1)]  # 3 is the class '3'
NotBool = pydantic.BeforeValidator(_require_number)  # for choices of numbers: Python takes true for 1


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a size; a number means a square.

    >>> both_sides(64), both_sides((64, 96))
    ((64, 64), (64, 96))
    """
    return (size, size) if isinstance(size, int) else size


class Strict(BaseModel):
    """A section of a YAML: unknown keys are rejected, and values cannot change after loading.

    Values keep their type: true is not the number 1, "3" is not 3, and no number is infinite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
