"""Benchmark of grouped, stratified folds against scikit-learn's StratifiedGroupKFold: speed and evenness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold
from timing import Row, interleaved, row

from gatemask.config import Folds
from gatemask.data import folds

IMAGES, PATIENTS = 12_047, 6_171  # of a large set of X-rays


def rows() -> Iterator[Row]:
    manifest = phantom_manifest()
    settings = Folds(k=5, tries=1)
    stratum = folds.assign_folds(manifest, settings)["stratum"].to_numpy()
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    times = interleaved(
        {
            "ours": lambda: folds.assign_folds(manifest, settings),
            "sklearn": lambda: list(splitter.split(manifest, stratum, manifest["group"])),
        },
        rounds=3,
    )
    yield row(f"folds, one try, {IMAGES} images, vs scikit-learn", times["ours"], times["sklearn"], None)
    theirs = np.empty(IMAGES, int)
    for number, (_, held) in enumerate(splitter.split(manifest, stratum, manifest["group"])):
        theirs[held] = number
    ours = folds.assign_folds(manifest, Folds(k=5))["fold"].to_numpy()
    our_deviation, their_deviation = (deviation(fold, stratum) for fold in (ours, theirs))
    yield {
        "name": "folds, largest deviation of a stratum, vs scikit-learn",
        "ours": f"{100 * our_deviation:.2f} %",
        "reference": f"{100 * their_deviation:.2f} %",
        "ratio": round(their_deviation / max(our_deviation, 1e-9), 3),
        "target": 1.0,
        "met": our_deviation <= their_deviation,
    }


def phantom_manifest() -> pd.DataFrame:
    """Return a manifest with mostly one and at most 61 images per patient."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.zipf(2.25, 2 * PATIENTS), 61)
    patient = np.repeat(np.arange(len(sizes)), sizes)[:IMAGES]
    label = (rng.random(IMAGES) < 0.2215).astype(int)
    area = label * rng.lognormal(9.1, 1.1, IMAGES).astype(int).clip(55, 161_421)
    ids = [f"image{number:05d}" for number in range(IMAGES)]
    return pd.DataFrame({"image_id": ids, "group": patient.astype(str), "label": label, "mask_area": area})


def deviation(fold: np.ndarray, stratum: np.ndarray) -> float:
    """Return the largest relative deviation of a stratum's count in a fold from its mean."""
    table = pd.crosstab(fold, stratum)
    return float((table / table.mean() - 1).abs().max().max())
