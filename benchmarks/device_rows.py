"""Rows of the device benchmark: facts for the JSON lines, and a line of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from device_plan import TITLES, Network

Row = dict[str, Any]
HEADER = (
    f"{'network':<22} {'batch':>5}  {'way':<27} {'images/s':>8} {'ms/step':>8} {'compile':>8} {'memory':>9} "
    f"{'waiting':>7} {'of ready':>8} {'/eager':>6} {'/compiled':>9} {'parameters':>10}"
)


def measured_row(network: Network, way: str, ready: dict[str, Any], rounds: list[dict[str, Any]]) -> Row:
    """Return the row of a way, from its best round: background load only makes rounds slower.

    Args:
        network: The network.
        way: What was measured.
        ready: Facts of the prepared step.
        rounds: Measured rounds, at least one.
    """
    best = min(rounds, key=lambda measured: measured["ms_per_step"])
    images = network.batch * ready["devices"]
    return {
        **_head(network, way),
        **ready,
        "status": "measured",
        "ms_per_step": round(best["ms_per_step"], 3),
        "images_per_s": round(images / best["ms_per_step"] * 1e3, 1),
        "rounds_ms": [round(measured["ms_per_step"], 3) for measured in rounds],
        "steps": [measured["steps"] for measured in rounds],
        "memory_mb": max(measured["memory_mb"] for measured in rounds),
        "wait_share": None if best.get("wait_share") is None else round(best["wait_share"], 4),
    }


def unmeasured_row(network: Network, way: str, status: str, reason: str) -> Row:
    """Return the row of a way that has no measurement.

    Args:
        network: The network.
        way: What should have been measured.
        status: "skipped", "failed" or "killed".
        reason: Why.
    """
    return {**_head(network, way), "status": status, "reason": reason}


def add_ratios(rows: list[Row]) -> None:
    """Add the ratios between the rows of a network: to the ready batches, and to PyTorch on the same kind of device.

    Speeds are compared per device, since PyTorch runs on one.
    """
    measured = {row["way"]: row for row in rows if row["status"] == "measured"}

    def speed(row: Row) -> float:
        return row["images_per_s"] / row["devices"]

    for way in ("ready", "first", "later"):
        if way not in measured:
            continue
        row = measured[way]
        if way != "ready" and "ready" in measured:
            row["of_ready"] = round(speed(row) / speed(measured["ready"]), 3)
        for peer in ("eager", "compiled"):
            if peer in measured and measured[peer]["platform"] == row["platform"]:
                row[f"vs_{peer}"] = round(speed(row) / speed(measured[peer]), 3)


def line(row: Row) -> str:
    """Return a row as a line of the table, under HEADER."""
    start = f"{row['title']:<22} {row['batch']:>5}  {TITLES[row['way']]:<27} "
    if row["status"] != "measured":
        return f"{start}{row['status']}: {row['reason']}"

    def number(key: str, width: int, digits: int = 2, unit: str = "") -> str:
        value = row.get(key)
        return f"{'-' if value is None else f'{value:,.{digits}f}{unit}':>{width}}"

    waiting = row.get("wait_share")
    return start + " ".join(
        [
            number("images_per_s", 8, 1 if row["images_per_s"] < 100 else 0),
            number("ms_per_step", 8, 1),
            number("compile_s", 8, 1, " s"),
            number("memory_mb", 9, 0, " MB"),
            f"{'-' if waiting is None else f'{waiting:.1%}':>7}",
            number("of_ready", 8),
            number("vs_eager", 6),
            number("vs_compiled", 9),
            f"{row['parameters'] / 1e6:>8.2f} M",
        ]
    )


class RowFile:
    """JSON lines that are on disk as soon as a row is known. Rows of earlier runs are kept.

    Args:
        path: Its path.
        run: Fields that all rows of this run share.
    """

    def __init__(self, path: Path, run: Row) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file, self._run = path.open("a", encoding="utf-8"), run
        if torn:  # an earlier run was killed while it wrote
            self._file.write("\n")

    def write(self, row: Row) -> None:
        self._file.write(json.dumps({**self._run, **row}) + "\n")
        self._file.flush()


def _head(network: Network, way: str) -> Row:
    return {
        "network": network.name,
        "encoder": network.encoder,
        "size": network.size,
        "batch": network.batch,
        "title": network.title,
        "way": way,
    }
