"""A package with a secret anywhere in it is not made; the script gets its constants."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatemask.config import load_competition, load_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.kaggle.submit import package
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble
from tests.conftest import ROOT

SECRET = "vT9-plantedQ4x7mZ"


def wheel(module: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("gatemask/module.py", module)
    return file.getvalue()


FILES = {
    "gatemask-1-py3-none-any.whl": wheel(f"KEY = '{SECRET}'"),
    "ensemble.yaml": f"note: {SECRET}".encode(),
    "a.weights.h5": b"\x89HDF" + bytes(99) + SECRET.encode(),
    "notes.txt.gz": gzip.compress(SECRET.encode()),
}


@pytest.mark.parametrize("name", [*FILES, None])
def test_a_secret_is_not_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    project = Project(tmp_path, "phantom", quick=True)
    comp = load_competition(ROOT / "experiments/phantom", quick=True)
    ensemble = load_ensemble(ROOT / "experiments/phantom")
    source = write_text(project.runs / "ensemble/ensemble.yaml", "")

    def fill(project: Project, dataset: Path, *_: Any) -> None:
        for file, content in FILES.items():
            (dataset / file).write_bytes(content if file == name else wheel("harmless"))

    monkeypatch.setenv("DB_PASS", SECRET)
    monkeypatch.setattr(package, "require_ensemble", lambda *_: source)
    monkeypatch.setattr(package, "present_settings", lambda *_: {})
    monkeypatch.setattr(package, "fill_dataset", fill)
    monkeypatch.setattr(package, "check_precision", lambda *_: None)
    monkeypatch.setattr(package.own_wheel, "source_fingerprint", lambda: "code")
    monkeypatch.setattr(ShippedEnsemble, "load", lambda path: SimpleNamespace())
    if name is None:
        assert package.write_package(project, comp, ensemble).files == len(FILES) + 3
        return
    with pytest.raises(GatemaskError, match="A secret would be uploaded") as refused:
        package.write_package(project, comp, ensemble)
    assert name in str(refused.value.details["where"])
    assert SECRET not in str(refused.value)
    assert not package.package_stamp(project).exists()


def test_the_script_gets_its_constants(tmp_path: Path) -> None:
    comp = load_competition(ROOT / "experiments/phantom", quick=True)
    package.fill_kernel(tmp_path, comp, "me", "set", hours=7)
    script = (tmp_path / "inference.py").read_text()
    assert "\nHOURS = 7.0  #" in script
    assert f'\nSAMPLE = "{comp.submission.sample or ""}"  #' in script
