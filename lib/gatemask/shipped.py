"""Files that are shipped with the package: scripts of kernels, and example projects.

In a source tree they lie at its top. An installed package holds copies.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SOURCE = PACKAGE.parents[1]  # top of the source tree, if there is one
COPIES = PACKAGE / "shipped_files"  # in an installed package; see pyproject.toml


def runs_from_source() -> bool:
    """Return whether this package lies in its source tree."""
    return (SOURCE / "pyproject.toml").is_file() and (SOURCE / "kaggle_kernels").is_dir()


def shipped_folder(name: str) -> Path:
    """Return the folder `kaggle_kernels` or `experiments`."""
    return (SOURCE if runs_from_source() else COPIES) / name


def package_files() -> dict[str, Path]:
    """Return the files of the package by their paths in a wheel, such as gatemask/cli.py. Copies are left out."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file())
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path
        for path in sorted(files)
        if "__pycache__" not in path.parts and not path.is_relative_to(COPIES)
    }
