"""Commands that train an experiment here, or describe it."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask.commands.apps import app, augment_app
from gatemask.commands.options import Exp, Fold, Json, Quick, Set, load_experiment_inputs, parse_folds, print_result
from gatemask.commands.places import Address, On, Where, open_place


@app.command("train")
def train_command(
    exp: Exp,
    fold: Fold = "all",
    on: On = Where.LOCAL,
    address: Address = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Train an experiment fold by fold. Resumes where it stopped."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.training.train import train

    place = open_place(on, address, project, config, set_)
    print_result(train(project, config, experiment, parse_folds(fold), place=place), json_)


@app.command("plan")
def plan_command(exp: Exp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Estimate parameters, memory, steps and hours of an experiment."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.cost.plan import plan_experiment, print_plan

    print_result(plan_experiment(project, config, experiment), json_, show=print_plan)


@augment_app.command("show")
def augment_show(
    exp: Exp,
    images: Annotated[int, typer.Option(min=1, max=64, help="Number of images to show.")] = 6,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Draw images before and after augmentation."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.report.augment import show_augmentation

    print_result(show_augmentation(project, config, experiment, images), json_)


@app.command("sky")
def sky_command(
    exp: Exp,
    fold: Fold = "all",
    accelerators: Annotated[str, typer.Option(help="Accelerators of a machine, as SkyPilot names them.")] = "L4:1",
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Use no spot machines.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Write SkyPilot tasks, one managed job per fold."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.training.sky import SkyOptions, write_tasks

    options = SkyOptions(accelerators, not on_demand, tuple(set_ or ()))
    print_result(write_tasks(project, config, experiment, parse_folds(fold), options), json_)
