"""Commands that train on Kaggle."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask import faults
from gatemask.commands.apps import app
from gatemask.commands.options import (
    Comp,
    Dirty,
    Exp,
    Fold,
    Hours,
    Json,
    Poll,
    Quick,
    Set,
    Target,
    load_ensemble_inputs,
    load_experiment_inputs,
    open_target,
    parse_folds,
    print_result,
)
from gatemask.errors import GatemaskError
from gatemask.faults import print_out


@app.command("push")
def push_command(
    exp: Exp,
    fold: Fold = "all",
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    afresh: Annotated[bool, typer.Option("--afresh", help="Start from scratch: attach no earlier output.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Train folds on Kaggle: upload code and data, start a kernel."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.kaggle.train import commands
    from gatemask.kaggle.train.dispatch import PushOptions

    opts = PushOptions(allow_dirty, afresh, hours, poll, tuple(set_ or ()))
    report = commands.push_experiment(project, config, experiment, parse_folds(fold), opts)
    print_result(report, json_, show=commands.print_kernels)


@app.command("status")
def status_command(target: Target, quick: Quick = False, json_: Json = False) -> None:
    """Show the state of pushed kernels."""
    from gatemask.kaggle.train import commands

    print_result(commands.kernel_statuses(*open_target(target, quick)), json_, show=commands.print_kernels)


@app.command("wait")
def wait_command(target: Target, poll: Poll = 30.0, quick: Quick = False, json_: Json = False) -> None:
    """Wait until all kernels have ended; fetch the output of each."""
    from gatemask.kaggle.train import commands

    print_result(commands.wait_for_kernels(*open_target(target, quick), poll), json_, show=commands.print_kernels)


@app.command("logs")
def logs_command(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the kernel ends.")] = False,
    quick: Quick = False,
) -> None:
    """Print the log of the newest kernel."""
    from gatemask.kaggle.train import commands

    for line in commands.latest_log(*open_target(target, quick), follow):
        print_out(line)


@app.command("fetch")
def fetch_command(target: Target, quick: Quick = False, json_: Json = False) -> None:
    """Fetch and verify the runs of kernels that have ended."""
    from gatemask.kaggle.train import commands

    print_result(commands.fetch_kernels(*open_target(target, quick)), json_, show=commands.print_kernels)


@app.command("resume")
def resume_command(
    target: Target,
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Push stopped, failed or lost kernels again; they resume from their last output."""
    project, chosen = open_target(target, quick)
    from gatemask.kaggle.train import commands, kernel_records
    from gatemask.kaggle.train.dispatch import PushOptions
    from gatemask.results.kaggle_training import KernelEntry, PushReport

    pushed: list[KernelEntry] = []
    failures: list[tuple[str, GatemaskError]] = []
    for name, before in kernel_records.pushed_overrides(project, chosen).items():
        overrides = tuple(set_ or before)
        try:
            _, config, experiment = load_experiment_inputs(f"{project.comp}/{name}", quick, list(overrides))
            opts = PushOptions(allow_dirty, False, hours, poll, overrides)
            pushed += commands.resume_experiment(project, config, experiment, opts).pushed
        except GatemaskError as error:  # only this experiment fails
            failures.append((name, error))
    print_result(PushReport(current=not pushed, pushed=tuple(pushed)), json_, show=commands.print_kernels)
    for name, failure in failures:
        faults.say_error(f"error: {name}: {failure}")
    if failures:
        raise typer.Exit(1)


@app.command("campaign")
def campaign_command(
    comp: Comp,
    experiments: Annotated[str, typer.Option(help="Names separated by commas. Default: those in ensemble.yaml.")] = "",
    fold: Fold = "all",
    hours: Hours = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Train experiments on Kaggle, from push to fetch, until each fold has its result here."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_)
    names = experiments.split(",") if experiments else [*ensemble.gate.experiments, *ensemble.mask.experiments]
    loaded = [load_experiment_inputs(f"{project.comp}/{name.strip()}", quick, set_)[2] for name in names]
    from gatemask.kaggle.train import campaign
    from gatemask.kaggle.train.dispatch import PushOptions

    opts = PushOptions(allow_dirty, False, hours, poll, tuple(set_ or ()))
    result = campaign.run_campaign(project, config, loaded, parse_folds(fold), opts)
    print_result(result, json_, show=campaign.print_campaign)
    campaign.require_all_folds(result)
