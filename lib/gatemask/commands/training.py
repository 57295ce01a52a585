"""Commands that train an experiment here, or describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatemask.commands.apps import app, augment_app
from gatemask.commands.options import (
    Comp,
    Exp,
    Fold,
    Json,
    Quick,
    Set,
    Target,
    finite,
    load_competition_inputs,
    load_experiment_inputs,
    parse_counts,
    parse_folds,
    print_result,
)
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
    from gatemask.stages import Inputs, fetch_inputs
    from gatemask.training.train import train

    fetch_inputs("train", Inputs(project, config, exp=experiment))
    place = open_place(on, address, project, config, set_)
    print_result(train(project, config, experiment, parse_folds(fold), place=place), json_)


@app.command("pseudo")
def pseudo_command(
    comp: Comp,
    from_: Annotated[
        list[str], typer.Option("--from", metavar="EXP", help="Experiment whose networks label. Repeatable.")
    ],
    name: Annotated[str, typer.Option(help="Name of the source to write.")],
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_GLOB", help="Images. Default: the test images.")
    ] = None,
    soft: Annotated[bool, typer.Option("--soft", help="Write probabilities instead of masks cut at 0.5.")] = False,
    confidence: Annotated[
        float, typer.Option(help="Leave out images whose labels are less sure, 0 to 1.", min=0, callback=finite)
    ] = 0.0,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Label images with trained networks, one set of labels per fold, as a source for `data.extra`."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.training import pseudo

    options = pseudo.PseudoOptions(name, tuple(from_), images, soft, confidence)
    print_result(pseudo.make_pseudo(project, config, options), json_, show=pseudo.print_pseudo)


@app.command("plan")
def plan_command(
    target: Target,
    on: Annotated[
        str,
        typer.Option("--on", metavar="MACHINE", help="COMP: one of Kaggle's machines, such as NvidiaL4, or 'local'."),
    ] = "local",
    images: Annotated[
        str, typer.Option(metavar="N,...", help="COMP: numbers of training images.")
    ] = "12000,1000000,100000000",
    rates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="COMP: YAML with rates of stages to replace.")
    ] = None,
    hour_price: Annotated[float | None, typer.Option(min=0, help="COMP: price of an hour of the machine.")] = None,
    gb_month_price: Annotated[
        float | None, typer.Option(min=0, help="COMP: price of storing a GB for a month.")
    ] = None,
    network: Annotated[
        float | None, typer.Option(min=0.001, help="COMP: speed of the network to the remote, in MB per second.")
    ] = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Estimate memory, steps and hours of an experiment; or hours, storage and cost of a competition with N images."""
    from gatemask.commands.options import load_ensemble_inputs, open_target

    if open_target(target, quick)[1] is not None:
        project, config, experiment = load_experiment_inputs(target, quick, set_)
        from gatemask.cost.plan import plan_experiment, print_plan

        print_result(plan_experiment(project, config, experiment), json_, show=print_plan)
        return
    project, config, ensemble = load_ensemble_inputs(target, quick, set_)
    from gatemask.config import load_experiment
    from gatemask.cost.rates import load_rates
    from gatemask.cost.scale import Prices, Scale, print_scale

    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    experiments = [load_experiment(project.experiment_file(name), quick=quick) for name in names]
    scale = Scale(project, config, ensemble, experiments, on, load_rates(rates))
    prices = Prices(hour_price, gb_month_price)
    print_result(scale.plan(parse_counts(images), prices, network), json_, show=print_scale)


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
