"""Compressed DICOM files are read in the kernel: with what Kaggle's image has, and what the package ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gatemask.config import load_competition
from gatemask.data import readers
from gatemask.errors import GatemaskError
from gatemask.kaggle.image import sandbox, wheels
from gatemask.kaggle.submit.package import reads_dicom
from gatemask.project import Project
from tests.conftest import ROOT
from tests.data.test_dicom import PIXELS, compress, write
from tests.data.test_manifest import competition

# Reads a file as the kernel does, after its script has installed the wheels that are named.
SCRIPT = """
import json, runpy, sys
from pathlib import Path

script, source, image, *names = sys.argv[1:]
if names:
    runpy.run_path(script, run_name="kernel")["install"]([Path(name) for name in names])
sys.path.append(source)
from gatemask.data.readers import read_image

print(json.dumps(read_image(Path(image), 1)[:, :, 0].tolist()))
"""


@pytest.mark.integration
def test_lossless_jpeg_is_read_in_the_kernel(tmp_path: Path) -> None:
    decoders = wheels.decoders()
    if not any(f"-cp{sys.version_info.major}{sys.version_info.minor}-" in path.name for path in decoders):
        pytest.skip("there is no decoder for this Python: make setup downloads it where there is a network")
    image = compress(write(tmp_path / "plain.dcm", PIXELS["12"], 12), "JPEGLosslessProcess14_1")
    python, hidden = sandbox.make_image(tmp_path / "image", refuse_sockets=True)
    assert "python-gdcm" in hidden
    code = tmp_path / "read.py"
    code.write_text(SCRIPT)

    def read(*given: Path) -> subprocess.CompletedProcess[str]:
        command = [python, code, wheels.LIST.parent / "inference.py", ROOT / "lib", image, *given]
        environment = {"PATH": os.defpath, "TMPDIR": str(tmp_path), "GATEMASK_KAGGLE": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert "No installed decoder can read a DICOM file" in read().stderr
    done = read(*wheels.shipped()[:1], *decoders)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = readers.read_image(tmp_path / "plain.dcm", 1)[:, :, 0]
    np.testing.assert_array_equal(np.array(json.loads(done.stdout)), expected)


def test_decoders_are_pinned_for_kaggles_python() -> None:
    assert next(path.name.split("-")[2] for path in wheels.decoders()) == f"cp{wheels.KAGGLE_PYTHON}"
    assert wheels.DECODERS.read_text().count("--hash=sha256:") == 4
    assert "python-gdcm" not in wheels.missing_on_kaggle()


def test_a_decoder_that_cannot_be_downloaded_is_left_out_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: str) -> None:
        raise GatemaskError("pip download failed.", received="no network")

    monkeypatch.setattr(wheels, "CACHE", tmp_path)
    monkeypatch.setattr(wheels, "_pip", fail)
    assert wheels.decoders() == []
    assert "for Kaggle cannot be downloaded: such images stay empty" in capsys.readouterr().err


def test_decoders_are_shipped_for_dicom_only(tmp_path: Path) -> None:
    project = Project(tmp_path, "tiles")
    assert reads_dicom(project, load_competition(ROOT / "experiments/phantom"))
    assert reads_dicom(project, competition(test={"images": "test/*.DICOM"}, folds={"k": 3}))
    assert not reads_dicom(project, competition())
    without_suffix = competition(train={"images": "images/*"}, labels={"format": "rle", "file": "x"})
    for name, expected in (("images/a", True), ("images/a.png", False)):
        file = tmp_path / "raw" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(128) + b"DICM" if expected else b"\x89PNG" + bytes(200))
        project.data.mkdir(parents=True, exist_ok=True)
        (project.data / "manifest.json").write_text(
            '{"raw": "raw", "images": 1, "positives": 0, "test_images": 0, "groups": 1, "duplicates": 0, "problems": 0}'
        )
        header = "image_id,path,split,group,label,mask_area,height,width"
        (project.data / "manifest.csv").write_text(f"{header}\na,{name},train,a,0,0,8,8\n")
        assert reads_dicom(project, without_suffix) == expected
