"""The loop, and commands on the project as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatemask.commands.apps import app
from gatemask.commands.options import (
    AsTrained,
    Comp,
    Data,
    Json,
    Quick,
    Set,
    load_ensemble_inputs,
    print_json,
    print_result,
    split_overrides,
)
from gatemask.commands.places import Address, On, Where, open_place
from gatemask.faults import print_out


@app.command("loop")
def loop_command(
    comp: Comp,
    data: Data = None,
    on: On = Where.LOCAL,
    address: Address = None,
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Run all stages in order; each does only what is not done yet."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
    from gatemask import loop

    training = open_place(on, address, project, config, set_)
    places = loop.Places(None if on == Where.KAGGLE else training, training)
    result = loop.run_loop(project, config, ensemble, split_overrides(set_)["experiment"], data, places)
    if json_:
        print_result(result, json_)


@app.command("doctor")
def doctor_command(json_: Json = False) -> None:
    """Check this machine and the Kaggle account. Exits with 1 if something is wrong."""
    from gatemask import doctor
    from gatemask.project import find_root

    result = doctor.run_checks(find_root())
    print_result(result, json_, show=doctor.print_findings)
    if result.wrong:
        raise typer.Exit(1)


@app.command("builders")
def builders_command(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the page to a file.")] = None,
    json_: Json = False,
) -> None:
    """List models, encoders, losses, optimizers, schedules and augmentations."""
    from gatemask.report import builders as page

    if write is not None:
        print_result(page.write_builders_page(write), json_)
    elif json_:
        print_json(page.builder_tables())
    else:
        print_out(page.builders_markdown())


@app.command("schema")
def schema_command(
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write the list of all keys.")] = None,
) -> None:
    """Write JSON schemas of the YAMLs to experiments/schemas/, for completion in editors."""
    from gatemask.config import schema
    from gatemask.console import say
    from gatemask.files import write_text
    from gatemask.project import find_root

    if page is not None:
        say(f"written: {write_text(page, schema.keys_page())}")
        return
    for path, text in schema.schema_files(find_root() / "experiments").items():
        say(f"written: {write_text(path, text)}")


@app.command("files", hidden=True)
def files_command(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the page to a file.")] = None,
) -> None:
    """Print docs/reference/files.md, the list of files that stages write."""
    from gatemask.files import write_text
    from gatemask.stages import files_page

    if write is None:
        print_out(files_page(), end="")
    else:
        write_text(write, files_page())


@app.command("commands", hidden=True)
def commands_command(
    context: typer.Context,
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the page to a file.")] = None,
) -> None:
    """Print docs/reference/commands.md, the list of all commands with their options."""
    from gatemask.commands.reference import commands_page
    from gatemask.files import write_text

    page = commands_page(context.find_root().command)
    if write is None:
        print_out(page, end="")
    else:
        write_text(write, page)
