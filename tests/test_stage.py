"""A stage runs once, again when inputs or outputs change, and never in two processes at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatemask import files
from gatemask.errors import GatemaskError
from gatemask.stage import Stage, StageResult, Stamp, require_unchanged, write_stamp


class Counted(StageResult):
    rows: int
    note: str | None = None


def stage(folder: Path, **inputs: str) -> Stage[Counted]:
    return Stage("counting", folder / "result.json", {"settings": "a", **inputs}, Counted)


def work(folder: Path) -> tuple[Counted, list[Path]]:
    return Counted(rows=3), [files.write_text(folder / "out.txt", "three")]


def test_stage_runs_once_and_reports_the_same_result(tmp_path: Path) -> None:
    first = stage(tmp_path).run(lambda: work(tmp_path))
    assert (first.current, first.rows) == (False, 3)
    again = stage(tmp_path).run(lambda: pytest.fail("the stage is current"))
    assert again == first.model_copy(update={"current": True})
    stamp = json.loads((tmp_path / "result.json").read_text())
    assert set(stamp) == {"made_from", "outputs", "seconds", "rows", "hash"}, "fields that were never set are left out"
    assert again.as_dict() == {"current": True, "rows": 3, "seconds": first.seconds}


class Located(StageResult):
    paths = ("inside", "outside")

    inside: str
    outside: str


def test_paths_below_a_stamp_move_with_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    result = Located(inside=str(old / "deep/out.txt"), outside="/elsewhere/in.txt")
    made = {"settings": "a"}
    first = Stage("placing", old / "result.json", made, Located).run(
        lambda: (result, [files.write_text(old / "deep/out.txt", "three")])
    )
    assert (first.inside, first.outside) == (result.inside, result.outside)
    old.rename(new)
    moved = Stage("placing", new / "result.json", made, Located).current()
    assert moved is not None
    assert (moved.inside, moved.outside) == (str(new / "deep/out.txt"), "/elsewhere/in.txt")
    assert str(old) not in (new / "result.json").read_text()


@pytest.mark.parametrize("change", ["inputs", "edited", "missing"])
def test_changed_input_or_output_runs_the_stage_again(tmp_path: Path, change: str) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    if change == "edited":
        (tmp_path / "out.txt").write_text("four")
    elif change == "missing":
        (tmp_path / "out.txt").unlink()
    changed = stage(tmp_path, more="b") if change == "inputs" else stage(tmp_path)
    assert changed.current() is None
    assert not changed.run(lambda: work(tmp_path)).current


def test_failing_stage_leaves_no_stamp(tmp_path: Path) -> None:
    def fail() -> tuple[Counted, list[Path]]:
        raise GatemaskError("No.")

    with pytest.raises(GatemaskError, match=r"No\."):
        stage(tmp_path).run(fail)
    assert not (tmp_path / "result.json").exists()


def test_second_process_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_S", 0.0)
    with (
        files.locked(tmp_path / ".result.json.lock", "unused"),
        pytest.raises(GatemaskError, match="Another process is running counting"),
    ):
        stage(tmp_path).run(lambda: work(tmp_path))


def test_require_distinguishes_missing_from_outdated(tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match="Not counted yet"):
        stage(tmp_path).require("Not counted yet.", "Counted before.", "Count.")
    stage(tmp_path).run(lambda: work(tmp_path))
    assert stage(tmp_path).require("Not counted yet.", "Counted before.", "Count.").rows == 3
    with pytest.raises(GatemaskError, match="Counted before"):
        stage(tmp_path, more="b").require("Not counted yet.", "Counted before.", "Count.")


def test_stamp_with_other_fields_is_an_error(tmp_path: Path) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    path = tmp_path / "result.json"
    write_stamp(path, {**json.loads(path.read_text()), "rows": "many"})
    with pytest.raises(GatemaskError, match="rows"):
        stage(tmp_path).current()


EDITS = [{"rows": 4}, {"note": "better"}, {"seconds": 0.5}, {"made_from": {"settings": "b"}}, {"outputs": {}}]


@pytest.mark.parametrize("edit", EDITS, ids=[next(iter(edit)) for edit in EDITS])
def test_an_edited_stamp_is_not_believed(
    tmp_path: Path, edit: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    path = tmp_path / "result.json"
    written = json.loads(path.read_text())
    files.write_json(path, {**written, **edit})
    for read in (
        lambda: Counted.load(path),
        lambda: Stamp.load(path),
        lambda: stage(tmp_path).require("Not counted yet.", "Counted before.", "Count."),
    ):
        with pytest.raises(GatemaskError, match=r"edited after gatemask wrote it[\s\S]*result\.json[\s\S]*Delete"):
            read()
    again = stage(tmp_path).run(lambda: work(tmp_path))
    assert (again.current, again.rows) == (False, 3)
    assert "edited after gatemask wrote it: counting runs again" in capsys.readouterr().err.replace("\n", " ")
    assert stage(tmp_path).run(lambda: work(tmp_path)).current


def test_the_stamp_of_a_trained_fold_is_not_deleted_lightly(tmp_path: Path) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    (tmp_path / "best.weights.h5").touch()
    path = tmp_path / "result.json"
    files.write_json(path, {**json.loads(path.read_text()), "rows": 4})
    with pytest.raises(GatemaskError, match="Undo the change, or restore"):
        Counted.load(path)


def test_a_stamp_without_a_hash_is_accepted(tmp_path: Path) -> None:
    """As earlier versions wrote them: to make everything again could take hours."""
    stage(tmp_path).run(lambda: work(tmp_path))
    path = tmp_path / "result.json"
    fields = json.loads(path.read_text())
    del fields["hash"]
    files.write_json(path, fields)
    assert stage(tmp_path).run(lambda: pytest.fail("the stage is current")).current


def test_a_stamp_gives_its_inputs_and_the_hashes_of_its_outputs(tmp_path: Path) -> None:
    result = stage(tmp_path).run(lambda: work(tmp_path))
    stamp = Stamp.load(tmp_path / "result.json")
    assert stamp.made_from == {"settings": "a"}
    assert stamp.outputs == {"out.txt": files.sha256(tmp_path / "out.txt")}
    assert stamp.seconds == result.seconds


DAMAGED = ["[]", "null", "3", '"x"', "true", "", "{", "\x00", "[" * 100_000, "1" * 5000, '{"made_from": []}', "{}x"]
DAMAGED += ['{"outputs": {"out.txt": 5}}', '{"seconds": "long"}', '{"outputs": null}']


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_stamp_is_named(content: str, tmp_path: Path) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    (tmp_path / "result.json").write_text(content)
    for read in (
        lambda: stage(tmp_path).current(),
        lambda: stage(tmp_path).run(lambda: work(tmp_path)),
        lambda: Stamp.load(tmp_path / "result.json"),
        lambda: Counted.load(tmp_path / "result.json"),
    ):
        with pytest.raises(GatemaskError, match=r"result\.json[\s\S]*Delete .*result\.json and run the command again"):
            read()
    (tmp_path / "result.json").unlink()
    assert not stage(tmp_path).run(lambda: work(tmp_path)).current


def test_outputs_of_a_stage_can_be_required_unchanged(tmp_path: Path) -> None:
    stage(tmp_path).run(lambda: work(tmp_path))
    stamp, output = tmp_path / "result.json", tmp_path / "out.txt"
    require_unchanged(stamp, output, "Count.")
    require_unchanged(stamp, tmp_path / "another.txt", "Count.")
    for content in ("thre", "four", None):
        output.unlink(missing_ok=True)
        if content is not None:
            output.write_text(content)
        with pytest.raises(GatemaskError, match=r"not the one that gatemask wrote[\s\S]*out\.txt[\s\S]*Count\."):
            require_unchanged(stamp, output, "Count.")
