"""The table of stages agrees with the code and with docs/reference/files.md."""

from __future__ import annotations

import ast

import pytest

from gatemask.stages import LOOP, TABLE, StageEntry, files_page
from tests.conftest import ROOT


def test_files_page_is_current() -> None:
    page = (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
    assert page == files_page(), "run: gatemask files --write docs/reference/files.md"


@pytest.mark.parametrize("entry", [entry for entry in TABLE if entry.function], ids=lambda entry: entry.command)
def test_functions_of_stages_exist(entry: StageEntry) -> None:
    for path in filter(None, [entry.function, entry.printer]):
        module, _, name = path.partition(":")
        source = (ROOT / "lib/gatemask" / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        function = next((function for function in functions if function.name == name), None)
        assert function is not None, f"{path} does not exist"
        if path == entry.function:
            assert len(function.args.args) >= len(entry.takes)


def test_names_in_the_loop_are_unique() -> None:
    names = [entry.name for entry in LOOP]
    assert len(set(names)) == len(names)
    assert all(entry.function for entry in LOOP)
