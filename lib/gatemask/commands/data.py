"""Commands on raw files, folds and records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatemask.commands.apps import app, data_app, folds_app, records_app, sources_app
from gatemask.commands.options import (
    Comp,
    Data,
    Json,
    Quick,
    Set,
    ask_on_terminal,
    load_competition_inputs,
    print_json,
    print_result,
)
from gatemask.errors import GatemaskError


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the project.")],
    example: Annotated[
        str, typer.Option(metavar="NAME", help="Example to begin with: phantom, nuclei or siim-acr.")
    ] = "phantom",
    json_: Json = False,
) -> None:
    """Create a project: a folder for competitions, with an example."""
    from gatemask.new.project import init_project, print_next_steps

    print_result(init_project(folder, example), json_, show=print_next_steps)


@app.command("new")
def new_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the competition: its folder below experiments/.")
    ],
    images: Annotated[str, typer.Option(metavar="GLOB_OR_FOLDER", help="Training images.")],
    labels: Annotated[
        str | None, typer.Option(metavar="FILE_OR_FOLDER_OR_GLOB", help="Table of encodings, or mask files.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="GLOB_OR_FOLDER", help="Test images. Default: a hold-out fold.")
    ] = None,
    sample: Annotated[Path | None, typer.Option(metavar="FILE", help="Sample submission.")] = None,
    groups: Annotated[Path | None, typer.Option(metavar="CSV", help="Table of image ids and groups.")] = None,
    metric: Annotated[str | None, typer.Option(help="Name of the metric. Default: a guess.")] = None,
    competition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name on Kaggle: the last part of the address.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept all guesses.")] = False,
    json_: Json = False,
) -> None:
    """Inspect the files of a competition, and write its YAMLs to experiments/NAME/."""
    from gatemask.new.competition import make_competition
    from gatemask.new.decisions import Decisions
    from gatemask.new.inputs import NewOptions
    from gatemask.project import find_root

    decisions = Decisions(yes, ask_on_terminal if sys.stdin.isatty() else None)
    options = NewOptions(images, labels, test, sample, groups, metric, competition)
    result = make_competition(find_root(), name, options, decisions)
    if json_:
        print_json(result.as_dict())


@data_app.command("phantom")
def data_phantom(comp: Comp = "phantom", set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Draw the phantom images of a competition, with labels and sample submission."""
    project, config = load_competition_inputs(comp, quick, set_)
    if config.phantom is None:
        raise GatemaskError(
            "This competition has no phantoms.",
            where=project.experiments / "competition.yaml",
            expected="a section 'phantom:'",
        )
    from gatemask.data import phantom
    from gatemask.data.raw_folder import default_raw

    print_result(phantom.make_phantoms(default_raw(project, config), config.phantom), json_)


@data_app.command("download")
def data_download(
    comp: Comp,
    data: Data = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Unpack into a folder that holds other files.")] = False,
) -> None:
    """Download a competition's files with the kaggle command, verify and unpack them."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.kaggle.download.competition import download_competition

    print_result(download_competition(project, config, data, force), json_)


@data_app.command("labels")
def data_labels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Table of run-length encodings.")],
    images: Annotated[str | None, typer.Option(help="Glob of images below FILE's folder, for the order.")] = None,
    size: Annotated[str | None, typer.Option(help="Height and width if known, such as 1024x1024.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column of image ids.")] = None,
    mask: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of masks.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Read only rows with this value (repeatable).")
    ] = None,
    write: Annotated[str | None, typer.Option(metavar="COMP", help="Write the result to competition.yaml.")] = None,
    json_: Json = False,
) -> None:
    """Inspect a label table and detect how its masks are encoded."""
    from gatemask.data import label_report
    from gatemask.data.label_table import Known
    from gatemask.project import open_project

    project = open_project(write) if write else None
    known = Known(
        size=label_report.parse_size(size) if size else None,
        images=images,
        id=id_,
        mask=mask,
        where=label_report.parse_where(where or []),
    )
    known = label_report.with_declared(known, project) if project else known
    result = label_report.inspect_labels(file, known=known)
    if project:
        written = label_report.write_labels_section(project, result)
        result = result.model_copy(update={"written": str(written)})
    print_result(result, json_, show=label_report.print_label_report)


@data_app.command("prepare")
def data_prepare(
    comp: Comp,
    data: Data = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any file must be left out.")] = False,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Skip the images: enough for folds.")] = False,
) -> None:
    """Read all raw files and write manifest.csv and masks.csv."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.data.manifest import prepare, print_manifest
    from gatemask.stages import Inputs, fetch_inputs

    fetch_inputs("manifest", Inputs(project, config))
    print_result(prepare(project, config, data, strict, labels_only), json_, show=print_manifest)


@folds_app.command("import")
def folds_import(
    comp: Comp,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: id in the first column, and a column 'fold'.")],
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing folds.")] = False,
) -> None:
    """Import folds from a file, if they do not leak."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.data import folds
    from gatemask.stages import Inputs, fetch_inputs

    fetch_inputs("folds", Inputs(project, config))
    print_result(folds.import_folds(project, config, file, force), json_)


@folds_app.command("audit")
def folds_audit(
    file: Annotated[Path, typer.Argument(metavar="FOLDS", help="CSV: image ids, and a column 'fold'.")],
    groups: Annotated[Path | None, typer.Option(help="CSV of image ids and groups. Default: those in FOLDS.")] = None,
    prefix: Annotated[int | None, typer.Option(min=1, help="Number of leading characters that name a group.")] = None,
    labels: Annotated[Path | None, typer.Option(help="manifest.csv or label table, for positives and areas.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Figure to write. Default: runs/audit/<name>.png.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column of image ids in FOLDS.")] = None,
    comp: Annotated[str | None, typer.Option(metavar="COMP", help="Competition whose rule makes the ids.")] = None,
    json_: Json = False,
) -> None:
    """Measure leaks and balance of a fold file. Exits with 1 if it leaks."""
    from gatemask.report import audit

    result = audit.audit_file(file, groups, prefix, labels, picture, id_, comp)
    print_result(result, json_, show=audit.print_audit)
    if result.leak or result.duplicates:
        raise typer.Exit(1)


@records_app.command("check")
def records_check(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Verify all records: hashes, ids, labels, sizes."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.data import records

    print_result(records.check_records(project, config), json_)


@sources_app.command("make")
def sources_make(
    comp: Comp,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Sources: YAMLs in experiments/COMP/sources/.")
    ] = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Prepare sources of extra training images: tables, copies of the competition's images, records. Default: all."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.data import extra_sources

    result = extra_sources.make_sources(project, config, names or [])
    print_result(result, json_, show=extra_sources.print_sources)
