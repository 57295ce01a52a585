"""Results that become runs of their own on W&B: the tuned rule, the ensemble and the submissions, read from disk.

    runs/<comp>/tuned/result.json       run `tuned`: uses the weights of all members, logs the rule
    runs/<comp>/ensemble/result.json    run `ensemble`: uses the rule and the weights of its members, logs the ensemble
    runs/<comp>/submissions/<id>.json   run `submission-<id>`: uses the ensemble, logs the submitted file

The id of a run follows from the stamp of its stage: a result is one run, however often it is sent, and a changed result
is another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import JsonValue

from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.ensemble import EnsembleResult, ShippedEnsemble
from gatemask.results.rules import ClassRules, RuleValues
from gatemask.results.submission import SubmissionRecord
from gatemask.results.tuning import GateNumbers, TunedResult
from gatemask.stage import Stamp, load_document
from gatemask.tracking.result_run import LoggedArtifact, ResultRun, ResultTable, TrackedMembers

GATE_SCORES = ("sensitivity", "specificity", "accuracy", "precision", "f1", "auc", "brier", "ece")


def result_places(project: Project) -> list[Path]:
    """Return the stamps and records of all results on disk: tuned, ensemble, then submissions by id."""
    stamps = [project.runs / name / "result.json" for name in ("tuned", "ensemble")]
    # Names that begin with a dot are temporary files.
    return [*(stamp for stamp in stamps if stamp.exists()), *sorted(project.runs.glob("submissions/[!.]*.json"))]


def read_result(project: Project, path: Path) -> ResultRun | None:
    """Read a result; None for a submission that Kaggle does not have yet.

    Args:
        project: Project of the competition.
        path: Stamp of the stage, or record of the submission.

    Raises:
        GatemaskError: A file of the result is damaged.
    """
    kind = path.parent.name
    if kind == "tuned":
        return _read_tuned(project, path)
    return _read_ensemble(project, path) if kind == "ensemble" else _read_submission(project, path)


def _read_tuned(project: Project, stamp: Path) -> ResultRun:
    result, made = TunedResult.load(stamp), Stamp.load(stamp)
    members = [(member.experiment, member.fold, member.sha256) for member in result.members]
    settings = TrackedMembers(project, members)
    config: dict[str, JsonValue] = {
        "metric": result.metric,
        "shipped": result.shipped,
        "rule": _plain(result.rule),
        "weights": [*result.weights],
        "gate_weights": [*result.gate_weights],
        "experiments": _distinct(member.experiment for member in result.members),
    }
    summary = {
        **_numbers(
            cross_fitted=result.cross_fitted,
            ci95_low=result.ci95[0],
            ci95_high=result.ci95[1],
            in_sample=result.in_sample,
            all_empty=result.all_empty,
            masks_alone=result.masks_alone,
            passing=result.passing,
            images=result.images,
            positives=result.positives,
            groups=result.groups,
            trials=result.trials,
            optuna=result.optuna,
            exact_gap=result.exact_gap,
        ),
        **_gate(result.gate),
        **_rules(result.rules, [part.name for part in result.classes]),
    }
    for part in result.classes:
        scores = {"cross_fitted": part.cross_fitted, "in_sample": part.in_sample, "all_empty": part.all_empty}
        scores |= {"ci95_low": part.ci95[0], "ci95_high": part.ci95[1], "passing": part.passing}
        summary |= {f"classes/{part.name}/{name}": value for name, value in scores.items()}
    figures = [name for name in sorted(made.outputs) if name.endswith(".png")]
    return ResultRun(
        id=_run_id(project, "tune", made),
        place="tuned",
        name="tuned",
        job_type="tune",
        **settings.fields,
        config=config,
        summary=summary,
        tables=_tuned_tables(result),
        figures={Path(name).stem: stamp.with_name(name) for name in figures},
        hashes={Path(name).stem: made.outputs[name] or "" for name in figures},
        uses=settings.weights(),
        logs=[_logged(project, "rule", stamp.with_name("rule.yaml"), made.outputs.get("rule.yaml"))],
    )


def _tuned_tables(result: TunedResult) -> dict[str, ResultTable]:
    rules = {**result.candidates, **{f"{name} (for comparison)": rule for name, rule in result.beside.items()}}
    tables = {
        "candidates": ResultTable(
            columns=["candidate", "cross_fitted", "in_sample", "shipped"],
            rows=[[name, rule.cross_fitted, rule.in_sample, name == result.shipped] for name, rule in rules.items()],
        ),
        "folds": _fold_table(result),
        "members": ResultTable(
            columns=["task", "experiment", "fold", "weights"],
            rows=[[member.task, member.experiment, member.fold, member.sha256] for member in result.members],
        ),
    }
    if result.classes:
        columns = ["class", "positives", "cross_fitted", "ci95_low", "ci95_high", "in_sample", "all_empty"]
        rows: list[list[JsonValue]] = [
            [part.name, part.positives, part.cross_fitted, *part.ci95, part.in_sample, part.all_empty]
            for part in result.classes
        ]
        tables["classes"] = ResultTable(columns=columns, rows=rows)
    return {name: table for name, table in tables.items() if table.rows}


def _fold_table(result: TunedResult) -> ResultTable:
    """Return the rules of the held-out folds: one row per fold, or per fold and class."""
    names, classes = ("gate", "upper", "lower", "min_area"), [part.name for part in result.classes]
    rows: list[list[JsonValue]] = []
    for fold, part in result.per_fold.items():
        for index, rule in enumerate(part.rules):
            named: list[JsonValue] = [classes[index]] if classes else []
            rows.append([fold, part.score, *named, *(getattr(rule, name) for name in names)])
    return ResultTable(columns=["fold", "score", *(["class"] if classes else []), *names], rows=rows)


def _read_ensemble(project: Project, stamp: Path) -> ResultRun:
    result, made = EnsembleResult.load(stamp), Stamp.load(stamp)
    shipped = ShippedEnsemble.load(stamp.with_name("ensemble.yaml"))
    members = [(member.experiment, member.fold, member.sha256) for member in shipped.members]
    settings = TrackedMembers(project, members)
    score = shipped.score
    low, high = result.ci95 or (None, None)
    classes = shipped.competition.classes
    summary = {
        **_numbers(
            cross_fitted=result.cross_fitted,
            ci95_low=low,
            ci95_high=high,
            in_sample=score.in_sample if score else None,
            all_empty=score.all_empty if score else None,
            gates=result.gates,
            masks=result.masks,
            passing=shipped.passing_share,
            test_images=result.test_images,
            predicted_minutes=result.predicted_minutes,
        ),
        **_rules(shipped.class_rules, classes if len(classes) > 1 else []),
        **{f"classes/{name}/cross_fitted": value for name, value in result.by_class.items()},
    }
    table = ResultTable(
        columns=["member", "task", "weight", "score", "seconds_per_image", "why", "weights"],
        rows=[
            [member.name, member.task, member.weight, member.score, member.seconds_per_image, member.why, member.sha256]
            for member in shipped.members
        ],
    )
    figures = [name for name in sorted(made.outputs) if name.endswith(".png")]
    rule = str(made.made_from.get("rule", ""))
    return ResultRun(
        id=_run_id(project, "ensemble", made),
        place="ensemble",
        name="ensemble",
        job_type="ensemble",
        **settings.fields,
        config={"rule": _plain(shipped.rule), "members": [member.name for member in shipped.members]},
        summary=summary,
        tables={"members": table},
        figures={Path(name).stem: stamp.with_name(name) for name in figures},
        hashes={Path(name).stem: made.outputs[name] or "" for name in figures},
        uses=[settings.own(f"{project.label}-rule", rule), *settings.weights()],
        logs=[_logged(project, "ensemble", stamp.with_name("ensemble.yaml"), made.outputs.get("ensemble.yaml"))],
    )


def _read_submission(project: Project, path: Path) -> ResultRun | None:
    record = load_document(SubmissionRecord, path, do="Restore it from a backup.")
    if not record.submitted:
        return None
    folds = [match for name in record.members if (match := re.fullmatch(r"(.+)-fold(\d+)", name))]
    settings = TrackedMembers(project, [(match[1], int(match[2]), None) for match in folds])
    config: dict[str, JsonValue] = {
        "competition": record.competition,
        "description": record.description,
        "kernel": record.ref,
        "version": record.version,
        "commit": record.commit,
        "members": [*record.members],
        "rehearsed": record.rehearsed,
        "degraded": [*record.degraded],
        "submitted_at": record.submitted_at,
        "sha256": record.submission_sha256,
    }
    table = ResultTable(
        columns=["member", "images", "seconds_per_image"],
        rows=[[name, timing.images, timing.seconds_per_image] for name, timing in record.timings.items()],
    )
    file = path.with_name(record.file) if record.file else None
    return ResultRun(
        id=fingerprint([project.label, "submission", record.id]),
        place=path.relative_to(project.runs).with_suffix("").as_posix(),
        name=f"submission-{record.id}",
        job_type="submission",
        **settings.fields,
        config=config,
        summary=_numbers(
            cross_fitted=record.local,
            in_sample=record.in_sample,
            all_empty=record.all_empty,
            public=record.public,
            private=record.private,
            images=record.images,
            seconds=record.seconds,
        ),
        tables={"members": table} if table.rows else {},
        uses=[settings.own(f"{project.label}-ensemble", record.ensemble)] if record.ensemble else [],
        logs=[_logged(project, "submission", file, record.submission_sha256)] if file and file.is_file() else [],
    )


def _run_id(project: Project, job_type: str, made: Stamp) -> str:
    return fingerprint([project.label, job_type, made.made_from, made.outputs])


def _logged(project: Project, kind: str, file: Path, sha256: str | None) -> LoggedArtifact:
    return LoggedArtifact(name=f"{project.label}-{kind}", type=kind, file=file, sha256=sha256 or "")


def _numbers(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _gate(numbers: GateNumbers) -> dict[str, float]:
    return {f"gate/{name}": value for name in GATE_SCORES if (value := getattr(numbers, name)) is not None}


def _rules(rules: Sequence[RuleValues], classes: Sequence[str]) -> dict[str, float]:
    """Return the numbers of the rule, or of each class's rule, by name."""
    prefixes = [f"rule/{name}/" for name in classes] or ["rule/"]
    return {
        f"{prefix}{name}": float(value)
        for prefix, rule in zip(prefixes, rules, strict=False)
        for name, value in rule.model_dump().items()
    }


def _plain(rule: ClassRules) -> JsonValue:
    rules: list[JsonValue] = [part.model_dump(mode="json") for part in (rule if isinstance(rule, list) else [rule])]
    return rules if isinstance(rule, list) else rules[0]


def _distinct(names: Iterable[str]) -> list[JsonValue]:
    return [*dict.fromkeys(names)]
