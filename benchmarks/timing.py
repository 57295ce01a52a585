"""Timing two ways of doing the same thing, fairly: in turns, so that a busy moment hits both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def interleaved(ways: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """The best of `rounds` of each way, in seconds; the ways take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def row(
    name: str, ours: float, reference: float, target: float | None, unit: str = "ms", per: int = 1
) -> dict[str, Any]:
    """A line of the table. Times are in seconds; `per` divides them into what the unit is about."""
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


def limit(name: str, measured: float, allowed: float, unit: str) -> dict[str, Any]:
    """A line whose reference is not a peer but what may be used up at most, such as seconds or MB."""
    return {
        "name": f"{name}, vs the limit",
        "ours": f"{measured:.2f} {unit}",
        "reference": f"{allowed:g} {unit}",
        "ratio": round(allowed / max(measured, 1e-9), 3),
        "target": 1.0,
        "met": measured <= allowed,
    }
