"""SIIM-ACR: labels, patients and folds through the commands, and records from six real DICOM files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SHARED, gatemask, needs_siim

pytestmark = [needs_siim, pytest.mark.integration]
SIIM = SHARED / "siim"


@pytest.fixture(scope="module")
def root(make_root: Callable[[str], Path]) -> Path:
    return make_root("siim")


def run(root: Path, *arguments: object) -> dict[str, object]:
    done = gatemask(*arguments, "--json", root=root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_folds_can_be_made_without_images(root: Path) -> None:
    prepared = run(root, "data", "prepare", "siim-acr", "--data", SIIM, "--labels-only")
    assert (prepared["images"], prepared["positives"], prepared["groups"]) == (12047, 2669, 6171)
    assert run(root, "folds", "make", "siim-acr")["folds"] == 5
    audited = run(root, "folds", "audit", root / "folds/siim-acr.csv")
    assert (audited["leak"], audited["duplicates"], audited["groups"]) == (0.0, 0, 6171)
    assert audited["balance"]["positives_deviation"] < 0.001  # type: ignore[index]
    assert audited["balance"]["area_deviation"] < 0.05  # type: ignore[index]
    assert Path(str(audited["picture"])).exists()
    theirs = gatemask("folds", "import", "siim-acr", SIIM / "winner_folds_stage_1.csv", "--force", root=root)
    assert theirs.returncode == 1
    assert "lists other images" in theirs.stderr


def test_detected_label_format_matches_the_yaml(root: Path) -> None:
    before = (root / "experiments/siim-acr/competition.yaml").read_text()
    report = run(root, "data", "labels", SIIM / "stage_2_train.csv", "--write", "siim-acr")
    assert Path(str(report["written"])).read_text() != before, "comments inside the section are lost, the rest is kept"
    from gatemask.config import load_competition

    written = load_competition(root / "experiments/siim-acr")
    (root / "experiments/siim-acr/competition.yaml").write_text(before)
    assert written == load_competition(root / "experiments/siim-acr")


def test_records_from_real_dicom_files(root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "dicom-images-train/series").mkdir(parents=True)
    for path in SIIM.glob("*.csv"):
        (raw / path.name).symlink_to(path)
    for path in (SIIM / "dicom").glob("*.dcm"):
        shutil.copy(path, raw / "dicom-images-train/series")
    (raw / "dicom-images-train/series/._junk.dcm").write_bytes(b"AppleDouble")
    prepared = run(root, "data", "prepare", "siim-acr", "--quick", "--data", raw)
    assert (prepared["images"], prepared["positives"], prepared["duplicates"]) == (6, 3, 0)
    assert prepared["problems"] == 12047 - 6, "labels without an image file"
    manifest = pd.read_csv(root / "data/siim-acr-quick/manifest.csv", dtype=str).set_index("image_id")
    expected = pd.read_csv(SIIM / "dicom/labels.csv", dtype=str).set_index("ImageId")
    for image_id, row in manifest.iterrows():
        assert row["mask_area"] == expected.loc[image_id, "mask_area"]
        assert int(row["group"]) == int(expected.loc[image_id, "nih_patient"])
    run(root, "folds", "make", "siim-acr", "--quick")
    assert run(root, "records", "make", "siim-acr", "--quick")["count"] == 6
    assert run(root, "records", "check", "siim-acr", "--quick")["checked"] == 6
