"""What augmentation steps share: each takes a fixed number of uniform random numbers, applied or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

Drawn = TypeVar("Drawn")


class StepKind(NamedTuple, Generic[Drawn]):
    """How a step of `augment:` is drawn.

    Args:
        add: Adds the step to the parameters drawn for an image. Arguments: the parameters, the settings of the step and
            its random numbers, float64 (count,), uniform in [0, 1).
        count: Returns how many random numbers the step takes. Argument: the settings of the step.
    """

    add: Callable[[Drawn, Any, np.ndarray], None]
    count: Callable[[Any], int]


def always(count: int) -> Callable[[Any], int]:
    """Return the `count` of a step that takes as many random numbers with any settings."""
    return lambda settings: count


def between(low: float, high: float, number: float) -> float:
    """Return the value that a random number in [0, 1) selects from a range.

    >>> between(2, 4, 0.25)
    2.5
    """
    return low + (high - low) * number
