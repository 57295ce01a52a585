"""Commands from package to leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatemask.commands.apps import app, submission_app
from gatemask.commands.options import (
    AsTrained,
    Comp,
    Data,
    Dirty,
    Json,
    Poll,
    Quick,
    Set,
    competition_of_file,
    finite,
    load_competition_inputs,
    load_ensemble_inputs,
    load_experiment_inputs,
    print_result,
)
from gatemask.commands.places import Address, On, Where, open_place


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
    from gatemask.stages import Inputs, fetch_inputs

    fetch_inputs("package", Inputs(project, config, chosen))
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
    from gatemask.stages import Inputs, fetch_inputs

    fetch_inputs("rehearse", Inputs(project, config, ensemble))
    print_result(rehearse_submission(project, config, ensemble, images, image), json_, show=print_rehearsal)


@app.command("predict")
def predict_command(
    comp: Comp,
    data: Data = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of shards. Default: one per GPU, on Ray as many as run at once.")
    ] = None,
    on: On = Where.LOCAL,
    address: Address = None,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Predict a visible test set of any size with the package, in shards. Resumes where it stopped."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.kaggle.submit.predict import predict_package

    print_result(predict_package(project, config, data, shards, open_place(on, address, project, config)), json_)


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
