"""`gatemask loop`: every stage in order, each doing only what is not done yet, and one summary at the end.

runs/<comp>/summary.json   the numbers worth remembering, and where to look
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble, Experiment, load_experiment
from gatemask.console import say, table
from gatemask.errors import GatemaskError
from gatemask.files import read_json, write_json
from gatemask.masks.metrics import TITLES
from gatemask.project import Project
from gatemask.stage import CommandResult

Stage = tuple[str, Callable[[], Any]]


def run(
    project: Project, comp: Competition, ensemble: Ensemble, overrides: list[str], data: Path | None = None
) -> dict[str, Any]:
    """Take a competition from raw files to a rehearsed submission and its report.

    Args:
        project: where things lie.
        comp: competition.yaml.
        ensemble: ensemble.yaml; its experiments are the ones that are trained.
        overrides: `--set` for the experiments.
        data: the raw folder, where it is not the one in competition.yaml.

    Returns:
        What summary.json holds; or, where `hours` ended a training, `stopped` and what is `left`.
    """
    started = time.monotonic()
    rows: list[tuple[str, ...]] = []
    seconds: dict[str, float] = {}
    worked = False
    experiments = _experiments(project, ensemble, overrides)  # all YAMLs are checked before the first stage
    for name, stage in _stages(project, comp, ensemble, experiments, data):
        say(f"[{len(rows) + 1}] {name}")
        result = stage()
        if isinstance(result, CommandResult):
            result = result.as_dict()
        current = result.pop("current", False)
        worked |= not current
        seconds[name] = _seconds(result)
        if result.get("stopped"):  # by `hours`: what comes after needs every fold
            say("Stopped in good order. Run the same command again to go on.")
            return {"current": False, "stopped": name, "left": result["left"]}
        rows.append((name, "current" if current else "done", f"{seconds[name]:.1f}", _headline(result)))
    summary = _summary(project, seconds)
    path = project.runs / "summary.json"
    if not path.exists() or read_json(path) != summary:
        write_json(path, summary)
    table(comp.title, ["stage", "", "seconds", ""], rows)
    _closing(project, summary, worked, time.monotonic() - started)
    return {"current": not worked, **summary}


def _experiments(project: Project, ensemble: Ensemble, overrides: list[str]) -> list[Experiment]:
    loaded = []
    for name, task in [(n, "gate") for n in ensemble.gate.experiments] + [
        (n, "mask") for n in ensemble.mask.experiments
    ]:
        path = project.experiments / f"{name}.yaml"
        exp = load_experiment(path, quick=project.quick, overrides=overrides)
        if exp.task != task or exp.name != name:
            raise GatemaskError(
                f"ensemble.yaml names '{name}' as a {task}.",
                where=path,
                received=f"{exp.task} '{exp.name}'",
                expected=f"{task} '{name}'",
                do="Correct ensemble.yaml, or the experiment's task or name.",
            )
        loaded.append(exp)
    return loaded


def _stages(
    project: Project, comp: Competition, ensemble: Ensemble, experiments: list[Experiment], data: Path | None
) -> list[Stage]:
    """The stages as names and calls; their modules are imported when their turn comes."""
    from gatemask.data import folds, manifest, records
    from gatemask.training.time_budget import Clock
    from gatemask.training.train import train

    stages: list[Stage] = []
    if comp.phantom is not None and data is None:
        stages.append(("phantoms", lambda: _phantoms(project, comp)))
    stages += [
        ("manifest", lambda: manifest.prepare(project, comp, data)),
        ("folds", lambda: folds.make_folds(project, comp)),
        ("records", lambda: records.make_records(project, comp)),
    ]
    limits = [exp.hours for exp in experiments if exp.hours is not None]
    clock = Clock(min(limits, default=None))  # one session, whatever it trains
    for exp in experiments:
        stages.append((f"train {exp.name}", lambda exp=exp: train(project, comp, exp, clock=clock)))  # type: ignore[misc]
    return [*stages, *_after_training(project, comp, ensemble)]


def _phantoms(project: Project, comp: Competition) -> dict[str, Any]:
    from gatemask.data import phantom
    from gatemask.data.manifest import default_raw

    assert comp.phantom is not None
    return phantom.make_phantoms(default_raw(project, comp), comp.phantom)


def _after_training(project: Project, comp: Competition, ensemble: Ensemble) -> list[Stage]:
    from gatemask.ensemble.select import select
    from gatemask.kaggle.submit.package import package
    from gatemask.kaggle.submit.rehearse import rehearse
    from gatemask.tuning.tune import tune

    def report() -> dict[str, Any]:
        from gatemask.report.page import report

        return report(project, comp, ensemble)

    return [
        ("oof-tune", lambda: tune(project, comp, ensemble)),
        ("ensemble", lambda: select(project, comp, ensemble)),
        ("package", lambda: package(project, comp, ensemble)),
        ("rehearse", lambda: rehearse(project, comp)),
        ("report", report),
    ]


def _seconds(result: dict[str, Any]) -> float:
    """A stage's own seconds, or those of its folds."""
    if "folds" in result and isinstance(result["folds"], dict):
        return round(sum(fold["seconds"] for fold in result["folds"].values()), 2)
    return float(result.get("seconds", 0.0))


