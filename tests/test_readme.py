"""What the README says is true: every command exists, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in ("kaggle", "inference", "leaderboard"))]
COMMANDS = [
    line.split("#")[0].strip()
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    for line in block.splitlines()
]


def test_there_are_commands() -> None:
    assert {"make demo", "make test", "make loop COMP=nuclei DATA=path/to/nuclei"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command])
def test_make_knows_the_command_and_it_runs_a_stage_that_is_tested(command: str) -> None:
    shown = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert re.search(
        r"bin/gatemask (loop|data|folds|records|train|plan|augment|oof-tune|compare|ensemble|package|rehearse|report"
        r"|push|status|wait|logs|fetch|resume|campaign|sync|doctor|submission|submit|leaderboard)"
        r"|pytest",
        shown.stdout,
    ), shown.stdout


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_and_pictures_exist(path: str) -> None:
    page = ROOT / path
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{path} points to {target}"
