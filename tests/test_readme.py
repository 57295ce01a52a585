"""Tests of the README and the docs: every command exists, every link has a target."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from gatemask.cli import full_app
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
        for line in block.splitlines()
    }
    - {""}
)
TARGETS_RUN = r"bin/gatemask [a-z]|pytest|benchmarks/\w+.py"


def test_the_readme_has_the_main_commands() -> None:
    assert {"make demo", "make test", "make loop COMP=nuclei DATA=path/to/nuclei"} <= set(COMMANDS)


@pytest.mark.integration
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_accepts_the_command(command: str) -> None:
    dry_run = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry_run.returncode == 0, dry_run.stderr
    assert re.search(TARGETS_RUN, dry_run.stdout), dry_run.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(("make ", "cd "))])
def test_gatemask_accepts_the_command(command: str) -> None:
    name, *arguments = shlex.split(command)
    assert name == "gatemask"
    group = typer.main.get_command(full_app())
    context = group.make_context(name, arguments)  # parses, and runs nothing
    while isinstance(group, TyperGroup):
        name, group, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        assert group is not None
        context = group.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_images_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_the_glossary_is_alphabetical() -> None:
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/reference/glossary.md").read_text(), re.M)[1:]
    terms = [row.lower().removeprefix("---|") for row in rows if not row.startswith("---")]
    assert terms == sorted(terms)
