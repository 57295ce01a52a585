"""The command `gatemask`. Each function parses its arguments, calls one function of the package, and prints.

Heavy imports are made inside the functions, so that `--help` and configuration errors are fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gatemask import faults
from gatemask.cli_support import (
    AsTrained,
    Comp,
    Data,
    Dirty,
    Exp,
    Fold,
    Hours,
    Json,
    Poll,
    Quick,
    Set,
    Target,
    ask_on_terminal,
    competition_of_file,
    finite,
    load_competition_inputs,
    load_ensemble_inputs,
    load_experiment_inputs,
    open_target,
    parse_folds,
    print_json,
    print_result,
    split_overrides,
)
from gatemask.errors import GatemaskError
from gatemask.faults import print_out
from gatemask.stages import ENSEMBLE, TABLE, Inputs, StageEntry, resolve

app = typer.Typer(
    help="Segmentation competitions: from raw files to a rehearsed Kaggle submission.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Raw files: download, inspect labels, make the manifest.", no_args_is_help=True)
folds_app = typer.Typer(help="Folds without leaks: make, import, audit.", no_args_is_help=True)
records_app = typer.Typer(help="TFRecords of the training images, shared by all splits.", no_args_is_help=True)
augment_app = typer.Typer(help="Augmentation.", no_args_is_help=True)
submission_app = typer.Typer(help="Submission files.", no_args_is_help=True)
GROUPS = {
    "data": data_app,
    "folds": folds_app,
    "records": records_app,
    "augment": augment_app,
    "submission": submission_app,
}
for group_name, group in GROUPS.items():
    app.add_typer(group, name=group_name)


def _register(entry: StageEntry) -> None:
    """Add the command of a stage with no options beyond the common ones."""

    def run(inputs: Inputs, json_: bool) -> None:
        print_result(entry.run(inputs), json_, show=resolve(entry.printer) if entry.printer else None)

    def of_competition(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
        run(Inputs(*load_competition_inputs(comp, quick, set_)), json_)

    def of_ensemble(
        comp: Comp, as_trained: AsTrained = False, set_: Set = None, quick: Quick = False, json_: Json = False
    ) -> None:
        run(Inputs(*load_ensemble_inputs(comp, quick, set_, as_trained)), json_)

    command = of_ensemble if entry.takes == ENSEMBLE else of_competition
    *group, name = entry.command.split()
    (GROUPS[group[0]] if group else app).command(name, help=entry.summary)(command)


for stage_entry in TABLE:
    if stage_entry.summary is not None:
        _register(stage_entry)


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
    yes: Annotated[bool, typer.Option("--yes", help="Accept all guesses.")] = False,
    json_: Json = False,
) -> None:
    """Inspect the files of a competition, and write its YAMLs to experiments/NAME/."""
    from gatemask.new.competition import make_competition
    from gatemask.new.decisions import Decisions
    from gatemask.new.inputs import NewOptions
    from gatemask.project import find_root

    decisions = Decisions(yes, ask_on_terminal if sys.stdin.isatty() else None)
    result = make_competition(find_root(), name, NewOptions(images, labels, test, sample, groups, metric), decisions)
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


@app.command("train")
def train_command(exp: Exp, fold: Fold = "all", set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Train an experiment fold by fold. Resumes where it stopped."""
    project, config, experiment = load_experiment_inputs(exp, quick, set_)
    from gatemask.training.train import train

    print_result(train(project, config, experiment, parse_folds(fold)), json_)


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


