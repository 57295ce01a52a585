"""Fixtures: `gatemask new` in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from gatemask.new.competition import make_competition
from gatemask.new.decisions import Decisions
from gatemask.new.inputs import NewOptions


def found(config: object, key: str) -> object:
    """Return the value of a key with dots."""
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config.model_dump() if isinstance(config, BaseModel) else config


@pytest.fixture
def new(tmp_path: Path) -> Callable[[str, list[str]], Path]:
    """Return a function that runs `gatemask new NAME OPTIONS`, and returns the folder that it wrote."""

    def run(name: str, options: list[str]) -> Path:
        root = tmp_path / "project"
        (root / "experiments").mkdir(parents=True, exist_ok=True)
        pairs = [word for word in options if word != "--yes"]
        named = {option.removeprefix("--"): value for option, value in zip(pairs[::2], pairs[1::2], strict=True)}
        paths = {key: Path(named[key]) for key in ("sample", "groups") if key in named}
        make_competition(root, name, NewOptions(**{**named, **paths}), Decisions("--yes" in options))
        return root / "experiments" / name

    return run
