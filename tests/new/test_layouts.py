"""`gatemask new` recognizes the layout of each generated competition."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from gatemask.config import Competition
from gatemask.yaml12 import parse_yaml
from tests import competitions


def found(config: object, key: str) -> object:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config.model_dump() if isinstance(config, BaseModel) else config


@pytest.mark.parametrize("layout", competitions.ALL)
def test_layouts(layout: str, tmp_path: Path, new) -> None:  # type: ignore[no-untyped-def]
    generated = competitions.ALL[layout](tmp_path / "raw")
    folder = new(layout.replace("_", "-"), generated.options)
    values = parse_yaml((folder / "competition.yaml").read_text(encoding="utf-8"), folder).value
    comp = Competition.model_validate({"name": folder.name, **values})
    assert {key: found(comp, key) for key in generated.expected} == generated.expected
