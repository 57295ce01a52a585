"""Time several implementations in turns, so that background load affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict


class Row(TypedDict):
    """One row of the table.

    Args:
        name: Label.
        ours: Time or speed of gatemask, with its unit.
        reference: Time or speed of the reference, with its unit.
        ratio: How many times faster gatemask is.
        target: Minimum ratio, or None.
        met: Whether the ratio reaches the target; None without one.
    """

    name: str
    ours: str
    reference: str
    ratio: float
    target: float | None
    met: bool | None


def interleaved(ways: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Return the best time of each implementation, in seconds, over alternating rounds."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def row(name: str, ours: float, reference: float, target: float | None, unit: str = "ms", per: int = 1) -> Row:
    """Return a row of the table.

    Args:
        name: Label of the row.
        ours: Time of gatemask, in seconds.
        reference: Time of the reference, in seconds.
        target: Minimum ratio, or None.
        unit: Unit of the printed times.
        per: Number of items in one timing; times are printed per item.
    """
    scale = {"ms": 1e3, "us": 1e6, "s": 1.0}[unit]
    ratio = reference / ours
    return {
        "name": name,
        "ours": f"{ours / per * scale:.3f} {unit}",
        "reference": f"{reference / per * scale:.3f} {unit}",
        "ratio": round(ratio, 3),
        "target": target,
        "met": None if target is None else ratio >= target,
    }


def limit(name: str, measured: float, allowed: float, unit: str) -> Row:
    """Return a row whose reference is an upper limit, such as seconds or MB."""
    return {
        "name": f"{name}, vs the limit",
        "ours": f"{measured:.2f} {unit}",
        "reference": f"{allowed:g} {unit}",
        "ratio": round(allowed / max(measured, 1e-9), 3),
        "target": 1.0,
        "met": measured <= allowed,
    }
