"""`gatemask loop`: run all stages in order, each doing only what is not done yet, and write one summary.

runs/<comp>/summary.json   the most important numbers, and where to look
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gatemask.config import Competition, Ensemble, Experiment, load_experiment, metric_title
from gatemask.console import say, table
from gatemask.data.raw_folder import raw_folder
from gatemask.data.submission_dialect import dialect_notes
from gatemask.errors import GatemaskError, StorageError
from gatemask.files import locked, read_json, write_json
from gatemask.pieces.piece import Place
from gatemask.project import Project
from gatemask.remote.work import upload_file
from gatemask.results.loop import LoopResult, LoopSummary, StoppedLoop
from gatemask.results.report import ReportResult
from gatemask.results.submission import RehearsalResult
from gatemask.results.training import TrainingResult
from gatemask.results.tuning import TunedResult
from gatemask.stage import StageResult
from gatemask.stages import LOOP, Inputs, StageEntry
from gatemask.submission.check import inspect_submission
from gatemask.training.time_budget import TimeBudget
from gatemask.training.train_all import train_all


class Places(NamedTuple):
    """Where the work of a loop is done.

    Args:
        pieces: Place that runs record shards and threshold tables. Default: this machine.
        trainings: Place that trains. Default: this machine.
    """

    pieces: Place | None = None
    trainings: Place | None = None


def run_loop(
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    overrides: list[str],
    data: Path | None = None,
    places: Places | None = None,
) -> LoopResult | StoppedLoop:
    """Take a competition from raw files to a rehearsed submission and its report.

    Args:
        project: Folders of the competition.
        comp: Contents of competition.yaml.
        ensemble: Contents of ensemble.yaml; its experiments are trained.
        overrides: `--set` options for the experiments.
        data: Raw folder. Default: the one in competition.yaml.
        places: Where the work is done. Default: on this machine.

    Returns:
        The summary, or a report of where a time limit ended the training.

    Raises:
        GatemaskError: A YAML is invalid (checked before the first stage), another loop of this competition is running,
            or a stage failed.
    """
    project = replace(project, overrides=tuple(overrides))  # later stages compare the runs with these settings
    experiments = _load_experiments(project, ensemble)
    with _exclusive(project):
        pieces, trainings = places or Places()
        return _run_stages(Inputs(project, comp, ensemble, data, place=pieces, training_place=trainings), experiments)


@contextmanager
def _exclusive(project: Project) -> Iterator[None]:
    """Let one loop at a time run for a competition. Where nothing can be written, nothing needs a lock."""
    with ExitStack() as held:
        try:
            busy = f"Another process is running gatemask loop for {project.label}."
            held.enter_context(locked(project.runs / ".loop.lock", busy))
        except StorageError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        yield


def _run_stages(inputs: Inputs, experiments: list[Experiment]) -> LoopResult | StoppedLoop:
    started, project = time.monotonic(), inputs.project
    rows: list[tuple[str, ...]] = []
    results: dict[str, StageResult | TrainingResult] = {}
    seconds: dict[str, float] = {}
    for name, entry, stage_inputs in _planned_stages(inputs, experiments):
        say(f"[{len(rows) + 1}] {name}")
        result = entry.run(stage_inputs)
        results[name] = result
        seconds[name] = _seconds(result)
        if isinstance(result, TrainingResult) and result.stopped:
            say("Stopped before the time limit. Run the same command again to resume.")
            return StoppedLoop(current=False, stopped=name, left=result.left)
        rows.append((name, "current" if result.current else "done", f"{seconds[name]:.1f}", entry.headline(result)))
    notes = _check_submission(project, inputs.comp, results["rehearse"])
    summary = _write_summary(project, results, seconds)
    current = all(result.current for result in results.values())
    table(inputs.comp.title, ["stage", "", "seconds", ""], rows)
    for note in notes:
        say(f"note: {note}")
    _print_summary(project, summary, current, time.monotonic() - started)
    return LoopResult(current=current, **{name: getattr(summary, name) for name in summary.model_fields_set})


def _load_experiments(project: Project, ensemble: Ensemble) -> list[Experiment]:
    tasks = [(name, "gate") for name in ensemble.gate.experiments]
    tasks += [(name, "mask") for name in ensemble.mask.experiments]
    experiments = []
    for name, task in tasks:
        path = project.experiment_file(name)
        exp = load_experiment(path, quick=project.quick, overrides=project.overrides)
        if exp.task != task or exp.name != name:
            raise GatemaskError(
                f"ensemble.yaml names '{name}' as a {task}.",
                where=path,
                received=f"{exp.task} '{exp.name}'",
                expected=f"{task} '{name}'",
                do="Correct ensemble.yaml, or the experiment's task or name.",
            )
        experiments.append(exp)
    return experiments


def _planned_stages(inputs: Inputs, experiments: list[Experiment]) -> Iterator[tuple[str, StageEntry, Inputs]]:
    """Yield the stages with their names and inputs; training appears once per experiment."""
    limits = [exp.hours for exp in experiments if exp.hours is not None]
    budget = TimeBudget(min(limits, default=None))  # one time limit for all experiments
    for entry in LOOP:
        assert entry.name is not None
        if "exp" in entry.takes:
            if inputs.training_place is not None:  # all at once; the stages below then read the results
                train_all(inputs.project, inputs.comp, experiments, budget, inputs.training_place)
            for exp in experiments:
                yield f"{entry.name} {exp.name}", entry, replace(inputs, exp=exp, budget=budget)
        elif "phantom" not in entry.takes or (inputs.phantom is not None and inputs.data is None):
            yield entry.name, entry, inputs


def _seconds(result: StageResult | TrainingResult) -> float:
    """Return the duration of a stage; for a training, the sum over its folds."""
    if isinstance(result, TrainingResult):
        return round(sum(fold.seconds for fold in result.folds.values()), 2)
    return result.seconds


def _check_submission(project: Project, comp: Competition, rehearsed: StageResult | TrainingResult) -> list[str]:
    """Check the rehearsed submission as `gatemask submission check` does, and return what is unusual about it.

    Raises:
        GatemaskError: The submission is not valid.
    """
    assert isinstance(rehearsed, RehearsalResult)
    advice = [rehearsed.advice] if rehearsed.advice else []
    if not rehearsed.complete:
        return [*advice, *dialect_notes(comp, raw_folder(project, comp))]
    return [*advice, *inspect_submission(project, comp, Path(rehearsed.submission)).notes]


def _write_summary(
    project: Project, results: Mapping[str, StageResult | TrainingResult], seconds: dict[str, float]
) -> LoopSummary:
    tuned, rehearsed, report = results["oof-tune"], results["rehearse"], results["report"]
    assert isinstance(tuned, TunedResult)
    assert isinstance(rehearsed, RehearsalResult)
    assert isinstance(report, ReportResult)
    score = rehearsed.submission_score
    summary = LoopSummary(
        competition=project.label,
        images=tuned.images,
        positives=tuned.positives,
        metric=tuned.metric,
        cross_fitted=tuned.cross_fitted,
        ci95=tuned.ci95,
        in_sample=tuned.in_sample,
        all_empty=tuned.all_empty,
        rule=tuned.rule,
        **({"classes": {part.name: part.cross_fitted for part in tuned.classes}} if tuned.classes else {}),
        submission=rehearsed.submission,
        **({} if score is None else {"submission_score": score}),
        **({"warning": tuned.warning} if tuned.warning else {}),
        report=report.report,
        seconds=round(sum(seconds.values()), 1),
        stages=seconds,
    )
    path = project.runs / "summary.json"
    if not _holds(path, summary):
        write_json(path, summary.as_dict())
    upload_file(path)
    return summary


def _holds(path: Path, summary: LoopSummary) -> bool:
    try:
        return path.exists() and bool(read_json(path) == summary.as_dict())
    except StorageError:
        raise
    except GatemaskError:  # damaged: written again
        return False


def _print_summary(project: Project, summary: LoopSummary, current: bool, seconds: float) -> None:
    title, (low, high) = metric_title(summary.metric), summary.ci95
    say(
        f"cross-fitted {title} {summary.cross_fitted:.4f}, 95 % from {low:.4f} to {high:.4f} "
        f"(in-sample {summary.in_sample:.4f}, all empty {summary.all_empty:.4f})"
    )
    if summary.classes:
        say("by class: " + ", ".join(f"{name} {score:.4f}" for name, score in summary.classes.items()))
    if summary.warning:
        say(f"warning: {summary.warning}")
    if summary.submission_score is not None:
        say(f"submission {title} {summary.submission_score:.4f} on test images that were never used in training")
    say(f"report:     {summary.report}")
    part = Path(summary.submission).name.startswith("part-of-")
    say(f"submission: {summary.submission} ({'incomplete' if part else 'valid'}: checked as Kaggle checks it)")
    say(f"summary:    {project.runs / 'summary.json'}")
    say(f"{'Everything was current: nothing was done' if current else 'Done'} in {seconds:.0f} s.")
