"""Build gatemask's own wheel from the files that run here: the very code that trained.

The same files give the same bytes. The format is PEP 427: a zip file whose RECORD lists every file with its hash.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

from gatemask import __version__
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256, write_with
from gatemask.shipped import package_files, shipped_folder

WHEEL = "Wheel-Version: 1.0\nGenerator: gatemask\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
TIME = (1980, 1, 1, 0, 0, 0)  # the files' own times would make each wheel different


def build_own(folder: Path) -> Path:
    """Write the wheel into a folder, and return its path.

    Raises:
        GatemaskError: gatemask is not installed, so its metadata are missing.
    """
    info = f"gatemask-{__version__}.dist-info"
    files = {name: path.read_bytes() for name, path in package_files().items()}
    files |= {f"{info}/METADATA": _described("METADATA"), f"{info}/WHEEL": WHEEL.encode()}
    files[f"{info}/licenses/LICENSE"] = _described("licenses/LICENSE")
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    return write_with(folder / f"gatemask-{__version__}-py3-none-any.whl", lambda path: _write(path, files))


def source_fingerprint() -> str:
    """Return a fingerprint of gatemask's own code and the kernels' scripts."""
    scripts = shipped_folder("kaggle_kernels")
    files = package_files() | {path.relative_to(scripts).as_posix(): path for path in sorted(scripts.rglob("*.*"))}
    hashes = {name: sha256(path) for name, path in files.items() if path.is_file() and path.suffix != ".pyc"}
    return fingerprint([hashes, _described("METADATA").decode()])


def _described(name: str) -> bytes:
    """Return a file of the installed package's metadata."""
    try:
        text = metadata.distribution("gatemask").read_text(name)
    except metadata.PackageNotFoundError:
        text = None
    if text is None:
        raise GatemaskError(
            "gatemask is not installed, so no wheel can be made of it.",
            expected=f"{name} among the files of the installed package",
            do="Run make setup in its source tree, or pip install gatemask.",
        )
    return text.encode()


def _record(files: dict[str, bytes], own_name: str) -> str:
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*rows, f"{own_name},,", ""])


def _write(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
