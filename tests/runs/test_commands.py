"""The commands: tables, JSON, CSV, sorting and filtering, tags by two processes at once, and a generated tree."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from gatemask.config import load_competition, load_ensemble
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.runs import AgainstBest, ExperimentRun, Gain, RunList, RunScore
from gatemask.runs.choosing import sort_rows
from gatemask.runs.columns import COLUMNS
from gatemask.runs.listing import list_runs
from gatemask.runs.notes import change_note, change_tags, read_notes
from gatemask.runs.printing import print_runs
from tests.conftest import TINY_GATEMASK, contents, gatemask, start_python
from tests.test_benchmarks import load


def run(name: str, **changes: object) -> ExperimentRun:
    fields = {"name": name, "task": "mask", "state": "finished", "folds": 5, "epochs": 3, "monitor": "dice"}
    return ExperimentRun.model_validate({**fields, **changes})


def score(value: float, kind: str = "cross-fitted") -> RunScore:
    return RunScore.model_validate(
        {
            "value": value,
            "ci95": (value - 0.01, value + 0.01),
            "kind": kind,
            "metric": "mean_dice",
            "folds": (0, 1),
            "images": 9,
            "groups": 9,
        }
    )


def against(difference: float, verdict: str) -> AgainstBest:
    fields = {"best": "a", "difference": difference, "ci95": (difference, difference), "verdict": verdict}
    return AgainstBest.model_validate(fields)


def test_the_table_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        run("a" * 90, folds_done=(0, 1, 2, 3, 4), score=score(0.9), hours=1234.5, quota_hours=99.9, images_per_s=1e4),
        run(
            "b",
            state="training",
            score=score(0.8, "in-sample"),
            against_best=against(-0.1, "worse"),
            gain=Gain(value=0.001, ci95=(-0.1, 0.1)),
            leaderboard=0.8123,
            inference_s=0.0123,
            commits=("0123456789",),
            changed={f"model.key{n}": (1, 2) for n in range(20)},
            tags=("baseline", "long-tag-name"),
            problems=("fold 1: [red]odd[/red] \x1b[31m",),
        ),
        run("gate", task="gate"),
    ]
    print_runs(RunList(competition="comp", metric="mean_dice", experiments=tuple(rows)))
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 100, lines
    text = "\n".join(lines)
    for word in (
        "comp: 2 mask networks; Dice, cross-fitted",
        "comp: 1 gate",
        "> b",
        "0.8000*",
        "in-sample",
        "[red]odd",
    ):
        assert word in text
    assert "\x1b[31m" not in text


def test_rows_are_sorted_by_any_column() -> None:
    rows = [run("a", score=score(0.5), hours=2), run("b"), run("c", score=score(0.7), hours=1)]
    for key, names in {"score": "cab", "-score": "acb", "name": "abc", "-name": "cba", "low": "cab"}.items():
        assert "".join(row.name for row in sort_rows(rows, key)) == names, key
    assert sort_rows(rows, None) == rows
    for key in COLUMNS:
        assert len(sort_rows(rows, key)) == 3
    with pytest.raises(GatemaskError, match="Write 'hours' instead"):
        sort_rows(rows, "hour")


def test_tags_are_words_and_notes_have_a_limit(tmp_path: Path) -> None:
    project = Project(tmp_path, "phantom")
    assert change_tags(project, "a", ["x", "b"]).tags == ("b", "x")
    assert change_tags(project, "a", ["x", "y"], remove=True).tags == ("b",)
    assert change_note(project, "a", " two\nlines ").note == "two lines"
    change_tags(project, "a", ["b"], remove=True)
    change_note(project, "a", "")
    assert read_notes(project) == {}
    for tags in (["two words"], ["-x"], [""], ["x" * 51]):
        with pytest.raises(GatemaskError, match="one word"):
            change_tags(project, "a", tags)
    with pytest.raises(GatemaskError, match="too long"):
        change_note(project, "a", "x" * 2001)


@pytest.mark.integration
def test_two_processes_tag_at_once(project: Project) -> None:
    with TemporaryFile("w+") as output:
        calls = [
            start_python(
                "-m",
                "gatemask",
                "runs",
                "tag",
                f"phantom/{name}",
                f"tag{n}",
                root=project.root,
                stdout=output,
                stderr=output,
            )
            for n in range(3)
            for name in ("unet_b0", "unet_gone")
        ]
        assert [call.wait(60) for call in calls] == [0] * 6, contents(output)
    notes = read_notes(project)
    assert {name: notes[name].tags for name in notes} == dict.fromkeys(
        ("unet_b0", "unet_gone"), ("tag0", "tag1", "tag2")
    )


@pytest.mark.integration
def test_list_best_show_and_diff(project: Project, tmp_path: Path) -> None:
    def runs(*arguments: object) -> str:
        done = gatemask("runs", *arguments, "--set", "tune.bootstrap=50", root=project.root)
        assert done.returncode == 0, done.stderr
        return done.stdout or done.stderr

    table = runs("phantom")
    assert runs("list", "phantom") == table
    for word in ("6 mask networks", "unet_gone", "best", "-0.", "! unet_gone: its YAML no longer exists"):
        assert word in table
    listed = json.loads(runs("phantom", "--json"))
    assert {row["name"] for row in listed["experiments"]} >= {"unet_idle", "unet_gone", "gate_r18"}
    rows = list(csv.DictReader(io.StringIO(runs("phantom", "--csv", "-", "--where", "task=mask and score!=null"))))
    assert [row["name"] for row in rows if row["better"] == "best"] == ["unet_b0"]
    assert len(rows) == 5
    assert list(rows[0]) == list(COLUMNS)
    runs("phantom", "--csv", tmp_path / "runs.csv", "--sort", "name")
    assert (tmp_path / "runs.csv").read_text().startswith("name,task,")
    assert runs("best", "phantom") == "unet_b0\n"
    assert runs("best", "phantom", "--where", "name~pp") == "unetpp_b0\n"
    assert "seed" in runs("show", "phantom/unet_b0", "--json")
    shown = runs("show", "phantom/unet_idle")
    for word in ("unet_idle: mask, not started", "changes against unet_b0.yaml", "epochs"):
        assert word in shown
    compared = runs("diff", "phantom/unet_b0", "unetpp_b0")
    for word in ("model.name", "unetpp", "unetpp_b0", "(95 % from "):
        assert word in compared
    for arguments, word in (
        (["show", "phantom/unet_b1"], "Did you mean"),
        (["show", "unet_b0"], "COMP/EXP"),
        (["phantom", "--where", "epoch>1"], "Write 'epochs' instead"),
        (["tag", "phantom/unet_b1", "x"], "Unknown experiment"),
        (["best", "phantom", "--where", "epochs>100"], "No experiment has a score"),
    ):
        done = gatemask("runs", *arguments, root=project.root)
        assert done.returncode == 1
        assert word in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    bench = load("runs", monkeypatch)
    project = bench.make(tmp_path, count)
    comp, ensemble = load_competition(project.experiments), load_ensemble(project.experiments)
    runs = list_runs(project, comp, ensemble)
    assert list_runs(project, comp, ensemble) == runs, "known facts are those that were read"
    rows = {row.name: row for row in runs.experiments}
    assert len(rows) == count + 1
    assert rows["gate"].score.beside == ("net0000",)
    for number in (0, 1, count // 2, count - 1):
        row = rows[bench.name_of(number)]
        assert row.folds_done == (0, 1, 2, 3, 4)
        assert row.score.value == rows[bench.name_of(number % bench.VARIANTS)].score.value
        assert row.score.beside == ("gate",)
        assert row.changed["seed"] == (None, number)
        assert (row.hours, row.images_per_s, row.state) == (0.5, 102.0, "finished")
        assert row.problems == ()
    best = next(row for row in runs.experiments if row.task == "mask")
    assert best.score.value == max(row.score.value for row in rows.values() if row.task == "mask" and row.score)
    assert best.against_best is None


# --- following a training ----------------------------------------------------------------------------------


@pytest.mark.trains
def test_watch_beside_a_training(phantom_records: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(phantom_records, tmp_path, dirs_exist_ok=True)
    watch = ("-m", "gatemask", "runs", "phantom", "--quick", "--watch", "--interval", "0.1")
    train = ("train", "phantom/gate_r18", "--quick", "--fold", 0, "--set", "epochs=3")
    with TemporaryFile("w+") as seen, TemporaryFile("w+") as trained:
        watcher = start_python(*watch, root=tmp_path, stdout=seen, stderr=seen)
        deadline = time.monotonic() + 60
        while not contents(seen) and time.monotonic() < deadline:  # before the training begins
            time.sleep(0.1)
        training = start_python(*TINY_GATEMASK, *train, root=tmp_path, stdout=trained, stderr=trained)
        try:
            assert training.wait(600) == 0, contents(trained)
            deadline = time.monotonic() + 60
            while "finished" not in contents(seen) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert watcher.poll() is None, contents(seen)
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(60) in (0, 130)
        finally:
            watcher.kill()
            training.kill()
        lines = contents(seen).splitlines()
    assert "Nothing is in training" in lines[0]
    assert any("gate_r18 fold 0: training, epoch" in line for line in lines)
    assert "gate_r18 fold 0: finished, epoch 3/3, loss" in lines[-1]
    assert ", auc " in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_watch_takes_no_option_that_it_would_ignore() -> None:
    from gatemask.commands.runs import list_command

    with pytest.raises(GatemaskError, match="--watch") as caught:
        list_command("phantom", where="epochs>3", watch=True)
    assert caught.value.details["received"] == "--watch with --where"
