"""Threshold tables and gate probabilities of trained folds, read as a comparison needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from gatemask.config import Competition, Ensemble, Members
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.oof.tables import Tables
from gatemask.project import Project
from gatemask.runs.cache import FileHash, RunCache
from gatemask.runs.facts import Found
from gatemask.runs.scan import signature
from gatemask.tuning.members import GateValue, average_gates, build_tables, given_weights, read_gate_values, require_ids
from gatemask.tuning.sides import without_gates


class Predictions:
    """Out-of-fold predictions of all experiments.

    Args:
        project: Project whose runs hold them.
        comp: Classes and image size.
        found: All experiments.
        cache: Cache of tables.
    """

    def __init__(self, project: Project, comp: Competition, found: Mapping[str, Found], cache: RunCache) -> None:
        self._project, self._comp, self._found, self._cache = project, comp, found, cache
        self._verified: set[tuple[str, int, str]] = set()
        self._gates: dict[tuple[str, tuple[int, ...]], dict[str, GateValue]] = {}
        self._shared: dict[str, Tables] = {}

    def gate_values(self, section: Members, fold_of: Mapping[str, int]) -> dict[str, GateValue]:
        """Return the averaged probabilities of gates by image id; 1 where there is no gate.

        Raises:
            GatemaskError: Probabilities are missing or damaged.
        """
        folds = tuple(sorted(set(fold_of.values())))
        for name in section.experiments:
            if (name, folds) not in self._gates:
                self.verify(name, folds, "oof.csv")
                self._gates[name, folds] = read_gate_values(self._project, self._comp, name, folds)
            require_ids(name, set(self._gates[name, folds]), set(fold_of))
        gates = [self._gates[name, folds] for name in section.experiments]
        return average_gates(gates, given_weights(section), fold_of)

    def tables_of(self, name: str, fold_of: Mapping[str, int], gates: Members) -> Tables | None:
        """Return the threshold tables of a mask experiment behind gates, from those that its training counted.

        Returns:
            None where they may be out of date, and the maps must be counted again.

        Raises:
            GatemaskError: A file is damaged.
        """
        tables = self._stored(name, fold_of)
        return None if tables is None else _with_gate(tables, self.gate_values(gates, fold_of))

    def shared_tables(self, side: Ensemble, fold_of: Mapping[str, int], key: str) -> Tables:
        """Return the tables of the ensemble's mask networks in front of which gates are scored, all of them passing.

        Args:
            side: Mask networks with their weights.
            fold_of: Fold of each image, all folds.
            key: Fingerprint of all that decides the tables.
        """
        if key not in self._shared:
            names = side.mask.experiments
            tables = self._stored(names[0], fold_of) if len(names) == 1 else None
            self._shared[key] = tables if tables is not None else self._counted(side, fold_of, key)
        return self._shared[key]

    def gated(self, tables: Tables, gates: Members, fold_of: Mapping[str, int]) -> Tables:
        """Return the tables of some of the images, behind gates."""
        part = tables.subset(np.isin(tables.folds, sorted(set(fold_of.values()))))
        return _with_gate(part, self.gate_values(gates, fold_of))

    def verify(self, name: str, folds: Sequence[int], file: str) -> None:
        """Raise if a file of some runs is not the one that its training wrote.

        Raises:
            GatemaskError: It is missing, cut short or edited.
        """
        for fold in folds:
            path, digest = self._project.fold(name, fold) / file, self._found[name].folds[fold].digests.get(file)
            if digest is None or (name, fold, file) in self._verified:
                continue
            if not path.is_file() or not sha256(path).startswith(digest):
                raise GatemaskError(f"fold {fold}: {file} differs from the file that was written")
            self._verified.add((name, fold, file))

    def _counted(self, side: Ensemble, fold_of: Mapping[str, int], key: str) -> Tables:
        path = self._cache.table_file(key)
        if path.exists():
            try:
                tables = Tables.load(path)
            except GatemaskError:
                path.unlink(missing_ok=True)
            else:
                if tables.ids.tolist() == sorted(fold_of):
                    return tables
        tables = build_tables(self._project, self._comp, side.model_copy(update={"gate": without_gates()}), fold_of)
        try:
            tables.save(path)
        except OSError:  # it is only a cache
            path.unlink(missing_ok=True)
        return tables

    def _stored(self, name: str, fold_of: Mapping[str, int]) -> Tables | None:
        folds = sorted(set(fold_of.values()))
        facts = [self._found[name].folds[fold] for fold in folds]
        present = self._records(name)
        if present is None or any(
            fold.made_from.get("records") != present or "tables.npz" not in fold.digests for fold in facts
        ):
            return None
        self.verify(name, folds, "tables.npz")
        tables = _joined([Tables.load(self._project.fold(name, fold) / "tables.npz") for fold in folds])
        same_images = tables.ids.tolist() == sorted(fold_of) and tables.classes == len(self._comp.classes)
        if not same_images or (tables.seen[:, 0, 0] != self._pixels(tables.ids)).any():
            return None
        return replace(tables, folds=np.array([fold_of[image_id] for image_id in tables.ids.tolist()]))

    def _records(self, name: str) -> str | None:
        """Return the fingerprint of the records that an experiment would be trained on now, if there are any."""
        from gatemask.data.records import require_records
        from gatemask.files import fingerprint

        yaml = self._found[name].yaml
        shape = (yaml.records if yaml else None) or self._comp.records.shape
        comp = self._comp
        if shape != comp.records.shape:
            comp = comp.model_copy(update={"records": comp.records.model_copy(update={"size": shape})})
        data, key = self._project.data, f"{shape[0]}x{shape[1]}"
        files = [self._project.records(shape) / "index.json", *(data / name for name in ("manifest.csv", "masks.csv"))]
        signed = signature(files)
        known = self._cache.facts.records.get(key)
        if known is None or known.signature != signed:
            try:
                made_from = fingerprint(require_records(self._project, comp))
            except GatemaskError:
                made_from = ""
            known = self._cache.facts.records[key] = FileHash(signature=signed, sha256=made_from)
            self._cache.changed()
        return known.sha256 or None

    def _pixels(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of pixels of each image at the scoring size."""
        image = self._comp.image
        size = image.scoring_size or (None if image.size == "mixed" else image.size)
        if size is not None:
            return np.full(len(ids), size[0] * size[1])
        return np.array([self._own_pixels.get(image_id, -1) for image_id in ids.tolist()])

    @cached_property
    def _own_pixels(self) -> dict[str, int]:
        frame = read_manifest(self._project, "train")
        return dict(zip(frame["image_id"], (frame["height"] * frame["width"]).tolist(), strict=True))


def _with_gate(tables: Tables, gate: Mapping[str, GateValue]) -> Tables:
    return replace(tables, gate=np.array([gate[image_id] for image_id in tables.ids.tolist()]))


def _joined(parts: Sequence[Tables]) -> Tables:
    """Return the tables of several folds as one, in the order of the ids."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids, kind="stable")
    area, intersection, truth, folds = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("area", "intersection", "truth", "folds")
    )
    reached = None
    if any(part.reached is not None for part in parts):
        reached = np.concatenate([part.seen for part in parts])[order]
    return Tables(ids[order], folds, np.ones(len(ids)), area, intersection, truth, reached)
