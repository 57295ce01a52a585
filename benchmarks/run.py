"""Run the benchmarks (`make bench`): every speed that matters, measured next to a reference in the same run.

Prints one table and writes its rows to runs/bench.json. `make bench ONLY=rle` runs only the named modules.

Each module in this folder is a benchmark whose `rows()` yields rows of the table. The ratio is the time of the
reference divided by the time of gatemask (above 1 is faster); both are measured in this run on this machine.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
MODULES = [
    "rle",
    "folds",
    "stages",
    "records",
    "reading",
    "input",
    "step",
    "onednn",
    "compile",
    "tracking",
    "tuning",
    "inference",
    "finalists",
    "search",
    "runs",
    "scale",
]
ROOT = Path(__file__).resolve().parents[1]


def main(only: list[str]) -> None:
    if unknown := set(only) - set(MODULES):
        sys.exit(f"error: Unknown benchmark {', '.join(sorted(unknown))}. Choose from {', '.join(MODULES)}.")
    chosen = only or MODULES
    rows = [{"bench": name, **row} for name in chosen for row in importlib.import_module(name).rows()]
    table = Table(title="Speed and reference, measured in one run", title_justify="left")
    for column in ("name", "ours", "reference", "ratio", "target", "met"):
        table.add_column(column, justify="left" if column == "name" else "right", overflow="fold")
    for row in rows:
        ratio = f"{row['ratio']:.2f}"
        target = "-" if row["target"] is None else f"{row['target']:.2f}"
        met = {True: "yes", False: "NO", None: "-"}[row["met"]]
        table.add_row(row["name"], row["ours"], row["reference"], ratio, target, met)
    Console(width=150).print(table)
    write(ROOT / "runs" / "bench.json", rows, chosen)


def write(path: Path, rows: list[dict], chosen: list[str]) -> None:
    """Write rows to a JSON file. Rows of benchmarks that did not run this time are kept."""
    from gatemask.files import write_json

    old = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in old if row["bench"] in MODULES and row["bench"] not in chosen]
    write_json(path, sorted([*kept, *rows], key=lambda row: MODULES.index(row["bench"])))


if __name__ == "__main__":
    main(sys.argv[1:])
