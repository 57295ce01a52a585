"""Packages that only some commands need. They are the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util
import sys

from gatemask.errors import GatemaskError


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def require(package: str, purpose: str) -> None:
    """Refuse to continue without a package.

    Args:
        package: Name of the package, as it is imported.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        GatemaskError: The package is not installed.
    """
    if not is_installed(package):
        name = package.replace("_", "-")
        raise GatemaskError(f"{purpose} needs the package {name}.", do=f"Install it: pip install {name}")
