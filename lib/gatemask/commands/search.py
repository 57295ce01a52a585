"""The command that searches the settings of an experiment."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gatemask.commands.apps import app
from gatemask.commands.options import Dirty, Exp, Json, Poll, Quick, Set, finite, print_result, split_overrides
from gatemask.commands.places import Address, On, Where, open_place
from gatemask.errors import GatemaskError


@app.command("search")
def search_command(
    exp: Exp,
    on: On = Where.LOCAL,
    address: Address = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.01, callback=finite, help="Hours of all trials: time limit, or on Kaggle the hours of all kernels."
        ),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time. Default: 1 here, else as many as run at once.")
    ] = None,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Several machines: postgresql://user@host/database of the study. Default: GATEMASK_STORAGE.",
        ),
    ] = None,
    afresh: Annotated[bool, typer.Option("--afresh", help="Set a search of other settings aside.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Search the settings in an experiment's section 'search'. Resumes where it stopped."""
    from gatemask.config import load_competition
    from gatemask.project import open_experiment
    from gatemask.search import search
    from gatemask.search.space import Space

    if on == Where.KAGGLE and hours is None:
        raise GatemaskError(
            "A search on Kaggle needs a quota.",
            where="--hours",
            expected="hours of kernels that all trials may use together, such as --hours 8",
        )
    from gatemask.stages import Inputs, fetch_inputs
    from gatemask.tuning.database import VARIABLE, chosen_database

    if storage:
        os.environ[VARIABLE] = storage  # for the processes that train trials, too
    database = chosen_database()
    project, path = open_experiment(exp, quick=quick)
    split = split_overrides(set_)
    comp = load_competition(project.experiments, quick=quick, overrides=split["competition"])
    space = Space(path, quick, split["experiment"])
    fetch_inputs("train", Inputs(project, comp, exp=space.exp))
    work: search.Work = search.LocalWork(hours or space.exp.hours)
    if on == Where.KAGGLE and hours is not None:
        from gatemask.kaggle.train.dispatch import PushOptions
        from gatemask.search.on_kaggle import KaggleWork

        # The trials' YAMLs hold the --set options of experiments.
        opts = PushOptions(allow_dirty, poll_s=poll, overrides=tuple(split["competition"]))
        work = KaggleWork(opts, hours, at_once)
    elif on == Where.RAY or (at_once or 1) > 1:
        from gatemask.pieces.local import Local
        from gatemask.search.at_place import PlaceWork

        place = open_place(on, address, project, comp) or Local()
        work = PlaceWork(place, tuple(split["experiment"]), hours or space.exp.hours, at_once)
    print_result(search.run_search(project, comp, space, work, afresh, database), json_, show=search.print_search)
