"""Files that gatemask wrote and reads again: whatever they hold after damage, the error names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.kaggle.client import datasets
from gatemask.kaggle.download import competition
from gatemask.kaggle.submit.submission_records import load_records
from gatemask.kaggle.train.kernel_records import load_kernels
from gatemask.masks.rule_files import load_rules
from gatemask.oof.components import Components
from gatemask.oof.store import MapReader, read_gates
from gatemask.oof.tables import Tables
from gatemask.project import Project
from gatemask.results.data import ManifestResult
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.results.kaggle_training import SessionRequest
from gatemask.results.submission import InferenceReport
from gatemask.results.training import FoldResult
from gatemask.results.tuning import TunedResult

CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "cut short": b'{"made_from": {"a": 1',
    "not UTF-8": b'{"\xff": 1}',
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "huge number": b"1" * 5000,
    "other fields": b'{"a": 1}',
    "wrong types": b'{"pushes": [5], "files": [], "id": [], "outputs": 3, "experiment": {}, "competition": []}',
}
LOADERS: dict[str, Callable[[Path], object]] = {
    "runs/tiles/unet/fold0/result.json": FoldResult.load,
    "runs/tiles/tuned/result.json": TunedResult.load,
    "runs/tiles/tuned/tables.npz": Tables.load,
    "runs/tiles/tuned/components.npz": Components.load,
    "runs/tiles/tuned/rule.yaml": lambda path: load_rules(path, ["lesion"]),
    "runs/tiles/unet/fold0/oof.h5": lambda path: MapReader([path]),
    "runs/tiles/gate/fold0/oof.csv": lambda path: read_gates([path]),
    "data/tiles/manifest.json": ManifestResult.load,
    "data/tiles/download-files.json": competition._read_record,
    "dist/tiles/dataset/ensemble.yaml": ShippedEnsemble.load,
    "session.json": SessionRequest.load,
    "kaggle/working/inference.json": InferenceReport.load,
    "runs/tiles/kaggle/unet.json": lambda path: load_kernels(Project(path.parents[3], "tiles")),
    "runs/tiles/submissions/1.json": lambda path: load_records(Project(path.parents[3], "tiles")),
}
RECORDS = ("/kaggle/unet.json", "/submissions/1.json")  # nothing makes them again


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, content in CONTENTS.items():
        path.write_bytes(content)
        with pytest.raises(GatemaskError) as caught:
            LOADERS[name](path)
        assert path.name in str(caught.value), kind
        assert ("Restore it from a backup" in str(caught.value)) == name.endswith(RECORDS), kind


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_damaged_note_of_an_upload_asks_kaggle_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "upload.json").write_bytes(content)
    assert datasets._read_upload(tmp_path / "upload.json") is None
