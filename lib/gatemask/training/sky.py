"""`gatemask sky`: write SkyPilot tasks, one managed job per fold, that train in any cloud, on spot machines too.

    dist/<comp>/sky/<experiment>-fold<k>.yaml

A task copies the project's folder without what git ignores, and trains one fold. Data, states and results are kept in
the remote of GATEMASK_REMOTE: a job whose machine is lost starts again on another one, and resumes at the last epoch.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask import __version__
from gatemask.config import Competition, Experiment
from gatemask.files import write_text
from gatemask.project import Project
from gatemask.results.training import SkyResult
from gatemask.training.fold_inputs import TrainingInputs
from gatemask.yaml12 import dump_yaml

REMOTE = "GATEMASK_REMOTE"
KEPT = ("WANDB_MODE", "KERAS_BACKEND")  # variables of this process that the jobs get


@dataclass(frozen=True)
class SkyOptions:
    """How jobs are run.

    Args:
        accelerators: Accelerators of a machine, as SkyPilot names them. Default: one L4.
        spot: Whether machines may be taken away, for a lower price. Default: True.
        overrides: Options `--set` of the command. Default: none.
    """

    accelerators: str = "L4:1"
    spot: bool = True
    overrides: tuple[str, ...] = ()


def write_tasks(
    project: Project, comp: Competition, exp: Experiment, folds: Sequence[int] | None, options: SkyOptions
) -> SkyResult:
    """Write the task of each fold.

    Args:
        project: Project with folds.
        comp: Competition.
        exp: Experiment.
        folds: Numbers of the folds. Default: all.
        options: How jobs are run.

    Raises:
        GatemaskError: A fold does not exist.
    """
    tasks, commands = [], []
    for fold in TrainingInputs(project, comp, exp).choose_folds(folds):
        name = re.sub(r"[^a-z0-9]+", "-", f"{project.label}-{exp.name}-fold{fold}".lower()).strip("-")
        path = project.dist / "sky" / f"{exp.name}-fold{fold}.yaml"
        launch = f"sky jobs launch -n {name} {project.relative(path)}"
        task = {
            "name": name,
            "workdir": ".",
            "resources": {"accelerators": options.accelerators, "use_spot": options.spot},
            "envs": {
                REMOTE: os.environ.get(REMOTE),  # null: SkyPilot asks for it at launch
                **{key: os.environ[key] for key in KEPT if key in os.environ},
            },
            "setup": _setup(project.root),
            "run": _run(project, exp, fold, options.overrides),
        }
        write_text(path, f"# {launch}\n{dump_yaml(task)}")
        tasks.append(project.relative(path))
        commands.append(launch)
    return SkyResult(tasks=tasks, launch=commands)


def _setup(root: Path) -> str:
    """Return the commands that install gatemask: this source tree, or the version that runs here."""
    own = (root / "lib" / "gatemask").is_dir() and (root / "pyproject.toml").is_file()
    package = '".[s3,gs]"' if own else f'"gatemask[s3,gs]=={__version__}"'
    return f"pip install {package}\n"


def _run(project: Project, exp: Experiment, fold: int, overrides: Sequence[str]) -> str:
    command = ["gatemask", "train", f"{project.comp}/{exp.name}", "--fold", str(fold)]
    command += ["--quick"] * project.quick
    # A session limit would end the job before the fold is done.
    kept = [option for option in overrides if option.partition("=")[0].strip() != "hours"]
    kept += [] if exp.hours is None else ["hours=null"]
    command += [word for option in kept for word in ("--set", option)]
    return f"export GATEMASK_ROOT=$PWD\n{shlex.join(command)}\n"
