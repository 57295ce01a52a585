"""Scanning raw files: what is damaged is left out, what the machine cannot read at the moment is not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gatemask.data import readers, scan
from gatemask.data.ids import train_rule
from gatemask.data.image_files import ImageFiles, image_files
from gatemask.errors import StorageError
from tests.conftest import write_tiles
from tests.data.test_manifest import competition

COMP = competition()


def scanned(raw: Path) -> tuple[int, list[str]]:
    images, problems = scan.scan_images(ImageFiles(image_files(raw, train_rule(COMP)), []), COMP)
    return len(images), [name for name, _ in problems]


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    raw = write_tiles(tmp_path / "raw", 4)
    (raw / "images/tile002.png").write_bytes(b"x")
    assert scanned(raw) == (3, ["images/tile002.png"])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES])
def test_a_fault_of_the_machine_leaves_no_image_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are left out because too many files were open would be missing from all later stages."""
    raw = write_tiles(tmp_path / "raw", 4)

    def fail(path: Path, *settings: object) -> None:
        raise MemoryError if number == errno.ENOMEM else OSError(number, "no", str(path))

    monkeypatch.setattr(readers, "_read", fail)
    with pytest.raises(StorageError, match=r"tile00\d.png"):
        scanned(raw)
