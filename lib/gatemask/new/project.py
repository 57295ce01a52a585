"""`gatemask init`: a folder for competitions, with one of the examples, for those who installed gatemask with pip.

<folder>/
    experiments/<example>/   the example's YAMLs, and the rules that its ensemble.yaml names
    experiments/schemas/     JSON schemas, for editors
    folds/                   splits, under version control
    Makefile .gitignore      targets of the command; generated folders are not committed
"""

from __future__ import annotations

import shlex
from pathlib import Path

from gatemask.config import load_ensemble
from gatemask.config.schema import schema_files
from gatemask.console import say
from gatemask.errors import GatemaskError, nearest
from gatemask.files import write_text
from gatemask.project import TRIALS
from gatemask.results.project import InitResult
from gatemask.shipped import PACKAGE, shipped_folder

IGNORED = ["/data/", "/runs/", "/dist/", "*-quick.csv", "folds/phantom*.csv", "wandb/", ".env", ".venv/"]

NEXT = {
    "phantom": ["gatemask loop phantom --quick"],
    "nuclei": ["gatemask loop nuclei --data FOLDER"],
    "siim-acr": ["gatemask data download siim-acr", "gatemask data prepare siim-acr", "gatemask folds make siim-acr"],
}
TARGETS = PACKAGE / "new" / "targets.mk"


def examples() -> list[str]:
    """Return the names of the example competitions."""
    return sorted(path.parent.name for path in shipped_folder("experiments").glob("*/competition.yaml"))


def init_project(folder: Path, example: str) -> InitResult:
    """Create a project. Files that exist already are kept, so it can be run again.

    Args:
        folder: Folder of the project; created if it does not exist.
        example: Name of the example competition.

    Raises:
        GatemaskError: The example is unknown, or a file exists with different content.
    """
    if example not in examples():
        close = nearest(example, examples())
        raise GatemaskError(
            f"Unknown example '{example}'.",
            received=example,
            expected=", ".join(examples()),
            do=f"Did you mean '{close}'?" if close else "Choose one of them.",
        )
    root = folder.resolve()
    files = _files(root, example)
    if changed := [path for path, text in files.items() if path.exists() and _differs(path, text)]:
        raise GatemaskError(
            "A file of the project exists already, with different content.",
            where=changed[0],
            received=f"{len(changed)} such file{'s' if len(changed) > 1 else ''}",
            do="Choose another folder, or rename the file. Nothing was written.",
        )
    made = [path for path in files if not path.exists()]
    for path in made:
        write_text(path, files[path])
    (root / "folds").mkdir(exist_ok=True)
    kept = len(files) - len(made)
    return InitResult(folder=str(root), example=example, written=len(made), kept=kept)


def print_next_steps(result: InitResult) -> None:
    """Print what was created, and what to do next."""
    say(f"{result.folder}: {result.written} files written, {result.kept} kept")
    say("Next:")
    for command in (f"cd {shlex.quote(result.folder)}", *NEXT.get(result.example, [f"gatemask loop {result.example}"])):
        say(f"  {command}")
    say("A competition of your own: gatemask new NAME --images FOLDER --labels FOLDER_OR_TABLE")


def _files(root: Path, example: str) -> dict[Path, str]:
    experiments = shipped_folder("experiments")
    own = [path for path in sorted((experiments / example).rglob("*.yaml")) if path.parent.name != TRIALS]
    rules = [experiments.parent / name for name in load_ensemble(experiments / example).tune.beside]
    yamls = {root / path.relative_to(experiments.parent): path.read_text(encoding="utf-8") for path in [*own, *rules]}
    others = {root / ".gitignore": "\n".join([*IGNORED, ""]), root / "Makefile": makefile(example)}
    return {**yamls, **schema_files(root / "experiments"), **others}


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_bytes() != text.encode()


def makefile(example: str) -> str:
    """Return the Makefile of a project: the targets of a clone, for an installed command."""
    return f"""# Targets of gatemask. `make help` lists them. ARGS passes options: make loop ARGS=--quick
GATEMASK ?= gatemask
COMP ?= {example}
READY :=
.DEFAULT_GOAL := help
.PHONY: help

help: ## list the targets
\t@awk -F':.*## ' '/^[a-z-]+:.*## / {{printf "  make %-16s %s\\n", $$1, $$2}}' $(MAKEFILE_LIST)

{TARGETS.read_text(encoding="utf-8")}"""
