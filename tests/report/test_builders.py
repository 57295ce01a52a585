"""The table of builders matches the code and is made without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from gatemask import config as schema
from gatemask.report import builders

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_in_docs_is_up_to_date() -> None:
    page = (ROOT / "docs/reference/builders.md").read_text(encoding="utf-8")
    assert page == builders.builders_markdown(), "run: gatemask builders --write docs/reference/builders.md"


def test_every_name_of_the_schema_has_a_description() -> None:
    table = builders.builder_tables()
    named = {
        "models": schema.Architecture,
        "encoders": schema.Encoder,
        "losses": schema.LossName,
        "optimizers": schema.OptimizerName,
        "schedules": schema.ScheduleName,
    }
    for section, names in named.items():
        assert [row["name"] for row in table[section]] == list(get_args(names))
        assert all(row.get("what", "-") for row in table[section])
    assert {row["name"] for row in table["augment"]} == set(schema.Augment.model_fields)
    assert {row["name"] for row in table["model"]} == set(schema.Model.model_fields) - {"name", "encoder"}
    affine = next(row for row in table["augment"] if row["name"] == "affine")
    assert "rotate: 7.0" in affine["bare name means"], "options of a bare name, not the defaults of its keys"


@pytest.mark.integration
def test_the_command_prints_and_writes_it_without_keras(tmp_path: Path) -> None:
    code = (
        "import sys; from gatemask.cli import main;"
        "code = main(sys.argv[1:]) or 0;"
        "heavy = {'keras', 'tensorflow', 'jax', 'pandas'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", code, "builders", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert json.loads(run("--json")) == json.loads(json.dumps(builders.builder_tables()))
    assert run().strip() == builders.builders_markdown().strip()
    run("--write", str(tmp_path / "page.md"))
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == builders.builders_markdown()
