"""The command line: start-up time, stdout, and error messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.cli import DEFINED_IN, full_app
from gatemask.new.project import TARGETS
from tests.conftest import ROOT, gatemask

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def root(make_root: Callable[[str], Path]) -> Path:
    return make_root("cli")


COMMANDS = [
    ["data", "phantom"],
    ["data", "download"],
    ["data", "prepare"],
    ["folds", "make"],
    ["records", "make"],
    ["records", "check"],
    ["train"],
    ["augment", "show"],
    ["plan"],
    ["oof-tune"],
    ["compare"],
    ["ensemble"],
    ["package"],
    ["rehearse"],
    ["push"],
    ["resume"],
    ["campaign"],
    ["submit"],
    ["leaderboard"],
    ["report"],
    ["loop"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_each_stage_lists_the_common_options(root: Path, command: list[str]) -> None:
    done = gatemask(*command, "--help", root=root)
    assert done.returncode == 0
    for option in ("--set", "--quick", "--json"):
        assert option in done.stdout


def test_frequent_commands_are_found_in_their_module_alone() -> None:
    added: dict[str, set[str]] = {}
    for info in full_app().registered_commands:
        assert info.callback is not None and info.name is not None
        added.setdefault(info.name, set()).add(info.callback.__module__)
    for group in full_app().registered_groups:
        assert group.name is not None and group.typer_instance is not None
        for info in group.typer_instance.registered_commands:
            assert info.callback is not None
            added.setdefault(group.name, set()).add(info.callback.__module__)
    for command, module in DEFINED_IN.items():
        assert added[command] == {f"gatemask.commands.{module}"}


def test_the_order_of_commands_does_not_depend_on_what_was_imported_first() -> None:
    code = (
        "import sys\nfrom gatemask.cli import full_app, main\n"
        "for arguments in (['runs', '--help'], ['push', '--help'])[:int(sys.argv[1])]:\n"
        "    try: main(arguments)\n    except SystemExit: pass\n"
        "print('---')\nprint([c.name or c.callback.__name__ for c in full_app().registered_commands])\n"
        "print([group.name for group in full_app().registered_groups])\n"
    )
    command = [sys.executable, "-c", code]
    listed = [subprocess.run([*command, n], cwd=ROOT, capture_output=True, text=True, check=True).stdout for n in "02"]
    assert listed[0].split("---")[-1] == listed[1].split("---")[-1]


def test_commands_are_listed_whether_or_not_another_was_imported_alone(root: Path) -> None:
    code = (
        "import sys\nfrom gatemask.cli import main\n"
        "for arguments in (['runs', 'best', '--help'], ['--help'], ['runss']):\n"
        "    try: main(arguments)\n    except SystemExit: pass\n    print('-' * 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    alone, everything, _ = done.stdout.split("-" * 9 + "\n")[:3]
    assert "gatemask runs best" in " ".join(alone.split()) or "--where" in alone
    assert all(f" {command} " in everything for command in (*DEFINED_IN, "oof-tune", "package", "doctor"))
    assert "runss" in done.stderr


def test_makefile_has_a_target_for_each_command() -> None:
    text = TARGETS.read_text()
    others = ["new", "status", "wait", "logs", "fetch", "sync", "doctor"]
    for command in [*COMMANDS, ["data", "labels"], ["folds", "audit"], *([name] for name in others)]:
        assert f"$(GATEMASK) {' '.join(command)}" in text
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "loop", "train", "oof-tune", "clean"):
        assert f"make {target}" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["train", "experiments/phantom/unet_b0.yaml", "--set", "epoch=3"]])
def test_help_and_configuration_errors_import_nothing_heavy(root: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom gatemask.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = set('tensorflow keras jax pandas sklearn matplotlib optuna numba wandb'.split()) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def write_misspelled(root: Path) -> Path:
    path = root / "experiments/phantom/wrong.yaml"
    path.write_text("extends: unet_b0.yaml\nepochs: 2\noptimiser: {name: adam}\n")
    return path


def test_misspelled_key_is_rejected_with_file_line_and_nearest_key(root: Path) -> None:
    path = write_misspelled(root)
    done = gatemask("train", path, "--fold", 0, root=root)
    path.unlink()
    assert done.returncode == 1
    assert done.stdout == ""
    for word in ("Unknown key 'optimiser'", "wrong.yaml, line 3", "Write 'optimizer' instead"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loop", "phantoms"], ["Unknown competition 'phantoms'", "Did you mean 'phantom'"]),
        (["train", "phantom/unet_b1"], ["Unknown experiment", "unet_b0"]),
        (["train", "phantom/unet_b0", "--fold", "one"], ["--fold requires numbers", "one"]),
        (["train", "phantom/unet_b0"], ["no folds yet", "gatemask folds make phantom"]),
        (["records", "make", "phantom"], ["no manifest yet", "gatemask data prepare phantom"]),
        (["folds", "make", "phantom"], ["no manifest yet", "gatemask data prepare phantom"]),
        (["data", "prepare", "phantom"], ["raw files do not exist", "--data"]),
        (["data", "phantom", "nuclei"], ["has no phantoms"]),
        (["records", "make", "phantom", "--set", "recods.size=64"], ["Unknown key 'recods'", "'records'"]),
        (["records", "make", "phantom", "--set", "records.size=65"], ["records.size", "65", "--set records.size=65"]),
        (["oof-tune", "phantom"], ["no folds yet", "gatemask folds make phantom"]),
        (["submit", "phantom"], ["Nothing is packaged", "gatemask package phantom"]),
        (["submit", "phantom", "--set", "kaggle.competition=null"], ["no kaggle.competition", "competition.yaml"]),
        (["leaderboard", "phantom"], ["Nothing was submitted", "gatemask submit phantom"]),
        (["rehearse", "phantom"], ["Nothing is packaged", "gatemask package phantom"]),
        (["train", "phantom/unet_b0", "--set", "epochs=[/red]"], ["epochs", "[/red]", "valid integer"]),
    ],
)
def test_user_errors_are_reported_without_a_traceback(root: Path, arguments: list[str], words: list[str]) -> None:
    done = gatemask(*arguments, root=root)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_invalid_ensemble_stops_the_loop_before_its_first_stage(root: Path) -> None:
    path = root / "experiments/phantom/ensemble.yaml"
    good = path.read_text()
    path.write_text(good.replace("[gate_r18]", "[unet_b0]"))
    done = gatemask("loop", "phantom", root=root)
    path.write_text(good)
    assert done.returncode == 1
    assert "names 'unet_b0' as a gate" in done.stderr
    assert not (root / "data").exists()


def test_command_outside_a_project(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatemask", "loop", "phantom"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Not a gatemask project" in done.stderr


def test_stdout_holds_only_json(root: Path) -> None:
    done = gatemask("data", "phantom", "--quick", "--json", "--set", "phantom.images=4", root=root)
    assert json.loads(done.stdout)["images"] == 4
