"""Threshold tables of averaged mask members, counted once per weighting and kept on disk while a search lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.oof.tables import Tables, count_maps
from gatemask.tuning.members import GateValue, MemberPredictions

CountTables = Callable[[Sequence[float], Path], Tables]


class WeightedTables:
    """Threshold tables by weighting of the mask members. Memory is that of one table; a killed search resumes.

    Args:
        predictions: Predictions of every member.
        scratch: Folder of the tables; the caller removes it.
        inputs: Hash of everything but the weights that decides the tables.
        count: Counts the tables of a weighting, next to the given path. Default: in this process.
    """

    def __init__(
        self, predictions: MemberPredictions, scratch: Path, inputs: str, count: CountTables | None = None
    ) -> None:
        self.predictions, self._scratch, self._inputs, self._count = predictions, scratch, inputs, count

    def tables(self, weights: Sequence[float]) -> Tables:
        """Return the tables of this weighting, behind the gates of `predictions`."""
        path = self._file(weights)
        if path.exists():
            # A damaged table is counted again.
            with suppress(GatemaskError):
                return Tables.load(path)
        tables = self._count_here(weights) if self._count is None else self._count(weights, path)
        tables.save(path)
        return tables

    def _count_here(self, weights: Sequence[float]) -> Tables:
        given = self.predictions
        used = [index for index, weight in enumerate(weights) if weight > 0]  # members without weight need no reading
        readers, shares = [given.readers[index] for index in used], [weights[index] for index in used]
        return count_maps(
            given.fold_of, readers, given.truth, "tables", given.gate.__getitem__, shares, given.frame, given.classes
        )

    def cached(self, weights: Sequence[float]) -> Tables | None:
        """Return the tables of this weighting if they were counted before, or are counted elsewhere."""
        return self.tables(weights) if self._count is not None or self._file(weights).exists() else None

    def _file(self, weights: Sequence[float]) -> Path:
        return self._scratch / f"{fingerprint([list(weights), self._inputs])}.npz"


def with_gates(tables: Tables, gate: Callable[[str], GateValue]) -> Tables:
    """Return the same maps behind other gates, given as a probability by image id: one, or float (classes,).

    >>> counts = np.zeros((1, 1, 257), int)
    >>> tables = Tables(np.array(["a"]), np.zeros(1, int), np.ones(1), counts, counts, counts[:, :, 0])
    >>> with_gates(tables, {"a": 0.25}.__getitem__).gate.tolist()
    [[0.25]]
    """
    return replace(tables, gate=np.array([gate(str(i)) for i in tables.ids]))
