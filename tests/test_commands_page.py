"""docs/reference/commands.md is the page that the code makes."""

from __future__ import annotations

import typer

from gatemask.cli import full_app
from gatemask.commands.reference import commands_page
from tests.conftest import ROOT


def test_the_page_of_commands_is_up_to_date() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    written = commands_page(typer.main.get_command(full_app()))
    assert page == written, "run: gatemask commands --write docs/reference/commands.md"
    assert "&lt;" in page and "## gatemask folds make" in page
