"""`gatemask new` recognizes the layout of each generated competition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.config import Competition
from gatemask.yaml12 import parse_yaml
from tests import competitions
from tests.new.conftest import found


@pytest.mark.parametrize("layout", competitions.ALL)
def test_layouts(layout: str, tmp_path: Path, new: Callable[[str, list[str]], Path]) -> None:
    generated = competitions.ALL[layout](tmp_path / "raw")
    folder = new(layout.replace("_", "-"), generated.options)
    values = parse_yaml((folder / "competition.yaml").read_text(encoding="utf-8"), folder).value
    assert isinstance(values, dict)
    comp = Competition.model_validate({"name": folder.name, **values})
    assert {key: found(comp, key) for key in generated.expected} == generated.expected
