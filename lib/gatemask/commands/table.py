"""Commands of stages with no options beyond the common ones, made from the table of stages."""

from __future__ import annotations

from collections.abc import Callable

from gatemask.commands.apps import GROUPS, app
from gatemask.commands.options import (
    AsTrained,
    Comp,
    Json,
    Quick,
    Set,
    load_competition_inputs,
    load_ensemble_inputs,
    print_result,
)
from gatemask.commands.places import Address, On, Where, open_place
from gatemask.stages import ENSEMBLE, TABLE, Inputs, StageEntry, resolve


def _register(entry: StageEntry) -> None:
    """Add the command of a stage."""

    def run(inputs: Inputs, json_: bool) -> None:
        print_result(entry.run(inputs), json_, show=resolve(entry.printer) if entry.printer else None)

    def of_competition(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
        run(Inputs(*load_competition_inputs(comp, quick, set_)), json_)

    def of_ensemble(
        comp: Comp, as_trained: AsTrained = False, set_: Set = None, quick: Quick = False, json_: Json = False
    ) -> None:
        run(Inputs(*load_ensemble_inputs(comp, quick, set_, as_trained)), json_)

    def of_competition_at(
        comp: Comp,
        on: On = Where.LOCAL,
        address: Address = None,
        set_: Set = None,
        quick: Quick = False,
        json_: Json = False,
    ) -> None:
        project, config = load_competition_inputs(comp, quick, set_)
        run(Inputs(project, config, place=open_place(on, address, project, config, set_)), json_)

    def of_ensemble_at(
        comp: Comp,
        on: On = Where.LOCAL,
        address: Address = None,
        as_trained: AsTrained = False,
        set_: Set = None,
        quick: Quick = False,
        json_: Json = False,
    ) -> None:
        project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
        run(Inputs(project, config, ensemble, place=open_place(on, address, project, config, set_)), json_)

    if "place" in entry.takes:
        command: Callable[..., None] = of_ensemble_at if "ensemble" in entry.takes else of_competition_at
    else:
        command = of_ensemble if entry.takes == ENSEMBLE else of_competition
    *group, name = entry.command.split()
    (GROUPS[group[0]] if group else app).command(name, help=entry.summary)(command)


for stage_entry in TABLE:
    if stage_entry.summary is not None:
        _register(stage_entry)