@app.command("metric")
def metric_command(
    comp: Comp,
    template: Annotated[bool, typer.Option("--template", help="Write metric.py, to be edited, and stop.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Try the competition's metric on drawn masks, or write a template for one of your own."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.masks import metric_trial

    if template:
        print_out(f"written: {metric_trial.write_template(project.experiments)}")
        return
    result = metric_trial.try_metric(config, project.experiments)
    print_result(result, json_, show=metric_trial.print_trial)


@app.command("compare")
def compare_command(
    comp: Comp,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Name of an experiment, or several joined by +.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The candidate, in the same form.")],
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Compare two experiments on the same out-of-fold images: better, worse, or cannot tell."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
    from gatemask.tuning import compare

    print_result(compare.compare(project, config, ensemble, first, second), json_, show=compare.print_comparison)


@app.command("dashboard")
def dashboard_command(
    comp: Comp,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Local port; 0 picks a free one.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    quick: Quick = False,
) -> None:
    """Show Optuna's study of the thresholds in a browser."""
    from gatemask.project import open_project
    from gatemask.tuning.dashboard import serve_dashboard

    serve_dashboard(open_project(comp, quick=quick), port, browser)


@app.command("package")
def package_command(
    comp: Comp,
    time_budget: Annotated[
        float | None,
        typer.Option(min=0.01, callback=finite, help="Limit, in hours. Drops the least important members."),
    ] = None,
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Package weights, wheels and kernel for Kaggle."""
    budget = [] if time_budget is None else [f"inference.time_budget={time_budget}"]
    project, config, chosen = load_ensemble_inputs(comp, quick, [*(set_ or []), *budget], as_trained)
    from gatemask.kaggle.submit.package import write_package

    print_result(write_package(project, config, chosen), json_)


@app.command("rehearse")
def rehearse_command(
    target: Annotated[str, typer.Argument(metavar="COMP", help="Competition; with --train, an experiment.")],
    train: Annotated[bool, typer.Option("--train", help="Rehearse a training kernel for a few steps.")] = False,
    fold: Annotated[int, typer.Option(min=0, help="With --train: fold to train.")] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Maximum number of test images. Default: 300.")] = None,
    image: Annotated[bool, typer.Option("--image", help="Use the package versions of Kaggle's image.")] = False,
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Run a kernel as Kaggle does: without a network, with Kaggle's packages only."""
    if train:
        project, config, experiment = load_experiment_inputs(target, quick, set_)
        from gatemask.kaggle.train.rehearse import rehearse_training

        print_result(rehearse_training(project, config, experiment, fold), json_)
        return
    project, config, ensemble = load_ensemble_inputs(target, quick, set_, as_trained)
    from gatemask.kaggle.submit.rehearse import print_rehearsal, rehearse_submission

    print_result(rehearse_submission(project, config, ensemble, images, image), json_, show=print_rehearsal)


@submission_app.command("check")
def submission_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Submission file; with --fold, the competition.")],
    comp: Annotated[str | None, typer.Option(metavar="COMP", help="Competition. Default: from FILE's path.")] = None,
    against: Annotated[Path | None, typer.Option(help="Earlier submission to compare with.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Score a training fold through a submission file.")] = None,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="With --fold: read masks in submission.rle, not in labels.rle.")
    ] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Check a submission as strictly as Kaggle does: ids, order, header, masks, classes, size.

    With --fold K, write the out-of-fold predictions of a training fold as a submission, and compare its score with that
    of the fold: a wrong dialect shows as a wrong score.
    """
    if fold is not None:
        project, config, ensemble = load_ensemble_inputs(comp or file, quick, set_)
        from gatemask.submission.fold_check import check_fold, print_fold_check

        print_result(check_fold(project, config, ensemble, fold, as_written), json_, show=print_fold_check)
        return
    path = Path(file)
    name, from_quick = (comp, quick) if comp else competition_of_file(path)
    project, config = load_competition_inputs(name, quick or from_quick, set_)
    from gatemask.submission.check import inspect_submission, print_check

    print_result(inspect_submission(project, config, path, against), json_, show=print_check)


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


@app.command("submit")
def submit_command(
    comp: Comp,
    force: Annotated[
        bool, typer.Option("--force", help="Submit even if unrehearsed, or if the kernel had to drop members.")
    ] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Text next to the local score.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave the score to the next call.")] = False,
    poll: Poll = 30.0,
    allow_dirty: Dirty = False,
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Push the rehearsed package, submit its output, wait for the score. Resumes where it stopped."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
    from gatemask.kaggle.submit.submit import SubmitOptions, print_submission, submit_package

    opts = SubmitOptions(force, poll, message, not no_wait, allow_dirty)
    print_result(submit_package(project, config, ensemble, opts), json_, show=print_submission)


@app.command("leaderboard")
def leaderboard_command(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Compare local scores with the leaderboard."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.kaggle.submit.leaderboard import compare_with_leaderboard, print_leaderboard

    print_result(compare_with_leaderboard(project, config), json_, show=print_leaderboard)


@app.command("sync")
def sync_command(
    comp: Comp,
    quick: Quick = False,
    json_: Json = False,
    gaps: Annotated[bool, typer.Option("--gaps", help="Include runs whose first epochs are lost.")] = False,
) -> None:
    """Upload offline runs to W&B, each row once. Exits with 1 if any run failed."""
    from gatemask.project import open_project
    from gatemask.tracking.sync import sync

    result = sync(open_project(comp, quick=quick), gaps)
    print_result(result, json_)
    if result.failed:
        raise typer.Exit(1)


@app.command("loop")
def loop_command(
    comp: Comp,
    data: Data = None,
    as_trained: AsTrained = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Run all stages in order; each does only what is not done yet."""
    project, config, ensemble = load_ensemble_inputs(comp, quick, set_, as_trained)
    from gatemask import loop

    result = loop.run_loop(project, config, ensemble, split_overrides(set_)["experiment"], data)
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


@app.command("files", hidden=True)
def files_command(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the page to a file.")] = None,
) -> None:
    """Print docs/files.md, the list of files that stages write."""
    from gatemask.files import write_text
    from gatemask.stages import files_page

    if write is None:
        print_out(files_page(), end="")
    else:
        write_text(write, files_page())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Exit codes: 0, done; 1, an error that the user can fix; 2, wrong arguments; 70, a fault of gatemask, with the path
    of a log; 130, stopped with Ctrl-C. No error ends in a traceback.
    """
    code: str | int | None
    try:
        app(args=arguments)
        code = 0
    except SystemExit as done:  # typer exits with 130 on Ctrl-C, and with 0 after success
        code = done.code
    except KeyboardInterrupt:
        code = faults.STOPPED
    except Exception as error:
        code = faults.report(error)
    if code == faults.STOPPED:
        faults.say_error("stopped; run the same command again to resume")
    sys.exit(faults.flush_output(code))
