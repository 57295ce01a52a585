"""docs/reference/guarantees.md names a test for each guarantee, and the test exists."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/reference/guarantees.md").read_text(encoding="utf-8")
GUARANTEES = re.split(r"\n(?=- )", PAGE.split("\n## ", 1)[1])


def named_tests(guarantee: str) -> list[tuple[str, str]]:
    """Return file and function of the tests that a guarantee names; `::name` means the file before."""
    tests, file = [], ""
    for named, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?[^`]*`", guarantee):
        file = named or file
        if named or name:
            tests.append((file, name))
    return tests


@pytest.mark.parametrize("guarantee", [text for text in GUARANTEES if text.startswith("- ")])
def test_each_guarantee_names_a_test(guarantee: str) -> None:
    tests = named_tests(guarantee)
    assert tests, f"no test holds: {guarantee}"
    for file, name in tests:
        assert (ROOT / file).is_file(), f"{file} does not exist"
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
