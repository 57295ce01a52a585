"""Tests of the README and the docs: every command exists and takes its options, every link has a target."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from gatemask.cli import full_app
from gatemask.new.project import TARGETS as RULES
from tests.conftest import ROOT
from tests.pages import DOCS, PAGES, blocks, commands, inline_code, short

HISTORY = ROOT / "CHANGELOG.md"  # names commands as they were
COMMANDS = sorted({command for page in PAGES for command in commands(page)})
MAKE = [command for command in COMMANDS if command.startswith("make ")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8") + RULES.read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
VARIABLES = {
    *re.findall(r"\$\(([A-Z]+)\)", MAKEFILE),
    "IMAGES",
    "LABELS",
    "TEST",
    "SAMPLE",
    "GROUPS",
    "METRIC",
    "COMPETITION",
    "CONFIRM",
}
TARGETS_RUN = r"bin/gatemask [a-z]|pytest|benchmarks/\w+.py"
INLINE = sorted({code for page in PAGES if page != HISTORY for code in inline_code(page)})


@cache
def application() -> Any:
    return typer.main.get_command(full_app())


def parse(words: list[str]) -> None:
    """Parse the arguments of gatemask, and run nothing."""
    group, name = application(), "gatemask"
    context = group.make_context(name, words)
    while hasattr(group, "commands"):
        name, group, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, list(arguments), parent=context)


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the first words name, and the words after it."""
    command = application()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_options(words: list[str]) -> None:
    """Check the name of a command and the names of its options; its arguments may be placeholders."""
    command, rest = find(words)
    assert command is not application() or all(word.startswith("-") for word in words), f"no command {' '.join(words)}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    unknown = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - known
    assert not unknown, f"gatemask {' '.join(words)}: no option {unknown}"


def test_the_readme_has_the_main_commands() -> None:
    assert {"make demo", "make test"} <= set(commands(ROOT / "README.md"))


@pytest.mark.integration
def test_make_and_gatemask_accept_the_commands() -> None:
    # Options of the make that runs the tests, such as ARGS, are not meant for the commands.
    dropped = ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    for command in MAKE:
        words = [*shlex.split(command), "--dry-run"]
        dry = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert dry.returncode == 0, f"{command}: {dry.stderr}"
        assert re.search(TARGETS_RUN, dry.stdout) or command in ("make docs", "make setup"), f"{command}: {dry.stdout}"
        if command != "make docs":
            for line in re.findall(r"bin/gatemask (.*)", dry.stdout):
                parse(shlex.split(line))


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(("make ", "cd "))])
def test_gatemask_accepts_the_command(command: str) -> None:
    name, *arguments = shlex.split(command)
    if (name, arguments[:1]) != ("pip", ["install"]):
        assert name == "gatemask"
        parse(arguments)


@pytest.mark.parametrize("code", [code for code in INLINE if code.startswith("gatemask ")])
def test_commands_in_sentences_exist(code: str) -> None:
    words = [word.strip("[]") for word in re.sub(r"\[?--\w+ \.\.\.\]?|\.\.\.|\[OPTIONS\]", "", code).split()[1:]]
    if words[0] != "COMMAND":
        check_options(words)


@pytest.mark.parametrize("code", [code for code in INLINE if code.startswith("make ")])
def test_targets_in_sentences_exist(code: str) -> None:
    target, *words = shlex.split(code)[1:]
    assert target in TARGETS
    values = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    assert set(values) <= VARIABLES
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.M)
    command = recipe and re.search(r"\$\(GATEMASK\) ([a-z][a-z -]*)", recipe[1])
    if command:
        check_options([*command[1].split(), *shlex.split(values.get("ARGS", ""))])


def test_blocks_of_commands_are_marked() -> None:
    for page in DOCS:
        for block in blocks(page, ""):
            assert not re.match(r"(make|gatemask) ", block), f"{short(page)}: mark as bash: {block.splitlines()[0]}"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_links_and_images_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_the_glossary_is_alphabetical() -> None:
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/reference/glossary.md").read_text(), re.M)[1:]
    terms = [row.lower().removeprefix("---|") for row in rows if not row.startswith("---")]
    assert terms == sorted(terms)