def _headline(result: dict[str, Any]) -> str:
    """The one number of a stage that a person wants to see in the table."""
    if isinstance(result.get("folds"), dict):
        runs = list(result["folds"].values())
        return f"{runs[0]['monitor']} " + " ".join(f"{run['score']:.3f}" for run in runs)
    if "cross_fitted" in result and "rule" in result:
        return f"cross-fitted {TITLES[result['metric']]} {result['cross_fitted']:.4f}"
    shown = {
        "submission_score": "submission {:.4f}",
        "isolation": "{}",
        "members": "{} members",
        "megabytes": "{} MB",
        "count": "{} records",
        "folds": "{} folds",
        "images": "{} images",
        "report": "{}",
    }
    key = next((key for key in shown if key in result), None)
    if key is None:
        return ""
    value = result[key]
    return shown[key].format(len(value) if isinstance(value, list) else value)


def _summary(project: Project, seconds: dict[str, float]) -> dict[str, Any]:
    tuned = read_json(project.tuned / "result.json")
    rehearsed = read_json(project.runs / "rehearsal" / "result.json")
    summary = {
        "competition": project.label,
        "images": tuned["images"],
        "positives": tuned["positives"],
        "metric": tuned["metric"],
        "cross_fitted": tuned["cross_fitted"],
        "ci95": tuned["ci95"],
        "in_sample": tuned["in_sample"],
        "all_empty": tuned["all_empty"],
        "rule": tuned["rule"],
        "submission": rehearsed["submission"],
    }
    if "submission_score" in rehearsed:
        summary["submission_score"] = rehearsed["submission_score"]
    report = read_json(project.runs / "report" / "result.json")["report"]
    return {**summary, "report": report, "seconds": round(sum(seconds.values()), 1), "stages": seconds}


def _closing(project: Project, summary: dict[str, Any], worked: bool, seconds: float) -> None:
    title, (low, high) = TITLES[summary["metric"]], summary["ci95"]
    say(
        f"cross-fitted {title} {summary['cross_fitted']:.4f}, 95 % from {low:.4f} to {high:.4f} "
        f"(in-sample {summary['in_sample']:.4f}, all empty {summary['all_empty']:.4f})"
    )
    if "submission_score" in summary:
        say(f"submission {title} {summary['submission_score']:.4f} on test images that no training saw")
    say(f"report:     {summary['report']}")
    say(f"submission: {summary['submission']}")
    say(f"summary:    {project.runs / 'summary.json'}")
    say(f"{'Done' if worked else 'Everything was current: nothing was done'} in {seconds:.0f} s.")
